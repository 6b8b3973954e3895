"""Prepares a run before its first step.

`prepare` reads files and builds programs: the fixed parts. `begin` makes the state, fresh or from
the newest checkpoint.
"""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mapo_jax import errors, model, rewards, sharding, tasks, training
from mapo_jax.config import Config
from mapo_jax.rollouts import padded_length
from mapo_jax.run import contents, evaluation, pictures, processes, sources
from mapo_jax.run.checkpoints import Checkpoints
from mapo_jax.run.programs import Programs
from mapo_jax.text import Tokenizer

# The purpose of a PRNG key, folded into the key of the step. Initialisation uses step 0, and so
# does evaluation, whose purpose is 3.
INIT, SAMPLING, ADVANTAGES = range(3)


class Demonstration(NamedTuple):
    """A response that the warm-up learns from, with its prompt."""

    prompt: tasks.Prompt
    response: list[int]


@dataclasses.dataclass(frozen=True)
class Setup:
    """The fixed parts of a run."""

    config: Config
    began: datetime.datetime  # the time of the run's first start
    task: tasks.Task
    reward: rewards.RewardFunction
    source: sources.Source
    prompts: Sequence[tasks.Prompt]
    album: pictures.Album  # of `prompts`
    demonstrations: Sequence[Demonstration]  # of the warm-up; empty where there is none
    demonstrated: pictures.Album  # of `demonstrations`
    eval_sets: Mapping[str, evaluation.EvalSet]
    mesh: Mesh
    programs: Programs
    kept: np.ndarray | None = None  # the prompts that RL draws from, see solving.py; None: all

    def draw(self, start: int, count: int) -> np.ndarray:
        """Returns the prompts at the positions start ... start + count - 1 of RL's data."""
        if self.kept is None:
            return tasks.indices(len(self.prompts), self.config.seed, start, count)
        return self.kept[tasks.indices(len(self.kept), self.config.seed, start, count)]

    @functools.cached_property
    def prompt_tokens(self) -> int:
        """S, to which training prompts are padded."""
        limit = self.config.data.max_prompt_tokens
        if isinstance(self.prompts, tasks.OnDemand):
            return limit  # nobody knows how long they are
        return padded_length(max(len(prompt.tokens) for prompt in self.prompts), limit)

    def patches(self, chosen: Iterable[int]) -> int:
        """Returns N, to which a batch of training prompts is padded; 0 if it has no pictures.

        Batches from which dynamic sampling chooses are padded to the same.
        """
        return self._most_patches if self.config.dynamic.max_tries else self.album.rung(chosen)

    @functools.cached_property
    def _most_patches(self) -> int:
        return self.album.rung()

    @property
    def architecture(self) -> model.ModelConfig:
        return self.source.architecture

    @property
    def tokenizer(self) -> Tokenizer:
        return self.source.tokenizer

    def contents(self) -> dict[str, str]:
        """Digests of what the run reads; see `contents.of`."""
        frozen = self.source.folder if self.config.lora.rank else None
        if isinstance(self.prompts, tasks.OnDemand):
            rows = tasks.digest(self.task.train)
        else:
            rows = [(prompt.tokens, self.task.train[prompt.example]) for prompt in self.prompts]
        rows = [rows, seen] if (seen := self.album.digests()) else rows
        sets = {
            name: [one.prompts, one.examples, *filter(None, [one.album.digests()])]
            for name, one in self.eval_sets.items()
            if not one.blank_of
        }
        files = sources.tokenizer_files(self.tokenizer)
        return contents.of(self.config, self.architecture, files, rows, sets, frozen)

    def key(self, step: int, purpose: int) -> jax.Array:
        """The PRNG key of a step for one purpose."""
        key = jax.random.fold_in(jax.random.key(self.config.seed), step)
        return jax.random.fold_in(key, purpose)


@dataclasses.dataclass
class Progress:
    """How far a run is, and the policy that it has learnt."""

    phase: str  # "warmup" or "rl"
    state: training.TrainState
    frozen: model.Params  # the untrained parameters (`model.partition`); {} without LoRA
    done: int = 0  # steps of the phase
    drawn: int = 0  # prompts, in RL: the position in the data
    first: list[int] = dataclasses.field(default_factory=list)  # draws on record of step 1
    is_open: bool = True  # the evaluation after step `done` of RL has still to be made
    reference: model.Params | None = None  # what algorithm.beta pulls to
    restored: tuple[str, int] | None = None  # (phase, step) of the checkpoint it goes on from


def prepare(
    config: Config,
    say: Callable[[str], None],
    began: datetime.datetime,
    on_demand: bool | None = None,
) -> Setup:
    """Reads the files that a configuration names and builds the programs; compiles nothing.

    Args:
        config: valid, see `checks.validate`.
        say: is told which rows and prompts are left out.
        began: the time of the run's first start, which chat templates can print.
        on_demand: whether prompts are encoded when they are drawn; None if the data decide.

    Raises:
        UserError: a file cannot be had.
    """
    c = config
    with processes.together():  # each reads its own files
        task, reward = sources.make_task(c)
        source = sources.find(c, began)
        for note in task.notes:
            say(note)
        reader = pictures.reader(c.images, source.architecture.vision)
        mistakes: list[str] = []
        limits = c.data.max_prompt_tokens, c.data.too_long
        prompts: Sequence[tasks.Prompt]
        if tasks.is_large(task) if on_demand is None else on_demand:
            prompts = tasks.prompts_on_demand(task, source.tokenizer, *limits, say)
        else:
            encode = functools.partial(tasks.encode_prompts, task, source.tokenizer)
            look = reader.look(task, task.train) if reader else None
            found = errors.attempt(mistakes, encode, task.train, "train", *limits, say, look=look)
            prompts = found or []
            if mistakes and not task.images:  # else all broken pictures are listed together
                raise errors.UserError(*mistakes)
        prepare_sets = functools.partial(evaluation.prepare, c, task, source.tokenizer)
        eval_sets = errors.attempt(mistakes, prepare_sets, reader, say)
        if mistakes:
            raise errors.UserError(*mistakes)
        album = pictures.Album(reader, task, task.train, prompts)
        pairs = _demonstrations(c, task, source.tokenizer, prompts, say)
        shown = [pair.prompt for pair in pairs] if task.images else []
        demonstrated = pictures.Album(reader, task, task.train, shown)
    mesh = sharding.make_mesh(**dataclasses.asdict(c.mesh))
    eos_ids = source.tokenizer.eos_ids
    programs = Programs(c, source.architecture, eos_ids, mesh, len(task.train))
    return Setup(
        config=c,
        began=began,
        task=task,
        reward=reward,
        source=source,
        prompts=prompts,
        album=album,
        demonstrations=pairs,
        demonstrated=demonstrated,
        eval_sets=eval_sets,
        mesh=mesh,
        programs=programs,
    )


def _demonstrations(
    config: Config,
    task: tasks.Task,
    tokenizer: Tokenizer,
    prompts: Sequence[tasks.Prompt],
    say: Callable[[str], None],
) -> Sequence[Demonstration]:
    if not config.warmup.steps:
        return []
    limit = config.rollout.max_new_tokens
    if isinstance(prompts, tasks.OnDemand):
        return _demonstrations_on_demand(config, task, tokenizer, prompts, say)
    kept, dropped = tasks.encode_demonstrations(task, tokenizer, task.train, limit)
    if dropped:
        say(
            f"warm-up: {dropped} of {dropped + len(kept)} demonstrations are longer than "
            f"rollout.max_new_tokens={limit} and are left out"
        )
    by_example = {prompt.example: prompt for prompt in prompts}
    found = [Demonstration(by_example[i], ids) for i, ids in kept if i in by_example]
    if not found:
        raise _none_fits(config)
    return found


def _demonstrations_on_demand(
    config: Config,
    task: tasks.Task,
    tokenizer: Tokenizer,
    prompts: tasks.OnDemand[tasks.Prompt],
    say: Callable[[str], None],
) -> tasks.OnDemand[Demonstration]:
    limit = config.rollout.max_new_tokens

    def encode(i: int) -> Demonstration | None:
        if (prompt := prompts.encode(i)) is None:
            return None
        response = tasks.encode_demonstration(task, tokenizer, task.train[i])
        return Demonstration(prompt, response) if len(response) <= limit else None

    seen = [encode(i) for i in tasks.spread(len(task.train))]
    number = seen.count(None)
    if number == len(seen):
        raise _none_fits(config)
    if number:
        say(
            f"warm-up: {number} of {len(seen)} examples have a prompt or a demonstration that is "
            f"too long (rollout.max_new_tokens={limit}); such examples give way to others"
        )
    return tasks.OnDemand(len(task.train), encode)


def _none_fits(config: Config) -> errors.UserError:
    return errors.UserError(
        f"warmup.steps={config.warmup.steps}: no example has both a prompt within "
        f"data.max_prompt_tokens={config.data.max_prompt_tokens} and a demonstration "
        f"within rollout.max_new_tokens={config.rollout.max_new_tokens}; raise one of them"
    )


def begin(setup: Setup, saved: Checkpoints, say: Callable[[str], None]) -> Progress:
    """Starts a run, or goes on from its newest checkpoint.

    Args:
        setup: the fixed parts.
        saved: the checkpoints of the work directory.
        say: is told where the run goes on, and which checkpoints are damaged.

    Raises:
        UserError: the policy or a checkpoint cannot be read, or does not fit.
    """
    c, programs = setup.config, setup.programs
    key, phase = setup.key(0, INIT), "warmup" if c.warmup.steps else "rl"
    frozen: model.Params = {}
    if c.lora.rank:
        root = jax.random.key(c.seed)
        frozen = sources.start(setup.source, root, setup.mesh, c.compute.dtype)
    found = saved.restore(lambda index: programs.abstract_state(phase_of(c, index)), say)
    if found is None:
        if c.lora.rank:
            params = programs.init_trained(key)
        else:
            params = sources.start(setup.source, key, setup.mesh, "float32")
        return Progress(phase, programs.fresh_state(phase, params), frozen)
    index, state, position = found
    progress = Progress(phase_of(c, index), state, frozen, position["step"])
    progress.restored = (progress.phase, progress.done)
    if progress.phase == "rl":
        progress.drawn, progress.first = position["drawn"], position["first"]
        progress.is_open = position["is_open"]
        if c.algorithm.beta:
            abstract = programs.abstract_state("rl").params
            progress.reference = programs.reference(saved.restore_reference(abstract))
    left = "" if progress.restored != ("rl", c.steps) else "; nothing is left to do: raise steps"
    say(f"continued after step {progress.done} of {progress.phase}{left}")
    return progress


def index_of(config: Config, phase: str, step: int) -> int:
    """The index of a checkpoint: steps of both phases."""
    return step + (config.warmup.steps if phase == "rl" else 0)


def phase_of(config: Config, index: int) -> str:
    """The phase whose state a checkpoint holds."""
    return "rl" if index >= config.warmup.steps else "warmup"


def start_table(
    setup: Setup, progress: Progress, overrides: Sequence[str]
) -> list[tuple[str, Any, str]]:
    """The rows (name, value, meaning) that a run shows at its start."""
    c, made = setup.config, setup.programs
    p, g = sharding.microbatch(setup.mesh, c.batch.minibatch_prompts, c.batch.microbatch)
    minibatches = c.batch.prompts // c.batch.minibatch_prompts
    count, frozen = (
        sum(x.size for x in jax.tree.leaves(tree))
        for tree in (progress.state.params, progress.frozen)
    )
    vocabulary = f"{setup.architecture.vocab_size} pieces of vocabulary"
    shape = " x ".join(f"{name} {n}" for name, n in setup.mesh.shape.items())
    rows = [
        ("parameters", f"{count + frozen:,}", vocabulary),
        *([("trained", f"{count:,}", f"adapters of rank {c.lora.rank}")] if frozen else []),
        ("mesh", shape, jax.devices()[0].device_kind),
        ("attention", made.attention, made.attention_note or "in training"),
        ("", made.sampling.attention, made.decoding_note or "in decoding"),
        ("examples", f"{len(setup.prompts):,}", f"of {c.task.name}"),
        ("prompts", c.batch.prompts, "per rollout batch"),
        ("rollouts", c.batch.prompts * c.batch.group, f"{c.batch.group} per prompt"),
        ("minibatches", minibatches, f"of {c.batch.minibatch_prompts} prompts"),
        (
            "microbatches",
            c.batch.minibatch_prompts * c.batch.group // (p * g),
            f"per minibatch, {p} prompts x {g} rollouts",
        ),
        ("updates", minibatches * c.batch.epochs, f"per step, {c.batch.epochs} epoch(s)"),
        ("steps", f"{c.warmup.steps} + {c.steps}", "warm-up + RL"),
    ]
    if setup.tokenizer.has_template and setup.tokenizer.template is None:
        hint = "prompts are plain text; the tokenizer has one: tokenizer.template=chat"
        rows.append(("chat template", "unused", hint))
    return rows + [("changed", change, "") for change in overrides]
