"""Tests what a memory holds against a plain recount of all steps, and who sees it."""

import jax
import jax.numpy as jnp
import numpy as np

from mapo_jax import advantages
from tests.small import group_advantages

E, P, G, STEPS = 7, 4, 3, 5
REMEMBER = jax.jit(advantages.remember)


def steps():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        rewards = rng.choice([0.0, 0.1, 0.9, 1.0, np.nan], (P, G)).astype(np.float32)
        mask = (rng.random((P, G)) < 0.8) & np.isfinite(rewards)
        mask[0] = False  # a whole group that does not count
        yield rewards, rng.random((P, G)) < 0.5, mask, rng.integers(0, E, P).astype(np.int32)


def test_a_history_equals_a_recount():
    """Of the prompt it counts earlier steps, of the run this one too; an example may be twice."""
    memory, rows, means = advantages.nothing(E), [], []  # rows: (step, example, reward, success)
    for step, (rewards, success, mask, example) in enumerate(steps()):
        memory, history = REMEMBER(memory, rewards, success, mask, example)
        for p in range(P):
            kept = [(step, example[p], *pair) for pair in zip(rewards[p], success[p], strict=True)]
            kept = [row for row, counts in zip(kept, mask[p], strict=True) if counts]
            rows += kept
            means += [np.mean([row[2] for row in kept])] if kept else []
        everything = np.array([row[2] for row in rows])
        for p in range(P):
            seen = [row for row in rows if row[0] < step and row[1] == example[p]]
            expected = {
                "tries": len(seen),
                "reward": np.mean([row[2] for row in seen]) if seen else 0,
                "solved": np.mean([row[3] for row in seen]) if seen else 0,
                "mean": everything.mean(),
                "variance": everything.var(),
                "variance_of_means": np.var(means),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(getattr(history, name)[p], value, 1e-5, 1e-7, name)


def test_a_batch_without_rollouts_changes_nothing():
    rewards, success, mask, example = next(steps())
    memory, _ = REMEMBER(advantages.nothing(E), rewards, success, mask, example)
    same, history = REMEMBER(memory, rewards, success, np.zeros_like(mask), example)
    jax.tree.map(np.testing.assert_array_equal, same, memory)
    empty, history = REMEMBER(advantages.nothing(E), rewards, success, np.zeros_like(mask), example)
    assert not any(np.any(x) for x in jax.tree.leaves((empty, history)))


def test_ebpo_tells_failing_an_easy_run_from_failing_a_hard_one():
    """The numbers of one batch by hand; a group that fails whole is pushed by -S m."""
    rewards = jnp.array([[0.0, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]])
    _, history = advantages.remember(
        advantages.nothing(3), rewards, rewards == 1, rewards >= 0, jnp.arange(3)
    )
    m, v, t = 7 / 12, 7 / 12 * 5 / 12, np.var([0, 0.75, 1])
    shrink = v / 4 / (v / 4 + t)
    raw = np.asarray(rewards) - (1 - shrink) * np.array([[0], [0.75], [1]]) - shrink * m
    expected = (raw - raw.mean()) / np.hypot(raw.std(), 1e-4)
    found = group_advantages("ebpo", rewards, rewards == 1, history_P=history)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found[0, 0] < 0 < found[2, 0]
