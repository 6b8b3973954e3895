"""Says which keys may differ between a run and its continuation.

The first check of a start in a work directory that holds a run. Only these keys may differ: they
change how long a run is, what it records or how much memory it takes, not what it learns.
"""

from collections.abc import Mapping
from typing import Any

from mapo_jax.config import show

# Keys that may differ when a run is continued; a group stands for all of its keys.
_MAY_DIFFER = ("steps", "eval", "log", "checkpoint", "profile", "mesh")
_MAY_DIFFER += ("guard", "processes")
_MAY_DIFFER += ("data.path", "tokenizer.path")  # moved, with the same content
_MAY_DIFFER += ("task.reward_timeout", "task.reward_memory", "task.reward_workers")
_MAY_DIFFER += ("batch.microbatch", "rollout.lanes", "rollout.width", "rollout.chunks")  # memory
_MAY_DIFFER += (
    "compute.remat",
    "compute.head_chunk",
    "compute.attention_chunk",
    "compute.attention",
)


# Keys that came after the first version, with the value of runs without them, as config.json has
# it; {} for an open mapping. So work directories of older versions can be continued.
ADDED: dict[str, Any] = {
    "algorithm.surrogate_options": {},
    "algorithm.correction": "none",
    "algorithm.correction_options": {},
    "policy.revision": "",
    "policy.checkpoint": "newest",
    "policy.vision.num_layers": 0,
    "policy.vision.embed_dim": 64,
    "policy.vision.num_heads": 4,
    "policy.vision.mlp_dim": 192,
    "policy.vision.patch": 8,
    "policy.vision.merge": 2,
    "policy.vision.window": 0,
    "images.min_pixels": 0,
    "images.max_pixels": 0,
    "images.resize": "policy",
    "optimizer.vision_learning_rate": None,
    "eval.blank": False,
    "data.solve_rate": "",
    "data.solve_prompts": 1024,
    "warmup.decay": "constant",
    "optimizer.decay": "constant",
    "log.trackio": "",
}
# Options that came after the first version of their task, with the value of runs without them.
ADDED_OPTIONS = {"task.options.images": "", "task.options.placeholder": r"<image\d*>"}


def continuation_mistakes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lists the keys that differ between a run and its continuation but must not, one line each.

    Args:
        old: the run's config.json. An older version may lack keys, which `ADDED` and
            `ADDED_OPTIONS` then give.
        new: `to_dict` of the configuration that is to continue it.
    """
    old, new = _flat(ADDED) | ADDED_OPTIONS | _flat(old), ADDED_OPTIONS | _flat(new)
    return [
        f"{key}={show(new.get(key, 'absent'))}: the run in this work directory was started with "
        f"{show(old.get(key, 'absent'))}; set it back, or start a new run in another --workdir"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and key not in _MAY_DIFFER
        and key.split(".")[0] not in _MAY_DIFFER
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return flat
