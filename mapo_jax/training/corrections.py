"""Weights that correct for the gap between the sampler's log-probs and the trainer's.

Sampler and trainer round differently, so rollouts come from a policy slightly off the one that is
trained. The ratio of the two, r = exp(rescored - sampled), is a token's importance weight. Each
correction turns it into a factor of the token's surrogate, a constant for the gradient. A masked
token has factor 0 and stays in the mean over tokens.

Every parameter of a correction after the first is an option, set by
`algorithm.correction_options`.
"""

import functools
import inspect
from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import errors, loading
from mapo_jax.config import AlgorithmConfig

# (old_logps, sampled_logps, mask, all f32[..., T] or bool[..., T]) -> (weights, metrics)
Correction = Callable[[Array, Array, Array], tuple[Array, dict[str, Array]]]


def tis(log_ratios: Array, *, high: float = 2.0) -> tuple[Array, Array]:
    """min(r, high), truncated importance sampling.

    From Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"
    (https://fengyao.notion.site/off-policy-rl); 2 is the cap of verl's `tis_imp_ratio_cap`.

    Args:
        log_ratios: f32[..., T], rescored - sampled; 0 off the mask.
        high: >= 1.

    Returns:
        Weights f32[..., T], and bool[..., T], true where a weight is not the ratio itself.

    Raises:
        ValueError: an option is outside of its limits.
    """
    _at_least_1(high)
    ratios = jnp.exp(log_ratios)
    return jnp.minimum(ratios, high), ratios > high


def icepop(log_ratios: Array, *, low: float = 0.5, high: float = 5.0) -> tuple[Array, Array]:
    """r if low <= r <= high, else 0, so that a token with a large gap is not trained on.

    IcePop (arXiv 2510.18855; "Small Leak Can Sink a Great Ship", https://ringtech.notion.site/icepop,
    whose bounds are the defaults). Here, too, a masked token stays in the mean over tokens.

    Takes, returns and raises the same as `tis`, with 0 <= `low` <= 1.
    """
    _at_least_1(high)
    if not 0 <= low <= 1:
        raise ValueError(f"low={low}: must be >= 0 and <= 1, the ratio without a gap")
    ratios = jnp.exp(log_ratios)
    out = (ratios < low) | (ratios > high)
    return jnp.where(out, 0, ratios), out


def mis(log_ratios: Array, *, high: float = 2.0) -> tuple[Array, Array]:
    """R if R <= high, else 0, with R the product of r over the response.

    Masked importance sampling of sequences (Liu et al. 2025, "When Speed Kills Stability",
    https://richardli.xyz/rl-collapse). R is the exact importance weight of a whole response; it
    spreads with the root of the length.

    Differs from verl's rejection, which takes the tokens of a masked response out of the mean too.

    Takes, returns and raises the same as `tis`.
    """
    _at_least_1(high)
    ratios = jnp.exp(log_ratios.sum(-1, keepdims=True))
    ratios = jnp.broadcast_to(ratios, log_ratios.shape)
    return jnp.where(ratios > high, 0, ratios), ratios > high


def _at_least_1(high):
    if not high >= 1:
        raise ValueError(f"high={high}: must be >= 1, the ratio without a gap")


# name -> fn(log_ratios, *, options) -> (weights f32[..., T], cut bool[..., T])
CORRECTIONS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "tis": tis,
    "icepop": icepop,
    "mis": mis,
}


def make_correction(algorithm: AlgorithmConfig) -> Correction | None:
    """Returns the configured correction, (old_logps, sampled_logps, mask) -> (weights, metrics).

    Off the mask weights and metrics have no meaning. None if there is none.
    """
    if algorithm.correction == "none":
        return None
    fn = functools.partial(CORRECTIONS[algorithm.correction], **dict(algorithm.correction_options))

    def correct(old_logps, sampled_logps, mask):
        chex.assert_equal_shape([old_logps, sampled_logps, mask])
        weights, cut = fn(jnp.where(mask, old_logps - sampled_logps, 0))
        values = {"policy/correction_mean": weights, "policy/correction_cut": cut}
        return weights, {name: x.astype(weights.dtype) for name, x in values.items()}

    return correct


def check_correction(algorithm: AlgorithmConfig) -> list[str]:
    """Lists the mistakes in a configured correction, one line each; nothing is compiled."""
    name, options = algorithm.correction, dict(algorithm.correction_options)
    names = ("none", *CORRECTIONS)
    where = f"algorithm.correction={name}"
    if name not in names:
        hint = errors.did_you_mean(name, names)
        return [f"{where}: must be one of {', '.join(names)}{hint}"]
    lines, known = [], _options(name)
    for option, value in options.items():
        if option in known:
            at = f"algorithm.correction_options.{option}={value}"
            lines += loading.type_mistakes(at, value, known[option])
    lines += loading.option_mistakes("algorithm.correction_options", where, options, known, False)
    if name != "none" and algorithm.old_logps != "rescored":
        lines.append(
            f"{where}: weighs the trainer's log-probs against the sampler's; set "
            "algorithm.old_logps=rescored, or algorithm.correction=none"
        )
    if lines or name == "none":
        return lines
    fn = functools.partial(CORRECTIONS[name], **options)
    try:
        jax.eval_shape(fn, jax.ShapeDtypeStruct((1,), "f4"))
    except ValueError as error:
        return [f"algorithm.correction_options.{error}"]
    return []


def _options(name: str) -> Mapping[str, inspect.Parameter]:
    if name == "none":
        return {}
    return dict(list(inspect.signature(CORRECTIONS[name]).parameters.items())[1:])
