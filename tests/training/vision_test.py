"""Sampling, scoring and updates of prompts with pictures."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import sampling, sharding, training
from mapo_jax.rollouts import Batch
from tests import pictures, small
from tests.training.step_test import KEEP

G, T = 4, 6
SETTINGS = sampling.SamplingConfig(G, T, eos_ids=(3, 11, 20, 31), lanes=3, width=2)
KEY = jax.random.key(5)
CONFIG = pictures.CONFIGS["qwen3_vl"]  # deepstack, learned positions, M-RoPE of every third pair


@functools.cache
def sampled(config=CONFIG, settings=SETTINGS, mesh_shape=None):
    mesh = mesh_shape and sharding.make_mesh(*mesh_shape, devices=jax.devices()[:8])
    params = small.params(config)
    rollouts = sampling.sample(
        params, config, pictures.prompts(config=config), KEY, settings, mesh=mesh
    )
    return jax.tree.map(np.asarray, rollouts)


@functools.cache
def batch():
    rng = np.random.default_rng(1)
    r = pictures.rollouts(G, T, config=CONFIG)
    noise = lambda: np.where(r.trained, -3 + rng.normal(size=r.logps.shape), 0)  # noqa: E731
    advantages = rng.normal(size=r.length.shape).astype(np.float32)
    return Batch(r, advantages, noise().astype(np.float32), None)


@functools.cache
def build(mesh_shape=(1, 1, 1), microbatch=(8, G), attention="plain", trains_vision=True, tx=KEEP):
    mesh = sharding.make_mesh(*mesh_shape, devices=jax.devices()[: math.prod(mesh_shape)])
    clip = {"clip_low": 0.2, "clip_high": 0.3, "clip_dual": 3.0}
    settings = training.ScoringConfig(head_chunk=8, attention=attention, attention_chunk=7)
    step = training.TrainStep(
        CONFIG,
        settings,
        training.policy_loss(small.surrogate("clipped", **clip), beta=0.0, kl="k3", entropy=0.0),
        tx,
        mesh,
        aggregation="token_mean",
        minibatch_prompts=8,
        microbatch=microbatch,
        dtype="float32",
        trains_vision=trains_vision,
    )
    state = training.init_state(small.params(CONFIG), tx, trains_vision)
    shardings = training.state_shardings(CONFIG, tx, mesh, trains_vision)
    return step, jax.device_put(state, shardings), mesh


def gradient(batch, **options):
    step, state, mesh = build(**options)
    state = jax.tree.map(jnp.copy, state)  # a step takes it away
    state, _ = step(state, jax.device_put(batch, sharding.by_prompt(mesh)), jnp.int32(0))
    assert (int(state.step), int(state.skipped)) == (1, 0)
    return jax.tree.map(np.asarray, state.opt_state.trace)


@functools.cache
def whole():
    """The reference: one device, one microbatch."""
    return gradient(batch())


def assert_same(actual, expected=None):
    small.assert_trees_close(actual, whole() if expected is None else expected, 1e-5)


# ---- sampler and scorer ----


def test_sampler_and_scorer_agree():
    """Image tokens that are sampled are tokens like any other."""
    rollouts = sampled()
    logps, _ = training.score(small.params(CONFIG), CONFIG, rollouts, training.ScoringConfig())
    np.testing.assert_allclose(rollouts.logps, logps, atol=2e-5)
    assert (rollouts.tokens[rollouts.trained] == pictures.IMAGE).any()


@pytest.mark.slow
def test_a_response_equals_a_pass_over_its_whole_row():
    """Each response alone, behind its own prompt; no image token in it becomes a picture."""
    rollouts, config = pictures.rollouts(2, T, config=CONFIG), CONFIG
    logps, _ = training.score(small.params(config), config, rollouts, training.ScoringConfig())
    for g in range(2):
        rows = [pictures.parts(row, config) for row in pictures.ROWS]
        longer = [
            ([*tokens, *response[: n - 1].tolist()], shown)
            for (tokens, shown), response, n in zip(
                rows, rollouts.tokens[:, g], rollouts.length[:, g], strict=True
            )
        ]
        made = jax.tree.map(jnp.asarray, pictures.pad(longer, config, S=24, N=64))
        logits = jax.nn.log_softmax(pictures.apply(small.params(config), config, made))
        for p, (tokens, _) in enumerate(rows):
            n = rollouts.length[p, g]
            at = np.arange(len(tokens) - 1, len(tokens) - 1 + n)
            expected = np.asarray(logits[p])[at, rollouts.tokens[p, g, :n]]
            np.testing.assert_allclose(logps[p, g, :n], expected, atol=2e-5)


@pytest.mark.slow
def test_lanes_change_nothing():
    other = sampled(settings=small.replace(SETTINGS, lanes=None, width=None))
    np.testing.assert_array_equal(other.tokens, sampled().tokens)
    np.testing.assert_allclose(other.logps, sampled().logps, atol=1e-5)


@pytest.mark.nightly
def test_some_prompts_at_a_time(monkeypatch):
    monkeypatch.setattr(sampling.loop, "PREFILL_PATCHES", 2 * 64)
    jax.clear_caches()
    other = sampled.__wrapped__()
    np.testing.assert_array_equal(other.tokens, sampled().tokens)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 2, 2), *small.nightly([(1, 8, 1)])], ids=str)
def test_a_mesh_gives_the_same_sample(shape):
    other = sampled(settings=small.replace(SETTINGS, lanes=None), mesh_shape=shape)
    np.testing.assert_array_equal(other.tokens, sampled().tokens)
    np.testing.assert_allclose(other.logps, sampled().logps, atol=1e-5)


# ---- the update ----


@pytest.mark.nightly
@pytest.mark.parametrize("microbatch", [(2, 2), (8, 1), (1, 4)], ids=str)
def test_splits(microbatch):
    assert_same(gradient(batch(), microbatch=microbatch))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["cudnn_imitated", "splash_interpreted"])
def test_kernels(attention):
    assert_same(gradient(batch(), attention=attention))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 2, 2), *small.nightly([(1, 8, 1)])], ids=str)
def test_meshes_and_splits(shape):
    shards = shape[0] * shape[1]
    assert_same(gradient(batch(), mesh_shape=shape, microbatch=(shards, 2)))


@pytest.mark.slow
def test_padding_and_order():
    """More patches and tokens of padding, and the prompts in another order."""
    order = np.random.default_rng(2).permutation(8)
    r = batch().rollouts
    wider = small.replace(r, prompts=pictures.prompts(config=CONFIG, S=20, N=96))
    shuffled = jax.tree.map(lambda x: x[order], small.replace(batch(), rollouts=wider))
    assert_same(gradient(shuffled))


@pytest.mark.slow
def test_groups_of_one_sum_to_the_gradient_of_a_shared_prompt():
    """A prompt that is computed once for its group has the gradient of its G computations."""

    def loss(params, rollouts, weights):
        logps, _ = training.score(params, CONFIG, rollouts, training.ScoringConfig())
        return (weights * logps).sum()

    r = batch().rollouts
    weights = np.random.default_rng(3).normal(size=r.logps.shape).astype(np.float32)
    grad = jax.jit(jax.grad(loss))
    shared = grad(small.params(CONFIG), r, weights)
    repeat = functools.partial(np.repeat, repeats=G, axis=0)
    alone = jax.tree.map(
        lambda x: x.reshape(8 * G, 1, *x.shape[2:]) if x.shape[:2] == (8, G) else repeat(x), r
    )
    assert_same(grad(small.params(CONFIG), alone, weights.reshape(8 * G, 1, T)), shared)


@pytest.mark.slow
def test_text_alone_leaves_the_tower():
    """A batch of text has the gradient of a policy without a tower, and none for the tower."""
    prompts = pictures.prompts([[5, 6, 7]] * 8, CONFIG)
    r = small.replace(batch().rollouts, prompts=prompts)
    found = gradient(small.replace(batch(), rollouts=r))
    assert not any(x.any() for x in jax.tree.leaves(found["vision"]))
    assert found["layers"]["q"]["kernel"].any()


@pytest.mark.slow
def test_a_frozen_tower_stays_and_costs_nothing():
    step, state, _ = build(trains_vision=False)
    before = jax.tree.map(np.asarray, state.params)
    moments = state.opt_state.trace
    assert "vision" not in moments
    after, _ = step(jax.tree.map(jnp.copy, state), batch(), jnp.int32(0))
    jax.tree.map(np.testing.assert_array_equal, after.params["vision"], before["vision"])
    assert all(
        (np.asarray(a) != b).any()
        for a, b in zip(
            jax.tree.leaves(after.params["layers"]), jax.tree.leaves(before["layers"]), strict=True
        )
    )
    rest = {name: whole()[name] for name in ("ends", "layers")}
    assert_same(jax.tree.map(np.asarray, after.opt_state.trace), rest)

    def temporary(**options):
        step, state, mesh = build(**options)
        put = jax.device_put(batch(), sharding.by_prompt(mesh))
        return step.lower(state, put)["gradient"].compile().memory_analysis().temp_size_in_bytes

    assert temporary(trains_vision=False) < 0.9 * temporary()
