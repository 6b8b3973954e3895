"""Tests that a launcher on a CPU uses freed memory again, and leaves all else as it is."""

import json
import os
import subprocess
import sys

import pytest

from mapo_jax.commands import memory
from tests.runs import ROOT

_PROGRAM = """
import json, resource, sys
from mapo_jax.commands import memory
if "keep" in sys.argv:
    memory.keep()
import jax, jax.numpy as jnp
@jax.jit
def total(x):
    table = jax.lax.optimization_barrier(x[:, None] * x)
    return table.sum() + table.max()
x = jnp.arange(4500.0)  # 81 MB of temporaries, 19,800 pages
pages = []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    total(x).block_until_ready()
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(pages))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_program_gets_no_new_pages():
    def pages(*words):
        environment = {k: v for k, v in os.environ.items() if "MALLOC_" not in k}
        command = [sys.executable, "-c", _PROGRAM, *words]
        out = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=True)
        return sorted(json.loads(out.stdout)[-9:])[4]  # in the end, when the heap has its size

    assert pages() > 8_000
    assert pages("keep") < 800


@pytest.mark.parametrize(
    ("environment", "imported", "found", "is_set"),
    [
        ({}, False, None, True),
        ({"JAX_PLATFORMS": "cpu"}, False, "jax_plugins", True),
        ({}, False, "libtpu", False),
        ({"MALLOC_ARENA_MAX": "2"}, False, None, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, False, None, False),
        ({}, True, None, False),
    ],
)
def test_who_gets_it(monkeypatch, environment, imported, found, is_set):
    for name in ("JAX_PLATFORMS", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    modules = dict(sys.modules) if imported else {}
    monkeypatch.setattr(memory.sys, "modules", modules)
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: name == found or None)
    options = []

    class Library:
        def mallopt(self, option, value):
            options.append(option)

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Library())
    memory.keep()
    assert bool(options) == is_set


def test_no_glibc_is_no_mistake(monkeypatch):
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.setattr(memory.sys, "modules", {})
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep()
