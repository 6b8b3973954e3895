"""The programs of a run: advantages of a batch, the choices of dynamic sampling and of kernels."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import advantages, sharding, training
from mapo_jax.model import decoding
from mapo_jax.rollouts import Experience
from mapo_jax.run import programs
from tests import runs, small
from tests.advantages import oracles
from tests.advantages.family_test import CASES

choose = jax.jit(programs._choose, static_argnums=(0, 1, 2))


def fresh(successes, first_draw=0, **changes):
    """Groups of 4 with these numbers of successes."""
    rollouts = jax.tree.map(np.asarray, small.rollouts(P=len(successes), G=4))
    success = np.arange(4) < np.asarray(successes)[:, None]
    found = Experience(
        rollouts,
        rewards=success.astype(np.float32),
        success=success,
        parts={},
        baseline=None,
        draw=first_draw + np.arange(len(successes)),
    )
    return dataclasses.replace(found, **changes)


def test_groups_are_kept_in_the_order_of_their_draws():
    pool, (kept, draws, facts) = choose(0.0, 1.0, "fail", None, fresh([0, 2, 4, 1]))
    assert (int(kept), draws.tolist()[:2]) == (2, [1, 3])
    assert tuple(map(int, facts["groups/kept"])) == (2, 4)
    assert tuple(map(float, facts["reward/mean_sampled"])) == (7, 16)
    pool, (kept, draws, _) = choose(0.0, 1.0, "fail", pool, fresh([4, 3, 0, 1], 4))
    assert (int(kept), draws.tolist()) == (4, [1, 3, 5, 7])
    assert pool[1].success.sum(1).tolist() == [2, 1, 3, 1]
    pool, (kept, draws, _) = choose(0.0, 1.0, "fail", pool, fresh([1, 1, 1, 1], 8))
    assert (int(kept), draws.tolist()) == (4, [1, 3, 5, 7])  # what is full stays as it is


def test_what_is_kept_is_strictly_between_the_bounds():
    def kept(low, high, truncated="fail", **changes):
        groups = fresh([0, 1, 2, 3], **changes)
        return choose(low, high, truncated, None, groups)[1][1].tolist()

    def first(low, high, count, **options):
        return kept(low, high, **options)[:count]

    assert first(0.25, 0.75, 1) == [2]
    assert first(0.0, 0.75, 2) == [1, 2]
    assert first(0.2, 0.8, 3) == [1, 2, 3]
    # The reward's part `accuracy` decides, where there is one; what is invalid counts in nothing.
    accuracy = np.zeros((4, 4), np.float32)
    accuracy[1, :2] = 1
    assert first(0.0, 1.0, 1, parts={"accuracy": accuracy}) == [1]
    lost = fresh([0, 1, 2, 3]).rewards.copy()
    lost[3, 3] = np.nan  # three successes of three
    lost[1] = np.nan
    _, (count, draws, _) = choose(0.0, 1.0, "fail", None, fresh([0, 1, 2, 3], rewards=lost))
    assert (int(count), draws.tolist()[0]) == (1, 2)
    _, (_, _, facts) = choose(0.0, 1.0, "fail", None, fresh([0, 1, 2, 3], rewards=lost))
    assert tuple(map(int, facts["groups/kept"])) == (1, 3)  # of the groups that there are
    assert tuple(map(float, facts["reward/mean_sampled"])) == (5, 11)
    cut = dataclasses.replace(
        fresh([0, 1, 2, 3]).rollouts, finished=np.arange(4) < np.array([[4], [1], [4], [3]])
    )
    _, (count, draws, _) = choose(0.0, 1.0, "mask", None, fresh([0, 1, 2, 3], rollouts=cut))
    assert (int(count), draws.tolist()[0]) == (1, 2)


def test_groups_of_equal_rewards_are_not_kept():
    """They teach nothing, whatever their accuracy: here half of each response is right."""
    halves = {"accuracy": np.full((4, 4), 0.5, np.float32)}
    rewards = np.float32([[0.5] * 4, [0.1] * 4, [0.5, 0.5, 0.5, 0.6], [0.5, 0.5, np.nan, 0.5]])
    groups = fresh([0] * 4, rewards=rewards, parts=halves)
    _, (kept, draws, facts) = choose(0.0, 1.0, "fail", None, groups)
    assert (int(kept), int(draws[0])) == (1, 2)
    assert tuple(map(int, facts["groups/kept"])) == (1, 4)
    cut = dataclasses.replace(
        groups.rollouts, finished=np.arange(4) < np.array([[4], [4], [3], [4]])
    )
    groups = dataclasses.replace(groups, rollouts=cut)
    assert int(choose(0.0, 1.0, "mask", None, groups)[1][0]) == 0  # the other is cut


def test_the_choice_is_the_same_on_a_mesh():
    mesh = sharding.make_mesh(4, 2, 1)
    rng = np.random.default_rng(0)
    tries = [fresh(rng.integers(0, 5, 16), first_draw=16 * t) for t in range(3)]
    on_mesh = jax.jit(
        lambda pool, fresh: programs._choose(0.0, 1.0, "fail", pool, fresh),
        out_shardings=(sharding.by_prompt(mesh), sharding.replicated(mesh)),
    )
    one = many = None
    for groups in tries:
        one, told_one = choose(0.0, 1.0, "fail", one, groups)
        many, told_many = on_mesh(many, sharding.put(groups, mesh))
        jax.tree.map(np.testing.assert_array_equal, told_many, told_one)
    jax.tree.map(np.testing.assert_array_equal, many, one)


# One for each input, for an advantage of another one, and for a second stage.
ASKING = ("mapo", "mapo_random", "remax", "gdpo, weighed", "opo", "signed(remax)", "focal(gpg)")
ASKING += ("ebpo",)


@pytest.mark.parametrize(
    "case", [*ASKING, *small.slow(*([case] for case in CASES if case not in ASKING))]
)
def test_a_run_has_what_every_advantage_asks_for(case):
    """All inputs of an advantage reach its function; what is masked or lost gets 0."""
    name, options = CASES[case]
    groups = fresh([1, 2, 0, 4])
    rewards = groups.rewards.copy()
    rewards[1, 0] = np.nan
    parts = {"format": 1 - groups.rewards, "accuracy": groups.rewards}
    groups = dataclasses.replace(
        groups, rewards=rewards, parts=parts, baseline=np.float32([0.1, 0.2, 0.3, 0.4])
    )
    key = jax.random.key(3)
    drawn = [float(jax.random.uniform(jax.random.fold_in(key, p))) for p in range(4)]
    compute = jax.jit(functools.partial(programs._advantages, name, options, "fail"))
    counted = groups.rollouts.valid & np.isfinite(rewards)
    batch = rewards, groups.success, counted, groups.rollouts.example
    memory, history_P = advantages.remember(advantages.nothing(4), *batch)
    found, valid, facts, remembered = compute(key, groups, advantages.nothing(4))
    expected = oracles.advantages(
        name,
        rewards,
        groups.success,
        lambda_P=drawn,
        baseline_P=groups.baseline,
        lengths_PG=groups.rollouts.trained.sum(-1),
        components_PGC=np.stack([parts["accuracy"], parts["format"]], -1),  # alphabetical
        history_P=history_P,
        **options,
    )
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    jax.tree.map(np.testing.assert_allclose, remembered, memory)
    assert not valid[1, 0]
    assert valid.sum() == 15
    assert tuple(map(int, facts["reward/invalid"])) == (1, 16)


@pytest.mark.parametrize(
    ("batch", "microbatch", "expected"), [(12, (2, 2), 4), (12, (8, 8), 12), (14, (2, 2), 2)]
)
def test_the_warm_up_computes_as_many_rows_as_the_update(batch, microbatch, expected):
    config = runs.micro(warmup__batch=batch, batch__microbatch=microbatch)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    assert programs._demonstrations(config, mesh) == expected


def test_a_rate_falls_until_the_end_of_its_phase(monkeypatch):
    make, made = training.make_optimizer, []
    monkeypatch.setattr(
        training, "make_optimizer", lambda c, n: made.append((c.decay, n)) or make(c, n)
    )
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    config = runs.micro(warmup__decay="linear", optimizer__decay="cosine")
    programs.Programs(config, small.CONFIG, (1,), mesh)
    assert made == [("linear", 5), ("cosine", 5 * 2 * 2)]  # steps, minibatches, epochs


def test_the_reference_is_a_copy_in_the_compute_dtype():
    config = runs.micro(compute__dtype="bfloat16")
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    made = programs.Programs(config, small.CONFIG, (1,), mesh)
    for dtype in ("bfloat16", "float32"):
        made._dtype = dtype
        params = {"w": jnp.ones(3)}
        copy = made.reference(params)
        params["w"].delete()
        np.testing.assert_array_equal(copy["w"].astype(np.float32), np.ones(3))
        assert copy["w"].dtype == dtype


TURNED = ("turned", "in decoding: the plain path, with keys as a CPU reads them")


@pytest.mark.parametrize(
    ("platform", "tensor", "asked", "refusal", "expected"),
    [
        ("gpu", 1, "auto", "", ("triton", "")),
        ("gpu", 1, "cudnn", "", ("triton", "")),
        ("gpu", 1, "auto", "it errs", ("plain", "not the kernel: it errs")),
        ("gpu", 2, "auto", "", ("plain", "not the kernel: mesh.tensor splits its heads")),
        ("gpu", 1, "plain", "", ("plain", "")),
        ("tpu", 1, "auto", "", ("plain", "")),
        ("cpu", 1, "auto", "", TURNED),
        ("cpu", 1, "plain", "", TURNED),
    ],
)
def test_decoding_takes_the_kernel_where_it_is_right(
    monkeypatch, platform, tensor, asked, refusal, expected
):
    devices = np.array([types.SimpleNamespace(platform=platform)])
    mesh = types.SimpleNamespace(devices=devices, shape={"tensor": tensor})
    compute, seen = runs.micro(compute__attention=asked).compute, []
    monkeypatch.setattr(decoding, "refusal", lambda *args: seen.append(args) or refusal)
    assert programs.choose_decoding(compute, small.CONFIG, mesh, (9, 600)) == expected
    assert seen in ([], [(small.CONFIG, (9, [128, 384, 88]), compute.dtype)])
