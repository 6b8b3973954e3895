"""Checks a whole configuration: values that do not go together, files, functions, devices.

Every mistake is a line, before anything is compiled. Limits of single values stand beside their
fields, in config.py.
"""

import functools
import importlib.util
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import jax

from mapo_jax import advantages, errors, loading, model, rewards, sharding, tasks, training
from mapo_jax.config import Config, limit_mistakes, show
from mapo_jax.run import evaluation, pictures, sources


def validate(
    config: Config,
    device_count: int,
    needs_policy: bool = True,
    architecture: Any = None,
    platform: str | None = None,
) -> list[str]:
    """Returns every mistake in `config`, a line each: key, value, the allowed values and a fix.

    Looks for files, makes the task and loads the tokenizer; compiles nothing.

    Args:
        config: of `from_config_dict`.
        device_count: devices of all processes together.
        needs_policy: whether policy.init and tokenizer.path are read; else they may be missing.
        architecture: of a run that is only planned; then policy, task and files may be missing.
        platform: of the devices, "cpu", "gpu" or "tpu"; None: that of this machine; "": unknown.
    """
    lines = [*limit_mistakes(config)]
    for key, allowed in _registries().items():
        value = operator.attrgetter(key)(config)
        if value not in allowed:
            hint = errors.did_you_mean(value, allowed)
            lines.append(f"{key}={show(value)}: must be one of {', '.join(allowed)}{hint}")
    lines += training.check_surrogate(config.algorithm)
    lines += training.check_correction(config.algorithm)
    lines += _lora_mistakes(config)
    broken = {line.partition("=")[0] for line in lines}
    found: list[str] = []
    resources: list[str] = []
    if not architecture:
        source = errors.attempt(found, sources.find, config) if needs_policy else None
        architecture = source.architecture if source else None
        resources = _resource_mistakes(config, architecture)
    numbers: Any = architecture
    if not numbers and needs_policy and not config.policy.init:  # else it brings its own
        numbers = config.policy
    lines += _combination_mistakes(config, numbers, device_count, broken) + resources
    if architecture and architecture.vision:
        lines += _vision_mistakes(config, architecture, broken)
    rate = config.optimizer.vision_learning_rate
    if rate and architecture and (config.lora.rank or not architecture.vision):
        why = "adapters leave the tower as it is" if architecture.vision else "there is no tower"
        lines.append(f"optimizer.vision_learning_rate={rate}: {why}; set it to None")
    if needs_policy:
        platform = jax.devices()[0].platform if platform is None else platform
        lines += _kernel_mistakes(config, architecture, platform)
    most = architecture.max_positions if architecture else 0
    needed = config.data.max_prompt_tokens + config.rollout.max_new_tokens
    if most and needed > most:
        found.append(
            f"rollout.max_new_tokens={config.rollout.max_new_tokens}: with data.max_prompt_tokens="
            f"{config.data.max_prompt_tokens} that is {needed} tokens, but the policy was trained "
            f"for {most}; lower one of the two"
        )
    return lines + found


def _registries() -> dict[str, tuple[str, ...]]:
    """Keys whose value names an entry of a registry, with the entries' names."""
    return {
        "algorithm.aggregation": tuple(training.AGGREGATIONS),
        "algorithm.kl": tuple(training.KLS),
    }


def _lora_mistakes(config: Config) -> list[str]:
    if config.lora.rank <= 0:
        return []
    lines = []
    targets = config.lora.targets.split(",")
    for name in targets:
        if name not in model.LORA_TARGETS:
            lines.append(
                f"lora.targets={show(config.lora.targets)}: no matrix {show(name)}; give some of "
                f"{','.join(model.LORA_TARGETS)}"
            )
    if not config.policy.init:
        lines.append(
            f"lora.rank={config.lora.rank}: adapters need a pretrained policy; give policy.init, "
            "or set it to 0"
        )
    return lines


def _kernel_mistakes(config: Config, architecture: Any, platform: str) -> list[str]:
    """The mistakes of compute.attention and compute.dtype: what this policy or device cannot do."""
    asked, has, lines = config.compute.attention, [], []
    if config.compute.dtype == "float16" and platform == "tpu":
        lines.append("compute.dtype=float16: TPUs multiply in bfloat16; take bfloat16 or float32")
    if architecture and architecture.windows and asked == "splash":
        has.append("windows, which the policy has")
    if architecture and architecture.attention_softcap:
        has.append("soft caps, which the policy has")
    if config.compute.dtype == "float32" and asked == "cudnn":
        has.append("compute.dtype=float32, only bfloat16 and float16")
    device = {"splash": "tpu", "cudnn": "gpu"}.get(asked)
    if device is None:
        return lines
    lines += [f"compute.attention={asked}: does not compute {what}; take auto" for what in has]
    if platform not in ("", device):
        lines.append(
            f"compute.attention={asked}: is for {device.upper()}s, and the devices are of the "
            f"platform {platform}; take auto"
        )
    return lines


def _multiple(key: str, value: int, of: int, why: str) -> list[str]:
    if value % of == 0:
        return []
    near = max(of, round(value / of) * of)
    return [f"{key}={value}: must be a multiple of {why}; try {near}"]


def _divisor(
    key: str, value: int, total: int, why: str, shown: Any = None, among: int = 0
) -> list[str]:
    """`among`: the number to try divides this; default: `total`."""
    if total % value == 0:
        return []
    among = among or total
    near = min(
        (n for n in range(1, among + 1) if among % n == 0), key=lambda n: (abs(n - value), n)
    )
    return [f"{key}={value if shown is None else shown}: must divide {why}; try {near}"]


def _combination_mistakes(
    config: Config, numbers: Any, device_count: int, broken: set[str]
) -> list[str]:
    """The mistakes between numbers that are each within their limits.

    Args:
        config: the configuration.
        numbers: sizes of the policy; None if it could not be found.
        device_count: devices of all processes together.
        broken: keys outside of their limits, which are not compared.
    """
    batch, rollout, algorithm = config.batch, config.rollout, config.algorithm
    p, g = batch.microbatch
    lines = []

    def ok(*keys: str) -> bool:
        return not broken & {*keys}

    if ok("batch.minibatch_prompts", "batch.prompts"):
        why = f"batch.prompts={batch.prompts}"
        lines += _divisor("batch.minibatch_prompts", batch.minibatch_prompts, batch.prompts, why)
    if ok("batch.microbatch", "batch.minibatch_prompts"):
        why = f"batch.minibatch_prompts={batch.minibatch_prompts}"
        why = f"{why} with its first number, prompts"
        lines += _divisor("batch.microbatch", p, batch.minibatch_prompts, why, batch.microbatch)
    if ok("batch.microbatch", "batch.group"):
        why = f"batch.group={batch.group} with its second number, rollouts per prompt"
        lines += _divisor("batch.microbatch", g, batch.group, why, batch.microbatch)
    if ok("rollout.chunks", "batch.prompts"):
        why = f"batch.prompts={batch.prompts}"
        lines += _divisor("rollout.chunks", rollout.chunks, batch.prompts, why)
    if ok("rollout.width", "batch.group") and rollout.width > batch.group:
        lines.append(
            f"rollout.width={rollout.width}: must be at most batch.group={batch.group}, or 0 for it"
        )
    if numbers and ok("policy.num_kv_heads", "policy.num_heads"):
        why = f"policy.num_heads={numbers.num_heads}"
        lines += _divisor("policy.num_kv_heads", numbers.num_kv_heads, numbers.num_heads, why)
    if ok("algorithm.clip_high", "algorithm.clip_dual"):
        if algorithm.clip_dual and 1 + algorithm.clip_high > algorithm.clip_dual:
            lines.append(
                f"algorithm.clip_dual={algorithm.clip_dual}: must be at least 1 + "
                f"algorithm.clip_high={algorithm.clip_high}; try {1 + algorithm.clip_high}"
            )
    if ok("dynamic.low", "dynamic.high") and config.dynamic.low >= config.dynamic.high:
        lines.append(
            f"dynamic.low={config.dynamic.low}: must be below dynamic.high={config.dynamic.high}, "
            "since groups are kept whose accuracy is between the two; try dynamic.low=0"
        )
    if ok("warmup.steps", "warmup.schedule_steps", "warmup.decay"):
        lines += _decay_mistakes("warmup", config.warmup, config.warmup.steps, "warmup.steps")
    if ok("optimizer.schedule_steps", "optimizer.decay", "steps", "batch.minibatch_prompts"):
        of = "the updates of all steps"
        lines += _decay_mistakes("optimizer", config.optimizer, config.updates, of)
    if ok("mesh.data", "mesh.fsdp", "mesh.tensor"):
        lines += _mesh_mistakes(config, numbers, device_count, ok)
    return lines


def _vision_mistakes(
    config: Config, architecture: model.ModelConfig, broken: set[str]
) -> list[str]:
    """The mistakes between the numbers of a tower, and in the sizes of pictures."""
    vision: Any = architecture.vision
    if broken & {f"policy.vision.{name}" for name in ("embed_dim", "num_heads", "patch", "merge")}:
        return []
    lines = []
    why = f"policy.vision.embed_dim={vision.embed_dim}"
    lines += _divisor("policy.vision.num_heads", vision.num_heads, vision.embed_dim, why)
    head_dim = vision.embed_dim // vision.num_heads
    if not lines and head_dim % 4:
        lines.append(
            f"policy.vision.num_heads={vision.num_heads}: must leave each head a multiple of 4 "
            f"numbers, as rows and columns turn pairs of them, but {why} / {vision.num_heads} is "
            f"{head_dim}"
        )
    if architecture.head_dim < 6:
        lines.append(
            f"policy.head_dim={architecture.head_dim}: must be at least 6 with a tower, as time, "
            "row and column each turn a pair"
        )
    if broken & {"images.min_pixels", "images.max_pixels"}:
        return lines
    low, high = pictures.limits(config.images, vision)
    if low > high:
        lines.append(
            f"images.min_pixels={low}: must be at most images.max_pixels={high}; the policy's own "
            f"are {vision.min_pixels} and {vision.max_pixels}"
        )
    if high < vision.factor**2:
        lines.append(
            f"images.max_pixels={high}: must be at least {vision.factor**2}, the pixels of a token"
        )
    return lines


def _decay_mistakes(group: str, schedule: Any, steps: int, of: str) -> list[str]:
    rise = schedule.schedule_steps
    if schedule.decay == "constant" or not 0 < steps <= rise:
        return []
    return [
        f"{group}.decay={schedule.decay}: nothing is left to fall over, as "
        f"{group}.schedule_steps={rise} takes {of}, {steps}; lower it"
    ]


def _mesh_mistakes(
    config: Config, numbers: Any, device_count: int, ok: Callable[..., bool]
) -> list[str]:
    mesh, batch = config.mesh, config.batch
    sizes = (mesh.data, mesh.fsdp, mesh.tensor)
    shown = f"mesh.data={mesh.data}, mesh.fsdp={mesh.fsdp}, mesh.tensor={mesh.tensor}"
    if sizes.count(-1) > 1:
        return [f"{shown}: at most one may be -1, the rest of the devices"]
    try:
        data, fsdp, tensor = sharding.mesh_shape(*sizes, device_count)
    except ValueError:
        return [
            f"{shown}: must multiply to the {device_count} devices there are; "
            "set one of them to -1 for the rest"
        ]
    lines = []
    tower = numbers.vision if numbers and numbers.vision and numbers.vision.num_layers else None
    axes = {"num_heads": "tensor", "num_kv_heads": "tensor", "mlp_dim": "tensor"}
    for name, axis in (axes | {"embed_dim": "fsdp"}).items():
        for group, of in (("policy", numbers), ("policy.vision", tower)):
            if hasattr(of, name) and ok(f"{group}.{name}"):
                value, parts = getattr(of, name), {"tensor": tensor, "fsdp": fsdp}[axis]
                among = math.gcd(value, device_count)
                why = f"{group}.{name}={value}"
                lines += _divisor(f"mesh.{axis}", parts, value, why, among=among)
    if hasattr(numbers, "vocab_size"):  # else there is no tokenizer, which has been said
        why = f"the vocabulary of the policy, {numbers.vocab_size} tokens"
        among = math.gcd(numbers.vocab_size, device_count)
        lines += _divisor("mesh.tensor", tensor, numbers.vocab_size, why, among=among)
    shards = data * fsdp
    why = f"the {shards} batch shards (mesh.data={data} x mesh.fsdp={fsdp})"
    if ok("batch.prompts"):
        lines += _multiple("batch.prompts", batch.prompts, shards, why)
    if ok("batch.minibatch_prompts"):
        lines += _multiple("batch.minibatch_prompts", batch.minibatch_prompts, shards, why)
    if ok("batch.microbatch", "batch.minibatch_prompts") and batch.minibatch_prompts % shards == 0:
        own, p = batch.minibatch_prompts // shards, batch.microbatch[0]
        if batch.minibatch_prompts % p == 0:  # else that has been said
            text = f"the {own} prompts of a minibatch on each of {why} with its first number"
            lines += _divisor("batch.microbatch", min(p, own), own, text, batch.microbatch)
    if ok("warmup.batch", "warmup.steps") and config.warmup.steps:
        lines += _multiple("warmup.batch", config.warmup.batch, shards, why)
    if ok("eval.batch"):
        lines += _multiple("eval.batch", config.eval.batch, shards, why)
    chunks = config.rollout.chunks
    if ok("rollout.chunks", "batch.prompts") and batch.prompts % (chunks * shards):
        if batch.prompts % chunks == 0 and batch.prompts % shards == 0:
            lines.append(
                f"rollout.chunks={chunks}: must leave each chunk a multiple of {why}, but "
                f"batch.prompts={batch.prompts} / {chunks} is {batch.prompts // chunks}; "
                f"try rollout.chunks=1"
            )
    return lines


def _resource_mistakes(config: Config, architecture: Any) -> list[str]:
    """The mistakes in the task, functions and files that the configuration names.

    Args:
        config: the configuration.
        architecture: of the policy; None if it could not be found.
    """
    lines: list[str] = []
    attempt = functools.partial(errors.attempt, lines)
    options = dict(config.task.options)
    task = attempt(tasks.make, config.task.name, options, config.data.path, config.seed)
    if task and not task.demonstration and config.warmup.steps:
        lines.append(
            f"warmup.steps={config.warmup.steps}: task.name={config.task.name} has no "
            "demonstrations to warm up on; set it to 0"
            + (", or give task.options.demonstration" if config.task.name == "jsonl" else "")
        )
    if task:
        attempt(tasks.check_too_long, task, config.data.too_long)
    if task and not task.train:
        lines.append(
            f"task.name={config.task.name}: has no rows to train on; evaluate on it with eval.sets="
            f"{config.task.name}=PATH"
        )
        task = None
    further = attempt(evaluation.further_tasks, config.eval.sets, config.seed) or {}
    for one in further.values():
        attempt(tasks.check_too_long, one, config.data.too_long)
    named = {f"task.name={config.task.name}": task} | {
        f"eval.sets={k}": x for k, x in further.items()
    }
    scratch = "" if config.policy.init else ", or policy.vision.num_layers for a tower from scratch"
    lines += [
        f"{name}: has pictures, and the policy sees none; give a vision policy in policy.init"
        f"{scratch}"
        for name, one in named.items()
        if one and one.images and architecture and not architecture.vision
    ]
    if architecture and architecture.vision:
        for name, one in named.items():
            if one and (place := _unread_place(one)):
                fix = (
                    "name their field in task.options.images, or set task.options.placeholder='' "
                    "if that is text"
                )
                if one is not task:
                    fix = "eval.sets reads none, so put the file beside data.path's train.jsonl"
                lines.append(
                    f"{name}: prompts have places for pictures, {place}, and no pictures; {fix}"
                )

    reward = task.reward if task else None
    if config.task.reward:
        reward = attempt(sources.load_reward, config.task)
    reward_range = attempt(rewards.reward_range, reward) if reward else None
    parts = None
    if task and reward_range:  # once now, not after the first sampling
        judged = attempt(rewards.judge, reward, [""], [task.train[0]])
        parts = list(judged.parts) if judged else None
        if judged and math.isnan(judged.rewards[0]) and rewards.failures():
            lines.append(
                f"task.reward={config.task.reward}: gave no answer to an empty response within "
                f"task.reward_timeout={config.task.reward_timeout:g} seconds and "
                f"task.reward_memory={config.task.reward_memory:g} GiB; mend it, or raise them"
            )
    penalty = config.algorithm.overlong_penalty
    if penalty > 0 and parts is not None:
        if "overlong" in parts:
            lines.append(
                f"algorithm.overlong_penalty={penalty}: becomes the part overlong of the reward, "
                "which has one of that name; rename that, or set the penalty to 0"
            )
        parts.append("overlong")
    advantage: Any = config.algorithm.advantage
    if ".py:" in advantage:
        advantage = attempt(loading.load_function, advantage, "algorithm.advantage")
    if advantage:
        options = dict(config.algorithm.advantage_options)
        lines += advantages.check(
            advantage,
            options,
            reward_range or (0.0, 1.0),
            penalty=penalty,
            group=config.batch.group,
            parts=parts,
        )

    for package in ("wandb", "trackio"):
        project = getattr(config.log, package)
        if project and importlib.util.find_spec(package) is None:
            lines.append(
                f"log.{package}={project}: the package {package} is not installed; pip install "
                f"{package}, or leave log.{package} empty"
            )
    return lines


def _unread_place(task: tasks.Task) -> str:
    """Returns a place for a picture in the prompts of a task that reads none; "" if it has none."""
    if task.images or not task.placeholder:
        return ""
    sets = [task.train, *task.evals.values()]
    prompts = (task.prompt(rows[i]) for rows in sets for i in tasks.spread(len(rows)))
    found = (re.search(task.placeholder, prompt) for prompt in prompts)
    return next((place[0] for place in found if place), "")
