"""Tests every entry of the registry against its oracle and the invariants in its docstring."""

import functools
import re

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import advantages
from tests import small
from tests.advantages import oracles
from tests.small import group_advantages

P, G = 8, 6  # all examples have one shape, so each case compiles once
CASES = {
    "mapo": ("mapo", {}),
    "mapo, ddof=1": ("mapo", {"ddof": 1}),
    "mapo_random": ("mapo_random", {}),
    "mapo_linear": ("mapo_linear", {}),
    "grpo": ("grpo", {}),
    "dr_grpo": ("dr_grpo", {}),
    "gpg": ("gpg", {}),
    "gpg, alpha=0.6": ("gpg", {"alpha": 0.6}),
    "gpg, threshold=0.6": ("gpg", {"threshold": 0.6}),
    "tree_rpo": ("tree_rpo", {}),
    "apd": ("apd", {}),
    "maxrl": ("maxrl", {}),
    "rloo": ("rloo", {}),
    "reinforce_plus_plus": ("reinforce_plus_plus", {}),
    "reinforce_plus_plus_baseline": ("reinforce_plus_plus_baseline", {}),
    "remax": ("remax", {}),
    "beta_norm(2, 1)": ("beta_norm", {"a": 2.0, "b": 1.0}),
    "beta_norm(1.3, 3)": ("beta_norm", {"a": 1.3, "b": 3.0}),
    "pkpo(1)": ("pkpo", {"k": 1}),
    "pkpo(3)": ("pkpo", {"k": 3}),
    "passk(1)": ("passk", {"k": 1}),
    "passk(3)": ("passk", {"k": 3}),
    "gdpo": ("gdpo", {}),
    "gdpo, weighed": ("gdpo", {"weights": (0.9, 0.1)}),
    "opo": ("opo", {}),
    "quantile(0.4)": ("quantile", {"K": 0.4}),
    "quantile(0.5)": ("quantile", {"K": 0.5}),
    "ngrpo": ("ngrpo", {}),
    "dgpo": ("dgpo", {}),
    "dgpo, weighed": ("dgpo", {"temperature": 0.5}),
    "sign_balance": ("sign_balance", {}),
    "rs_grpo(0)": ("rs_grpo", {"beta": 0.0}),
    "rs_grpo(4)": ("rs_grpo", {"beta": 4.0}),
    "rs_grpo(-2)": ("rs_grpo", {"beta": -2.0}),
    "mgpo": ("mgpo", {}),
    "mgpo(3)": ("mgpo", {"strength": 3.0}),
    "a_grae": ("a_grae", {}),
    "a_grae, threshold=0.6": ("a_grae", {"threshold": 0.6}),
    "lite_ppo": ("lite_ppo", {}),
    "jspo": ("jspo", {}),
    "ebpo": ("ebpo", {}),
    "focal(mapo)": ("focal", {"base": "mapo", "gamma": 1.5}),
    "focal(gpg)": ("focal", {"base": "gpg", "gamma": 1.0}),
    "signed(grpo)": ("signed", {"base": "grpo", "pos": 0.1, "neg": 1.0}),
    "signed(remax)": ("signed", {"base": "remax", "pos": 2.0, "neg": 0.5}),
}
# Another option's effect is tested below: see ROUGH and `same_as`.
FURTHER = (
    "rs_grpo(0)",
    "rs_grpo(-2)",
    "mgpo(3)",
    "a_grae",
    "mapo, ddof=1",
    "beta_norm(1.3, 3)",
    "pkpo(1)",
    "passk(1)",
    "quantile(0.5)",
)
every = pytest.mark.parametrize(
    "case", [*(c for c in CASES if c not in FURTHER), *small.slow(*([c] for c in FURTHER))]
)
examples = hypothesis.settings(deadline=None, max_examples=10)
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
WHITENED = ("reinforce_plus_plus", "reinforce_plus_plus_baseline", "gdpo", "ebpo")
PER_PROMPT = ("baseline_P", "history_P")
KEY = jax.random.key(7)
DRAWN_P = [float(jax.random.uniform(jax.random.fold_in(KEY, p))) for p in range(P)]


def test_every_entry_has_a_case():
    assert {name for name, _ in CASES.values()} == set(advantages.ADVANTAGES)


def function(case, **more):
    name, options = CASES[case]
    return functools.partial(advantages.group_advantages, name, **options, **more)


@functools.cache
def jitted(case):
    return jax.jit(function(case))


def compute(case, groups):
    """Calls the compiled function of a case with every input that there is."""
    rewards = jnp.asarray(groups["rewards_PG"], jnp.float32)
    others = {n: jax.tree.map(jnp.asarray, x) for n, x in groups.items() if n != "rewards_PG"}
    return np.asarray(jitted(case)(rewards, **others, key=KEY))


def oracle(case, groups):
    name, options = CASES[case]
    groups = dict(groups)
    rewards = np.float32(groups.pop("rewards_PG"))
    success, mask = groups.pop("success_PG"), groups.pop("mask_PG")
    return oracles.advantages(name, rewards, success, mask, lambda_P=DRAWN_P, **groups, **options)


def grids(values, *shape):
    """Arrays of these values, drawn as bytes: to draw each entry by itself takes much longer."""
    table, size = np.array(values), int(np.prod(shape))
    return st.binary(min_size=size, max_size=size).map(
        lambda x: table[np.frombuffer(x, np.uint8) % len(table)].reshape(shape)
    )


HISTORY = advantages.History(*np.random.default_rng(0).random((6, P), np.float32))
LEVELS, HUNDREDTHS = [0.0, 0.1, 0.9, 1.0], [n / 100 for n in range(101)]
REWARDS = LEVELS * 25 + HUNDREDTHS
GROUPS = st.fixed_dictionaries(
    {
        "rewards_PG": grids(REWARDS, P, G) | grids([0.0, 1.0], P, G),
        "success_PG": grids([False, True], P, G),
        "mask_PG": grids([True, True, True, False], P, G),
        "baseline_P": grids(REWARDS, P),
        "lengths_PG": grids(range(1, 31), P, G),
        "components_PGC": grids([0.0, 0.5, 1.0], P, G, 2),
        "history_P": st.builds(advantages.History, *[grids(REWARDS, P)] * 6),
    }
)
BINARY = GROUPS.map(
    lambda groups: (
        groups
        | {
            "rewards_PG": np.float32(groups["success_PG"]),
            "components_PGC": np.stack([groups["success_PG"]] * 2, -1).astype(np.float32),
        }
    )
)


@every
@examples
@hypothesis.given(groups=GROUPS, lost=grids([False, True], P, G))
def test_equals_oracle(case, groups, lost):
    lost &= ~groups["success_PG"]
    groups = groups | {"rewards_PG": np.where(lost, np.nan, groups["rewards_PG"])}
    # Whitening divides rounding errors by a number that may be as small as its eps, 1e-4.
    close = {"rtol": 2e-3, "atol": 2e-3} if CASES[case][0] in WHITENED else CLOSE
    np.testing.assert_allclose(compute(case, groups), oracle(case, groups), **close)


ROUGH = {
    "tree_rpo": {},
    "grpo": {"ddof": 1},
    "dgpo": {},
    "sign_balance": {},
    "mgpo": {"ddof": 1, "strength": 2.0},
    "lite_ppo": {"ddof": 1},
    "apd": {},
    "mapo": {"ddof": 1},
    "beta_norm": {"a": 1.3, "b": 3.0},
    "passk": {"k": 2},
    "quantile": {"K": 0.4, "ddof": 1},
    "ngrpo": {"virtual": 2.0, "ddof": 1},
    "gdpo": {"ddof": 1},
    "reinforce_plus_plus": {},
    "reinforce_plus_plus_baseline": {},
}


@pytest.mark.parametrize("name", ROUGH)
def test_eps_and_ddof_stand_where_they_should(name):
    """Takes an eps large enough to show; 1e-6 is below every tolerance."""
    rng = np.random.default_rng(0)
    rewards = rng.choice([0, 0.1, 0.9, 1], (5, G)).astype(np.float32)
    success = rewards == 1
    more = {
        "lengths_PG": rng.integers(1, 9, (5, G)),
        "components_PGC": np.stack([rewards, success], -1).astype(np.float32),
        "history_P": jax.tree.map(lambda x: x[:5], HISTORY),
        "eps": 0.5,
        **ROUGH[name],
    }
    result = group_advantages(name, rewards, success, **more)
    expected = oracles.advantages(name, rewards, success, **more)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


class VariantsTest(chex.TestCase):
    # The other tests have the case with jit.
    @chex.variants(without_jit=True, with_device=True, without_device=True)
    def test_same_under_every_variant(self):
        rng = np.random.default_rng(0)
        groups = {
            "rewards_PG": rng.choice([0, 0.1, 0.9, 1, np.nan], (P, G)).astype(np.float32),
            "success_PG": rng.random((P, G)) < 0.5,
            "mask_PG": rng.random((P, G)) < 0.8,
            "baseline_P": rng.random(P).astype(np.float32),
            "lengths_PG": rng.integers(1, 9, (P, G)),
            "components_PGC": rng.choice([0, 1], (P, G, 2)).astype(np.float32),
            "history_P": HISTORY,
        }
        for case in CASES:
            result = self.variant(function(case))(**groups, key=KEY)
            np.testing.assert_allclose(result, oracle(case, groups), **CLOSE)


# Invariants


@every
@examples
@hypothesis.given(groups=GROUPS, order=st.permutations(range(G)))
def test_order_does_not_matter(case, groups, order):
    shuffled = {n: x if n in PER_PROMPT else x[:, order] for n, x in groups.items()}
    close = {"rtol": 2e-3, "atol": 2e-3} if CASES[case][0] in WHITENED else CLOSE
    np.testing.assert_allclose(compute(case, shuffled), compute(case, groups)[:, order], **close)


MOVES_CONSTANT_GROUPS = ("ngrpo", "remax", "jspo", *WHITENED)


@every
@examples
@hypothesis.given(groups=GROUPS, value=st.sampled_from(REWARDS))
def test_constant_groups_give_exactly_zero(case, groups, value):
    name, options = CASES[case]
    groups = groups | {"rewards_PG": groups["rewards_PG"].copy()}
    groups["rewards_PG"][1] = value
    result = compute(case, groups)[1]
    if {name, options.get("base")}.isdisjoint(MOVES_CONSTANT_GROUPS):
        assert np.all(result == 0)


@pytest.mark.parametrize("name", MOVES_CONSTANT_GROUPS)
def test_named_exceptions_do_move_constant_groups(name):
    rewards = jnp.array([[0.0, 0, 0, 0], [1, 0, 1, 1]])
    result = group_advantages(
        name,
        rewards,
        rewards == 1,
        baseline_P=jnp.ones(2),
        lengths_PG=jnp.array([[1, 2, 3, 4], [1, 5, 1, 1]]),
        components_PGC=jnp.stack([rewards, rewards.at[0, 0].set(1)], -1),
        history_P=jax.tree.map(lambda x: x[:2], HISTORY),
    )
    assert np.all(result[0] != 0)


UNCENTRED = ("ngrpo", "remax", "opo", "quantile", "signed", "a_grae", "jspo", *WHITENED)


@every
@examples
@hypothesis.given(groups=GROUPS)
def test_sums_to_zero(case, groups):
    result = compute(case, groups)
    if CASES[case][0] not in UNCENTRED:
        np.testing.assert_allclose(result.sum(1), 0, atol=2e-4)


@examples
@hypothesis.given(groups=GROUPS)
def test_opo_sums_to_zero_over_tokens(groups):
    result = compute("opo", groups)
    np.testing.assert_allclose((groups["lengths_PG"] * result).sum(1), 0, atol=2e-4)


# The effect on the advantages of rewards a r + b, for a shift b and for a scale a > 0.
SHIFTED = dict.fromkeys(["grpo", "dr_grpo", "gpg", "rloo", "opo", "quantile", "dgpo"], "same")
SHIFTED |= dict.fromkeys(["rs_grpo", "mgpo", "lite_ppo", "jspo"], "same")
SCALED = dict.fromkeys(["mapo", "mapo_random", "mapo_linear", "grpo", "apd"], "same")
SCALED |= dict.fromkeys(["maxrl", "quantile", "dgpo", "mgpo", "lite_ppo"], "same")
SCALED |= dict.fromkeys(["dr_grpo", "gpg", "rloo", "opo", "jspo"], "times")


@every
@examples
@hypothesis.given(groups=GROUPS, shift=st.floats(0, 2), scale=st.floats(0.25, 4))
def test_shift_and_scale(case, groups, shift, scale):
    name, options = CASES[case]
    plain = compute(case, groups)
    # Rewards of size 6 that differ by a hundredth leave float32 five digits of the deviation.
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-3)
    if name in SHIFTED:
        close(compute(case, groups | {"rewards_PG": groups["rewards_PG"] + shift}), plain)
    if name in SCALED and "temperature" not in options:
        scaled = compute(case, groups | {"rewards_PG": groups["rewards_PG"] * scale})
        close(scaled, plain * (scale if SCALED[name] == "times" else 1))


def bounds(name, options, n):
    """Returns (lowest, highest) advantage in a group of n; +-inf if no bound is claimed."""
    root, top = np.sqrt(n - 1), {"apd": n - 1, "grpo": np.sqrt(n - 1)}
    table = {
        "mapo": (-max(1, root), n - 1),
        "mapo_random": (-max(1, root), n - 1),
        "mapo_linear": (-max(1, root), n - 1),
        "grpo": (-root, root),
        "mgpo": (-root, root),
        "jspo": (-1, 1),
        "dr_grpo": (-1, 1),
        "tree_rpo": (-n, n),
        "apd": (-1, top["apd"]),
        "maxrl": (-1, top["apd"]),
        "rloo": (-1, 1),
        "remax": (-1, 1),
        "pkpo": (-1, 1),
        "opo": (-1, 1),
        "dgpo": (-n / 2, n / 2),
        "sign_balance": (-(n - 1), 1),
    }
    return table[name] if name in table and "temperature" not in options else (-np.inf, np.inf)


@every
@examples
@hypothesis.given(groups=GROUPS)
def test_bounds(case, groups):
    name, options = CASES[case]
    if "ddof" in options:
        return
    result = compute(case, groups)
    for row, n in zip(result, groups["mask_PG"].sum(1), strict=True):
        low, high = bounds(name, options, max(n, 2))
        assert np.all((low - 1e-3 <= row) & (row <= high + 1e-3))


@every
@pytest.mark.parametrize("junk", [7.0, np.nan, np.inf])
def test_masked_is_deleted(case, junk):
    rng = np.random.default_rng(1)
    groups = {
        "rewards_PG": np.tile([0.9, 0.0, junk, 0.5, 1.0, 0.1], (P, 1)),
        "success_PG": np.tile([False, False, True, False, True, True], (P, 1)),
        "mask_PG": np.tile([True, True, not np.isfinite(junk), True, True, True], (P, 1)),
        "baseline_P": np.linspace(0.1, 0.9, P),
        "lengths_PG": rng.integers(1, 9, (P, G)),
        "components_PGC": rng.choice([0, 0.5, 1], (P, G, 2)),
        "history_P": HISTORY,
    }
    groups["mask_PG"][:, 2] = not np.isfinite(junk)
    if np.isfinite(junk):
        groups["mask_PG"][:, 2] = False
    full = compute(case, groups)
    without = {n: x if n in PER_PROMPT else np.delete(x, 2, 1) for n, x in groups.items()}
    assert np.all(full[:, 2] == 0)
    np.testing.assert_allclose(np.delete(full, 2, 1), compute(case, without), rtol=1e-5, atol=1e-6)


@every
def test_no_gradient_flows(case):
    odd = [[0.9, 0.0, jnp.nan, 0.5, 1.0, 0.1], [0.3] * 6, [1e-30, 0, 0, 0, 0, 0]]
    rewards = jnp.array([*odd, *[[0.0, 0, 1, 1, 0, 1]] * (P - 3)])

    def total(rewards, baseline, components):
        result = function(case)(
            rewards,
            rewards == 1,
            key=KEY,
            baseline_P=baseline,
            lengths_PG=jnp.ones((P, G), int),
            components_PGC=components,
            history_P=jax.tree.map(jnp.asarray, HISTORY),
        )
        assert np.all(np.isfinite(jax.lax.stop_gradient(result)))
        return jnp.sum(result * jnp.arange(P * G).reshape(P, G))

    arguments = rewards, jnp.ones(P) / 3, jnp.zeros((P, G, 2)).at[:, 1].set(1)
    for gradient in jax.grad(total, (0, 1, 2))(*arguments):
        assert not np.any(gradient)


@every
def test_sharded_over_prompts(case):
    """Gives the same as one device; only an entry with a second stage compares groups."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    rng = np.random.default_rng(0)
    groups = {
        "rewards_PG": rng.choice([0, 0.1, 0.9, 1], (P, G)).astype(np.float32),
        "success_PG": rng.random((P, G)) < 0.5,
        "mask_PG": rng.random((P, G)) < 0.8,
        "baseline_P": rng.random(P),
        "lengths_PG": rng.integers(1, 9, (P, G)),
        "components_PGC": rng.choice([0.0, 0.5, 1.0], (P, G, 2)),
        "history_P": HISTORY,
    }
    on_mesh = jax.device_put(groups, sharding)
    program = jitted(case).lower(**on_mesh, key=KEY).compile()
    np.testing.assert_allclose(program(**on_mesh, key=KEY), compute(case, groups), atol=1e-5)
    name, options = CASES[case]
    entry = advantages.ADVANTAGES[options.get("base", name)]
    collectives = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    meets = bool(re.search(collectives, program.as_text()))
    assert meets == (entry.stage is not None and not {"alpha"} & set(options) and case != "dgpo")


# Equalities between entries, at eps=0


@pytest.mark.parametrize(
    ("a", "b", "name", "factor"),
    [
        (1.0, 1.0, "dr_grpo", 1),
        (1.5, 1.5, "grpo", np.pi / 8),
        (2.0, 1.0, "apd", 1 / 2),
        (2.0, 2.0, "tree_rpo", 1 / 6),
        (2.0, 2.0, "dgpo", 1 / 3),
        (1.0, 2.0, "sign_balance", 1 / 2),
    ],
)
def test_beta_norm_holds_others(a, b, name, factor):
    same_as("beta_norm", {"a": a, "b": b, "eps": 0.0}, name, factor)


def same_as(left, options, right, factor):
    """In groups of 2 to 16, with every number of successes."""
    size, k = np.array([(n, k) for n in range(2, 17) for k in range(n + 1)]).T[..., None]
    mask, success = np.arange(16) < size, np.arange(16) < k
    takes_eps = "eps" in advantages.ADVANTAGES[right].parameters
    result, compared = (
        group_advantages(name, np.float32(success), success, mask, **options)
        for name, options in ((left, options), (right, {"eps": 0.0} if takes_eps else {}))
    )
    np.testing.assert_allclose(result, factor * compared, rtol=1e-5, atol=1e-6)


def test_entries_that_are_others():
    same_as("pkpo", {"k": 1}, "rloo", 1)
    same_as("passk", {"k": 1, "eps": 0.0}, "grpo", 1)
    same_as("maxrl", {"eps": 0.0}, "apd", 1)
    same_as("dgpo", {"eps": 0.0}, "tree_rpo", 1 / 2)
    same_as("mgpo", {"strength": 0.0, "eps": 0.0}, "grpo", 1)
    same_as("focal", {"base": "grpo", "gamma": 0.0, "eps": 0.0}, "grpo", 1)
    same_as("signed", {"base": "apd", "pos": 1.0, "neg": 1.0, "eps": 0.0}, "apd", 1)


def test_rs_grpo_runs_from_sign_balance_through_dr_grpo_to_apd():
    size, k = np.array([(n, k) for n in range(2, 17) for k in range(n + 1)]).T[..., None]
    mask, success = np.arange(16) < size, np.arange(16) < k

    def of(name, **options):
        return group_advantages(name, np.float32(success), success, mask, **options)

    np.testing.assert_allclose(of("rs_grpo", beta=0.0), of("dr_grpo"), atol=1e-6)
    np.testing.assert_allclose(of("rs_grpo", beta=0.01), of("dr_grpo"), atol=0.01)
    np.testing.assert_allclose(50 * of("rs_grpo", beta=50.0), of("apd", eps=0.0), atol=1e-5)
    falling = 50 * of("rs_grpo", beta=-50.0)
    np.testing.assert_allclose(falling, of("sign_balance", eps=0.0), atol=1e-5)
    # The values of the paper's family at beta = 8, times beta, in groups of 8.
    for k, expected in ((1, (6.98, -1.00)), (4, (1, -1)), (7, (0.14, -1))):
        rewards = np.float32(np.arange(8) < k)
        found = 8 * group_advantages("rs_grpo", rewards[None], rewards[None] == 1, beta=8.0)[0]
        np.testing.assert_allclose((found[0], found[-1]), expected, atol=6e-3)


def test_jspo_compares_constant_groups_with_the_other_prompts():
    rewards = jnp.array([[0.0] * 4, [1.0] * 4, [1.0, 0, 0, 0], [1.0, 1, 1, 0]])
    # Of prompt 0's others: sigma^2 / G is 0, 1/16, 1/16; mu is 1, 1/4, 3/4.
    noise, spread, mean = 1 / 24, np.var([1, 0.25, 0.75]), 2 / 3
    shrink = noise / (noise + spread)
    found = group_advantages("jspo", rewards, rewards == 1)
    np.testing.assert_allclose(found[0], -shrink * mean, rtol=1e-5)
    alone = group_advantages("jspo", rewards[2:3], rewards[2:3] == 1)
    rloo = group_advantages("rloo", rewards[2:3], rewards[2:3] == 1)
    np.testing.assert_allclose(alone, rloo)


def test_numbers_of_a_grae():
    """At G = 8 and a batch of which 3 of 10 are right."""
    rows = [[1.0] * k + [0.0] * (8 - k) for k in (1, 4, 7)]
    filler = [[0.0] * 8] * 2  # 12 of 40 rewards are 1
    rewards = jnp.array(rows + filler)
    found = group_advantages("a_grae", rewards, rewards == 1, eps=0.0)
    ends = [(row[0], row[-1]) for row in found[:3]]
    p = np.array([1, 4, 7]) / 8
    scale = 0.3 / (2 * np.sqrt(p)) + 0.7 / (2 * np.sqrt(1 - p))
    grpo = np.stack([np.sqrt((1 - p) / p), -np.sqrt(p / (1 - p))], 1)
    np.testing.assert_allclose(ends, scale[:, None] * grpo, rtol=1e-5)


@examples
@hypothesis.given(groups=GROUPS, length=st.integers(1, 9))
def test_opo_is_dr_grpo_at_equal_lengths(groups, length):
    groups = groups | {"lengths_PG": np.full((P, G), length)}
    np.testing.assert_allclose(compute("opo", groups), compute("dr_grpo", groups), atol=1e-6)


@examples
@hypothesis.given(groups=BINARY)
def test_sign_balance_mirrors_apd(groups):
    turned = groups | {"rewards_PG": 1 - groups["rewards_PG"]}
    np.testing.assert_allclose(
        compute("sign_balance", groups), -compute("apd", turned), rtol=1e-5, atol=1e-6
    )


def test_pass_at_k_of_more_than_there_are():
    rewards = jnp.array([[1.0, 0, 0, 0, 0]])
    mask = jnp.array([[True, True, True, True, False]])
    for name in ("pkpo", "passk"):
        assert np.any(group_advantages(name, rewards, rewards == 1, mask, k=3))
        assert not np.any(group_advantages(name, rewards, rewards == 1, mask, k=5))


def test_quantile_is_a_gate():
    rewards = jnp.asarray(np.arange(10) < np.arange(1, 10)[:, None], jnp.float32)
    result = np.asarray(group_advantages("quantile", rewards, rewards == 1, K=0.4))
    for k, row in enumerate(result, start=1):
        right, wrong = row[:k], row[k:]
        if k <= 6:  # p <= 1 - K
            assert np.all(right > 0)
            assert not np.any(wrong)
        else:
            assert not np.any(right)
            assert np.all(wrong < 0)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_the_quantile_of_whole_numbers_is_exact(tenths):
    """K n may round up from a whole number, as 0.7 * 10 does in float32."""
    sizes = np.arange(2, 41)
    rewards = np.tile(np.arange(40.0, dtype=np.float32), (len(sizes), 1))
    mask = np.arange(40) < sizes[:, None]
    result = group_advantages("quantile", rewards, np.zeros_like(mask), mask, K=tenths / 10)
    at = np.asarray(result == 0) & mask
    np.testing.assert_array_equal(at.argmax(1), -(-tenths * sizes // 10) - 1)
    assert np.all(at.sum(1) == 1)


def test_without_lengths_all_tokens_count_the_same():
    rewards = jnp.array([[1.0, 0, 0, 0.5], [0, 0, 1, jnp.nan]])
    whiten = functools.partial(group_advantages, "reinforce_plus_plus", rewards, rewards == 1)
    np.testing.assert_allclose(whiten(), whiten(lengths_PG=jnp.full((2, 4), 3)), rtol=1e-6)
    assert not np.allclose(whiten(), whiten(lengths_PG=jnp.array([[9, 1, 1, 1]] * 2)), atol=0.1)


def test_ngrpo_trains_groups_that_all_fail():
    result = group_advantages("ngrpo", jnp.zeros((1, 9)), jnp.zeros((1, 9)), eps=0.0)
    np.testing.assert_allclose(result, -1 / 3, rtol=1e-6)
    assert not np.any(group_advantages("ngrpo", jnp.ones((1, 9)), jnp.ones((1, 9))))


def test_mapo_random_draws_once_for_each_group():
    rewards = jnp.tile(jnp.array([1.0, 1, 0.5, 0]), (400, 1))
    mixed = group_advantages("mapo_random", rewards, rewards == 1, key=KEY, eps=0.0)
    grpo, apd = (group_advantages(n, rewards, rewards == 1, eps=0.0) for n in ("grpo", "apd"))
    drawn = np.asarray((mixed - grpo) / (apd - grpo))
    np.testing.assert_allclose(drawn, np.tile(drawn[:, :1], 4), atol=1e-3)
    ordered = np.sort(drawn[:, 0])  # if uniform, these stay close to the diagonal
    assert np.abs(ordered - np.linspace(0, 1, 400)).max() < 0.1


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 1, 1, 0], [0.4583, 0.4583, 0.4583, -1.375]),
        ([1, 0, 0, 0], [1.875, -0.625, -0.625, -0.625]),
    ],
)
def test_released_code_of_mapo(rewards, expected):
    """The released code has ddof 1 and eps 1e-6; a success is a reward of exactly 1."""
    rewards = jnp.array([rewards], jnp.float32)
    result = group_advantages("mapo", rewards, rewards == 1, ddof=1, eps=1e-6)
    np.testing.assert_allclose(result[0], expected, atol=5e-5)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mapo_random", "key"),
        ("remax", "baseline_P"),
        ("opo", "lengths_PG"),
        ("gdpo", "components_PGC"),
        ("ebpo", "history_P"),
        ("focal", "base"),
    ],
)
def test_missing_inputs_are_named(name, missing):
    rewards = jnp.ones((2, 4))
    options = {"gamma": 1.0} if name == "focal" else {}
    with pytest.raises(TypeError, match=f"pass {missing} to group_advantages"):
        advantages.group_advantages(name, rewards, rewards == 1, **options)
    if name == "focal":
        with pytest.raises(TypeError, match="pass lengths_PG to group_advantages"):
            advantages.group_advantages(name, rewards, rewards == 1, base="opo", gamma=1.0)


def test_what_is_not_finite_is_not_spread():
    rewards = jnp.array([[1.0, 0, 0, 1], [1, 0, 0, 1]])
    baseline = group_advantages(
        "remax", rewards, rewards == 1, baseline_P=jnp.array([jnp.nan, 0.5])
    )
    np.testing.assert_allclose(baseline, [[0] * 4, [0.5, -0.5, -0.5, 0.5]])
    components = jnp.stack([rewards, rewards], -1).at[0, 0, 1].set(jnp.nan)
    result = group_advantages("gdpo", rewards, rewards == 1, components_PGC=components)
    assert result[0, 0] == 0
    assert np.all(np.isfinite(result))
    assert np.all(result[1] != 0)
