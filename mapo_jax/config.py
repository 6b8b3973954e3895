"""The configuration of a run, a ConfigDict that becomes frozen dataclasses once.

The tree mirrors experiments/common.py, which explains each knob. The type of a field limits its
values; run/checks.py holds the rules for values that may not go together. Nothing here needs a
device.
"""

import dataclasses
import json
import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from mapo_jax import errors

Options = tuple[tuple[str, Any], ...]  # an open mapping as sorted items, so that it is hashable
Pair = tuple[int, int]


class Limit(NamedTuple):
    """A condition on a value, in words and as a function."""

    text: str
    holds: Callable[[Any], bool]


class OneOf:
    """The texts that a field accepts."""

    def __init__(self, *allowed: str):
        self.allowed = allowed


def at_least(low: float, zero: str = "") -> Limit:
    """Returns the limit ">= low"; `zero` explains 0 if it has a special meaning."""
    return Limit(f">= {low}{f' (0: {zero})' if zero else ''}", lambda value: value >= low)


def _is_slice(text: str) -> bool:
    ends = re.fullmatch(r"(\d+):(\d+)", text)
    return not text or (ends is not None and 1 <= int(ends[1]) < int(ends[2]))


def _is_rates(text: str) -> bool:
    ends = re.fullmatch(r"(\d?\.?\d+):(\d?\.?\d+)", text)
    return not text or (ends is not None and float(ends[1]) <= float(ends[2]) <= 1)


def _is_checkpoint(text: str) -> bool:
    return text in ("newest", "best") or text.isdecimal()


Count = Annotated[int, at_least(1)]
Steps = Annotated[int, at_least(0)]
AtLeast0 = Annotated[float, at_least(0)]
Above0 = Annotated[float, Limit("> 0", lambda value: value > 0)]
Share = Annotated[float, Limit("> 0 and <= 1", lambda value: 0 < value <= 1)]
Fraction = Annotated[float, Limit(">= 0 and < 1", lambda value: 0 <= value < 1)]
Axis = Annotated[
    int,
    Limit(">= 1, or -1 for the rest of the devices", lambda value: value >= 1 or value == -1),
]
Seed = Annotated[int, Limit(">= 0 and < 2**32", lambda value: 0 <= value < 2**32)]
HeadDim = Annotated[int, Limit(">= 2 and even (RoPE turns pairs)", lambda n: n >= 2 and n % 2 == 0)]
Microbatch = Annotated[Pair, Limit("(p, g) with p >= 1 and g >= 1", lambda pair: min(pair) >= 1)]
ClipLow = Annotated[float, Limit(">= 0 and <= 1 (1: no bound)", lambda x: 0 <= x <= 1)]
ClipDual = Annotated[float, Limit("> 1, or 0 for none", lambda x: x > 1 or x == 0)]
Temperature = Annotated[
    float,
    Limit(
        "> 0: training needs the log-probs of what is sampled (evaluation is greedy by itself)",
        lambda x: x > 0,
    ),
]
EvalTemperature = Annotated[
    float, Limit("> 0 (the greedy answer is always there)", lambda x: x > 0)
]
VisionRate = Annotated[
    float | None,
    Limit(">= 0, or None for that of the rest", lambda rate: rate is None or rate >= 0),
]
Decay = Annotated[str, OneOf("constant", "linear", "cosine")]
Slice = Annotated[
    str, Limit("A:B with 1 <= A < B, as in 10:12, which traces steps 10 and 11", _is_slice)
]


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    name: str
    reward: str
    reward_timeout: Above0
    reward_memory: Above0
    reward_workers: Count
    shuffle_rewards: bool
    options: Options


@dataclasses.dataclass(frozen=True)
class DataConfig:
    path: str
    max_prompt_tokens: Count
    too_long: Annotated[str, OneOf("drop", "truncate")]
    solve_rate: Annotated[
        str, Limit("LOW:HIGH with 0 <= LOW <= HIGH <= 1, as in 0.2:0.8", _is_rates)
    ]
    solve_prompts: Count


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    path: str
    template: str


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    num_layers: Annotated[int, at_least(0, "no tower")]
    embed_dim: Count
    num_heads: Count
    mlp_dim: Count
    patch: Count
    merge: Count
    window: Annotated[int, at_least(0, "none")]


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    init: str
    revision: str
    checkpoint: Annotated[str, Limit("newest, best or a number, as in 60", _is_checkpoint)]
    num_layers: Count
    embed_dim: Count
    num_heads: Count
    num_kv_heads: Count
    head_dim: Annotated[
        int, Limit(">= 2 and even (RoPE turns pairs)", lambda n: n >= 2 and n % 2 == 0)
    ]
    mlp_dim: Count
    rope_theta: Above0
    norm_eps: Above0
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    vision: TowerConfig


@dataclasses.dataclass(frozen=True)
class ImagesConfig:
    min_pixels: Annotated[int, at_least(0, "that of the policy")]
    max_pixels: Annotated[int, at_least(0, "that of the policy")]
    resize: Annotated[str, OneOf("policy", "easyr1")]


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    rank: Annotated[int, at_least(0, "all weights are trained")]
    alpha: Above0
    targets: str


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    dtype: Annotated[str, OneOf("float32", "bfloat16", "float16")]
    matmul_precision: Annotated[str, OneOf("default", "high", "highest")]
    remat: bool
    head_chunk: Count
    attention_chunk: Count
    attention: Annotated[str, OneOf("auto", "plain", "splash", "cudnn")]


@dataclasses.dataclass(frozen=True)
class WarmupConfig:
    steps: Steps
    learning_rate: AtLeast0
    batch: Count
    schedule_steps: Steps
    decay: Decay


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    prompts: Count
    group: Count
    minibatch_prompts: Count
    microbatch: Annotated[
        Pair, Limit("(p, g) with p >= 1 and g >= 1", lambda value: min(value) >= 1)
    ]
    epochs: Count


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    temperature: Temperature
    top_p: Share
    top_k: Annotated[int, at_least(0, "all")]
    max_new_tokens: Count
    chunks: Count
    lanes: Annotated[int, at_least(0, "all")]
    width: Annotated[int, at_least(0, "the group")]


@dataclasses.dataclass(frozen=True)
class AlgorithmConfig:
    advantage: str
    advantage_options: Options
    surrogate: str
    surrogate_options: Options
    clip_low: ClipLow
    clip_high: AtLeast0
    clip_dual: ClipDual
    aggregation: str
    beta: AtLeast0
    kl: str
    entropy: AtLeast0
    old_logps: Annotated[str, OneOf("sampler", "rescored")]
    correction: str
    correction_options: Options
    truncated: Annotated[str, OneOf("fail", "mask")]
    overlong_penalty: AtLeast0
    overlong_buffer: Share


@dataclasses.dataclass(frozen=True)
class DynamicConfig:
    max_tries: Annotated[int, at_least(0, "off")]
    low: Fraction
    high: Share


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    learning_rate: AtLeast0
    vision_learning_rate: VisionRate
    schedule_steps: Steps
    decay: Decay
    b1: Fraction
    b2: Fraction
    eps: Above0
    weight_decay: AtLeast0
    max_grad_norm: Above0

    @property
    def trains_vision(self) -> bool:
        """Whether RL changes the vision tower."""
        return self.vision_learning_rate != 0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: Axis
    fsdp: Axis
    tensor: Axis


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    max_skipped: Annotated[int, at_least(0, "any number")]


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
    start: Count
    heartbeat: Count
    shutdown: Count


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    every: Count
    problems: Count
    batch: Count
    samples: Count
    temperature: Annotated[
        float, Limit("> 0 (the greedy answer is always there)", lambda value: value > 0)
    ]
    top_p: Share
    sets: str
    blank: bool


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: Count
    keep: Count


@dataclasses.dataclass(frozen=True)
class LogConfig:
    rollouts_every: Annotated[int, at_least(0, "none")]
    rollouts_prompts: Count
    tensorboard: bool
    wandb: str
    trackio: str
    console: Annotated[str, OneOf("auto", "rich", "plain", "quiet", "json")]


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    steps: Slice


@dataclasses.dataclass(frozen=True)
class Config:
    """The configuration of one run. It is hashable, so any part of it can be a static argument."""

    seed: Seed
    steps: Steps
    task: TaskConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    policy: PolicyConfig
    images: ImagesConfig
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

    @property
    def updates(self) -> int:
        """Optimizer steps of RL."""
        batch = self.batch
        return self.steps * (batch.prompts // batch.minibatch_prompts) * batch.epochs


# Open keys, whose options are not listed here.
OPEN = (
    "task.options",
    "algorithm.advantage_options",
    "algorithm.surrogate_options",
    "algorithm.correction_options",
)


def from_config_dict(config_dict: Mapping[str, Any], cls: Any = Config) -> Any:
    """Returns the frozen configuration.

    Args:
        config_dict: the tree of an experiment.
        cls: the dataclass that it becomes; its fields are ints, floats, bools, strings, pairs of
            ints, `Options`, and dataclasses of them.

    Raises:
        UserError: with a line for each unknown, missing or wrongly typed key.
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
                kind = _KINDS.get(hint) or hint.__name__
                lines.append(f"{key}={show(node[name])}: must be of type {kind}")
    return cls(**values) if values.keys() == hints.keys() else None


_KINDS: dict[Any, str] = {Pair: "tuple of two ints", float | None: "float, or None"}


def _typed(hint: Any, value: Any) -> Any:
    if hint == float | None:
        return None if value is None else _typed(float, value)
    if hint == Pair:
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


def limit_mistakes(config: Any, prefix: str = "") -> Iterator[str]:
    """Yields a line for each value that is outside of its field's limits."""
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        key, value = prefix + name, getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from limit_mistakes(value, key + ".")
        for limit in getattr(hint, "__metadata__", ()):
            if isinstance(limit, OneOf):
                if value not in limit.allowed:
                    hint = errors.did_you_mean(value, limit.allowed)
                    yield f"{key}={show(value)}: must be one of {', '.join(limit.allowed)}{hint}"
            elif isinstance(value, float) and not math.isfinite(value):
                yield f"{key}={value}: must be finite and {limit.text}"
            elif not limit.holds(value):
                yield f"{key}={show(value)}: must be {limit.text}"


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the tree as plain values that JSON can hold, as config.json stores them."""
    tree: dict[str, Any] = dataclasses.asdict(config)
    for key in OPEN:
        group, name = key.split(".")
        tree[group][name] = dict(tree[group][name])
    return json.loads(json.dumps(tree))


def show(value: Any) -> str:
    """Returns a value as it is typed on the command line."""
    return "''" if value == "" else str(value)
