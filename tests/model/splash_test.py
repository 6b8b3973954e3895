"""One splash call on the packed row equals the two passes over segments, gradients included."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import model, sharding, training
from mapo_jax.model import splash
from tests import small

CONFIG = dataclasses.replace(
    small.CONFIG, num_heads=4, num_kv_heads=2, head_dim=16, num_layers=2, qk_norm=True
)
P, G, S, T = 4, 3, 37, 45  # 172 tokens: two blocks of 128
PLAIN = training.ScoringConfig(remat=True)
SPLASH = dataclasses.replace(PLAIN, attention="splash_interpreted")


@functools.cache
def value_and_gradients(settings, mesh_shape=(1, 1, 1), config=CONFIG):
    params = small.params(config)
    rollouts = small.rollouts(P, G, S, T)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(P, G, T)), jnp.float32)
    mesh = sharding.make_mesh(*mesh_shape, devices=jax.devices()[: math.prod(mesh_shape)])
    params = jax.device_put(params, sharding.shardings(mesh, model.logical_axes(config)))
    rollouts, weights = jax.device_put((rollouts, weights), sharding.by_prompt(mesh))

    @jax.jit
    def run(params, rollouts, weights):
        def loss(params):
            logps, _ = training.score(params, config, rollouts, settings)
            return (weights * logps).sum(), logps

        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            (_, logps), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            return logps, gradients

    return jax.tree.map(np.asarray, run(params, rollouts, weights))


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", [(2, 2, 2), *small.nightly([(1, 1, 1)])], ids=str)
def test_it_equals_the_plain_path(mesh_shape):
    plain, splash = value_and_gradients(PLAIN), value_and_gradients(SPLASH, mesh_shape)
    np.testing.assert_allclose(splash[0], plain[0], atol=1e-5)
    for a, b in zip(jax.tree.leaves(splash[1]), jax.tree.leaves(plain[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def test_who_sees_whom():
    row = splash.Row(prompt=3, group=2, response=2)
    assert (row.length, row.block, row.padded) == (7, 128, 128)
    seen = splash._Tree(row)[slice(0, 7), slice(0, 7)].astype(int).tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 1, 1],
    ]


def test_a_row_is_whole_blocks():
    row = splash.Row(2048, 12, 2048)
    assert row.padded == row.length == 13 * 2048
    assert row.padded % row.block == 0
    assert splash.Row(100, 4, 100).padded == 512


def test_what_it_computes():
    assert splash.is_supported(CONFIG)
    assert not splash.is_supported(dataclasses.replace(CONFIG, windows=(4, 0)))
    assert not splash.is_supported(dataclasses.replace(CONFIG, attention_softcap=5.0))
