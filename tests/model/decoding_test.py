"""The GPU's decode attention: it equals the plain one, becomes a kernel, and is not trusted."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mapo_jax.model import ABSENT, Segment, attend, decoding
from tests import small

CONFIG = dataclasses.replace(small.CONFIG, windows=(9, 0), attention_softcap=5.0)
DTYPES = ("float32", "bfloat16")


def slots(S, cells, K, R, H, dtype="float32", P=2, G=3, seed=0):
    """Queries, their positions and segments; one slot sees none of its own cells but the newest."""
    rng = np.random.default_rng(seed)
    prompt, age = rng.integers(0, S + 1, (P, 1)), rng.integers(0, sum(cells), (P, G))
    age[0, 0] = 0
    now, ago = (prompt + age)[..., None], rng.permutation(sum(cells))

    def segment(positions, *sizes):
        k, v = (jnp.asarray(rng.normal(size=(P, K, *sizes, H)), dtype) for _ in "kv")
        return Segment(k, v, jnp.asarray(positions, jnp.int32))

    segments = [segment(np.where(np.arange(S) < prompt, np.arange(S), ABSENT), S)]
    for block in np.split(ago, np.cumsum(cells)[:-1]):
        positions = np.where(block <= age[..., None], now - block, ABSENT)
        segments.append(segment(positions, G, len(block)))
    q = jnp.asarray(rng.normal(size=(P, G, 1, K * R, H)), dtype)
    return q, jnp.asarray(now, jnp.int32), segments


@pytest.mark.slow
@given(
    S=st.sampled_from([1, 16, 37, 64]),
    cells=st.lists(st.sampled_from([1, 5, 32, 64, 70]), min_size=1, max_size=3),
    heads=st.sampled_from([(1, 1), (2, 3), (1, 17)]),
    H=st.sampled_from([8, 24, 64]),
    window=st.sampled_from([None, 1, 20, int(ABSENT)]),
    softcap=st.sampled_from([0.0, 2.0]),
)
@settings(max_examples=4, deadline=None, derandomize=True)
@example(S=37, cells=[64, 5], heads=(2, 3), H=24, window=20, softcap=2.0)
@example(S=64, cells=[32, 5], heads=(1, 2), H=64, window=None, softcap=0.0)
def test_it_equals_the_plain_path(S, cells, heads, H, window, softcap):
    inputs = slots(S, cells, *heads, H)
    options = {"scale": 0.3, "window": window, "softcap": softcap}
    ours = decoding.attend(*inputs, **options, interpret=True)
    np.testing.assert_allclose(ours, attend(*inputs, **options), rtol=0, atol=3e-6)


def on_an_h100():
    """JAX 0.11 asks which GPU it lowers for; JAX 0.10 takes an H100 if there is none."""
    if not hasattr(jax.sharding, "AbstractDevice") or jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H100 80GB HBM3", None, "gpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    return jax.sharding.use_abstract_mesh(mesh)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
@pytest.mark.parametrize(
    ("S", "cells", "heads", "H"),
    [(256, [64, 64, 384], (2, 6), 128), (50, [64, 37], (1, 17), 80)],
)
def test_it_becomes_one_kernel(S, cells, heads, H, dtype):
    """Lowered for a GPU that is not here."""
    shapes = jax.eval_shape(lambda: slots(S, cells, *heads, H, dtype))

    def run(*inputs):
        return decoding.attend(*inputs, scale=0.3, window=100, softcap=2.0)

    with on_an_h100():
        text = jax.jit(run).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 1
    assert "stablehlo.dot_general" not in text  # nothing is computed beside it
    assert "grid_x = 3" in text  # the slots of a lane side by side


def refusal(dtype="float32", **options):
    return decoding.refusal(CONFIG, (20, [12, 5]), dtype, **options)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_equals_is_taken(dtype):
    assert not refusal(dtype, interpret=True)


def test_what_cannot_run_is_not():
    assert "interpret" in refusal().lower()  # no GPU here


@pytest.mark.parametrize("fault", [lambda x: 1.05 * x, lambda x: x.at[(0,) * 5].add(0.04), jnp.log])
def test_a_wrong_result_is_not(monkeypatch, fault):
    def wrong(*args, interpret, **options):
        return fault(attend(*args, **options))

    monkeypatch.setattr(decoding, "attend", wrong)
    assert refusal("bfloat16") == "it computes something else here"
