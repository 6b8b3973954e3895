"""Advantages: what one rollout's reward says against the rewards of its group.

Between rewards and update in the life of a batch: rewards[P, G] -> advantages[P, G]. Each
advantage is a function of one group, `fn(rewards_G, success_G, mask_G, **options) -> [G]`, listed
in `ADVANTAGES`; `group_advantages` runs it on all groups. Groups never meet, so arrays that are
sharded over P need no communication.

Around every function, a user's own too, `group_advantages` sees to it that
- a rollout that is masked off, or whose reward is not finite, gets 0 and counts in nothing;
- a group with fewer than two valid rollouts gives 0;
- the arithmetic is float32 (at least) and the result has the dtype of the rewards.
So a function gets finite rewards, 0 behind the mask, and only has to look at `mask_G`.

To add one: write the function, add its line to `ADVANTAGES`. Beyond the first three arguments a
parameter is an option, unless it has one of the names in `INPUTS`: then it is that input.
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import errors, masked

# Further inputs that a function of one group may name as a parameter, and where they come from.
INPUTS = {
    "key": "key",
    "baseline": "baseline_P",
    "lengths_G": "lengths_PG",
    "components_GC": "components_PGC",
}

# Allowed values of the registry's options, both ends included.
OPTION_RANGES = {"eps": (0.0, 1.0), "ddof": (0, 1)}


def deviations(rewards_G: Array, mask_G: Array) -> Array:
    """r_i - mu, and exactly 0 for a constant group, where `r - mean(r)` would round to 6e-8."""
    highest = jnp.max(rewards_G, where=mask_G, initial=-jnp.inf)
    lowest = jnp.min(rewards_G, where=mask_G, initial=jnp.inf)
    return jnp.where(highest <= lowest, 0, rewards_G - masked.mean(rewards_G, mask_G))


def _divide(x_G: Array, scale: Array, eps: float) -> Array:
    """x / (scale + eps), and 0 for a scale that is not positive; finite gradients."""
    positive = scale > 0
    return jnp.where(positive, x_G / (jnp.where(positive, scale, 1) + eps), 0)


def grpo(
    rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6, ddof: int = 0
) -> Array:
    """A_i = (r_i - mu) / (sigma + eps). arXiv 2402.03300; MAPO (arXiv 2509.18849) eq. 2.

    Args:
        rewards_G: float[G], the rewards of one group.
        success_G: bool[G], not used.
        mask_G: bool[G], the valid rollouts.
        eps: added to sigma, as in MAPO's released code; the paper has none.
        ddof: 0 for the paper's population sigma, 1 for the sample sigma of the released code.

    Returns:
        float[G]; a constant group gives exactly 0.
    """
    deviations_G = deviations(rewards_G, mask_G)
    return _divide(deviations_G, masked.std(deviations_G, mask_G, ddof=ddof), eps)


def dr_grpo(rewards_G: Array, success_G: Array, mask_G: Array) -> Array:
    """A_i = r_i - mu. arXiv 2503.20783. Arguments and result as in `grpo`."""
    return deviations(rewards_G, mask_G)


def apd(rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6) -> Array:
    """Advantage percent deviation, A_i = (r_i - mu) / (mu + eps). arXiv 2509.18849 eq. 4.

    The same as MaxRL (arXiv 2602.02710). Needs rewards >= 0, and is then at most G - 1: a lone
    small reward reaches it, [0.1, 0, 0, 0] -> [3, -1, -1, -1]. A group with mu <= 0 gives 0.

    Args:
        rewards_G: float[G] >= 0, the rewards of one group.
        success_G: bool[G], not used.
        mask_G: bool[G], the valid rollouts.
        eps: added to mu, as in the released code; the paper has none.

    Returns:
        float[G]; a constant group gives exactly 0.
    """
    return _divide(deviations(rewards_G, mask_G), masked.mean(rewards_G, mask_G), eps)


def mapo(
    rewards_G: Array, success_G: Array, mask_G: Array, *, eps: float = 1e-6, ddof: int = 0
) -> Array:
    """A_i* = (1 - lambda) (r_i - mu) / sigma + lambda (r_i - mu) / mu. arXiv 2509.18849 eq. 6.

    lambda = 1 - 4 p (1 - p), p the share of successes (eq. 3, 5). Needs rewards >= 0 (see `apd`).
    Figure 3 of the paper has the two weights the wrong way round; eq. 6, algorithm 1, appendix C
    and the released trainer agree on the above.

    Differs from the paper: `eps` in both denominators, as in the released code (eps=0: as printed).

    Args:
        rewards_G: float[G] >= 0, the rewards of one group.
        success_G: bool[G], right on every reward metric: p comes from these, not from rewards.
        mask_G: bool[G], the valid rollouts.
        eps: added to sigma and to mu.
        ddof: 0 for the paper's population sigma, 1 for the sample sigma of the released code.

    Returns:
        float[G]; a constant group gives exactly 0.
    """
    certainty = _certainty(success_G, mask_G)
    std_G = grpo(rewards_G, success_G, mask_G, eps=eps, ddof=ddof)
    return (1 - certainty) * std_G + certainty * apd(rewards_G, success_G, mask_G, eps=eps)


def _certainty(success_G: Array, mask_G: Array) -> Array:
    p = masked.mean(success_G, mask_G)
    return 1 - 4 * p * (1 - p)


@dataclasses.dataclass(frozen=True)
class Advantage:
    """An entry of the registry: the function of one group and what it asks of the rewards."""

    fn: Callable[..., Array]
    needs_nonnegative: bool = False  # divides by the mean reward: refused if rewards may be < 0

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The parameters beyond rewards_G, success_G and mask_G: inputs and options."""
        return dict(list(inspect.signature(self.fn).parameters.items())[3:])


ADVANTAGES: dict[str, Advantage] = {
    "mapo": Advantage(mapo, needs_nonnegative=True),
    "grpo": Advantage(grpo),
    "dr_grpo": Advantage(dr_grpo),
    "apd": Advantage(apd, needs_nonnegative=True),
}


def _entry(advantage: str | Callable[..., Array]) -> Advantage:
    if not isinstance(advantage, str):
        return Advantage(advantage)
    if advantage not in ADVANTAGES:
        near = difflib.get_close_matches(advantage, ADVANTAGES, n=1)
        raise errors.UserError(
            f"algorithm.advantage={advantage}: no such advantage"
            + (f"; did you mean {near[0]}?" if near else ";")
            + f" choose one of {', '.join(ADVANTAGES)}, or your own as path/to/file.py:function"
        )
    return ADVANTAGES[advantage]


def group_advantages(
    advantage: str | Callable[..., Array],
    rewards_PG: Array,
    success_PG: Array,
    mask_PG: Array | None = None,
    *,
    key: Array | None = None,
    baseline_P: Array | None = None,
    lengths_PG: Array | None = None,
    components_PGC: Array | None = None,
    **options: Any,
) -> Array:
    """The advantages of every rollout within its group.

    The four further inputs reach a function that names them among its parameters (`INPUTS`) and
    are ignored by the others. A function's `key` is `fold_in(key, index of the group)`.

    Args:
        advantage: a name in `ADVANTAGES`, or a function `fn(rewards_G, success_G, mask_G,
            **options) -> float[G]` of one group.
        rewards_PG: float[P, G].
        success_PG: bool[P, G], right on every reward metric.
        mask_PG: bool[P, G], the valid rollouts; None: all.
        key: a PRNG key.
        baseline_P: float[P], a reward to compare each group with.
        lengths_PG: int[P, G], response lengths in tokens.
        components_PGC: float[P, G, C], the parts of the rewards.
        **options: handed to the function.

    Returns:
        [P, G] in the dtype of `rewards_PG` (float32 if that is not floating).

    Raises:
        errors.UserError: unknown name.
        TypeError: the function takes an input that was not given.
        ValueError: the function returns another shape.
    """
    entry = _entry(advantage)
    rewards_PG, success_PG = jnp.asarray(rewards_PG), jnp.asarray(success_PG).astype(bool)
    mask_PG = valid_rewards(rewards_PG, mask_PG)
    chex.assert_rank(rewards_PG, 2)
    chex.assert_equal_shape([rewards_PG, success_PG, mask_PG])
    P, G = rewards_PG.shape

    given = {
        "key": None if key is None else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(P)),
        "baseline": baseline_P,
        "lengths_G": lengths_PG,
        "components_GC": components_PGC,
    }
    inputs = {name: given[name] for name in INPUTS if name in entry.parameters}
    for name, value in inputs.items():
        if value is None:
            raise TypeError(f"{entry.fn} takes {name}: pass {INPUTS[name]} to group_advantages")

    dtype = jnp.promote_types(rewards_PG.dtype, jnp.float32)
    clean_PG = jnp.where(mask_PG, rewards_PG, 0).astype(dtype)

    def one_group(rewards_G, success_G, mask_G, inputs):
        advantages_G = entry.fn(rewards_G, success_G, mask_G, **inputs, **options)
        if jnp.shape(advantages_G) != (G,):
            raise ValueError(f"it returned shape {jnp.shape(advantages_G)}, not {(G,)}")
        return jnp.where(mask_G & (jnp.sum(mask_G) >= 2), advantages_G, 0)

    advantages_PG = jax.vmap(one_group)(clean_PG, success_PG & mask_PG, mask_PG, inputs)
    floating = jnp.issubdtype(rewards_PG.dtype, jnp.floating)
    return advantages_PG.astype(rewards_PG.dtype if floating else dtype)


def valid_rewards(rewards_PG: Array, mask_PG: Array | None = None) -> Array:
    """bool[P, G]: the rollouts that count: in the mask and with a finite reward."""
    finite_PG = jnp.isfinite(rewards_PG)
    return finite_PG if mask_PG is None else jnp.asarray(mask_PG, bool) & finite_PG


def trajectory_certainty(success_PG: Array, mask_PG: Array) -> Array:
    """lambda(p) = 1 - 4 p (1 - p) of each group, f32[P]. arXiv 2509.18849 eq. 5."""
    return jax.vmap(_certainty)(success_PG, mask_PG)


def group_metrics(
    rewards_PG: Array, success_PG: Array, mask_PG: Array | None = None
) -> dict[str, tuple[Array, Array]]:
    """Facts about the groups with at least one valid rollout, each as (sum, number of groups).

    `advantage/certainty`: lambda(p). `groups/degenerate`: share of groups whose valid rewards are
    all equal, which teach nothing. `groups/successes`: successes in a group.
    """
    mask_PG = valid_rewards(rewards_PG, mask_PG)
    present_P = jnp.any(mask_PG, axis=1)
    highest_P = jnp.max(rewards_PG, axis=1, where=mask_PG, initial=-jnp.inf)
    lowest_P = jnp.min(rewards_PG, axis=1, where=mask_PG, initial=jnp.inf)
    facts = {
        "advantage/certainty": trajectory_certainty(success_PG, mask_PG),
        "groups/degenerate": (highest_P <= lowest_P).astype(jnp.float32),
        "groups/successes": jnp.sum(success_PG & mask_PG, axis=1, dtype=jnp.float32),
    }
    return {name: (masked.sum(x_P, present_P), present_P.sum()) for name, x_P in facts.items()}


def success_count_metrics(
    advantages_PG: Array, success_PG: Array, mask_PG: Array
) -> dict[str, tuple[Array, Array]]:
    """Facts by the number K of successes in a group, K = 0 ... G, each as (sum [G + 1], number).

    `success_count`: share of the groups with a valid rollout that have K successes (MAPO fig. 1).
    `advantage_of_success`, `advantage_of_failure`: mean advantage of such rollouts in such groups.
    """
    success_PG = success_PG & mask_PG
    failure_PG = ~success_PG & mask_PG
    counts_P1 = jnp.sum(success_PG, axis=1, keepdims=True)
    at_PK = counts_P1 == jnp.arange(success_PG.shape[1] + 1)[None]
    at_PK = (at_PK & jnp.any(mask_PG, axis=1, keepdims=True)).astype(jnp.float32)

    def by_count(x_PG):
        return jnp.sum(jnp.sum(x_PG, axis=1, keepdims=True) * at_PK, axis=0)

    return {
        "success_count": (jnp.sum(at_PK, axis=0), jnp.sum(at_PK)),
        "advantage_of_success": (
            by_count(jnp.where(success_PG, advantages_PG, 0)),
            by_count(success_PG),
        ),
        "advantage_of_failure": (
            by_count(jnp.where(failure_PG, advantages_PG, 0)),
            by_count(failure_PG),
        ),
    }


def check(
    advantage: str | Callable[..., Array],
    options: Mapping[str, Any],
    reward_range: tuple[float, float],
) -> list[str]:
    """The mistakes in a configured advantage, one line each; nothing is compiled.

    Args:
        advantage: `algorithm.advantage`, its name or the function loaded from the user's file.
        options: `algorithm.advantage_options`.
        reward_range: (low, high) that the reward declares.
    """
    try:
        entry = _entry(advantage)
    except errors.UserError as error:
        return list(error.lines)
    name = advantage if isinstance(advantage, str) else getattr(advantage, "__name__", advantage)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in entry.parameters.values())
    known = {
        option: parameter.default
        for option, parameter in entry.parameters.items()
        if option not in INPUTS and parameter.kind is not parameter.VAR_KEYWORD
    }
    reserved = {*inspect.signature(group_advantages).parameters, *INPUTS}
    lines = []
    for option, value in options.items():
        where = f"algorithm.advantage_options.{option}={value}"
        if option in reserved:
            lines.append(f"{where}: the name of an input, not of an option; rename it")
        elif option in known:
            if isinstance(advantage, str):
                lines += _check_value(where, option, value, known[option])
        elif not takes_any:
            near = difflib.get_close_matches(option, known, n=1)
            lines.append(
                f"{where}: {name} has no such option"
                + (f"; did you mean {near[0]}?" if near else "")
                + f"; its options: {', '.join(known) or 'none'}"
            )
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in options:
            lines.append(f"algorithm.advantage_options.{option}: {name} needs it; set a value")
    if "baseline" in entry.parameters:
        lines.append(
            f"algorithm.advantage={name}: takes baseline, which no run has; take that parameter out"
        )
    low, high = reward_range
    if entry.needs_nonnegative and low < 0:
        lines.append(
            f"algorithm.advantage={name}: needs rewards >= 0, but this reward's range is "
            f"({low}, {high}): it divides by the group's mean reward, and a negative mean turns "
            "the ranking upside down; shift the reward to start at 0 or choose grpo or dr_grpo"
        )
    if not lines and not isinstance(advantage, str):
        lines += _check_traces(advantage, name, options)
    return lines


def _check_value(where: str, option: str, value: Any, default: Any) -> list[str]:
    kind = type(default)
    allowed = (int, float) if kind is float else (kind,)
    if type(value) not in allowed:
        return [f"{where}: is {type(value).__name__}, must be {kind.__name__} such as {default}"]
    low, high = OPTION_RANGES[option]
    return [] if low <= value <= high else [f"{where}: must be from {low} to {high}"]


def _check_traces(fn: Callable[..., Array], name: object, options: Mapping[str, Any]) -> list[str]:
    """Runs a user's function on shapes alone, so that it fails here and not after sampling."""
    float_PG, bool_PG, int_PG = (jax.ShapeDtypeStruct((2, 4), d) for d in ("f4", "bool", "i4"))
    try:
        jax.eval_shape(
            functools.partial(group_advantages, fn, **options),
            float_PG,
            bool_PG,
            bool_PG,
            key=jax.eval_shape(lambda: jax.random.key(0)),
            lengths_PG=int_PG,
            components_PGC=jax.ShapeDtypeStruct((2, 4, 3), "f4"),
        )
    except Exception as error:  # whatever the user's code raises is the user's to mend
        reason = next(iter(str(error).splitlines()), "")
        return [
            f"algorithm.advantage={name}: fails on a group of 4 with {type(error).__name__}: "
            f"{reason}; make it fn(rewards_G, success_G, mask_G, **options) -> float[G] in jnp"
        ]
    return []
