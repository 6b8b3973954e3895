"""A user's own surrogate, from its file to value and gradient; the lines are in errors_test.py."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import common
from mapo_jax import training
from mapo_jax.config import from_config_dict
from mapo_jax.rollouts import Batch
from tests import small

ALGORITHM = from_config_dict(common.get_config()).algorithm
FUNCTIONS = """\
import jax
import jax.numpy as jnp


def four(logps, old_logps, advantages, mask):
    return -jnp.exp(logps - old_logps) * advantages, {}


def inputs(logps, old_logps, advantages, mask, clip_high, *, scale: float, shift=0.0, clip_low):
    return scale * logps + shift + clip_low - clip_high, {"policy/logps": logps}


def everything(logps, old_logps, advantages, mask, **options):
    return sum(options.values()) * logps, {}


def limited(logps, old_logps, advantages, mask, *, scale: float = 1.0):
    if scale <= 0:
        raise ValueError(f"scale={scale}: must be > 0")
    return scale * logps, {}


def loops(logps, old_logps, advantages, mask):
    return jax.lax.while_loop(lambda x: x.max() < 0, lambda x: x + 1, logps), {}


def junk(logps, old_logps, advantages, mask):
    '''Not finite at a log-prob of 0; NaN and infinite off the mask, in value and slope.'''
    loss = jnp.log(-logps) * advantages + jnp.sqrt(-logps) / mask
    return jnp.where(mask, loss, jnp.nan), {"policy/log": jnp.log(-logps), "policy/x": old_logps}
"""


@pytest.fixture
def configured(tmp_path):
    """A function that names one of FUNCTIONS in the configuration."""
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)

    def configure(name, **options):
        return dataclasses.replace(
            ALGORITHM,
            surrogate=f"{path}:{name}",
            surrogate_options=tuple(sorted(options.items())),
        )

    return configure


def arrays():
    rng = np.random.default_rng(0)
    logps, old = (rng.uniform(-3, -1, (2, 3, 5)).astype(np.float32) for _ in range(2))
    return logps, old, rng.normal(size=(2, 3, 1)).astype(np.float32), rng.random((2, 3, 5)) < 0.7


def test_a_function_of_four_arguments(configured):
    algorithm = configured("four")
    assert training.check_surrogate(algorithm) == []
    logps, old, advantages, mask = arrays()
    loss, metrics = training.make_surrogate(algorithm)(logps, old, advantages, mask)
    expected = np.where(mask, -np.exp(logps - old) * advantages, 0)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics == {}


def test_inputs_are_fields_and_options_are_options(configured):
    algorithm = dataclasses.replace(configured("inputs", scale=2), clip_low=0.5, clip_high=0.25)
    assert training.check_surrogate(algorithm) == []
    logps, old, advantages, mask = arrays()
    loss, metrics = training.make_surrogate(algorithm)(logps, old, advantages, mask)
    np.testing.assert_allclose(loss, np.where(mask, 2 * logps + 0.25, 0), rtol=1e-6)
    np.testing.assert_array_equal(metrics["policy/logps"], np.where(mask, logps, 0))


def test_a_function_may_take_any_option(configured):
    algorithm = configured("everything", a=1.0, b=2.0)
    assert training.check_surrogate(algorithm) == []
    logps, *rest, mask = arrays()
    loss, _ = training.make_surrogate(algorithm)(logps, *rest, mask)
    np.testing.assert_allclose(loss, np.where(mask, 3 * logps, 0), rtol=1e-6)


@pytest.mark.parametrize("name", training.SURROGATES)
def test_built_in_surrogates_have_no_mistakes(name):
    algorithm = dataclasses.replace(ALGORITHM, surrogate=name)
    assert training.check_surrogate(algorithm) == []


def test_the_limit_of_an_option_is_a_line(configured):
    assert training.check_surrogate(configured("limited", scale=0.5)) == []
    (line,) = training.check_surrogate(configured("limited", scale=-1.0))
    assert "ValueError: scale=-1.0: must be > 0;" in line


def test_what_cannot_be_differentiated_is_a_line(configured):
    (line,) = training.check_surrogate(configured("loops"))
    assert "fails on rollouts of 5 tokens with ValueError: Reverse-mode differentiation" in line


def test_what_is_not_finite_off_the_mask_has_no_effect(configured):
    """In value, gradient and metrics of the whole loss; on the mask they are the function's."""
    algorithm = configured("junk")
    assert training.check_surrogate(algorithm) == []
    logps, old, advantages, mask = arrays()
    mask[0, 1] = False  # a row that is not trained at all
    r = small.replace(small.rollouts(2, 3, 4, 5), trained=mask, logps=old)
    loss_fn = training.policy_loss(
        training.make_surrogate(algorithm), beta=0.0, kl="k3", entropy=0.0
    )
    weights = training.AGGREGATIONS["token_mean"](jnp.asarray(mask))
    batch = Batch(r, advantages[..., 0], np.where(mask, old, np.inf), None)

    def total(logps):
        return loss_fn(logps, jnp.zeros_like(logps), batch, weights)

    dirty = np.where(mask, logps, np.nan)
    (value, metrics), gradient = jax.value_and_grad(total, has_aux=True)(dirty)
    x, a = -logps.astype(float), np.broadcast_to(advantages, mask.shape)
    on = np.where(mask, np.log(x) * a + np.sqrt(x), 0)
    slope = np.where(mask, -a / x - 0.5 / np.sqrt(x), 0) / mask.sum()
    np.testing.assert_allclose(value, on.sum() / mask.sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-8)
    chex.assert_tree_all_finite(metrics)
    for name, values in (("policy/log", np.log(x)), ("policy/x", old)):
        summed, count = metrics.means[name]
        np.testing.assert_allclose(summed / count, values[mask].mean(), rtol=1e-5)
