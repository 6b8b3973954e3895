"""Finds every mistake in a configured advantage, one line each, before anything is compiled."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import Array

from mapo_jax import errors, loading
from mapo_jax.advantages import family, history
from mapo_jax.advantages.registry import (
    ADVANTAGES,
    INPUTS,
    Advantage,
    entry_of,
    group_advantages,
)

# Allowed values of the registry's options, both ends included.
OPTION_RANGES = {
    "eps": (0.0, 1.0),
    "ddof": (0, 1),
    "k": (1, math.inf),
    "K": (0.01, 0.99),
    "a": (0.1, 10.0),  # outside this range float32 cannot hold 1 / density
    "b": (0.1, 10.0),
    "alpha": (0.0, 100.0),
    "threshold": (0.0, 1.0),
    "gamma": (0.0, 100.0),
    "pos": (0.0, 100.0),
    "neg": (0.0, 100.0),
    "temperature": (0.0, 1e6),
    "beta": (-1000.0, 1000.0),
    "strength": (0.0, 100.0),
    "virtual": (-1e6, 1e6),
}


def check(
    advantage: str | Callable[..., Array],
    options: Mapping[str, Any],
    reward_range: tuple[float, float],
    *,
    penalty: float = 0.0,
    group: int | None = None,
    parts: Sequence[str] | None = None,
) -> list[str]:
    """Lists the mistakes in a configured advantage, one line each; nothing is compiled.

    Args:
        advantage: `algorithm.advantage`, its name or the function loaded from the user's file.
        options: `algorithm.advantage_options`.
        reward_range: (low, high) that the reward declares.
        penalty: `algorithm.overlong_penalty`, which is taken off the reward.
        group: rollouts per prompt; None leaves out the checks that need it.
        parts: the names of the reward's parts; None leaves out the checks that need them.
    """
    try:
        entry = entry_of(advantage)
    except errors.UserError as error:
        return list(error.lines)
    name = advantage if isinstance(advantage, str) else getattr(advantage, "__name__", advantage)
    lines: list[str] = []
    everything = options
    if "base_G" in entry.parameters:
        base, lines = _base(name, options)
        if base is None:
            return lines
        own = {k: v for k, v in options.items() if k in entry.parameters}
        rest = {k: v for k, v in options.items() if k not in own and k != "base"}
        lines += check(base, rest, reward_range, penalty=penalty, group=group, parts=parts)
        options = own
    known = _options(entry)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in entry.parameters.values())
    reserved = {*inspect.signature(group_advantages).parameters, *INPUTS}
    for option, value in options.items():
        where = f"algorithm.advantage_options.{option}={value}"
        if option in reserved:
            lines.append(f"{where}: the name of an input, not of an option; rename it")
        elif option in known:
            if isinstance(advantage, str):
                # With k = G the only k-subset is the group, and a mixed group holds a success.
                largest_k = group and group - (entry.fn is family.passk)
                lines += _check_value(where, option, value, known[option], largest_k, parts)
            else:
                lines += loading.type_mistakes(where, value, known[option])
    own = {option: value for option, value in options.items() if option not in reserved}
    lines += loading.option_mistakes("algorithm.advantage_options", name, own, known, takes_any)
    if "components_GC" in entry.parameters and parts is not None and not parts:
        lines.append(
            f"algorithm.advantage={name}: takes the parts of the reward, and this reward has none; "
            'return them, as in "parts": {"accuracy": 1.0, "format": 0.0}, or choose grpo'
        )
    if group == 1 < entry.fewest:
        lines.append(
            "batch.group=1: must be >= 2: the only rollout of a group is its own mean, so every "
            "advantage would be 0"
        )
    lines += _check_range(name, entry, reward_range, penalty)
    if not lines and not isinstance(advantage, str):
        lines += _check_traces(advantage, name, everything)
    return lines


def _options(entry: Advantage) -> dict[str, inspect.Parameter]:
    """Returns the options that an entry's function and its stage take."""
    of_function = {
        name: parameter
        for name, parameter in entry.parameters.items()
        if name not in INPUTS and parameter.kind is not parameter.VAR_KEYWORD
    }
    return of_function | entry.stage_options


def _base(name: object, options: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """Returns a combinator's base, or None and a line that explains the mistake."""
    bases = [base for base, entry in ADVANTAGES.items() if "base_G" not in entry.parameters]
    where = "algorithm.advantage_options.base"
    if "base" not in options:
        return None, [f"{where}: {name} needs it: the advantage to change, one of {bases}"]
    base = options["base"]
    if base in bases:
        return base, []
    return None, [
        f"{where}={base}: no such advantage to change{errors.did_you_mean(base, bases)}; choose "
        f"one of {', '.join(bases)}"
    ]


def _check_value(
    where: str,
    option: str,
    value: Any,
    parameter: inspect.Parameter,
    largest_k: int | None,
    parts: Sequence[str] | None,
) -> list[str]:
    if option == "weights":
        return _check_weights(where, value, parts)
    if wrong := loading.type_mistakes(where, value, parameter):
        return wrong
    low, high = OPTION_RANGES[option]
    if option == "k" and largest_k is not None:
        high = largest_k
    if option == "temperature" and 0 < value < 1e-3:
        return [f"{where}: must be 0 (no weights) or at least 0.001"]
    if option == "beta" and 0 < abs(value) < 0.01:
        return [f"{where}: must be 0 (dr_grpo) or at least 0.01 in size"]
    return [] if low <= value <= high else [f"{where}: must be from {low} to {high}"]


def _check_weights(where: str, value: Any, parts: Sequence[str] | None) -> list[str]:
    numbers = isinstance(value, tuple | list) and all(type(x) in (int, float) for x in value)
    if not numbers or not all(map(math.isfinite, value)):
        return [
            f"{where}: must be numbers, one for each part of the reward, as in 1,0.5; leave it out "
            "where there is one part"
        ]
    if value and parts is not None and len(value) != len(parts):
        named = ", ".join(sorted(parts)) or "none"
        return [f"{where}: {len(value)} weights for {len(parts)} parts of the reward ({named})"]
    return []


def _check_range(
    name: object, entry: Advantage, reward_range: tuple[float, float], penalty: float
) -> list[str]:
    (low, high), (least, most) = reward_range, entry.rewards
    if most == math.inf:
        needs, fix = f">= {least:g}", "shift the reward to start at 0"
        reason = (
            "it divides by the group's mean reward, and a negative mean turns the ranking upside "
            "down"
        )
    else:
        needs = f"in [{least:g}, {most:g}]" if math.isfinite(least) else f"<= {most:g}"
        reason, fix = "it takes the mean reward for a probability", "scale the reward"
    if low < least or high > most:
        return [
            f"algorithm.advantage={name}: needs rewards {needs}, but this reward's range is "
            f"({low}, {high}): {reason}; {fix} or choose grpo or dr_grpo"
        ]
    if penalty > 0 and low - penalty < least:
        return [
            f"algorithm.overlong_penalty={penalty}: takes rewards below {least:g}, where "
            f"algorithm.advantage={name} makes no sense: {reason}; set it to 0, or choose grpo or "
            "dr_grpo"
        ]
    return []


def _check_traces(fn: Callable[..., Array], name: object, options: Mapping[str, Any]) -> list[str]:
    """Runs a user's function on shapes alone, so that it fails here and not after sampling."""
    float_PG, bool_PG, int_PG = (jax.ShapeDtypeStruct((2, 4), d) for d in ("f4", "bool", "i4"))
    int_P = jax.ShapeDtypeStruct((2,), "i4")
    past = jax.eval_shape(lambda: history.nothing(2))
    _, history_P = jax.eval_shape(history.remember, past, float_PG, bool_PG, bool_PG, int_P)
    try:
        jax.eval_shape(
            functools.partial(group_advantages, fn, **options),
            float_PG,
            bool_PG,
            bool_PG,
            key=jax.eval_shape(lambda: jax.random.key(0)),
            baseline_P=jax.ShapeDtypeStruct((2,), "f4"),
            lengths_PG=int_PG,
            components_PGC=jax.ShapeDtypeStruct((2, 4, 3), "f4"),
            history_P=history_P,
        )
    except Exception as error:  # the user's code may raise anything; the user mends it
        reason = next(iter(str(error).splitlines()), "")
        return [
            f"algorithm.advantage={name}: fails on a group of 4 with {type(error).__name__}: "
            f"{reason}; make it fn(rewards_G, success_G, mask_G, **options) -> float[G] in jnp"
        ]
    return []
