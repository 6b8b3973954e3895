"""Compares the measured faults of an advantage with known results and with brute force."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax.advantages import diagnostics
from tests import small
from tests.advantages import oracles

compiled = pytest.mark.usefixtures("compiled")


@compiled
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grpo", (-1.732, -1.000, -1.722)),
        ("apd", (-0.077, -0.818, -0.867)),
        ("mapo", (-1.318, -1.000, -1.722)),
        ("tree_rpo", (-3.077, -1.818, -3.467)),
    ],
)
def test_worst_of_the_papers_groups(name, expected):
    worst = diagnostics.values(name, diagnostics.EXAMPLES).min(1)
    np.testing.assert_allclose(worst[1:], expected, atol=5e-4)


@compiled
@pytest.mark.parametrize("G", [8, *small.slow([12])])
@pytest.mark.parametrize(
    ("name", "options", "reverses", "reverses_01", "mirrors", "mirrors_01"),
    [
        ("grpo", {}, True, True, True, True),
        ("dr_grpo", {}, False, True, True, True),
        ("tree_rpo", {}, True, True, False, True),
        ("apd", {}, False, False, False, False),
        ("mapo", {}, True, True, False, False),
        ("rloo", {}, False, True, True, True),
        ("dgpo", {}, True, True, True, True),
        ("passk", {"k": 4}, False, False, True, False),
        ("pkpo", {"k": 4}, False, False, True, False),
        ("sign_balance", {}, True, True, False, False),
        ("quantile", {"K": 0.4}, True, True, True, False),
        ("ngrpo", {}, True, True, False, False),
        ("focal", {"base": "grpo", "gamma": 1.0}, False, False, False, False),
    ],
)
def test_verdicts(name, options, reverses, reverses_01, mirrors, mirrors_01, G):
    reversion, mirror = (f(name, G, **options) for f in (diagnostics.reversion, diagnostics.mirror))
    assert (reversion["paper"], reversion["binary"]) == (reverses, reverses_01)
    assert (mirror["paper"], mirror["binary"]) == (mirrors, mirrors_01)


@compiled
def test_mapo_passes_the_example_of_the_introduction():
    assert not diagnostics.reversion("mapo", 8)["intro"]
    assert diagnostics.reversion("grpo", 8)["intro"]


def by_hand(name, rewards, options):
    rewards = [float(np.float32(r)) for r in rewards]
    success = [[r == 1 for r in rewards]]
    return list(oracles.advantages(name, [rewards], success, eps=0.0, **options)[0])


@compiled
@pytest.mark.parametrize("G", [5, 6])
@pytest.mark.parametrize(
    ("name", "options"), [("mapo", {}), ("apd", {}), ("quantile", {"K": 0.4}), ("passk", {"k": 2})]
)
def test_share_and_size_by_brute_force(name, options, G):
    reversed_, worst, worst_less, same, distances = 0, [], [], 0, []
    multisets = {tuple(sorted(g)) for g in itertools.product(diagnostics.LEVELS, repeat=G)}
    for group in multisets:
        if len(set(group)) == 1:
            continue
        values, turned = (by_hand(name, g, options) for g in (group, [1 - r for r in group]))
        largest = max(map(abs, values + turned))
        distances.append(
            max(abs(a + b) for a, b in zip(values, turned, strict=True)) / (largest or 1.0)
        )
        same += distances[-1] < 1e-5
        successes = group.count(1.0)
        if (successes - 1) / G >= 0.5:
            less = list(group)
            less[less.index(1.0)] = min(group)
            worst.append(min(values))
            worst_less.append(min(by_hand(name, less, options)))
            reversed_ += worst[-1] < worst_less[-1] - 1e-5
    found = diagnostics.reversion(name, G, **options), diagnostics.mirror(name, G, **options)
    np.testing.assert_allclose(found[0]["share"], reversed_ / len(worst))
    with np.errstate(divide="ignore"):  # quantile at G = 5 punishes infinitely harder
        size = np.divide(sum(worst), sum(worst_less))
    np.testing.assert_allclose(found[0]["size"], size, rtol=1e-4)
    np.testing.assert_allclose(found[1]["share"], same / len(distances))
    np.testing.assert_allclose(found[1]["distance"], np.mean(distances), atol=1e-4)


W = {
    "grpo": lambda p: 1 / np.sqrt(p * (1 - p)),
    "dr_grpo": lambda p: 1 + 0 * p,
    "tree_rpo": lambda p: 1 / (p * (1 - p)),
    "apd": lambda p: 1 / p,
    "mapo": lambda p: 4 * np.sqrt(p * (1 - p)) + (1 - 2 * p) ** 2 / p,
    "dgpo": lambda p: 1 / (2 * p * (1 - p)),
    "sign_balance": lambda p: 1 / (1 - p),
}


@compiled
@pytest.mark.parametrize("name", W)
def test_weights_and_masses(name):
    found = diagnostics.binary(name, 12)
    p, inner = np.arange(13) / 12, slice(1, 12)
    w = W[name](p[inner])
    np.testing.assert_allclose(found["p"], p)
    np.testing.assert_allclose(found["w"][inner], w, rtol=1e-5)
    np.testing.assert_allclose(found["right"][inner], (1 - p[inner]) * w, rtol=1e-5)
    np.testing.assert_allclose(found["wrong"][inner], -p[inner] * w, rtol=1e-5)
    for side in ("mass_right", "mass_wrong"):
        np.testing.assert_allclose(found[side][inner], (p * (1 - p))[inner] * w, rtol=1e-5)
    assert np.isnan(found["right"][0])
    assert np.isnan(found["wrong"][12])


@compiled
def test_masses_of_what_is_not_centred():
    found = diagnostics.binary("quantile", 10, K=0.4)
    assert np.all((found["mass_right"][1:10] > 0) == (np.arange(1, 10) <= 6))
    assert np.all((found["mass_wrong"][1:10] > 0) == (np.arange(1, 10) > 6))


# The objective

CLIMBERS = [
    ("mapo", {}),
    ("passk", {"k": 2}),
    ("quantile", {"K": 0.4}),
    ("ngrpo", {}),
    ("reinforce_plus_plus", {}),
]


def expected_update(name, options, G, p):
    """Returns the expected update of theta over all 2^G outcomes; right with p = sigmoid(theta)."""
    total = 0.0
    for outcome in itertools.product([0.0, 1.0], repeat=G):
        chance = np.prod([p if r else 1 - p for r in outcome])
        if name == "reinforce_plus_plus":  # before whitening
            values = outcome
        else:
            values = by_hand(name, outcome, options)
        scores = [(1 - p) if r else -p for r in outcome]  # grad log pi
        total += chance * np.mean([a * s for a, s in zip(values, scores, strict=True)])
    return total


@compiled
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize(("name", "options"), CLIMBERS)
def test_slope_is_that_of_the_expected_update(name, options, p):
    slope = diagnostics.slope(name, 5, [p], **options)[0]
    update = expected_update(name, options, 5, p)
    np.testing.assert_allclose(slope * p * (1 - p), update, rtol=1e-5, atol=1e-7)


@compiled
@pytest.mark.parametrize(("name", "options"), CLIMBERS)
def test_objective_has_the_slope(name, options):
    p, step = np.linspace(0.01, 0.99, 33), 1e-5
    up, down = (diagnostics.objective(name, 5, p + d, **options) for d in (step, -step))
    np.testing.assert_allclose((up - down) / (2 * step), diagnostics.slope(name, 5, p, **options))
    assert diagnostics.objective(name, 5, [0.0], **options) == 0


def against_constant(rewards_G, success_G, mask_G, *, constant):
    return rewards_G - constant


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(p=st.floats(0, 1), constant=st.floats(-2, 2))
def test_a_constant_baseline_climbs_p(p, constant):
    np.testing.assert_allclose(
        diagnostics.slope(against_constant, 6, [p], constant=constant), 1, atol=1e-5
    )
    np.testing.assert_allclose(
        diagnostics.objective(against_constant, 6, [p], constant=constant), p, atol=1e-5
    )


@compiled
def test_objective_of_mapo_for_large_groups():
    p, step = np.linspace(0.02, 0.98, 49), 1e-6
    change = diagnostics.mapo_objective(p + step) - diagnostics.mapo_objective(p - step)
    np.testing.assert_allclose(change / (2 * step), W["mapo"](p), rtol=1e-6)
    p = np.linspace(0.1, 0.95, 18)
    np.testing.assert_allclose(diagnostics.slope("mapo", 512, p), W["mapo"](p), rtol=4e-3)
    gained = diagnostics.objective("mapo", 512, p) - diagnostics.objective("mapo", 512, [0.5])
    closed = diagnostics.mapo_objective(p) - diagnostics.mapo_objective(0.5)
    np.testing.assert_allclose(gained, closed, atol=4e-3)


# Inputs


def test_eps_is_zero_unless_given():
    tiny = [[1e-6, 0, 0, 0]]
    np.testing.assert_allclose(diagnostics.values("apd", tiny)[0], [3, -1, -1, -1], rtol=1e-5)
    np.testing.assert_allclose(
        diagnostics.values("focal", tiny, base="apd", gamma=1.0)[0], [3, -1, -1, -1], rtol=1e-5
    )
    assert diagnostics.values("apd", tiny, eps=1e-6)[0, 0] < 1


def test_groups_do_not_meet():
    groups = np.array([[0.0, 1, 1, 1], [0, 0, 0, 0]])
    for name in ("gpg", "reinforce_plus_plus_baseline"):
        np.testing.assert_array_equal(
            diagnostics.values(name, groups), diagnostics.values("dr_grpo", groups)
        )
    focal = diagnostics.values("focal", groups, base="gpg", gamma=0.0)
    np.testing.assert_array_equal(focal, diagnostics.values("dr_grpo", groups))


def test_inputs_of_all_kinds():
    groups = np.array([[0.0, 1, 1, 1]])
    centred, scaled = (diagnostics.values(name, groups) for name in ("dr_grpo", "grpo"))
    np.testing.assert_allclose(diagnostics.values("opo", groups), centred, atol=1e-6)
    np.testing.assert_allclose(diagnostics.values("gdpo", groups), scaled, rtol=1e-5)
    np.testing.assert_allclose(
        diagnostics.values("remax", groups, baseline_P=jnp.ones(1)), groups - 1
    )
    drawn = diagnostics.values("mapo_random", groups, key=jax.random.key(0))
    assert scaled[0, 0] < drawn[0, 0] < diagnostics.values("apd", groups)[0, 0]


@compiled
def test_size_of_what_is_compared_with_nothing():
    def only_successes(rewards_G, success_G, mask_G):
        return rewards_G * success_G

    found = diagnostics.reversion(only_successes, 4)
    assert np.isnan(found["size"])
    assert found["share"] == 0
