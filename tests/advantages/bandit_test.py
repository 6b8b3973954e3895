"""Tests the exact update of a bandit against groups that are drawn, and against the slope."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import advantages
from mapo_jax.advantages import bandit, diagnostics, history
from mapo_jax.training import losses
from tests import small

G, DRAWN = 6, 100_000
REWARDS = (0.0, 0.1, 0.9, 1.0)
LOGITS = np.log(np.array([0.35, 0.2, 0.15, 0.3], np.float32))
OPTIONS = {
    "beta_norm": {"a": 2.0, "b": 1.5},
    "pkpo": {"k": 3},
    "passk": {"k": 3},
    "quantile": {"K": 0.4},
    "rs_grpo": {"beta": 3.0},
    "focal": {"base": "mapo", "gamma": 1.5},
    "signed": {"base": "grpo", "pos": 0.1, "neg": 1.0},
}
NAMES = ["mapo", *small.slow(*([name] for name in advantages.ADVANTAGES if name != "mapo"))]


def mean_of_random(rewards_G, success_G, mask_G, *, eps):
    """`mapo_random` for the mean of its lambda, 1/2; its advantages are linear in lambda."""
    of = functools.partial(advantages.group_advantages, eps=eps)
    groups = rewards_G[None], success_G[None], mask_G[None]
    return (of("grpo", *groups)[0] + of("apd", *groups)[0]) / 2


@pytest.mark.parametrize("name", NAMES)
def test_update_is_the_mean_of_sampled_updates(name):
    """Draws groups, and takes the gradient of the clipped surrogate as a step does."""
    options, key = OPTIONS.get(name, {}), jax.random.key(7)
    answers_PG = jax.random.categorical(key, LOGITS, shape=(DRAWN, G))
    rewards_PG = jnp.asarray(REWARDS)[answers_PG]
    fn = advantages.ADVANTAGES[name].fn  # without a stage
    exact = mean_of_random if name == "mapo_random" else fn
    inputs = {"baseline_P": jnp.full(DRAWN, 0.9)} if name == "remax" else {}
    sampled = (
        {**options, "base": advantages.ADVANTAGES[options["base"]].fn}
        if "base" in options
        else options
    )
    if "eps" in advantages.ADVANTAGES[options.get("base", name)].parameters:
        sampled = {**sampled, "eps": 0.0}
    A_PG = advantages.group_advantages(
        fn,
        rewards_PG,
        rewards_PG == 1,
        key=key,
        lengths_PG=jnp.ones((DRAWN, G), int),
        components_PGC=rewards_PG[..., None],
        history_P=history.none(DRAWN),
        **inputs,
        **sampled,
    )

    def surrogate(logits, answers_G, A_G):
        logps = jax.nn.log_softmax(logits)[answers_G][:, None]
        loss, _ = losses.clipped_surrogate(
            logps,
            jax.lax.stop_gradient(logps),
            A_G[:, None],
            jnp.ones((G, 1), bool),
            clip_low=0.2,
            clip_high=0.3,
            clip_dual=3.0,
        )
        return -jnp.mean(loss)

    updates = jax.jit(jax.vmap(jax.grad(surrogate), (None, 0, 0)))(LOGITS, answers_PG, A_PG)
    mean, error = np.mean(updates, 0), np.std(updates, 0) / np.sqrt(DRAWN)
    fixed = {"baseline_P": jnp.full(84, 0.9)} if name == "remax" else {}
    made = bandit.make(exact, REWARDS, G, **options, **fixed)
    found = np.asarray(bandit.update(made, LOGITS[None]))[0]
    assert len(made.counts_MK) == 84
    np.testing.assert_array_less(np.abs(found - mean), 4 * error + 1e-6)
    assert np.all(error < 0.02), "an error of this size would hide nothing"


@pytest.mark.parametrize("name", ["mapo", "grpo", "apd", "dr_grpo", "tree_rpo"])
def test_two_answers_climb_the_objective(name):
    p = np.linspace(0.05, 0.95, 19)
    logits = np.log(np.stack([p, 1 - p], 1)).astype(np.float32)
    found = bandit.update(bandit.make(name, (1.0, 0.0), 8), logits)
    expected = diagnostics.slope(name, 8, p) * p * (1 - p)
    np.testing.assert_allclose(found, np.stack([expected, -expected], 1), rtol=1e-4, atol=1e-6)


def test_follow_makes_plain_steps():
    made = bandit.make("mapo", REWARDS, 4)
    policies = bandit.follow(made, np.stack([LOGITS, LOGITS[::-1]]), 2, 0.5)
    logits = np.stack([LOGITS, LOGITS[::-1]])
    for policy in policies:
        np.testing.assert_allclose(policy, jax.nn.softmax(logits), rtol=1e-5)
        logits = logits + 0.5 * bandit.update(made, logits)
