"""pass@k, maj@k and intervals against enumeration and closed forms."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax.run import statistics


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.27754), (5, 10, 0.23659, 0.76341), (10, 10, 0.72246, 1.0)],
)
def test_wilson_interval(successes, n, low, high):  # values of statsmodels' proportion_confint
    np.testing.assert_allclose(statistics.wilson_interval(successes, n), (low, high), atol=1e-5)


def test_mean_interval():
    low, high = statistics.mean_interval(np.array([0.0, 1.0, 0.0, 1.0]))
    assert (low + high) / 2 == 0.5
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 2, rel=1e-3)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_mean_over_all_subsets(right, data):
    k = data.draw(st.integers(1, len(right)))
    subsets = [any(subset) for subset in itertools.combinations(right, k)]
    found = statistics.pass_at_k(len(right), np.array([sum(right)]), k)
    np.testing.assert_allclose(found, [np.mean(subsets)], atol=1e-12)


def test_pass_at_k_of_many_answers_is_exact():
    found = statistics.pass_at_k(2000, np.array([0, 1, 1999, 2000]), 1000)
    np.testing.assert_allclose(found, [0, 0.5, 1, 1])


@pytest.mark.parametrize(
    ("votes", "elected"),
    [
        (["a"], [0]),
        (["a", "b", "b"], [1, 2]),
        (["b", "a", "a", "b"], [0, 3]),  # a tie: the vote that came first
        ([None, None, "a"], [2]),
        ([None, None], []),
        ([], []),
    ],
)
def test_majority(votes, elected):
    assert statistics.majority([vote and (vote, frozenset()) for vote in votes]) == elected


@pytest.mark.parametrize(
    ("units", "elected"),
    [
        (["cm", "km", "km"], [1, 2]),
        (["", "cm", "km", "km"], [0, 2, 3]),  # no unit is any, so that of most
        (["km", "cm", "", "cm"], [1, 2, 3]),
        (["km", "cm", ""], [0, 2]),
        (["", ""], [0, 1]),
        (["red apple", "apple", "apple", "pear", ""], [0, 1, 2, 4]),  # a remark is no other unit
        (["apple", "red apple", "green apple"], [0, 1]),
    ],
)
def test_votes_for_different_units_are_different(units, elected):
    assert statistics.majority([("5", frozenset(unit.split())) for unit in units]) == elected


def test_bootstrap_has_the_spread_of_the_mean():
    values = np.random.default_rng(1).random(400)
    resampled = statistics.bootstrap([values])
    assert resampled.shape == (2000,)
    np.testing.assert_allclose(resampled.mean(), values.mean(), atol=2e-3)
    np.testing.assert_allclose(resampled.std(), values.std() / 20, rtol=0.1)
    low, high = statistics.interval(resampled)
    assert low < values.mean() < high
    np.testing.assert_allclose(high - low, 2 * 1.96 * values.std() / 20, rtol=0.1)


def test_bootstrap_weighs_sets_alike():
    two = statistics.bootstrap([np.zeros(1000), np.ones(10)])
    np.testing.assert_array_equal(two, 0.5)
    spread = statistics.bootstrap([np.tile([0.0, 1.0], 50), np.ones(10)]).std()
    np.testing.assert_allclose(spread, 0.05 / 2, rtol=0.1)


def test_bootstrap_in_pieces(monkeypatch):
    values = np.arange(7.0)
    monkeypatch.setattr(statistics, "_CHUNK", 50)
    assert statistics.bootstrap([values]).shape == (2000,)
    np.testing.assert_array_equal(statistics.bootstrap([values]), statistics.bootstrap([values]))
