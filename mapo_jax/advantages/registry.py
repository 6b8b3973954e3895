"""The registry of advantages, and `group_advantages`, which runs one of them on all groups.

For every function, a user's own too, it ensures that
- a rollout that is masked off, or whose reward is not finite, gets 0 and counts in nothing;
- a group with too few valid rollouts (fewer than two, for most) gives 0;
- the arithmetic is at least float32 and the result has the dtype of the rewards;
- no gradient flows through advantages, which are constants of the loss.
So a function gets finite rewards, 0 behind the mask, and only has to respect `mask_G`.

Every parameter after the first three is an option, unless its name is in `INPUTS`; then it is that
input.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Container
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from mapo_jax import errors
from mapo_jax.advantages import family, paper, stages
from mapo_jax.advantages.history import History

# A function may take these further inputs as parameters; the values name their sources.
INPUTS = {
    "key": "key",
    "baseline": "baseline_P",
    "lengths_G": "lengths_PG",
    "components_GC": "components_PGC",
    "history": "history_P",
    "base_G": "base",
}


@dataclasses.dataclass(frozen=True)
class Advantage:
    """An entry of the registry: the function of one group, and its requirements."""

    fn: Callable[..., Array]
    stage: Callable[..., Array] | None = None  # runs next, on the whole batch; see `stages.py`
    rewards: tuple[float, float] = (-math.inf, math.inf)  # `check` refuses a wider range
    fewest: int = 2  # a group with fewer valid rollouts gives 0

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The inputs and options of `fn`, its parameters after rewards_G, success_G, mask_G."""
        return dict(list(inspect.signature(self.fn).parameters.items())[3:])

    @property
    def stage_options(self) -> dict[str, inspect.Parameter]:
        """The options of `stage`, which are its keyword-only parameters."""
        parameters = inspect.signature(self.stage).parameters if self.stage else {}
        return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


_NONNEGATIVE, _UNIT = (0.0, math.inf), (0.0, 1.0)

ADVANTAGES: dict[str, Advantage] = {
    "mapo": Advantage(paper.mapo, rewards=_NONNEGATIVE),
    "grpo": Advantage(paper.grpo),
    "dr_grpo": Advantage(paper.dr_grpo),
    "gpg": Advantage(paper.dr_grpo, stage=stages.gpg_alpha),
    "tree_rpo": Advantage(paper.tree_rpo, rewards=_UNIT),
    "apd": Advantage(paper.apd, rewards=_NONNEGATIVE),
    "maxrl": Advantage(paper.apd, rewards=_NONNEGATIVE),
    "mapo_random": Advantage(paper.mapo_random, rewards=_NONNEGATIVE),
    "mapo_linear": Advantage(paper.mapo_linear, rewards=_NONNEGATIVE),
    "rloo": Advantage(paper.rloo),
    "reinforce_plus_plus": Advantage(paper.rewards, stage=stages.whiten_tokens, fewest=1),
    "reinforce_plus_plus_baseline": Advantage(paper.dr_grpo, stage=stages.whiten_tokens),
    "remax": Advantage(paper.remax, fewest=1),
    "beta_norm": Advantage(family.beta_norm, rewards=_UNIT),
    "pkpo": Advantage(family.pkpo),
    "passk": Advantage(family.passk),
    "gdpo": Advantage(family.gdpo, stage=stages.whiten),
    "opo": Advantage(family.opo),
    "quantile": Advantage(family.quantile),
    "ngrpo": Advantage(family.ngrpo),
    "dgpo": Advantage(family.dgpo, stage=stages.question_weights),
    "sign_balance": Advantage(family.sign_balance, rewards=(-math.inf, 1.0)),
    "rs_grpo": Advantage(family.rs_grpo),
    "mgpo": Advantage(family.mgpo),
    "a_grae": Advantage(paper.grpo, stage=stages.asymmetric, rewards=_UNIT),
    "lite_ppo": Advantage(paper.dr_grpo, stage=stages.over_batch_std),
    "jspo": Advantage(paper.rloo, stage=stages.james_stein),
    "ebpo": Advantage(family.ebpo, stage=stages.whiten, fewest=1),
    "focal": Advantage(family.focal, rewards=_UNIT, fewest=1),
    "signed": Advantage(family.signed, fewest=1),
}


def entry_of(advantage: str | Callable[..., Array]) -> Advantage:
    """Returns the entry of a name, or a new entry for a user's own function."""
    if not isinstance(advantage, str):
        return Advantage(advantage)
    if advantage not in ADVANTAGES:
        hint = errors.did_you_mean(advantage, ADVANTAGES) or ";"
        raise errors.UserError(
            f"algorithm.advantage={advantage}: no such advantage{hint} choose one of "
            f"{', '.join(ADVANTAGES)}, or your own as path/to/file.py:function"
        )
    return ADVANTAGES[advantage]


def takes(advantage: str | Callable[..., Array], options: dict[str, Any], name: str) -> bool:
    """Returns whether an advantage, or the base that it changes, has the parameter `name`."""
    parameters = entry_of(advantage).parameters
    through_base = "base_G" in parameters and takes(options["base"], {}, name)
    return name in parameters or through_base


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
    history_P: History | None = None,
    **options: Any,
) -> Array:
    """Returns the advantage of every rollout within its group.

    A function gets those of the five further inputs that it names among its parameters (`INPUTS`).
    A rollout whose baseline or component is not finite is not valid for a function that takes them.
    A function's `key` is `fold_in(key, index of the group)`.

    A combinator (`focal`, `signed`) takes the option `base`, another entry's name or a function.
    Options that are not its own go to the base.

    Args:
        advantage: a name in `ADVANTAGES`, or a function `fn(rewards_G, success_G, mask_G,
            **options) -> float[G]` of one group.
        rewards_PG: float[P, G].
        success_PG: bool[P, G], right on every reward metric.
        mask_PG: bool[P, G], the valid rollouts; None means all.
        key: a PRNG key.
        baseline_P: float[P], a reward to compare each group with.
        lengths_PG: int[P, G], response lengths in tokens.
        components_PGC: float[P, G, C], the parts of the rewards.
        history_P: of each group, see `history.remember`.
        **options: passed to the function and to its stage.

    Returns:
        [P, G] in the dtype of `rewards_PG` (float32 if that is not floating); no gradient flows
        through it.

    Raises:
        errors.UserError: the name is unknown.
        TypeError: the function takes an input that was not given, or has no such option.
        ValueError: the function returns another shape.
    """
    entry = entry_of(advantage)
    rewards_PG, success_PG = jnp.asarray(rewards_PG), jnp.asarray(success_PG).astype(bool)
    mask_PG = valid_rewards(rewards_PG, mask_PG)
    chex.assert_rank(rewards_PG, 2)
    chex.assert_equal_shape([rewards_PG, success_PG, mask_PG])
    P, G = rewards_PG.shape

    sources: dict[str, Any] = {
        "key": key,
        "baseline_P": baseline_P,
        "lengths_PG": lengths_PG,
        "components_PGC": components_PGC,
        "history_P": history_P,
    }
    given = {name: sources.get(source) for name, source in INPUTS.items()}
    if key is not None:
        given["key"] = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(P))
    if "base_G" in entry.parameters and "base" in options:
        own, rest = _split(options, entry.parameters)
        base = rest.pop("base")
        options = own
        given["base_G"] = group_advantages(base, rewards_PG, success_PG, mask_PG, **sources, **rest)
    inputs = {name: given[name] for name in INPUTS if name in entry.parameters}
    for name, value in inputs.items():
        if value is None:
            raise TypeError(f"{entry.fn} takes {name}: pass {INPUTS[name]} to group_advantages")
    if "baseline" in inputs:
        mask_PG &= jnp.isfinite(jnp.asarray(baseline_P))[:, None]
    if "components_GC" in inputs:
        mask_PG &= jnp.all(jnp.isfinite(jnp.asarray(components_PGC)), axis=-1)

    dtype = jnp.promote_types(rewards_PG.dtype, jnp.float32)
    clean_PG = jnp.where(mask_PG, rewards_PG, 0).astype(dtype)
    success_PG &= mask_PG
    of_stage, own = _split(options, entry.stage_options)
    own |= {name: value for name, value in of_stage.items() if name in entry.parameters}

    def one_group(rewards_G, success_G, mask_G, inputs):
        advantages_G = entry.fn(rewards_G, success_G, mask_G, **inputs, **own)
        if jnp.shape(advantages_G) != (G,):
            raise ValueError(f"it returned shape {jnp.shape(advantages_G)}, not {(G,)}")
        return jnp.where(mask_G, advantages_G, 0)

    mask_PG &= jnp.sum(mask_PG, axis=1, keepdims=True) >= entry.fewest
    groups = jax.lax.stop_gradient((clean_PG, success_PG, mask_PG, inputs))
    advantages_PG = jax.vmap(one_group)(*groups)
    if entry.stage:
        advantages_PG = entry.stage(advantages_PG, groups[0], mask_PG, lengths_PG, **of_stage)
        advantages_PG = jnp.where(mask_PG, advantages_PG, 0)
    floating = jnp.issubdtype(rewards_PG.dtype, jnp.floating)
    return advantages_PG.astype(rewards_PG.dtype if floating else dtype)


def _split(options: dict[str, Any], names: Container[str]) -> tuple[dict, dict]:
    """Splits the options into those with these names and the others."""
    own = {name: value for name, value in options.items() if name in names}
    return own, {name: value for name, value in options.items() if name not in names}


def valid_rewards(rewards_PG: Array, mask_PG: Array | None = None) -> Array:
    """bool[P, G], true for rollouts that count: they are in the mask and have a finite reward."""
    finite_PG = jnp.isfinite(rewards_PG)
    return finite_PG if mask_PG is None else jnp.asarray(mask_PG, bool) & finite_PG
