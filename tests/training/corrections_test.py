import dataclasses
import functools
import json
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from experiments import common
from mapo_jax import sharding, training
from mapo_jax.commands import cli
from mapo_jax.config import from_config_dict
from mapo_jax.training import pieces
from tests import oracles, runs, small
from tests.training import step_test

SHAPE = (3, 5)
BOUNDS = {"tis": {"high": 1.5}, "icepop": {"low": 0.6, "high": 1.8}, "mis": {"high": 1.7}}
ALGORITHM = from_config_dict(common.get_config()).algorithm
examples = hypothesis.settings(deadline=None, max_examples=60)
MASKS = hnp.arrays(bool, SHAPE)
names = pytest.mark.parametrize("name", training.CORRECTIONS)


def configured(name, **options):
    return dataclasses.replace(
        ALGORITHM,
        correction=name,
        correction_options=tuple(sorted(options.items())),
        old_logps="rescored",
    )


@functools.cache
def make(name, **options):
    return jax.jit(training.make_correction(configured(name, **options)))


def floats(low, high):
    return hnp.arrays(np.float32, SHAPE, elements=st.floats(low, high, width=32))


def oracle(name, rescored, sampled, mask):
    """Weights [..., T], a row at a time; 1 off the mask."""
    weights = np.ones(mask.shape)
    for at in np.ndindex(mask.shape[:-1]):
        kept = mask[at]
        values = (x[at][kept].astype(float) for x in (rescored, sampled))
        weights[at][kept] = getattr(oracles, name)(*values, **BOUNDS[name])
    return weights


def near_a_bound(name, rescored, sampled, mask):
    """Where float32 may fall on the other side."""
    log_ratios = np.where(mask, rescored.astype(float) - sampled, 0)
    if name == "mis":
        log_ratios = np.broadcast_to(log_ratios.sum(-1, keepdims=True), mask.shape)
    return np.any([np.abs(log_ratios - np.log(x)) < 1e-5 for x in BOUNDS[name].values()], 0)


@pytest.mark.slow
@names
@examples
@hypothesis.given(rescored=floats(-3, 0), sampled=floats(-3, 0), mask=MASKS)
def test_weights_equal_the_oracle(name, rescored, sampled, mask):
    weights, metrics = make(name, **BOUNDS[name])(rescored, sampled, mask)
    expected, kept = oracle(name, rescored, sampled, mask), mask
    kept = mask & ~near_a_bound(name, rescored, sampled, mask)
    np.testing.assert_allclose(weights[kept], expected[kept], rtol=1e-5)
    np.testing.assert_array_equal(metrics["policy/correction_mean"], weights)
    cut = expected == (BOUNDS[name]["high"] if name == "tis" else 0)
    np.testing.assert_array_equal(metrics["policy/correction_cut"][kept], cut[kept])


@names
@examples
@hypothesis.given(logps=floats(-30, 0), other=floats(-30, 0), mask=MASKS)
def test_without_a_gap_nothing_is_corrected(name, logps, other, mask):
    """Whatever stands off the mask."""
    sampled = np.where(mask, logps, other)
    sampled = np.where(mask | (other > -29), sampled, np.nan)
    weights, metrics = make(name)(logps, sampled, mask)
    np.testing.assert_array_equal(weights[mask], 1)
    assert not np.any(metrics["policy/correction_cut"][mask])
    assert np.all(np.isfinite(weights))


@names
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_a_gap_without_measure_stays_finite(name, gap):
    weights, metrics = make(name)(jnp.zeros((1, 2)), jnp.full((1, 2), -gap), jnp.ones((1, 2), bool))
    expected = {"tis": 0 if gap < 0 else 2}.get(name, 0)
    np.testing.assert_array_equal(weights, np.full((1, 2), expected, np.float32))
    is_cut = gap > 0 or name == "icepop"  # the others have no lower bound
    assert np.all(metrics["policy/correction_cut"] == is_cut)


def losses_of(name, **options):
    """(loss of (logps, entropies, batch, weights), metrics) with a correction, and without."""
    make_loss = functools.partial(
        training.policy_loss,
        small.surrogate("clipped", **step_test.CLIP),
        beta=step_test.BETA,
        kl="k3",
        entropy=0.05,
    )
    correction = training.make_correction(configured(name, **options))
    return make_loss(correction=correction), make_loss()


@names
@pytest.mark.parametrize("aggregation", training.AGGREGATIONS)
def test_the_loss_is_weighted_and_its_parts_are_not(name, aggregation):
    """The surrogate of each token has the oracle's weight; KL, entropy and token weights stay."""
    b = step_test.batch()
    mask, logps = b.rollouts.trained, b.rollouts.logps + 0.1
    expected = oracle(name, b.old_logps, b.rollouts.logps, mask)
    assert 0.02 < np.mean(expected[mask] != np.exp(b.old_logps - b.rollouts.logps)[mask])
    weights = training.AGGREGATIONS[aggregation](mask)
    corrected, plain = losses_of(name, **BOUNDS[name])
    args = (np.where(mask, -logps, 0), b, weights)
    value, metrics = corrected(logps, *args)
    _, without = plain(logps, *args)
    surrogate = small.surrogate("clipped", **step_test.CLIP)
    per_token, _ = surrogate(logps, b.old_logps, b.advantages[..., None], mask)
    total = (np.asarray(weights, float) * expected * per_token).sum()
    np.testing.assert_allclose(metrics.losses["loss/surrogate"], total, rtol=1e-4)
    for part in ("loss/kl", "loss/entropy"):
        np.testing.assert_array_equal(metrics.losses[part], without.losses[part])
    change = total - without.losses["loss/surrogate"]
    np.testing.assert_allclose(value, without.losses["loss/total"] + change, rtol=1e-4)
    summed, count = metrics.means["policy/correction_mean"]
    np.testing.assert_allclose(summed / count, expected[mask].mean(), rtol=1e-5)
    gradient = jax.grad(lambda x: corrected(x, *args)[0] - plain(x, *args)[0])(logps)
    slope = jax.grad(
        lambda x: (weights * surrogate(x, b.old_logps, b.advantages[..., None], mask)[0]).sum()
    )(logps)
    np.testing.assert_allclose(gradient, (expected - 1) * slope, rtol=1e-3, atol=1e-6)


@names
def test_gradient_numerically(name):
    b = step_test.batch()
    logps = b.old_logps + np.float32(np.log(1.1))  # no ratio at a corner of the clip
    entropies, weights = (
        np.zeros_like(logps),
        training.AGGREGATIONS["token_mean"](b.rollouts.trained),
    )
    loss, _ = losses_of(name, **BOUNDS[name])
    check_grads(
        lambda x: 100 * loss(x, entropies, b, weights)[0],
        (jnp.asarray(logps),),
        order=1,
        modes=["rev"],
        eps=1e-2,
        atol=2e-2,
        rtol=2e-2,
    )


@pytest.mark.slow
@names
def test_a_correction_splits_into_microbatches(name):
    """Loss, gradient and metrics, with NaN behind the mask of the pieces."""
    b, mask = step_test.batch(), step_test.batch().rollouts.trained
    loss_fn, _ = losses_of(name, **BOUNDS[name])
    total = jax.value_and_grad(lambda x, *rest: loss_fn(x, *rest), has_aux=True)
    entropies = np.zeros_like(b.old_logps)
    args = entropies, b, training.AGGREGATIONS["sequence_mean"](mask)
    (value, metrics), expected = total(b.rollouts.logps, *args)
    r = small.replace(b.rollouts, logps=np.where(mask, b.rollouts.logps, np.nan))
    junk = small.replace(b, rollouts=r, old_logps=np.where(mask, b.old_logps, np.inf))
    take = jax.jit(
        functools.partial(pieces.take, mesh=sharding.make_mesh(devices=jax.devices()[:1]))
    )
    parts, merged = [], None
    planned = pieces.plan(b.rollouts.length, 1, (2, 2), step_test.T, is_packed=True)
    for piece in planned:
        (part, more), actual = total(*take((r.logps, entropies, junk, args[2]), piece))
        parts.append(part)
        merged = more if merged is None else merged.merge(more)
        np.testing.assert_allclose(actual, take(expected, piece), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(np.sum(parts), value, rtol=1e-5, atol=1e-6)
    for key, (summed, count) in metrics.means.items():
        np.testing.assert_allclose(merged.means[key][0], summed, rtol=1e-5, atol=1e-5)
        assert merged.means[key][1] == count == mask.sum()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 1), *small.nightly([(2, 2, 2)])], ids=str)
def test_a_step_with_a_correction(shape):
    """On meshes too its gradient is that of one device and one microbatch."""
    b, found = step_test.batch(), []
    for mesh_shape, microbatch in (((1, 1, 1), (step_test.P, step_test.G)), (shape, (4, 2))):
        size = int(np.prod(mesh_shape))
        mesh = sharding.make_mesh(*mesh_shape, devices=jax.devices()[:size])
        loss_fn, _ = losses_of("mis", **BOUNDS["mis"])
        step = training.TrainStep(
            step_test.CONFIG,
            small.replace(step_test.SETTINGS, entropy_gradient=True),
            loss_fn,
            step_test.KEEP,
            mesh,
            aggregation="token_mean",
            minibatch_prompts=step_test.P,
            microbatch=microbatch,
            dtype="float32",
        )
        state = step_test.fresh_state(mesh)
        state, metrics = step(state, jax.device_put(b, sharding.by_prompt(mesh)), jnp.int32(0))
        found.append(jax.tree.map(np.asarray, (state.opt_state.trace, metrics)))
    step_test.assert_same(*found)
    summed, count = found[0][1].means["policy/correction_cut"]
    assert 0.05 < summed / count < 0.95


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("tis", {"high": 0.5}, "algorithm.correction_options.high=0.5: must be >= 1"),
        ("tis", {"high": float("nan")}, "algorithm.correction_options.high=nan: must be >= 1"),
        ("icepop", {"low": 1.5}, "algorithm.correction_options.low=1.5: must be >= 0 and <= 1"),
        ("icepop", {"low": "x"}, "algorithm.correction_options.low=x: is str, must be float"),
        ("mis", {"low": 0.5}, "algorithm.correction_options.low=0.5: algorithm.correction=mis has"),
        ("none", {"high": 2.0}, "algorithm.correction_options.high=2.0: algorithm.correction=none"),
        ("tsi", {}, "algorithm.correction=tsi: must be one of none, tis, icepop, mis; did you"),
    ],
)
def test_a_mistake_is_a_line(name, options, line):
    (found,) = training.check_correction(configured(name, **options))
    assert found.startswith(line)


def test_none_is_no_factor():
    """So that the program of a run without a correction is the one that it was."""
    assert training.check_correction(ALGORITHM) == []
    assert training.make_correction(ALGORITHM) is None


@names
def test_the_defaults_have_no_mistakes(name):
    assert training.check_correction(configured(name)) == []
    (line,) = training.check_correction(dataclasses.replace(configured(name), old_logps="sampler"))
    assert "set algorithm.old_logps=rescored" in line


@pytest.mark.nightly
def test_a_run_with_a_correction(tmp_path, monkeypatch):
    """Through the command line, with a gap at the odd tokens."""
    rescore = training.Score.__call__

    def off(self, params, rollouts):
        return rescore(self, params, rollouts) + 0.2 * (rollouts.tokens % 2)

    monkeypatch.setattr(training.Score, "__call__", off)
    monkeypatch.chdir(runs.ROOT)
    argv = [*runs.command(tmp_path)[2:], "--config.warmup.steps=0", "--config.steps=1"]
    argv += ["--config.algorithm.correction=icepop", "--config.algorithm.old_logps=rescored"]
    argv += ["--config.algorithm.correction_options.high=1.1", "--config.algorithm.beta=0"]
    config = cli.parse(argv, "", several=True).config
    runs.train(config, tmp_path)
    (row,) = [row for row in runs.lines(tmp_path) if row["kind"] == "train"]
    cut = row["policy/correction_cut"]
    assert 0.1 < cut < 0.9
    assert row["policy/correction_mean"] == pytest.approx(1 - cut, abs=1e-4)
    assert row["policy/ratio_mean"] == pytest.approx(1 - cut * (1 - math.exp(-0.2)), abs=0.02)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["algorithm"]["correction_options"] == {"high": 1.1}
