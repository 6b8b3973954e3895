"""The loop, and nothing but the loop: where host and device meet.

The life of a batch:
  task -> prompts [P, S] -> sample -> Rollouts [P, G, T] -> rewards (host) [P, G]
       -> advantages [P, G] -> Batch -> minibatches -> train_step -> metrics

A step is a pure function of (state, step): examples follow from the position in the data, draws
from `fold_in(fold_in(run_key, step), PURPOSE)`. So a run that is killed and started again repeats
itself.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mapo_jax import errors, model, sharding, tasks, training
from mapo_jax.config import Config, show, to_dict
from mapo_jax.rollouts import Batch, Experience, demonstrations, pad_prompts
from mapo_jax.run import (
    checkpoints,
    collect,
    evaluation,
    processes,
    programs,
    records,
    sources,
    workdirs,
)
from mapo_jax.run.console import Console

# What a key is for, folded into the key of the step. Initialisation uses step 0, and so does
# evaluation, whose purpose is 3.
_INIT, _SAMPLING, _ADVANTAGES = range(3)
_KEPT = 20  # batches, at most, that something was wrong with, of each phase


def train(config: Config, workdir: str | epath.PathLike, overrides: Sequence[str] = ()) -> None:
    """Runs warm-up and RL to their ends, or goes on from the newest checkpoint in `workdir`.

    With several processes, all of them call this; the first one writes the records.

    Args:
      config: valid, see `validation.validate`.
      workdir: made if it does not exist; records and checkpoints go there. The same for
        all processes.
      overrides: what the command line changed, shown at the start.

    Raises:
      UserError: the work directory belongs to another configuration, or data cannot be had; a
        reward function raises. What was learnt before is saved.
      RunStopped: too many updates in a row were skipped, or dynamic sampling found no batch.
      Preempted: after a SIGTERM, with a checkpoint of the step that it came in.
    """
    path, writes = epath.Path(workdir), jax.process_index() == 0
    with processes.together():
        workdirs.check(path, to_dict(config), writes)
    jax.config.update("jax_default_matmul_precision", config.compute.matmul_precision)
    mode = config.log.console if writes else "quiet"
    with processes.Termination() as termination, Console(mode) as console:
        run = _Run(config, path, console, overrides, termination)
        console.table(f"{path}", run.sizes(overrides))
        try:
            run.go()
        finally:
            run.records.close()
            run.saved.close()


class _Run:
    """A run's fixed parts, and its state."""

    def __init__(
        self,
        config: Config,
        workdir: epath.Path,
        console: Console,
        overrides: Sequence[str] = (),
        termination: processes.Termination | None = None,
    ):
        c = self.config = config
        self.console, self.termination = console, termination
        self.workdir = workdir
        with processes.together():  # each reads its own files
            self._read()
        if jax.process_count() > 1:
            processes.check_same(
                str(self.prompts),
                f"reads other rows of {c.task.name} than process 0; give all machines the same "
                f"data.path={show(c.data.path)} and tokenizer",
            )
        self.mesh = sharding.make_mesh(**dataclasses.asdict(c.mesh))
        self.key = jax.random.key(c.seed)
        self.programs = programs.Programs(c, self.model, self.tokenizer.eos_ids, self.mesh)
        self.collector = collect.Collector(
            c,
            self.programs,
            self.model,
            self.mesh,
            self.task,
            self.prompts,
            self.tokenizer,
            self.reward,
        )
        self.saved = checkpoints.Checkpoints(workdir / "checkpoints", c.checkpoint.keep)
        self.reference: model.Params | None = None
        self._start_or_continue()
        self.records: records.Records | records.NoRecords = records.NoRecords()
        self.profile = None
        if jax.process_index() == 0:
            # No sooner: until here a mistake can be mended.
            sources.save_description(workdir, self.model, self.tokenizer)
            workdirs.write_json(workdir / "config.json", to_dict(c))
            run_id = workdirs.add_start(workdir, overrides, self.restored)
            mirror = workdirs.Mirror(workdir, records.RECORDS)
            if c.profile.steps:
                self.profile = mirror.local / "profile"
            wandb_run = _wandb_run(c, workdir.name, run_id, mirror.local) if c.log.wandb else None
            self.records = records.Records(
                mirror, self.restored, c.log.tensorboard, wandb_run, is_open=self.is_open
            )

    def _read(self) -> None:
        """The task, the policy's description, prompts, and what the warm-up learns from."""
        c = self.config
        self.task, self.reward = sources.make_task(c)
        self.source = sources.find(c)
        self.model, self.tokenizer = self.source.model, self.source.tokenizer
        for note in self.task.notes:
            self.console.print(note)
        self.prompts = tasks.encode_prompts(
            self.task,
            self.tokenizer,
            self.task.train,
            "train",
            c.data.max_prompt_tokens,
            c.data.too_long,
            self.console.print,
        )
        self.eval_sets = evaluation.prepare(c, self.task, self.tokenizer, self.console.print)
        if c.warmup.steps:
            self.demonstrations = self._encode_demonstrations()

    def _encode_demonstrations(self) -> list[tuple[int, list[int], list[int]]]:
        """(example, prompt, response) of what the warm-up learns from."""
        limit = self.config.rollout.max_new_tokens
        kept, dropped = tasks.encode_demonstrations(
            self.task, self.tokenizer, self.task.train, limit
        )
        if dropped:
            self.console.print(
                f"warm-up: {dropped} of {dropped + len(kept)} demonstrations are longer than "
                f"rollout.max_new_tokens={limit} and are left out"
            )
        prompts = dict(self.prompts)
        pairs = [(i, prompts[i], ids) for i, ids in kept if i in prompts]
        if not pairs:
            raise errors.UserError(
                f"warmup.steps={self.config.warmup.steps}: no example has both a prompt within "
                f"data.max_prompt_tokens={self.config.data.max_prompt_tokens} and a demonstration "
                f"within rollout.max_new_tokens={limit}; raise one of them"
            )
        return pairs

    def _start_or_continue(self) -> None:
        c = self.config
        self.phase, self.done = ("warmup" if c.warmup.steps else "rl"), 0
        self.drawn = 0  # prompts, in RL: the position in the data
        self.skipped = 0  # updates of this phase, so far
        self.is_open = True  # the evaluation after step `done` of RL has still to be made
        self.first: list[int] = []  # draws of the groups of step 1 that are on record
        self.restored: tuple[str, int] | None = None
        self.frozen: model.Params = {}  # what adapters are beside
        if c.lora.rank:
            self.frozen = sources.start(self.source, self.key, self.mesh, c.compute.dtype)
        self.served = self.programs.serve_frozen(self.frozen)
        found = self.saved.restore(
            lambda index: self.programs.abstract_state(self._phase_of(index)), self.console.print
        )
        if found is not None:
            index, self.state, position = found
            self.phase, self.done = self._phase_of(index), position["step"]
            if self.phase == "rl":
                self.drawn, self.first = position["drawn"], position["first"]
                self.is_open = position["is_open"]
            self.restored, self.skipped = (self.phase, self.done), int(self.state.skipped)
            if self.phase == "rl" and c.algorithm.beta:
                abstract = self.programs.abstract_state("rl").params
                self.reference = self.saved.restore_reference(abstract)
            left = (
                "" if self.restored != ("rl", c.steps) else "; nothing is left to do: raise steps"
            )
            self.console.print(f"continued after step {self.done} of {self.phase}{left}")
            return
        key = self._key(0, _INIT)
        if c.lora.rank:
            params = self.programs.init_trained(key)
        else:
            params = sources.start(self.source, key, self.mesh, "float32")
        self.state = self.programs.fresh_state(self.phase, params)

    def _phase_of(self, index: int) -> str:
        return "rl" if index >= self.config.warmup.steps else "warmup"

    def _whole(self, params: model.Params) -> model.Params:
        return model.combine(params, self.frozen)

    def _serving(self) -> model.Params:
        """The policy as the sampler wants it."""
        return model.combine(self.programs.serve(self.state.params), self.served)

    def _key(self, step: int, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(self.key, step), purpose)

    def sizes(self, overrides: Sequence[str]) -> list[tuple[str, Any, str]]:
        """The rows of the start table: what follows from the configuration."""
        c = self.config
        p, g = sharding.microbatch(self.mesh, c.batch.minibatch_prompts, c.batch.microbatch)
        minibatches = c.batch.prompts // c.batch.minibatch_prompts
        count, frozen = (
            sum(x.size for x in jax.tree.leaves(tree)) for tree in (self.state.params, self.frozen)
        )
        vocabulary = f"{self.model.vocab_size} pieces of vocabulary"
        shape = " x ".join(f"{name} {n}" for name, n in self.mesh.shape.items())
        rows = [
            ("parameters", f"{count + frozen:,}", vocabulary),
            *([("trained", f"{count:,}", f"adapters of rank {c.lora.rank}")] if frozen else []),
            ("mesh", shape, jax.devices()[0].device_kind),
            ("attention", self.programs.attention, "in training"),
            ("examples", f"{len(self.prompts):,}", f"of {c.task.name}"),
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
        return rows + [("changed", change, "") for change in overrides]

    # The phases

    def go(self) -> None:
        if self.phase == "warmup":
            self._warm_up()
            self.state = self.programs.fresh_state("rl", self.state.params)
            self.phase, self.done, self.skipped = "rl", 0, 0
        self._reinforce()

    def _warm_up(self) -> None:
        """Cross-entropy on the task's demonstrations."""
        c, pairs = self.config, self.demonstrations
        self.console.phase("warmup", c.warmup.steps, self.done)
        for step in range(self.done + 1, c.warmup.steps + 1):
            start = time.perf_counter()
            positions = tasks.indices(
                len(pairs), c.seed, (step - 1) * c.warmup.batch, c.warmup.batch
            )
            own = sharding.own_rows(self.mesh, c.warmup.batch)
            batch = self._demonstration_batch([pairs[i] for i in positions[own]])
            self.state, reported = self.programs.warmup_step(
                self.state, batch, np.int32(0), self.frozen
            )
            values = _values([jax.device_get(reported)])
            values["time/step"] = time.perf_counter() - start
            self._record("train", "warmup", step, values)
            if step < c.warmup.steps:  # else RL's step 0 is saved
                self._guard(step, batch)
                if step % c.checkpoint.every == 0:
                    self._save(step, None)
                self._stop_if_asked(step)

    def _demonstration_batch(self, rows: list[tuple[int, list[int], list[int]]]) -> Batch:
        c = self.config
        examples, prompts, responses = zip(*rows, strict=True)
        padded = pad_prompts(prompts, c.data.max_prompt_tokens)
        example_P = np.asarray(examples, np.int32)
        made = demonstrations(padded, example_P, responses, c.rollout.max_new_tokens)
        rollouts = sharding.put(made, self.mesh)
        advantages_P1 = sharding.put(np.zeros(made.valid.shape, np.float32), self.mesh)
        return Batch(rollouts, advantages_P1, rollouts.logps, None)

    def _reinforce(self) -> None:
        """RL: one rollout batch a step."""
        c = self.config
        if c.algorithm.beta and self.reference is None:
            # A copy: the state is donated. Saved once, as it never changes.
            self.reference = jax.tree.map(jnp.copy, self.state.params)
            self.saved.save_reference(self.reference)
        self.console.phase("rl", c.steps, self.done)
        if self.is_open:
            self._close(self.done)
        for step in range(self.done + 1, c.steps + 1):
            try:
                with self._profiled(step):
                    values, batch = self._step(step)
            except (errors.RunStopped, errors.UserError):  # nothing of this step is in the state
                self._save_now(step - 1)
                raise
            self._record("train", "rl", step, values)
            self.is_open = True
            self._guard(step, batch, values["reward/invalid"])
            self._close(step)
        self.saved.wait()

    def _guard(self, step: int, batch: Batch, invalid: float = 0.0) -> None:
        """Keeps batches that something was wrong with; ends a run in which too many in a row are.

        `invalid`: the share of rollouts without a reward.
        """
        before, self.skipped = self.skipped, int(self.state.skipped)
        found = []
        if self.skipped > before:
            found.append(
                f"{self.skipped - before} updates were skipped, as they were not finite or had no "
                "reward"
            )
        if invalid:
            found.append(f"{invalid:.2%} of the rollouts have no finite reward and are left out")
        if not found:
            return
        line = f"step {step} of {self.phase}: {'; '.join(found)}"
        index = jax.process_index()
        name = f"skipped/{self.phase}-{step:06d}-{index}.npz"
        if len(list((self.workdir / "skipped").glob(f"{self.phase}-*-{index}.npz"))) < _KEPT:
            workdirs.write_arrays(self.workdir / name, sharding.own_tree(batch))
            line += f"; the batch is {name}"
        self.console.print(line)
        most, in_a_row = self.config.guard.max_skipped, int(self.state.in_a_row)
        if most and in_a_row >= most:
            self._save_now(step)
            raise errors.RunStopped(
                f"step {step} of {self.phase}: {in_a_row} updates in a row were not finite or had "
                f"no reward, guard.max_skipped={most}; the parameters before them are "
                f"checkpoint {self.saved.latest()}. Lower the learning rate or take "
                "compute.dtype=float32, and start from them in another --workdir with "
                f"policy.init={self.workdir}"
            )

    def _stop_if_asked(self, step: int) -> None:
        """After a SIGTERM to any of the processes: all of them save the same step and end."""
        if self.termination is not None and self.termination.is_requested():
            self._save_now(step)
            raise errors.Preempted(
                f"SIGTERM: step {step} of {self.phase} is saved; the same command continues"
            )

    def _save_now(self, step: int) -> None:
        """Saves a step, unless it is, and waits until it is there."""
        if self.saved.latest() != self._index(step):
            self._save(step, None)
        self.saved.wait()

    def _close(self, step: int) -> None:
        """What follows a step: evaluation and checkpoint, where they are due."""
        self._stop_if_asked(step)
        try:
            accuracy = self._evaluate(step)
        except errors.UserError:
            self._save_now(step)
            raise
        self.is_open = False
        c, is_saved = self.config, self.saved.latest() == self._index(step)
        if (step in (0, c.steps) or step % c.checkpoint.every == 0) and not is_saved:
            self._save(step, accuracy)

    def _evaluate(self, step: int) -> float | None:
        """Evaluates, where it is due; returns what the best checkpoint is best by."""
        c = self.config
        ends, accuracy = step in (0, c.steps), None
        if step == c.steps and step and c.log.rollouts_every:
            self._sample_again(step)
        if ends or step % c.eval.every == 0:
            values = evaluation.evaluate(
                self._serving(),
                self.model,
                self.tokenizer,
                self.reward,
                self.eval_sets,
                evaluation.key_of(c.seed),
                self.mesh,
                **evaluation.settings(c),
            )
            self._record("eval", "rl", step, values)
            accuracy = values[f"eval/{next(iter(self.eval_sets))}/accuracy_sampled"]
        return accuracy

    def _save(self, step: int, accuracy: float | None) -> None:
        position: dict[str, Any] = {"phase": self.phase, "step": step}
        if self.phase == "rl":
            position |= {"drawn": self.drawn, "first": self.first, "is_open": self.is_open}
        self.records.upload()  # first: a continuation goes on from records and checkpoint
        self.saved.save(self._index(step), self.state, position, accuracy)

    def _index(self, step: int) -> int:
        """Of a checkpoint: steps of both phases."""
        return step + (self.config.warmup.steps if self.phase == "rl" else 0)

    def _record(self, kind: str, phase: str, step: int, values: dict[str, float]) -> None:
        values = records.plain(values)
        self.records.write(kind, phase, step, values)
        self.console.record(kind, phase, step, values)

    def _profiled(self, step: int) -> contextlib.AbstractContextManager:
        """Traces the steps of profile.steps, a trace each: "10:12" are 10 and 11."""
        if self.profile is None:
            return contextlib.nullcontext()
        first, end = map(int, self.config.profile.steps.split(":"))
        if not first <= step < end:
            return contextlib.nullcontext()
        return jax.profiler.trace(str(self.profile))

    # A step of RL

    def _step(self, step: int) -> tuple[dict[str, float], Batch]:
        c, start = self.config, time.perf_counter()
        experience, draws, found, drawn = self.collector.collect(
            self._serving(), self._key(step, _SAMPLING), step, self.drawn
        )
        self.drawn += drawn
        scoring = time.perf_counter()
        batch, facts = jax.block_until_ready(self._make_batch(step, experience))
        updating = time.perf_counter()
        reported = []
        for _ in range(c.batch.epochs):
            for index in range(c.batch.prompts // c.batch.minibatch_prompts):
                self.state, values = self.programs.update(
                    self.state, batch, np.int32(index), self.frozen
                )
                reported.append(values)
        values = _values(jax.device_get(reported))
        end = time.perf_counter()
        every = c.log.rollouts_every
        if every and (step % every == 0 or step in (1, c.steps)):
            shown = range(min(c.log.rollouts_prompts, c.batch.prompts))
            self.first = draws[shown].tolist() if step == 1 else self.first
            groups = self._groups("train", experience, batch.advantages, shown)
            self.records.write_rollouts("rl", step, [row for group in groups for row in group])
            mixed = [group for group in groups if len({row["reward"] for row in group}) > 1]
            self.console.group("rl", step, (mixed or groups)[0])
        facts = _facts(jax.device_get(facts))
        tokens = facts["rollout/length_mean"] * c.batch.prompts * c.batch.group
        values = (
            facts
            | values
            | {"policy/skipped": int(self.state.skipped)}
            | found
            | {
                "time/score": updating - scoring,
                "time/update": end - updating,
                "time/step": end - start,
                "throughput/tokens_per_s": tokens / (end - start),
            }
        )
        return values, batch

    def _make_batch(self, step: int, experience: Experience) -> tuple[Batch, Any]:
        """Rewards become advantages; with what else the loss needs."""
        advantages_PG, valid_PG, facts = self.programs.advantages(
            self._key(step, _ADVANTAGES), experience
        )
        rollouts = dataclasses.replace(experience.rollouts, valid=valid_PG)
        old_logps, ref_logps = rollouts.logps, None
        if self.config.algorithm.old_logps == "rescored":
            old_logps = self.programs.score(self._whole(self.state.params), rollouts)
        if self.reference is not None:
            ref_logps = self.programs.score(self._whole(self.reference), rollouts)
        return Batch(rollouts, advantages_PG, old_logps, ref_logps), facts

    def _sample_again(self, step: int) -> None:
        """The groups on record of step 1, with its keys, by the policy after `step`."""
        params, P = self._serving(), self.config.batch.prompts
        rows = []
        for attempt in sorted({draw // P for draw in self.first}):
            again, _ = self.collector.roll_out(params, self._key(1, _SAMPLING), 1, 0, attempt)
            advantages_PG, *_ = self.programs.advantages(self._key(1, _ADVANTAGES), again)
            positions = [draw % P for draw in self.first if draw // P == attempt]
            rows += self._groups("after", again, advantages_PG, positions)
        self.records.write_rollouts("rl", step, [row for group in rows for row in group])

    def _groups(self, kind: str, experience: Experience, advantages_PG, positions: Sequence[int]):
        return collect.groups(
            self.programs, experience, advantages_PG, positions, kind, self.task, self.tokenizer
        )


def _facts(facts: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Means from (sum, number); "name/K" of those by success count, where there are any."""
    values = {}
    for name, (total, number) in facts.items():
        if np.ndim(total):
            numbers = np.broadcast_to(number, total.shape)
            values |= {
                f"{name}/{k}": float(x / n)
                for k, (x, n) in enumerate(zip(total, numbers, strict=True))
                if n
            }
        else:
            values[name] = float(total / number) if number else math.nan
    return values


def _wandb_run(config: Config, name: str, run_id: str, directory: Path) -> Any:
    """A run of Weights & Biases, gone on with where it exists."""
    import wandb  # pyrefly: ignore[missing-import]  # optional: validation has looked for it

    return wandb.init(
        project=config.log.wandb,
        name=name,
        id=run_id,
        resume="allow",
        dir=str(directory),
        config=to_dict(config),
    )


def _values(reported: list[training.Metrics]) -> dict[str, float]:
    """A step's metrics: means over its minibatches; of the ratio and the gaps, the first one only,
    where parameters are still those that sampled."""
    losses = {k: float(np.mean([m.losses[k] for m in reported])) for k in reported[0].losses}
    values = {}
    for name in reported[0].means:
        used = reported[:1] if name in _FIRST_ONLY else reported
        total, count = (sum(float(m.means[name][i]) for m in used) for i in (0, 1))
        values[name] = total / max(count, 1.0)
    return losses | values | {name: float(x) for name, x in reported[0].maxima.items()}


_FIRST_ONLY = ("policy/ratio_mean", "policy/logp_gap_mean")
