"""Tests the statistics of a study against SciPy and against simulated studies of known effect."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mapo_jax.report import paired

VALUES = st.lists(st.floats(-1, 1), min_size=2, max_size=12)


@given(VALUES)
def test_mean_has_the_t_interval_of_scipy(values):
    found = paired.mean(values)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.n == len(values)
    np.testing.assert_allclose(found.mean, np.mean(values), atol=1e-12)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
        np.testing.assert_allclose((found.low, found.high), (low, high), rtol=1e-7, atol=1e-9)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=12))
def test_difference_is_the_paired_t_test_of_scipy(pairs):
    values, baseline = np.array(pairs).T
    if np.std(values - baseline) < 1e-9:
        return
    found, expected = paired.difference(values, baseline), stats.ttest_rel(values, baseline)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose((found.low, found.high), interval, rtol=1e-6, atol=1e-9)


def test_seeds_without_a_value_are_left_out_of_both_methods():
    nan = math.nan
    found = paired.difference([0.5, 0.7, nan, 0.9], [0.4, nan, 0.3, 0.6])
    assert found.n == 2
    assert found.mean == pytest.approx(0.2)
    assert paired.mean([nan, nan]).n == 0


def test_one_seed_has_no_interval_and_equal_differences_have_no_p():
    assert all(map(math.isnan, paired.mean([0.5])[2:]))
    one = paired.difference([0.5], [0.25])
    assert (one.n, one.mean) == (1, 0.25)
    assert all(map(math.isnan, one[2:]))
    equal = paired.difference([0.5, 0.75], [0.25, 0.5])
    assert (equal.low, equal.high, equal.detectable) == (0.25, 0.25, 0)
    assert math.isnan(equal.p)


@pytest.mark.parametrize("n", [3, 8])
def test_intervals_cover_the_true_difference(n):
    """Runs of a seed share much of their spread, which the differences do not have."""
    rng = np.random.default_rng(n)
    shared, own = rng.normal(0, 0.1, (4000, n)), rng.normal(0, 0.02, (2, 4000, n))
    rows = zip(shared + own[0] + 0.03, shared + own[1], strict=True)
    found = [paired.difference(values, baseline) for values, baseline in rows]
    assert 0.93 < np.mean([d.low <= 0.03 <= d.high for d in found]) < 0.97


@pytest.mark.parametrize("n", [2, 4, 8, 20])
def test_power_is_as_stated(n):
    sd = 0.05
    effect = paired.detectable(sd, n)
    rng = np.random.default_rng(n)
    found = [paired.difference(x, np.zeros(n)) for x in rng.normal(effect, sd, (4000, n))]
    assert 0.78 < np.mean([d.p < 0.05 for d in found]) < 0.82


def test_area_is_the_mean_over_the_steps():
    assert paired.area(np.array([0, 10, 20]), np.array([0.0, 0.5, 0.5])) == pytest.approx(0.375)
    holes = paired.area(np.array([0, 5, 10]), np.array([0.0, math.nan, 1.0]))
    assert holes == pytest.approx(0.5)
    assert math.isnan(paired.area(np.array([0]), np.array([0.5])))
