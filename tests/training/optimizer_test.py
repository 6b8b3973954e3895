import dataclasses

import jax
import numpy as np
import optax
import pytest

from mapo_jax.config import OptimizerConfig
from mapo_jax.training import make_optimizer

CONFIG = OptimizerConfig(
    learning_rate=0.1,
    vision_learning_rate=None,
    schedule_steps=3,
    decay="constant",
    b1=0.8,
    b2=0.95,
    eps=1e-6,
    weight_decay=0.05,
    max_grad_norm=2.0,
)


def run(config, params, gradients, steps=0):
    tx = make_optimizer(config, steps)
    state, out = tx.init(params), []
    for g in gradients:
        updates, state = jax.jit(tx.update)(g, state, params)
        params = optax.apply_updates(params, updates)
        out.append(params)
    return out


def test_equals_adamw_by_hand():
    """Decoupled weight decay (arXiv 1711.05101 alg. 2), clipping, rate (k + 1) / 4, then fixed."""
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 2)), "scale": rng.normal(size=2)}
    gradients = [{"w": rng.normal(size=(3, 2)), "scale": rng.normal(size=2)} for _ in range(6)]
    norms = [np.sqrt(sum((x**2).sum() for x in g.values())) for g in gradients]
    assert min(norms) < 2 < max(norms)  # one is clipped, one is not
    single = lambda tree: jax.tree.map(np.float32, tree)  # noqa: E731
    actual = run(CONFIG, single(params), [single(g) for g in gradients])
    m, v = ({k: 0.0 for k in params} for _ in range(2))
    for i, (g, norm) in enumerate(zip(gradients, norms, strict=True)):
        rate = 0.1 * min(1, (i + 1) / 4)
        for k in params:
            clipped = g[k] * min(1, 2.0 / norm)
            m[k] = 0.8 * m[k] + 0.2 * clipped
            v[k] = 0.95 * v[k] + 0.05 * clipped**2
            m_hat, v_hat = m[k] / (1 - 0.8 ** (i + 1)), v[k] / (1 - 0.95 ** (i + 1))
            step = m_hat / (np.sqrt(v_hat) + 1e-6) + 0.05 * params[k]
            params[k] = params[k] - rate * step
            np.testing.assert_allclose(actual[i][k], params[k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("schedule_steps", "first"), [(0, 0.1), (1, 0.05), (3, 0.025)])
def test_schedule_starts_above_zero(schedule_steps, first):
    config = OptimizerConfig(
        0.1, None, schedule_steps, "constant", b1=0, b2=0, eps=0, weight_decay=0, max_grad_norm=9
    )
    w = np.float32([1.0, 1.0])  # with no averaging, a step is exactly the rate
    after = run(config, w, [np.float32([1, -1])] * (schedule_steps + 2))
    rates = -np.diff(np.stack([w, *after])[:, 0])
    np.testing.assert_allclose(rates[0], first, rtol=1e-5)
    np.testing.assert_allclose(rates[schedule_steps:], 0.1, rtol=1e-5)
    np.testing.assert_allclose(np.diff(rates)[:schedule_steps], first, rtol=1e-4)


@pytest.mark.parametrize(
    ("decay", "factors"),
    [("linear", [1, 3 / 4, 2 / 4, 1 / 4]), ("cosine", (1 + np.cos(np.pi * np.arange(4) / 4)) / 2)],
)
def test_it_rises_and_falls_to_zero_at_the_end(decay, factors):
    config = OptimizerConfig(
        0.1, None, 3, decay, b1=0, b2=0, eps=0, weight_decay=0, max_grad_norm=9
    )
    w = np.float32([1.0, 1.0])
    after = run(config, w, [np.float32([1, -1])] * 8, steps=7)
    rates = -np.diff(np.stack([w, *after])[:, 0])
    expected = 0.1 * np.array([1 / 4, 2 / 4, 3 / 4, *factors, 0])
    np.testing.assert_allclose(rates, expected, rtol=1e-4, atol=1e-7)
    make_optimizer(config, steps=0)  # of a phase that a run leaves out


def test_a_tower_has_a_rate_of_its_own():
    rng = np.random.default_rng(0)
    params = {name: np.float32(rng.normal(size=3)) for name in ("vision", "layers")}
    gradients = [{name: np.float32(rng.normal(size=3)) for name in params} for _ in range(5)]
    one = run(dataclasses.replace(CONFIG, vision_learning_rate=0.3), params, gradients)
    for name, rate in (("vision", 0.3), ("layers", 0.1)):
        other = run(dataclasses.replace(CONFIG, learning_rate=rate), params, gradients)
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5)
