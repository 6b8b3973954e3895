"""The GPU's attention: it equals the plain one, becomes cuDNN's kernels, and is not trusted."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as kernels

from mapo_jax import model
from mapo_jax.model import ABSENT, Segment, cudnn
from tests import small
from tests.model.splash_test import CONFIG, PLAIN, value_and_gradients

IMITATED = dataclasses.replace(PLAIN, attention="cudnn_imitated")
WINDOWED = dataclasses.replace(CONFIG, windows=(5, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "mesh_shape"),
    [
        (WINDOWED, (1, 1, 1)),
        *small.nightly((WINDOWED, (2, 2, 2)), (CONFIG, (1, 1, 1)), (CONFIG, (2, 2, 2))),
    ],
    ids=["window-1", "window-8", "all-1", "all-8"],
)
def test_it_equals_the_plain_path(config, mesh_shape):
    """Ragged prompts, an odd number of queries and of keys."""
    plain = value_and_gradients(PLAIN, config=config)
    ours = value_and_gradients(IMITATED, mesh_shape, config=config)
    np.testing.assert_allclose(ours[0], plain[0], atol=1e-5)
    for a, b in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(plain[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_becomes_cudnns_kernels(monkeypatch, dtype):
    """Lowered for a GPU that is not here: cuDNN's own checks of shapes and dtypes pass."""
    monkeypatch.setattr(kernels, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(kernels, "check_compute_capability", lambda capability: False)
    monkeypatch.setattr(kernels, "is_cuda_compute_capability_equal", lambda capability: False)

    def loss(q, k, v, own_k, own_v):
        prefix = Segment(k, v, jnp.full((2, 7), ABSENT))
        own = Segment(own_k, own_v, positions)
        return cudnn.attend(q, positions, [prefix, own], scale=1.0).astype(jnp.float32).sum()

    positions = jnp.broadcast_to(jnp.arange(5), (2, 3, 5))
    sizes = [(2, 3, 5, 4, 64), (2, 2, 7, 64), (2, 2, 7, 64), (2, 2, 3, 5, 64), (2, 2, 3, 5, 64)]
    arrays = [jax.ShapeDtypeStruct(size, dtype) for size in sizes]
    gradient = jax.jit(jax.grad(loss, range(5)))
    lowered = gradient.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert set(re.findall(r"@(__cudnn\$\w+)\(", lowered)) == {
        "__cudnn$fmhaScaleBiasSoftmax",
        "__cudnn$fmhaScaleBiasSoftmaxBackward",
    }


def refusal(**options):
    options = {"implementation": "xla", "dtype": "bfloat16", "config": CONFIG} | options
    return cudnn.refusal(shape=(2, 3, 9, 12), chunk=4, **options)


def test_what_equals_is_taken():
    assert not refusal()


def test_what_cannot_run_is_not():
    assert "cudnn" in refusal(implementation="cudnn").lower()  # no GPU here
    assert "soft caps" in refusal(config=dataclasses.replace(CONFIG, attention_softcap=5.0))


def one_entry(x):
    return x.at[0, 0, 0].add(0.3)


def all_a_little(x):
    return 1.05 * x


FURTHER = [(part, fault) for part in (1, 2, 3) for fault in (one_entry, jnp.log)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "fault"),
    [
        *((part, all_a_little) for part in range(4)),
        (0, one_entry),
        (0, jnp.log),
        *small.nightly(*FURTHER),
    ],
)
def test_a_wrong_result_is_not(monkeypatch, part, fault):
    """A fault of the output, of the gradient of queries or of keys; the fourth time of nothing."""
    right = model.attend

    @jax.custom_vjp
    def wrong(q, k, v):
        return at(0, right(q, positions, segments(k, v), scale=1.0))

    def at(number, x):
        return fault(x).astype(x.dtype) if number == part else x

    def forward(q, k, v):
        return wrong(q, k, v), (q, k, v)

    def backward(saved, slope):
        _, vjp = jax.vjp(lambda q, k, v: right(q, positions, segments(k, v), scale=1.0), *saved)
        q, k, v = vjp(slope)
        return at(1, q), [at(2, k[0]), k[1]], v

    wrong.defvjp(forward, backward)

    def attend(q, positions_, segments_, *, scale, implementation):
        nonlocal positions, places
        positions, places = positions_, [s.positions for s in segments_]
        return wrong(q * scale, [s.k for s in segments_], [s.v for s in segments_])

    def segments(k, v):
        return [Segment(*parts) for parts in zip(k, v, places, strict=True)]

    positions, places = None, None
    monkeypatch.setattr(cudnn, "attend", attend)
    assert bool(refusal()) == (part != 3)
