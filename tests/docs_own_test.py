"""Writes every file of docs/own.md and runs every command on it, with a short warm-up."""

import itertools
import json
import operator
import os
import re
import shlex
import subprocess
import sys

import pytest

from mapo_jax.commands import cli
from tests.runs import ROOT, one_device

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGE = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")
BLOCKS = BLOCK.findall(PAGE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Makes a directory that looks like the clone, with the page's files in it."""
    directory = tmp_path_factory.mktemp("clone")
    for name in ("experiments", "launch", "mapo_jax"):
        (directory / name).symlink_to(ROOT / name)
    for kind, text in BLOCKS:
        if kind == "python":
            name = re.match(r"# (\w+\.py)\n", text)
            assert name, f"a block without the name of its file: {text[:80]}"
            (directory / name[1]).write_text(text, encoding="utf-8")
    return directory


# What follows on each other without a file between is one: data is made, then learnt from.
SCRIPTS = [
    "".join(text for _, text in blocks)
    for kind, blocks in itertools.groupby(BLOCKS, key=operator.itemgetter(0))
    if kind == "bash"
]
TRAIN = re.compile(r"^python launch/run\.py (.*)$", re.MULTILINE)


@pytest.mark.parametrize(
    "script",
    [pytest.param(x, marks=[pytest.mark.slow] if TRAIN.search(x) else []) for x in SCRIPTS],
)
def test_commands(clone, tmp_path, script):
    run(clone, tmp_path, TRAIN.sub(r"\g<0> --config.warmup.steps=3", script))
    if "--workdir" in script:
        workdir = re.search(r"--workdir (\S+)", script)[1]
        lines = (clone / workdir / "metrics.jsonl").read_text(encoding="utf-8")
        assert '"phase": "rl", "step": 4' in lines


def run(clone, tmp_path, script):
    python = tmp_path / "python"  # no link, as Python finds its packages by its own path
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=clone,
        env=one_device() | path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", [x for x in SCRIPTS if TRAIN.search(x)])
def test_what_trains_is_a_valid_command(clone, tmp_path, monkeypatch, script):
    """Its keys, and the functions in the page's files with their options: all but the run."""
    train = TRAIN.search(script)
    run(clone, tmp_path, script[: train.start()])
    monkeypatch.chdir(clone)
    arguments = cli.parse(shlex.split(train[1]), "", several=True)
    assert arguments.workdir.parent.name == "runs"


def test_a_table_becomes_rows(clone, tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbffile,question,answer\nb.png,"x, y?",1\n,z?,2\n')
    run(clone, tmp_path, f"python from_csv.py {tmp_path}/a.csv")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert rows == [
        {"file": "b.png", "question": "<image>x, y?", "answer": "1"},
        {"file": "", "question": "z?", "answer": "2"},
    ]


def test_the_page_has_its_five_parts():
    assert [kind for kind, _ in BLOCKS] == [
        *("python", "bash"),
        *("python", "bash", "python", "bash"),
        *("python", "bash"),
        *("python", "bash", "bash"),
        *("python", "bash", "bash", "python"),
    ]
