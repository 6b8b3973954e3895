"""Finds a run's task and policy: architecture, tokenizer, parameters.

Used before the first batch of a run, and after the last to evaluate, sample or export. A policy
starts from random parameters, from another run or from a pretrained folder; the latter two bring
their architecture and tokenizer along. A work directory describes its own policy in `policy/`.
"""

import dataclasses
import datetime
import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from etils import epath
from jax.sharding import Mesh

from mapo_jax import errors, model, pretrained, rewards, sharding, tasks
from mapo_jax.config import Config, LoraConfig, PolicyConfig, TaskConfig, show
from mapo_jax.run import checkpoints, contents, workdirs
from mapo_jax.tasks import Task
from mapo_jax.text import Tokenizer, load_tokenizer

_ARCHITECTURE = "model.json"


class Source(NamedTuple):
    """The start of a policy: another run, a pretrained folder or random parameters."""

    architecture: model.ModelConfig  # with the adapters that the configuration asks for
    tokenizer: Tokenizer
    run: epath.Path | None  # the work directory whose parameters are taken
    folder: Path | None  # the folder of pretrained parameters; both None: random ones
    checkpoint: str = "newest"  # of the run


class Policy(NamedTuple):
    """A policy to sample from."""

    architecture: model.ModelConfig
    params: model.Params  # in the dtype to compute in, laid out for sampling
    tokenizer: Tokenizer
    mesh: Mesh
    name: str  # "step 60 of runs/arithmetic", or the folder
    step: int | None = None  # of RL, of a run's checkpoint; None: of the warm-up, or no run's


def make_task(config: Config) -> tuple[Task, rewards.RewardFunction]:
    """Makes the task and finds the reward: the user's `task.reward`, or the task's own."""
    c = config
    task = tasks.make(c.task.name, dict(c.task.options), c.data.path, c.seed)
    return task, load_reward(c.task) if c.task.reward else task.reward


def load_reward(task: TaskConfig) -> rewards.Remote:
    """Loads the user's reward, `task.reward`, into worker processes."""
    return rewards.load(task.reward, task.reward_timeout, task.reward_memory, task.reward_workers)


def find(config: Config, now: datetime.datetime | None = None) -> Source:
    """Reads the architecture and the tokenizer that the configuration names, no parameters.

    Args:
        config: of the run.
        now: the time that a chat template can print, see `workdirs.began`.

    Raises:
        UserError: policy.init or tokenizer.path cannot be used, or do not go together.
    """
    init, revision = config.policy.init, config.policy.revision
    run = folder = None
    if revision and (not init or epath.Path(init).exists()):
        raise errors.UserError(
            f"policy.revision={revision}: is for a hub id, and policy.init={show(init)} is none; "
            "leave it empty"
        )
    if not init:
        tokenizer = _tokenizer(config, "", now)
        architecture = from_scratch(config.policy, tokenizer.vocab_size)
    elif (epath.Path(init) / "checkpoints").is_dir():
        run = epath.Path(init)
        template = config.tokenizer.template
        architecture, tokenizer = describe(run, f"policy.init={init}", template, now)
        tokenizer = _tokenizer(config, "", now) if config.tokenizer.path else tokenizer
        if architecture.lora_rank or config.lora.rank:
            what = "trained adapters" if architecture.lora_rank else "may go on"
            raise errors.UserError(
                f"policy.init={init}: that run {what}, and adapters need weights that stay; write "
                f"them with launch/export.py --workdir {init} --output DIR, then policy.init=DIR"
            )
    else:
        folder = pretrained.folder(init, revision=revision)
        architecture = pretrained.read_config(folder)
        tokenizer = _tokenizer(config, str(folder), now)
    which = config.policy.checkpoint
    if run is None and which != "newest":
        raise errors.UserError(
            f"policy.checkpoint={which}: policy.init={show(init)} is no work directory of a run; "
            "give one, or leave policy.checkpoint=newest"
        )
    _check_vocabulary(
        tokenizer, architecture, f"tokenizer.path={config.tokenizer.path or folder or run}"
    )
    tokenizer.picture_ids = architecture.picture_ids
    return Source(adapted(architecture, config.lora), tokenizer, run, folder, which)


def from_scratch(policy: PolicyConfig, vocab_size: int) -> model.ModelConfig:
    """Returns the architecture of a configuration, for a tokenizer of `vocab_size` tokens.

    A tower is of Qwen2.5-VL's kind. With one, the policy has an image token more than the
    tokenizer.
    """
    numbers: dict[str, Any] = dataclasses.asdict(policy)
    del numbers["init"], numbers["revision"], numbers["checkpoint"]
    tower = numbers.pop("vision")
    if not tower["num_layers"]:
        return model.ModelConfig(vocab_size=vocab_size, **numbers)
    last = (tower["num_layers"] - 1,) if tower["window"] else ()
    vision = model.VisionConfig(
        norm="rms", is_gated=True, activation="silu", full_layers=last, **tower
    )
    pairs = numbers["head_dim"] // 2
    side = 3 * pairs // 8  # the shares of Qwen2-VL: 16, 24, 24 of 64 pairs
    return model.ModelConfig(
        vocab_size=vocab_size + 1,
        image_token=vocab_size,
        vision=vision,
        rope_sections=(pairs - 2 * side, side, side),
        **numbers,
    )


def _tokenizer(config: Config, folder: str, now: datetime.datetime | None = None) -> Tokenizer:
    path = config.tokenizer.path or folder
    if not path:
        raise errors.UserError(
            "tokenizer.path='': missing; give a SentencePiece model, a tokenizer.json or a folder "
            "with one, which decides the vocabulary, as in --config.tokenizer.path=tokenizer.model"
        )
    return load_tokenizer(path, config.tokenizer.template, now)


def _check_vocabulary(tokenizer, architecture, where):
    # Fewer are fine: many models have rows to spare.
    if tokenizer.vocab_size > architecture.vocab_size:
        raise errors.UserError(
            f"{where}: the tokenizer has {tokenizer.vocab_size} tokens, but the policy knows "
            f"{architecture.vocab_size}; set tokenizer.path to the one that it was trained with"
        )


def adapted(architecture: model.ModelConfig, lora: LoraConfig) -> model.ModelConfig:
    if not lora.rank:
        return architecture
    return dataclasses.replace(
        architecture,
        lora_rank=lora.rank,
        lora_alpha=lora.alpha,
        lora_targets=tuple(lora.targets.split(",")),
    )


def start(source: Source, key: jax.Array, mesh: Mesh, dtype: str) -> model.Params:
    """Returns the parameters a run starts from, without adapters and sharded for training.

    Args:
        source: of `find`.
        key: for random parameters.
        mesh: the devices.
        dtype: of pretrained parameters: float32 if they are trained.

    Raises:
        UserError: a file or a checkpoint cannot be read, or is of another architecture.
    """
    plain = model.without_adapters(source.architecture)
    if source.folder is not None:
        return pretrained.load_params(source.folder, plain, dtype, mesh)
    shardings = sharding.shardings(mesh, model.logical_axes(plain))
    if source.run is not None:
        where = f"policy.init={source.run}"
        return _restore(source.run, plain, shardings, where, source.checkpoint)[0]
    init = functools.partial(model.init_params, config=plain)
    return jax.jit(init, out_shardings=shardings)(key)


def _restore(run, architecture, shardings, where, checkpoint):
    """The trained parameters of a checkpoint, and its index."""
    shapes = model.abstract_params(architecture)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        model.partition(shapes)[0],
        model.partition(shardings)[0],
    )
    return checkpoints.restore_params(run, abstract, where, checkpoint)


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Returns the contents of the files that a tokenizer saves, its template too, by name."""
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save(scratch)
        return {path.name: path.read_bytes() for path in Path(scratch).iterdir()}


def save_description(
    workdir: epath.Path, architecture: model.ModelConfig, tokenizer: Tokenizer
) -> None:
    """Writes `policy/`: the architecture and the tokenizer's files."""
    files = tokenizer_files(tokenizer)
    files[_ARCHITECTURE] = json.dumps(dataclasses.asdict(architecture), indent=2).encode()
    (workdir / "policy").mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        workdirs.write(workdir / "policy" / name, content)


def describe(
    workdir: epath.Path, where: str, template: str, now: datetime.datetime | None = None
) -> tuple[model.ModelConfig, Tokenizer]:
    """Reads `policy/` of a work directory.

    Args:
        workdir: of the run.
        where: the beginning of a mistake's line.
        template: as the configuration's tokenizer.template.
        now: the time that the template can print; None for that of the run, `workdirs.began`.
    """
    try:
        numbers = json.loads((workdir / "policy" / _ARCHITECTURE).read_text())
        architecture = _architecture(numbers)
        with tempfile.TemporaryDirectory() as scratch:
            for path in (workdir / "policy").iterdir():
                (Path(scratch) / path.name).write_bytes(path.read_bytes())
            now, key = now or workdirs.began(workdir), f"{where}: {workdir}/policy"
            tokenizer = load_tokenizer(scratch, template, now, key)
            tokenizer.picture_ids = architecture.picture_ids
            return architecture, tokenizer
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        )
        raise errors.UserError(
            f"{where}: does not describe its policy (policy/{_ARCHITECTURE}: {reason}); give the "
            "work directory of a run that has begun"
        ) from None


def _architecture(numbers: Mapping[str, Any]) -> model.ModelConfig:
    fields: dict[str, Any] = {
        name: tuple(x) if isinstance(x, list) else x for name, x in numbers.items()
    }
    if fields["rope_scaling"]:
        fields["rope_scaling"] = model.RopeScaling(**fields["rope_scaling"])
    if fields.get("vision"):  # older runs do not have the field
        vision: dict[str, Any] = {
            name: tuple(x) if isinstance(x, list) else x for name, x in fields["vision"].items()
        }
        fields["vision"] = model.VisionConfig(**vision)
    return model.ModelConfig(**fields)


def read_run(
    workdir: epath.Path,
    mesh: Mesh,
    dtype: str,
    template: str,
    where: str,
    checkpoint: str = "newest",
) -> Policy:
    """Reads the policy of a checkpoint of a run, sharded for training.

    Args:
        workdir: of the run.
        mesh: the devices.
        dtype: of the parameters.
        template: as the configuration's tokenizer.template.
        where: begins the line of a mistake, as in --workdir=DIR.
        checkpoint: newest, best or a number of checkpoints/.

    Raises:
        UserError: there is no such checkpoint, or the base of its adapters is gone.
    """
    architecture, tokenizer = describe(workdir, where, template)
    shardings = sharding.shardings(mesh, model.logical_axes(architecture))
    trained, index = _restore(workdir, architecture, shardings, where, checkpoint)
    params, frozen = model.cast(trained, dtype), None
    try:
        saved = json.loads((workdir / "config.json").read_text())
        start, warmup = {"revision": ""} | saved["policy"], saved["warmup"]["steps"]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise errors.UserError(
            f"{where}: its config.json is not that of a run ({type(error).__name__}); put it back, "
            "or delete it and start the run's command again, which writes it"
        ) from None
    if architecture.lora_rank:
        folder = pretrained.folder(start["init"], revision=start["revision"])
        contents.check_base(workdir, folder, where)
        frozen = pretrained.load_params(folder, model.without_adapters(architecture), dtype, mesh)
    step = index - warmup if index >= warmup else None
    name = f"step {index} of the warm-up" if step is None else f"step {step}"
    params = model.combine(params, frozen)
    return Policy(architecture, params, tokenizer, mesh, f"{name} of {workdir}", step)


def open(
    config: Config,
    workdir: epath.Path | None,
    params: str = "",
    mesh: Mesh | None = None,
    checkpoint: str = "newest",
) -> Policy:
    """Reads the policy of a checkpoint of a run, or a pretrained one, laid out for sampling.

    Args:
        config: its mesh, compute, and tokenizer count.
        workdir: of the run; chat templates print its date for a policy that is no run's.
        params: another work directory, a Hugging Face folder or a hub id, in place of workdir.
        mesh: the devices; default: those of the configuration.
        checkpoint: of the run: newest, best or a number of checkpoints/.

    Raises:
        UserError: there is no such policy, or it cannot be read.
    """
    c, mesh = config, mesh or sharding.make_mesh(**dataclasses.asdict(config.mesh))
    jax.config.update("jax_default_matmul_precision", c.compute.matmul_precision)
    run = epath.Path(params) if params else workdir
    where = f"--params={params}" if params else f"--workdir={workdir}"
    if run is not None and (run / "checkpoints").is_dir():
        found = read_run(run, mesh, c.compute.dtype, c.tokenizer.template, where, checkpoint)
    elif params:
        if checkpoint != "newest":
            raise errors.UserError(
                f"--checkpoint={checkpoint}: {where} is no work directory of a run; leave it out"
            )
        folder = pretrained.folder(params, where)
        architecture = pretrained.read_config(folder, where)
        now = workdirs.began(workdir) if workdir is not None else None
        tokenizer = _tokenizer(c, str(folder), now)
        _check_vocabulary(tokenizer, architecture, where)
        tokenizer.picture_ids = architecture.picture_ids
        loaded = pretrained.load_params(folder, architecture, c.compute.dtype, mesh, where)
        found = Policy(architecture, loaded, tokenizer, mesh, params)
    else:
        raise errors.UserError(
            f"{where}: holds no checkpoint; give the work directory of a run, or --params with a "
            "Hugging Face folder or hub id"
        )
    axes = model.logical_axes(found.architecture)
    shardings = sharding.shardings(mesh, axes, sharding.GATHERED)
    return found._replace(params=jax.device_put(found.params, shardings))
