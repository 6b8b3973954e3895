"""Finds and checks the surrogate that a run is configured with, and prepares it for the loss.

It is an entry of `losses.SURROGATES` or a user's own function from a file,

    fn(logps f32[..., T], old_logps f32[..., T], advantages f32[..., 1], mask bool[..., T],
       *, options) -> (loss f32[..., T], {metric: [..., T]})

Every parameter after the first four is an option, set by `algorithm.surrogate_options`, unless its
name is in `INPUTS`; then it is that field of `algorithm`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import errors, loading
from mapo_jax.config import AlgorithmConfig
from mapo_jax.training import losses

# (logps, old_logps, advantages, mask) -> (loss, metrics)
Surrogate = Callable[[Array, Array, Array, Array], tuple[Array, dict[str, Array]]]

INPUTS = ("clip_low", "clip_high", "clip_dual")

# Names that a run uses itself: groups of metrics, and metrics in the group policy/.
_GROUPS = ("advantage", "eval", "groups", "loss", "memory", "reward", "rollout", "throughput")
_GROUPS += ("time",)
_OWN = ("entropy", "grad_norm", "logp_gap_max", "logp_gap_mean", "skipped")
_OWN += ("correction_mean", "correction_cut")


def make_surrogate(algorithm: AlgorithmConfig) -> Surrogate:
    """Returns the configured surrogate as a function of the four arrays alone.

    Raises:
        UserError: there is no such name, file or function.
    """
    fn = _function(algorithm.surrogate)
    inputs = {name: getattr(algorithm, name) for name in INPUTS if name in _parameters(fn)}
    return functools.partial(fn, **inputs, **dict(algorithm.surrogate_options))


def check_surrogate(algorithm: AlgorithmConfig) -> list[str]:
    """Lists the mistakes in a configured surrogate, one line each; nothing is compiled."""
    try:
        fn = _function(algorithm.surrogate)
    except errors.UserError as error:
        return list(error.lines)
    options = dict(algorithm.surrogate_options)
    parameters = _parameters(fn)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = {
        name: p for name, p in parameters.items() if name not in INPUTS and p.kind != p.VAR_KEYWORD
    }
    lines = []
    for option, value in options.items():
        where = f"algorithm.surrogate_options.{option}={value}"
        if option in INPUTS:
            lines.append(f"{where}: the name of an input, not of an option; set algorithm.{option}")
        elif option in known:
            lines += loading.type_mistakes(where, value, known[option])
    own = {option: value for option, value in options.items() if option not in INPUTS}
    lines += loading.option_mistakes(
        "algorithm.surrogate_options", algorithm.surrogate, own, known, takes_any
    )
    if lines or (algorithm.surrogate in losses.SURROGATES and not options):
        return lines
    return _trace_mistakes(algorithm)


def _function(surrogate: str) -> Callable[..., Any]:
    if ".py:" in surrogate:
        return _own(
            loading.load_function(surrogate, "algorithm.surrogate"),
            f"algorithm.surrogate={surrogate}",
        )
    if surrogate not in losses.SURROGATES:
        hint = errors.did_you_mean(surrogate, losses.SURROGATES) or ";"
        raise errors.UserError(
            f"algorithm.surrogate={surrogate}: no such surrogate{hint} choose one of "
            f"{', '.join(losses.SURROGATES)}, or your own as path/to/file.py:function"
        )
    return losses.SURROGATES[surrogate]


def _parameters(fn: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the inputs and options of `fn`, its parameters after the four arrays."""
    return dict(list(inspect.signature(fn).parameters.items())[4:])


def _own(fn: Callable[..., Any], where: str) -> Callable[..., Any]:
    """Wraps a user's function to check its results and to make loss and gradient 0 off the mask."""

    @functools.wraps(fn)
    def masked(logps, old_logps, advantages, mask, **options):
        # `where` before and after; the second one alone would turn an infinite slope into 0 * inf.
        logps, old_logps = (jnp.where(mask, x, 0) for x in (logps, old_logps))
        returned = fn(logps, old_logps, advantages, mask, **options)
        lines = _form_mistakes(returned, logps)
        if lines:
            raise errors.UserError(*(f"{where}: {line}" for line in lines))
        loss, metrics = returned
        named = {name if "/" in name else f"policy/{name}": x for name, x in metrics.items()}
        return jnp.where(mask, loss, 0), named

    return masked


def _form_mistakes(returned: Any, logps: Array) -> list[str]:
    is_pair = isinstance(returned, tuple) and len(returned) == 2
    if not is_pair or not isinstance(returned[1], dict):
        return [f"returns {_shown(returned)}; return a pair, the loss and a dict of metrics"]
    loss, metrics = returned
    lines = []
    if _shape(loss) != logps.shape or not jnp.issubdtype(loss.dtype, jnp.floating):
        lines.append(f"its loss is {_shown(loss)}; return one for each token, {_shown(logps)}")
    for name, values in metrics.items():
        group, _, last = str(name).rpartition("/")
        if group in _GROUPS or (group in ("", "policy") and last in _OWN):
            lines.append(f"its metric {name} is one that the run writes itself; rename it")
        if _shape(values) != logps.shape:
            lines.append(
                f"its metric {name} is {_shown(values)}; return a value for each token, "
                f"{_shown(logps)}"
            )
    return lines


def _shape(x: Any) -> tuple[int, ...] | None:
    return getattr(x, "shape", None)


def _shown(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if _shape(x) is not None else f"a {type(x).__name__}"


def _trace_mistakes(algorithm: AlgorithmConfig) -> list[str]:
    """Differentiates a surrogate on shapes alone, so that it fails here and not after sampling."""
    fn = make_surrogate(algorithm)
    tokens, row = (jax.ShapeDtypeStruct((2, 3, n), "f4") for n in (5, 1))
    mask = jax.ShapeDtypeStruct(tokens.shape, "bool")
    try:
        jax.eval_shape(jax.grad(lambda *x: fn(*x)[0].sum()), tokens, tokens, row, mask)
    except errors.UserError as error:
        return list(error.lines)
    except Exception as error:  # the user's code may raise anything; the user mends it
        reason = next(iter(str(error).splitlines()), "")
        return [
            f"algorithm.surrogate={algorithm.surrogate}: fails on rollouts of 5 tokens with "
            f"{type(error).__name__}: {reason}; make it fn(logps, old_logps, advantages, mask, "
            "**options) -> (loss, metrics) in jnp"
        ]
    return []
