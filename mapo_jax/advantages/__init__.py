"""Advantages compare the reward of each rollout with the rewards of its group.

They come between rewards and update in the life of a batch: rewards[P, G] -> advantages[P, G].
Each advantage is a function of one group, `fn(rewards_G, success_G, mask_G, **options) -> [G]`,
listed in `ADVANTAGES`. `group_advantages` runs it on all groups. The function never sees another
group, so arrays that are sharded over P need no communication. A few entries do compare groups:
they have a second stage, a function of the whole batch.

To add an advantage, write its function in `paper.py` or `family.py` and add its line to
`registry.py`.
"""

from mapo_jax.advantages.checks import check
from mapo_jax.advantages.common import is_constant
from mapo_jax.advantages.facts import (
    group_metrics,
    success_count_metrics,
    trajectory_certainty,
)
from mapo_jax.advantages.history import History, Memory, nothing, remember
from mapo_jax.advantages.registry import (
    ADVANTAGES,
    Advantage,
    group_advantages,
    takes,
    valid_rewards,
)

__all__ = [
    "ADVANTAGES",
    "Advantage",
    "History",
    "Memory",
    "check",
    "group_advantages",
    "group_metrics",
    "is_constant",
    "nothing",
    "remember",
    "success_count_metrics",
    "takes",
    "trajectory_certainty",
    "valid_rewards",
]
