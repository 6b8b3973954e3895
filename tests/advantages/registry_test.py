import functools
import re

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mapo_jax import advantages, errors, masked
from tests.advantages import oracles
from tests.small import group_advantages

NAMES = ["mapo", "grpo", "dr_grpo", "apd"]
JITTED = {
    (name, eps): jax.jit(functools.partial(advantages.group_advantages, name, eps=eps))
    for name in ["mapo", "grpo", "apd"]
    for eps in [0.0, 1e-6]
} | {("dr_grpo", 1e-6): jax.jit(functools.partial(advantages.group_advantages, "dr_grpo"))}
SAMPLE_STD = {
    name: jax.jit(functools.partial(advantages.group_advantages, name, ddof=1, eps=0.01))
    for name in ["mapo", "grpo"]
}
P, G = 3, 6  # all examples have one shape, so each function compiles once


def compute(name, rewards_PG, success_PG, mask_PG=None, eps=1e-6):
    mask_PG = np.ones(np.shape(rewards_PG), bool) if mask_PG is None else mask_PG
    rewards_PG = jnp.asarray(rewards_PG, jnp.float32)
    return np.asarray(JITTED[name, eps](rewards_PG, jnp.asarray(success_PG), jnp.asarray(mask_PG)))


def group(name, rewards_G, success_G=None, **options):
    success_G = np.asarray(rewards_G) == 1 if success_G is None else success_G
    return np.asarray(
        group_advantages(name, np.array([rewards_G], np.float32), np.array([success_G]), **options)
    )[0]


def grids(values):
    """Arrays of these values, drawn as bytes: to draw each entry by itself takes much longer."""
    table = np.array(values)
    return st.binary(min_size=P * G, max_size=P * G).map(
        lambda x: table[np.frombuffer(x, np.uint8) % len(table)].reshape(P, G)
    )


# Rewards of a run, which are sums of parts, and any hundredth from 0 to 1.
REWARDS = grids([0.0, 0.1, 0.9, 1.0] * 25 + [n / 100 for n in range(101)])
FLAGS = grids([False, True])
examples = hypothesis.settings(deadline=None, max_examples=50)


@pytest.mark.parametrize("name", NAMES)
@examples
@hypothesis.given(rewards=REWARDS, success=FLAGS, mask=FLAGS, lost=FLAGS)
def test_equals_oracle(name, rewards, success, mask, lost):
    rewards = np.where(lost & ~success, np.nan, rewards)
    expected = oracles.advantages(name, np.float32(rewards), success, mask)
    np.testing.assert_allclose(
        compute(name, rewards, success, mask), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["mapo", "grpo"])
@examples
@hypothesis.given(rewards=REWARDS, success=FLAGS)
def test_ddof_equals_oracle(name, rewards, success):
    function = SAMPLE_STD[name]
    actual = function(jnp.asarray(rewards, jnp.float32), jnp.asarray(success))
    expected = oracles.advantages(name, np.float32(rewards), success, eps=0.01, ddof=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@examples
@hypothesis.given(rewards=REWARDS, success=FLAGS, mask=FLAGS, order=st.permutations(range(G)))
def test_order_does_not_matter(name, rewards, success, mask, order):
    shuffled = compute(name, rewards[:, order], success[:, order], mask[:, order])
    straight = compute(name, rewards, success, mask)[:, order]
    np.testing.assert_allclose(shuffled, straight, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("junk", "masked_off"),
    [(x, True) for x in (0.0, 7.0, -3.0, np.nan, np.inf)] + [(x, False) for x in (np.nan, np.inf)],
)
def test_masked_is_deleted(name, junk, masked_off):
    rewards = np.tile([0.9, 0.0, junk, 0.5, 1.0, 0.1], (P, 1))
    success = np.tile([False, False, True, False, True, True], (P, 1))
    mask = np.tile([True, True, not masked_off, True, True, True], (P, 1))
    full = compute(name, rewards, success, mask)
    without = compute(name, np.delete(rewards, 2, axis=1), np.delete(success, 2, axis=1))
    assert np.all(full[:, 2] == 0)
    np.testing.assert_allclose(np.delete(full, 2, axis=1), without, rtol=1e-6)


@examples
@hypothesis.given(rewards=REWARDS, success=FLAGS, shift=st.floats(0, 2), scale=st.floats(0.25, 4))
def test_shift_and_scale(rewards, success, shift, scale):
    # Rewards of size 6 that differ by a hundredth leave float32 five digits of the deviation.
    close = functools.partial(np.testing.assert_allclose, rtol=2e-3, atol=2e-3)
    plain = {name: compute(name, rewards, success) for name in NAMES}
    shifted = {name: compute(name, rewards + shift, success) for name in NAMES}
    scaled = {name: compute(name, rewards * scale, success) for name in NAMES}
    close(shifted["grpo"], plain["grpo"])
    close(shifted["dr_grpo"], plain["dr_grpo"])
    close(scaled["dr_grpo"], plain["dr_grpo"] * scale)
    for name in ["grpo", "apd", "mapo"]:
        close(scaled[name], plain[name])
    assert np.all(np.abs(shifted["apd"]) <= np.abs(plain["apd"]) + 1e-4)


@pytest.mark.parametrize("name", NAMES)
@examples
@hypothesis.given(rewards=REWARDS, success=FLAGS, mask=FLAGS)
def test_sums_to_zero_and_is_bounded(name, rewards, success, mask):
    result = compute(name, rewards, success, mask)
    np.testing.assert_allclose(result.sum(axis=1), 0, atol=5e-5)
    # GRPO's largest z-score of n values is sqrt(n - 1); APD's bounds follow from 0 <= r_i <= n mu.
    n = mask.sum(axis=1, keepdims=True)
    top = {"dr_grpo": 1, "grpo": np.sqrt(np.maximum(n - 1, 0))}
    bottom = {"dr_grpo": -1, "apd": -1, "grpo": -top["grpo"], "mapo": -np.maximum(top["grpo"], 1)}
    assert np.all(
        result <= np.broadcast_to((top | {"apd": G - 1, "mapo": G - 1})[name], (P, G)) + 1e-4
    )
    assert np.all(result >= bottom[name] - 1e-4)


@pytest.mark.parametrize("success_count", range(G + 1))
@examples
@hypothesis.given(rewards=REWARDS)
def test_mapo_is_grpo_at_one_half_and_apd_at_the_ends(success_count, rewards):
    success = np.tile(np.arange(G) < success_count, (P, 1))
    result = {name: compute(name, rewards, success, eps=0.0) for name in ["mapo", "grpo", "apd"]}
    if success_count == G // 2:
        np.testing.assert_array_equal(result["mapo"], result["grpo"])
    elif success_count in (0, G):
        np.testing.assert_array_equal(result["mapo"], result["apd"])
    else:  # eq. 5 gives the weight of each of the two
        p = success_count / G
        mixed = 4 * p * (1 - p) * result["grpo"] + (2 * p - 1) ** 2 * result["apd"]
        np.testing.assert_allclose(result["mapo"], mixed, rtol=1e-5, atol=1e-5)


def test_ratio_to_grpo_for_binary_rewards():
    # rho(p) = (1 - lambda) + lambda sqrt((1 - p) / p), eq. 7-8, at G = 8 as in the literature.
    ratios = []
    for n in range(1, 8):
        rewards, p = [1.0] * n + [0.0] * (8 - n), n / 8
        ratio = group("mapo", rewards, eps=0.0) / group("grpo", rewards, eps=0.0)
        rho = 4 * p * (1 - p) + (1 - 2 * p) ** 2 * np.sqrt((1 - p) / p)
        np.testing.assert_allclose(ratio, rho, rtol=1e-5)
        ratios.append(float(ratio[0]))
    np.testing.assert_allclose(ratios, [1.93, 1.18, 1.02, 1.00, 0.99, 0.89, 0.65], atol=5e-3)


@pytest.mark.parametrize(
    ("name", "rewards", "expected"),
    [
        # Reversion means that a nearly certain group punishes its worst harder than an uncertain.
        ("grpo", [0.9, 1, 1, 1], [-1.732, 0.577, 0.577, 0.577]),
        ("grpo", [0.1, 0.1, 1, 1], [-1, -1, 1, 1]),
        # Mirror means that hard and easy groups look the same.
        ("grpo", [0, 0.1, 0.1, 0.1], [-1.732, 0.577, 0.577, 0.577]),
        # MAPO halves reversion (p = 3/4, lambda = 1/4: 3/4 * -1.732 + 1/4 * -0.077) ...
        ("mapo", [0.9, 1, 1, 1], [-1.318, 0.439, 0.439, 0.439]),
        ("mapo", [0.1, 0.1, 1, 1], [-1, -1, 1, 1]),
        # ... and breaks the mirror (at p = 0 it is APD, mu = 0.075).
        ("mapo", [0, 0.1, 0.1, 0.1], [-1, 0.333, 0.333, 0.333]),
        ("apd", [0.9, 1, 1, 1], [-0.077, 0.026, 0.026, 0.026]),
        ("apd", [0.1, 0.1, 1, 1], [-0.818, -0.818, 0.818, 0.818]),
        # A lone small reward reaches APD's bound G - 1.
        ("apd", [0.1, 0, 0, 0], [3, -1, -1, -1]),
        ("mapo", [0.1, 0, 0, 0], [3, -1, -1, -1]),
        ("dr_grpo", [0.9, 1, 1, 1], [-0.075, 0.025, 0.025, 0.025]),
    ],
)
def test_numbers_of_the_paper(name, rewards, expected):
    np.testing.assert_allclose(group(name, rewards), expected, atol=6e-4)


@pytest.mark.parametrize(
    ("name", "rewards", "expected"),
    [
        # The sample sigma of [0.9, 1, 1, 1] is 0.05 instead of 0.0433, and -0.075 / 0.05 = -1.5.
        ("grpo", [0.9, 1, 1, 1], [-1.5, 0.5, 0.5, 0.5]),
        # 3/4 * -1.5 + 1/4 * -0.0769
        ("mapo", [0.9, 1, 1, 1], [-1.1442, 0.3814, 0.3814, 0.3814]),
        ("grpo", [0, 0, 1, 1], [-0.8660, -0.8660, 0.8660, 0.8660]),
    ],
)
def test_numbers_of_the_released_code(name, rewards, expected):
    np.testing.assert_allclose(group(name, rewards, ddof=1), expected, atol=1e-4)


def test_p_comes_from_the_success_flags():
    rewards = [0.9, 1, 1, 1]
    half = group("mapo", rewards, [True, True, False, False], eps=0.0)
    none = group("mapo", rewards, [False] * 4, eps=0.0)
    np.testing.assert_array_equal(half, group("grpo", rewards, eps=0.0))
    np.testing.assert_array_equal(none, group("apd", rewards, eps=0.0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_constant_groups_are_exactly_zero_without_gradients(name, dtype):
    rng = np.random.default_rng(0)
    constants_P = np.concatenate([rng.uniform(-1, 1, 194), [0, 0.1, 0.9, 1, 1e-30, 1e30]])
    sizes_P = rng.integers(2, 17, 200)

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def value_and_gradient(mask, G, eps):
        rewards = jnp.tile(jnp.asarray(constants_P, dtype)[:, None], (1, G))
        success = jnp.asarray(rng.uniform(size=(200, G)) < rng.uniform(size=(200, 1)))
        options = {} if name == "dr_grpo" else {"eps": eps}
        function = functools.partial(advantages.group_advantages, name, **options)
        result, pull = jax.vjp(lambda rewards: function(rewards, success, mask), rewards)
        return result, pull(jnp.arange(200.0 * G, dtype=dtype).reshape(200, G))[0]

    # One array holds every size from 2 to 16; then come full groups, then no eps.
    ragged = jnp.asarray(np.arange(16) < sizes_P[:, None])
    full = [jnp.ones((200, G), bool) for G in (7, 16)]
    for mask, eps in [(ragged, 1e-6), *((mask, 1e-6) for mask in full), (ragged, 0.0)]:
        result, gradient = value_and_gradient(mask, mask.shape[1], eps)
        assert result.dtype == dtype
        assert np.all(np.asarray(result, np.float32) == 0)
        assert np.all(np.asarray(gradient, np.float32) == 0)


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_at_the_edges(name):
    rewards = jnp.array(
        [
            [jnp.nan, 1.0, 0.5, 0.0],
            [jnp.nan, jnp.inf, 0.5, 1.0],
            [jnp.nan] * 4,
            [1e-7, 0, 0, 0],
            [1e-30, 0, 0, 0],
            [0.9, 0.90000004, 0.9, 0.9],
        ]
    )
    success = jnp.zeros(rewards.shape, bool).at[:, 1].set(True)
    weights = jnp.arange(24.0).reshape(6, 4)
    function = functools.partial(advantages.group_advantages, name, success_PG=success)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient_and_values(rewards):
        result = function(rewards)
        return jnp.sum(weights * result), result

    gradient, result = gradient_and_values(rewards)
    assert np.all(np.isfinite(result))
    assert np.all(gradient == 0)


@pytest.mark.parametrize("name", [*NAMES, lambda rewards_G, success_G, mask_G: rewards_G + 1])
def test_fewer_than_two_valid_rollouts_give_zero(name):
    rewards = jnp.array([[0.3, 1.0, 0.0], [0.3, jnp.nan, 0.0], [0.3, 1.0, 0.0]])
    mask = jnp.array([[True, False, False], [True, True, False], [False] * 3])
    result = group_advantages(name, rewards, rewards == 1, mask)
    assert not np.any(result)
    assert not np.any(group_advantages(name, rewards[:, :1], rewards[:, :1] == 1))


def test_mean_near_zero():
    # eps shrinks rewards as small as itself, 0.75e-7 / (0.25e-7 + 1e-6); eps=0 reaches G - 1.
    tiny = [1e-7, 0, 0, 0]
    np.testing.assert_allclose(group("apd", tiny)[0], 0.75e-7 / 1.025e-6, rtol=1e-4)
    np.testing.assert_allclose(group("apd", tiny, eps=0.0), [3, -1, -1, -1], rtol=1e-5)
    # `check` refuses negative rewards; if they come, no sign flips and nothing is infinite.
    np.testing.assert_array_equal(group("apd", [-1, -1, -1, 0.5]), 0)
    np.testing.assert_array_equal(group("apd", [-1, 1, -1, 1]), 0)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_computed_in_float32(name):
    rewards = jnp.array([[0.9, 1, 1, 1], [0.1, 0, 0.2, 1]], jnp.bfloat16)
    result = group_advantages(name, rewards, rewards == 1)
    exact = group_advantages(name, rewards.astype(jnp.float32), rewards == 1)
    assert result.dtype == jnp.bfloat16
    np.testing.assert_array_equal(result, exact.astype(jnp.bfloat16))


class VariantsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_same_under_every_variant(self):
        rewards = np.array([[0.9, 1, 0, np.nan], [1, 1, 1, 0], [0, 0, 0.1, 0]], np.float32)
        mask = np.array([[True] * 4, [True, True, False, True], [True] * 4])
        for name in NAMES:
            function = self.variant(functools.partial(advantages.group_advantages, name))
            np.testing.assert_allclose(
                function(rewards, rewards == 1, mask),
                oracles.advantages(name, rewards, rewards == 1, mask),
                rtol=1e-4,
                atol=1e-6,
            )

    @chex.variants(with_jit=True, without_jit=True)
    def test_vmap_over_batches(self):
        rewards = np.random.default_rng(0).choice([0, 0.1, 0.9, 1], (5, 3, 4)).astype(np.float32)
        for name in NAMES:
            function = functools.partial(advantages.group_advantages, name)
            result = self.variant(jax.vmap(function))(rewards, rewards == 1)
            for batch, expected in zip(rewards, result, strict=True):
                np.testing.assert_allclose(function(batch, batch == 1), expected, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_sharded_over_prompts_without_communication(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    rewards = np.random.default_rng(0).choice([0, 0.1, 0.9, 1], (16, 4)).astype(np.float32)
    inputs = jax.device_put((rewards, rewards == 1, rewards >= 0), sharding)
    function = jax.jit(functools.partial(advantages.group_advantages, name))
    program = function.lower(*inputs).compile()
    collectives = r"all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    assert not re.search(collectives, program.as_text())
    assert program.output_shardings.is_equivalent_to(sharding, 2)
    np.testing.assert_allclose(
        program(*inputs), oracles.advantages(name, rewards, rewards == 1), rtol=1e-4, atol=1e-6
    )


# A user's own function, and the inputs that a function can ask for by name.


def test_own_function_is_a_one_liner():
    def centred(rewards_G, success_G, mask_G, *, scale=1.0):
        return scale * (rewards_G - masked.mean(rewards_G, mask_G))

    rewards = jnp.array([[1.0, 0.0, jnp.nan, 0.5], [jnp.nan, 1.0, jnp.nan, 1e9]])
    mask = jnp.array([[True] * 4, [True, True, True, False]])
    result = advantages.group_advantages(centred, rewards, rewards == 1, mask, scale=2.0)
    np.testing.assert_allclose(result, [[1, -1, 0, 0], [0, 0, 0, 0]])


def test_own_function_sees_clean_groups():
    seen = []

    def spy(rewards_G, success_G, mask_G):
        jax.debug.callback(lambda *group: seen.append(group), rewards_G, success_G, mask_G)
        return jnp.full_like(rewards_G, jnp.nan)

    rewards, success = jnp.array([[1.0, jnp.nan, jnp.inf, 5.0, 3.0]]), jnp.ones((1, 5), bool)
    mask = jnp.array([[True, True, True, False, True]])
    result = advantages.group_advantages(spy, rewards, success, mask)
    jax.effects_barrier()
    valid = [True, False, False, False, True]
    np.testing.assert_array_equal(seen[0], [[1, 0, 0, 0, 3], valid, valid])
    np.testing.assert_array_equal(np.isnan(result[0]), valid)  # the NaN of a function stays visible


def test_inputs_go_to_who_names_them():
    def weighed(rewards_G, success_G, mask_G, *, baseline, lengths_G, components_GC, tau=1.0):
        return tau * (rewards_G - baseline) * lengths_G + components_GC[:, 1]

    rewards = jnp.array([[1.0, 0.0], [1.0, 3.0]])
    inputs = {
        "baseline_P": jnp.array([0.5, 1.0]),
        "lengths_PG": jnp.array([[1, 2], [3, 4]]),
        "components_PGC": jnp.arange(8.0).reshape(2, 2, 2),
    }
    result = advantages.group_advantages(weighed, rewards, rewards == 1, **inputs, tau=2.0)
    np.testing.assert_allclose(result, [[1 + 1, -2 + 3], [0 + 5, 16 + 7]])
    # Other functions ignore these inputs.
    key = jax.random.key(0)
    plain = advantages.group_advantages("mapo", rewards, rewards == 1)
    extra = advantages.group_advantages("mapo", rewards, rewards == 1, key=key, **inputs)
    np.testing.assert_array_equal(plain, extra)
    with pytest.raises(TypeError, match="pass lengths_PG"):
        advantages.group_advantages(weighed, rewards, rewards == 1, baseline_P=jnp.zeros(2))


def test_key_is_folded_per_group():
    def noise(rewards_G, success_G, mask_G, *, key):
        return jax.random.normal(key, rewards_G.shape)

    rewards, key = jnp.zeros((3, 4)), jax.random.key(1)
    result = advantages.group_advantages(noise, rewards, rewards == 1, key=key)
    for p in range(3):
        expected = jax.random.normal(jax.random.fold_in(key, p), (4,))
        np.testing.assert_array_equal(result[p], expected)
    fewer = advantages.group_advantages(noise, rewards[:2], rewards[:2] == 1, key=key)
    np.testing.assert_array_equal(fewer, result[:2])


def test_success_may_be_numbers_and_rewards_integers():
    result = advantages.group_advantages("mapo", np.array([[1, 0, 0]]), np.array([[1, 0, 0]]))
    expected = oracles.advantages("mapo", [[1, 0, 0]], [[1, 0, 0]])
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_wrong_shapes_fail():
    with pytest.raises(AssertionError):
        advantages.group_advantages("grpo", jnp.ones(4), jnp.ones(4, bool))
    with pytest.raises(AssertionError):
        advantages.group_advantages("grpo", jnp.ones((2, 4)), jnp.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"returned shape \(\), not \(4,\)"):
        advantages.group_advantages(lambda r, s, m: r.sum(), jnp.ones((2, 4)), jnp.ones((2, 4)))


def test_unknown_name():
    with pytest.raises(errors.UserError, match="no such advantage; did you mean dr_grpo"):
        advantages.group_advantages("drgrpo", jnp.ones((2, 4)), jnp.ones((2, 4), bool))


# Metrics


def test_trajectory_certainty():
    success = np.arange(4)[None, :] < np.arange(5)[:, None]
    result = advantages.trajectory_certainty(success, np.ones((5, 4), bool))
    np.testing.assert_allclose(result, [1, 0.25, 0, 0.25, 1])
    masked_off = advantages.trajectory_certainty(success[2:3], np.array([[True, False] * 2]))
    np.testing.assert_allclose(masked_off, [0])  # one success, one failure left


def test_group_metrics():
    rewards = jnp.array(
        [
            [1, 1, 0, 0],  # p = 1/2
            [1, 1, 1, 1],  # constant
            [0.1, jnp.nan, 0.1, jnp.nan],  # the valid rewards are constant
            [1, 0, 0, 0.5],  # one rollout is left, so constant; p = 1
            [1, 0, 1, 0],  # no rollout is left, so not a group
        ]
    )
    mask = jnp.array([[True] * 4] * 3 + [[True] + [False] * 3, [False] * 4])
    metrics = advantages.group_metrics(rewards, rewards == 1, mask)
    assert {name: (float(s), int(n)) for name, (s, n) in metrics.items()} == {
        "advantage/certainty": (3.0, 4),
        "groups/degenerate": (3.0, 4),
        "groups/successes": (7.0, 4),
    }


# Mistakes in a config


def mean_only(rewards_G, success_G, mask_G):
    return rewards_G.mean()


def on_the_host(rewards_G, success_G, mask_G):
    return np.asarray(rewards_G) - 1


def two_arguments(rewards_G, success_G):
    return rewards_G


def with_options(rewards_G, success_G, mask_G, *, tau, gamma=2.0, lengths_G=None, key=None):
    return tau * gamma * rewards_G


def any_options(rewards_G, success_G, mask_G, **options):
    return rewards_G * options["tau"]


@pytest.mark.parametrize("name", NAMES)
def test_check_accepts(name):
    assert advantages.check(name, {}, (0.0, 1.0)) == []
    assert advantages.check("grpo", {"eps": 0, "ddof": 1}, (-1.0, 1.0)) == []
    assert advantages.check("mapo", {"eps": 1e-4}, (0, 10)) == []
    assert advantages.check(with_options, {"tau": 1.0}, (-1.0, 1.0)) == []
    assert advantages.check(any_options, {"tau": 1.0}, (0.0, 1.0)) == []


@pytest.mark.parametrize(
    ("advantage", "options", "reward_range", "expected"),
    [
        ("mapoo", {}, (0, 1), ["advantage=mapoo: no such advantage; did you mean mapo?"]),
        ("xyz", {}, (0, 1), ["advantage=xyz: no such advantage; choose one of mapo, grpo"]),
        ("grpo", {"epss": 0.1}, (0, 1), ["options.epss=0.1: .* did you mean eps?"]),
        ("apd", {"ddof": 1}, (0, 1), ["options.ddof=1: apd has no such option; its options: eps"]),
        ("dr_grpo", {"eps": 1.0}, (0, 1), ["no such option; its options: none"]),
        ("grpo", {"eps": "1e-6"}, (0, 1), ["eps=1e-6: is str, must be float"]),
        ("grpo", {"eps": -1e-6}, (0, 1), ["eps=-1e-06: must be from 0.0 to 1.0"]),
        ("grpo", {"eps": float("nan")}, (0, 1), ["eps=nan: must be from"]),
        ("grpo", {"ddof": 2}, (0, 1), ["ddof=2: must be from 0 to 1"]),
        ("grpo", {"ddof": True}, (0, 1), ["ddof=True: is bool, must be int"]),
        ("grpo", {"ddof": 1.0}, (0, 1), ["ddof=1.0: is float, must be int"]),
        ("mapo", {}, (-1, 1), [r"advantage=mapo: needs rewards >= 0.*\(-1, 1\).*upside down"]),
        ("apd", {"eps": 2}, (-0.5, 1), ["eps=2: must be", "advantage=apd: needs rewards >= 0"]),
        ("grpo", {"key": 1}, (0, 1), ["options.key=1: the name of an input"]),
        (any_options, {"tau": 1, "rewards_PG": 1}, (0, 1), ["rewards_PG=1: the name of an input"]),
        (any_options, {}, (0, 1), ["advantage=any_options: fails .* KeyError: 'tau'"]),
        (with_options, {}, (0, 1), ["options.tau: with_options needs it"]),
        (with_options, {"tau": 1, "gama": 1}, (0, 1), ["gama=1: .* did you mean gamma?"]),
        (mean_only, {}, (0, 1), [r"fails .* ValueError: it returned shape \(\), not \(4,\); make"]),
        (on_the_host, {}, (0, 1), ["fails on a group of 4 with TracerArrayConversionError"]),
        (two_arguments, {}, (0, 1), ["fails on a group of 4 with TypeError: two_arguments"]),
        ("maxlr", {}, (0, 1), ["advantage=maxlr: no such advantage; did you mean maxrl?"]),
        ("pkpo", {}, (0, 1), ["options.k: pkpo needs it; set a value"]),
        ("pkpo", {"k": 0}, (0, 1), ["k=0: must be from 1"]),
        ("dgpo", {"temperature": 1e-38}, (0, 1), [r"must be 0 \(no weights\) or at least 0.001"]),
        ("beta_norm", {"a": 100.0, "b": 1.0}, (0, 1), ["a=100.0: must be from 0.1 to 10.0"]),
        ("quantile", {"K": 1.0}, (0, 1), ["K=1.0: must be from 0.01 to 0.99"]),
        ("beta_norm", {"a": 2, "c": 1}, (0, 1), ["c=1: beta_norm has no", "b: beta_norm needs"]),
        ("beta_norm", {"a": 2.0, "b": 1.0}, (0, 2), [r"needs rewards in \[0, 1\], but .*\(0, 2\)"]),
        ("sign_balance", {}, (-1, 2), ["needs rewards <= 1, but this"]),
        ("tree_rpo", {}, (-1, 1), [r"needs rewards in \[0, 1\], but this"]),
        ("gdpo", {"weights": "1,2"}, (0, 1), ["weights=1,2: must be numbers, one for each part"]),
        ("gdpo", {"weights": (1, float("nan"))}, (0, 1), ["must be numbers, one for each part"]),
        ("reinforce_plus_plus", {"eps": 2}, (-1, 1), ["eps=2: must be from 0.0 to 1.0"]),
        ("gpg", {"alfa": 1.0}, (0, 1), ["alfa=1.0: gpg .* did you mean alpha?; .* alpha, thresh"]),
        ("focal", {"gamma": 1.0}, (0, 1), ["options.base: focal needs it: the advantage to"]),
        ("focal", {"base": "grop", "gamma": 1.0}, (0, 1), ["base=grop: no .* did you mean grpo?"]),
        ("focal", {"base": "signed", "gamma": 1.0}, (0, 1), ["base=signed: no such advantage to"]),
        ("focal", {"base": "grpo"}, (0, 1), ["options.gamma: focal needs it"]),
        ("signed", {"base": "grpo", "pos": -1.0, "neg": 1.0}, (-1, 1), ["pos=-1.0: must be from"]),
        (
            "signed",
            {"base": "mapo", "pos": 1, "neg": 1},
            (-1, 1),
            ["advantage=mapo: needs rewards"],
        ),
        ("signed", {"base": "grpo", "pos": 1, "neg": 1, "K": 1}, (0, 1), ["K=1: grpo has no such"]),
    ],
)
def test_check_names_every_mistake(advantage, options, reward_range, expected):
    lines = advantages.check(advantage, options, reward_range)
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert line.startswith("algorithm.advantage")
        assert "\n" not in line
        assert re.search(pattern.replace("?", r"\?"), line), line


def doubled(rewards_G, success_G, mask_G, base_G, *, times=2.0):
    return times * base_G


def test_an_own_combinator():
    rewards = jnp.array([[1.0, 0, 0, 1], [0, 0, 0, 1]])
    options = {"base": "grpo", "times": 3.0, "ddof": 1}
    result = advantages.group_advantages(doubled, rewards, rewards == 1, **options)
    plain = advantages.group_advantages("grpo", rewards, rewards == 1, ddof=1)
    np.testing.assert_allclose(result, 3 * plain, rtol=1e-6)
    assert advantages.check(doubled, options, (0.0, 1.0), group=4, parts=[]) == []
    (line,) = advantages.check(doubled, {"times": 3.0}, (0.0, 1.0))
    assert line.startswith("algorithm.advantage_options.base: doubled needs it")


def test_check_looks_at_group_and_parts():
    check = functools.partial(advantages.check, reward_range=(0.0, 1.0))
    (line,) = check("gdpo", {}, group=4, parts=[])
    assert line.startswith("algorithm.advantage=gdpo: takes the parts of the reward, and this")
    (line,) = check("gdpo", {"weights": (1.0, 2.0, 3.0)}, group=4, parts=["accuracy", "format"])
    assert line.endswith("3 weights for 2 parts of the reward (accuracy, format)")
    assert check("gdpo", {"weights": [1, 0.5]}, group=4, parts=["accuracy", "format"]) == []
    (line,) = check("pkpo", {"k": 9}, group=8, parts=[])
    assert line == "algorithm.advantage_options.k=9: must be from 1 to 8"
    (line,) = check("mapo", {}, group=1, parts=[])
    assert line.startswith("batch.group=1: must be >= 2")
    assert check("remax", {}, group=1, parts=[]) == []
    (line,) = check("focal", {"base": "mapo", "gamma": 1.0}, group=1, parts=[])
    assert line.startswith("batch.group=1: must be >= 2")


def test_success_count_metrics():
    """Equals a loop over the groups; masked rollouts and empty groups count in nothing."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 4)).astype(np.float32)
    success, mask = rng.random((40, 4)) < 0.5, rng.random((40, 4)) < 0.8
    mask[3] = False
    facts = jax.jit(advantages.success_count_metrics)(values, success, mask)
    present = mask.any(1)
    counts = (success & mask).sum(1)
    for k in range(5):
        at = present & (counts == k)
        assert facts["success_count"][0][k] == at.sum()
        everyone = np.ones_like(success)
        for name, who, x in (
            ("of_success", success, values),
            ("of_failure", ~success, values),
            ("magnitude", everyone, np.abs(values)),
        ):
            chosen = x[at][(who & mask)[at]]
            total, number = (x[k] for x in facts[f"advantage_{name}"])
            assert number == len(chosen)
            np.testing.assert_allclose(total, chosen.sum(), atol=1e-5)
    assert facts["success_count"][1] == present.sum() == 39
