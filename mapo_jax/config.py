"""The configuration: a ConfigDict becomes frozen dataclasses, once.

The tree mirrors experiments/common.py, which says what each knob means; `validation.validate` says
what is wrong with one. Nothing here needs a device.
"""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

from mapo_jax import errors

Options = tuple[tuple[str, Any], ...]  # an open mapping: sorted items, so that it is hashable


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    name: str
    reward: str
    reward_timeout: float
    reward_memory: float
    reward_workers: int
    shuffle_rewards: bool
    options: Options


@dataclasses.dataclass(frozen=True)
class DataConfig:
    path: str
    max_prompt_tokens: int
    too_long: str


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    path: str
    template: str


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    init: str
    num_layers: int
    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    rank: int
    alpha: float
    targets: str


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    dtype: str
    matmul_precision: str
    remat: bool
    head_chunk: int
    attention_chunk: int
    attention: str


@dataclasses.dataclass(frozen=True)
class WarmupConfig:
    steps: int
    learning_rate: float
    batch: int
    schedule_steps: int


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    prompts: int
    group: int
    minibatch_prompts: int
    microbatch: tuple[int, int]
    epochs: int


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    chunks: int
    lanes: int
    width: int


@dataclasses.dataclass(frozen=True)
class AlgorithmConfig:
    advantage: str
    advantage_options: Options
    surrogate: str
    surrogate_options: Options
    clip_low: float
    clip_high: float
    clip_dual: float
    aggregation: str
    beta: float
    kl: str
    entropy: float
    old_logps: str
    truncated: str
    overlong_penalty: float
    overlong_buffer: float


@dataclasses.dataclass(frozen=True)
class DynamicConfig:
    max_tries: int
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: float
    schedule_steps: int
    b1: float
    b2: float
    eps: float
    weight_decay: float
    max_grad_norm: float


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: int
    fsdp: int
    tensor: int


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    max_skipped: int


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
    start: int
    heartbeat: int
    shutdown: int


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    every: int
    problems: int
    batch: int
    samples: int
    temperature: float
    top_p: float
    sets: str


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: int
    keep: int


@dataclasses.dataclass(frozen=True)
class LogConfig:
    rollouts_every: int
    rollouts_prompts: int
    tensorboard: bool
    wandb: str
    console: str


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    steps: str


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. Hashable, so any part of it can be a static argument."""

    seed: int
    steps: int
    task: TaskConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    policy: PolicyConfig
    lora: LoraConfig
    compute: ComputeConfig
    warmup: WarmupConfig
    batch: BatchConfig
    rollout: RolloutConfig
    algorithm: AlgorithmConfig
    dynamic: DynamicConfig
    optimizer: OptimizerConfig
    mesh: MeshConfig
    guard: GuardConfig
    processes: ProcessesConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    profile: ProfileConfig


# Keys whose inside is not listed here.
OPEN = ("task.options", "algorithm.advantage_options", "algorithm.surrogate_options")


def from_config_dict(config_dict: Mapping[str, Any], cls: Any = Config) -> Any:
    """Returns the frozen configuration.

    Args:
        config_dict: the tree of an experiment.
        cls: the dataclass that it becomes; its fields are ints, floats, bools, strings, pairs of
            ints, `Options`, and dataclasses of them.

    Raises:
        UserError: unknown, missing and wrongly typed keys, all of them.
    """
    lines: list[str] = []
    config = _build(cls, config_dict, "", lines)
    if lines:
        raise errors.UserError(*lines)
    return config


def _build(cls: type, node: Mapping[str, Any], prefix: str, lines: list[str]) -> Any:
    hints = typing.get_type_hints(cls)
    for name in node:
        if name not in hints:
            lines.append(f"{prefix}{name}: no such key{errors.did_you_mean(name, hints)}")
    values = {}
    for name, hint in hints.items():
        key = prefix + name
        if name not in node:
            lines.append(f"{key}: missing; start from experiments.common.get_config()")
        elif (dataclasses.is_dataclass(hint) or hint == Options) and not hasattr(
            node[name], "items"
        ):
            lines.append(f"{key}={show(node[name])}: must be a group of keys")
        elif dataclasses.is_dataclass(hint):
            values[name] = _build(hint, node[name], key + ".", lines)
        elif hint == Options:
            values[name] = _freeze(node[name])
        else:
            try:
                values[name] = _typed(hint, node[name])
            except TypeError:
                kind = "tuple of two ints" if hint == tuple[int, int] else hint.__name__
                lines.append(f"{key}={show(node[name])}: must be of type {kind}")
    return cls(**values) if values.keys() == hints.keys() else None


def _typed(hint: Any, value: Any) -> Any:
    if hint == tuple[int, int]:
        if isinstance(value, tuple | list) and [type(part) for part in value] == [int, int]:
            return tuple(value)
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    raise TypeError


def _freeze(value: Any) -> Any:
    if hasattr(value, "items"):
        return tuple(sorted((name, _freeze(part)) for name, part in value.items()))
    return tuple(map(_freeze, value)) if isinstance(value, list | tuple) else value


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the tree as plain, JSON-able values: what config.json holds."""
    tree: dict[str, Any] = dataclasses.asdict(config)
    for key in OPEN:
        group, name = key.split(".")
        tree[group][name] = dict(tree[group][name])
    return json.loads(json.dumps(tree))


# What may differ when a run is continued; a group stands for all of its keys.
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


# Keys that came after the first version -> the value of runs without them, as config.json has it;
# {} for an open mapping. So work directories of older versions can be continued.
ADDED: dict[str, Any] = {"algorithm.surrogate_options": {}}


def continuation_mistakes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each key that must not differ between a run and its continuation.

    Args:
        old: the run's config.json, maybe of an older version: what it lacks is taken from `ADDED`.
        new: `to_dict` of the configuration it is to be continued with.
    """
    old, new = _flat(ADDED) | _flat(old), _flat(new)
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


def show(value: Any) -> str:
    """A value as it is typed on the command line."""
    return "''" if value == "" else str(value)
