"""The training loop. `Trainer.step` is the whole life of a batch.

A step is a pure function of (state, step): examples follow from the position in the data, draws
from `fold_in(fold_in(run_key, step), PURPOSE)`. So a run that is killed and started again repeats
itself.
"""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from mapo_jax import errors, model, rewards, sharding, tasks
from mapo_jax.config import Config, to_dict
from mapo_jax.rollouts import Batch, Experience, demonstrations, pad_prompts
from mapo_jax.run import (
    collect,
    compilation,
    contents,
    evaluation,
    metrics,
    processes,
    setup,
    workdirs,
)
from mapo_jax.run.checkpoints import Checkpoints
from mapo_jax.run.console import Console
from mapo_jax.run.guard import Guard
from mapo_jax.run.records import NoRecords, Records, open_records, plain
from mapo_jax.run.solving import solvable


def train(config: Config, workdir: str | epath.PathLike, overrides: Sequence[str] = ()) -> None:
    """Runs warm-up and RL to their ends, or goes on from the newest checkpoint in `workdir`.

    With several processes, all of them call this; the first one writes the records.

    Args:
      config: valid, see `checks.validate`.
      workdir: made if it does not exist; records and checkpoints go there. The same for all
        processes.
      overrides: what the command line changed, shown at the start.

    Raises:
      UserError: the work directory belongs to another configuration, or another process trains in
        it, or it read other content; data cannot be had; a reward function raises. The state before
        it is saved.
      RunStopped: too many updates in a row were skipped, or dynamic sampling found no batch.
      Preempted: after a SIGTERM, with a checkpoint of the step that it came in.
    """
    path, writes = epath.Path(workdir), jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        with processes.together():
            if writes:
                stack.enter_context(workdirs.hold(path))
            workdirs.check(path, to_dict(config), writes)
        jax.config.update("jax_default_matmul_precision", config.compute.matmul_precision)
        termination = stack.enter_context(processes.Termination())
        console = stack.enter_context(Console(config.log.console if writes else "quiet"))
        stack.enter_context(compilation.told(console.print))
        trainer = Trainer(config, path, console, overrides, termination)
        stack.enter_context(trainer).go()


class Trainer:
    """A run: its fixed parts, its progress, and where it is recorded. A context manager."""

    def __init__(
        self,
        config: Config,
        workdir: epath.Path,
        console: Console,
        overrides: Sequence[str] = (),
        termination: processes.Termination | None = None,
    ):
        """Reads everything, begins or continues, and opens the records; see `train`."""
        self.config, self.workdir, self.console = config, workdir, console
        self._termination = termination
        began = processes.everyones(workdirs.began(workdir).isoformat())[0]  # that of the first
        began = datetime.datetime.fromisoformat(began)
        on_demand = contents.encodes_on_demand(workdir)
        self.setup = setup.prepare(config, console.print, began, on_demand)
        self.saved = Checkpoints(workdir / "checkpoints", config.checkpoint.keep)
        found = self.setup.contents()
        self.progress = setup.begin(self.setup, self.saved, console.print)
        if self.progress.restored is not None:
            notes, compares = contents.check(found, config, workdir)
            for note in notes:
                console.print(note)
            if not compares:
                self.saved.forget_metrics()
        self._served = self.setup.programs.serve_frozen(self.progress.frozen)
        self.records: Records | NoRecords
        i = jax.process_index()
        log = f"rewards.{i}.log" if i else "rewards.log"
        with processes.together():
            if i == 0:  # no sooner: until here a mistake can be mended
                if self.progress.restored is None and (note := workdirs.set_aside(workdir)):
                    console.print(note)
                self.records = open_records(self.setup, self.progress, workdir, overrides)
                contents.keep(found, workdir)
            else:
                names = (log,) if config.task.reward else ()
                self.records = NoRecords(workdirs.Mirror(workdir, names))
        rewards.log_to(self.records.directory / log)
        console.table(f"{workdir}", setup.start_table(self.setup, self.progress, overrides))

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *_: object) -> None:
        self.records.close()
        self.saved.close()

    def go(self) -> None:
        """Runs what is left of the warm-up and of RL."""
        try:
            if self.progress.phase == "warmup":
                self._warm_up()
                state = self.setup.programs.fresh_state("rl", self.progress.state.params)
                self.progress = dataclasses.replace(self.progress, phase="rl", done=0, state=state)
            self._reinforce()
        except Exception as error:
            if errors.is_out_of_memory(error):
                error.add_note(f"for {self._phase} {_ROOM[self._phase]}")
            raise

    def _warm_up(self) -> None:
        """Cross-entropy on the task's demonstrations."""
        c, progress = self.config, self.progress
        guard, self._phase = self._guard(), "warmup"
        self.console.phase("warmup", c.warmup.steps, progress.done)
        following = self._batch_or_error(progress.done + 1)
        for step in range(progress.done + 1, c.warmup.steps + 1):
            start = time.perf_counter()
            if isinstance(batch := following, errors.UserError):
                self._save_now(step - 1)
                raise batch
            progress.state, reported = self.setup.programs.warmup_step(
                progress.state, batch, np.int32(0), progress.frozen
            )
            if step < c.warmup.steps:  # made while the devices compute
                following = self._batch_or_error(step + 1)
            values = metrics.of_updates([jax.device_get(reported)])
            values["time/step"] = time.perf_counter() - start
            self._record("train", step, values)
            if step < c.warmup.steps:  # else RL's step 0 is saved
                self._stop_if(guard.look(step, progress.state, batch), step)
                if step % c.checkpoint.every == 0:
                    self._save(step, None)
                self._end_if_asked(step)

    def _batch_or_error(self, step: int) -> Batch | errors.UserError:
        """Makes a batch of the warm-up in advance; an error waits until the step has its turn."""
        try:
            return self._demonstration_batch(step)
        except errors.UserError as error:
            return error

    def _demonstration_batch(self, step: int) -> Batch:
        c, mesh = self.config, self.setup.mesh
        pairs, album, P = self.setup.demonstrations, self.setup.demonstrated, c.warmup.batch
        own = sharding.own_rows(mesh, P)
        chosen, following = (tasks.indices(len(pairs), c.seed, i * P, P) for i in (step - 1, step))
        mine = [*chosen[own]]
        album.ahead([*mine, *(following[own] if step < c.warmup.steps else ())])
        with processes.together():
            rows = [pairs[i] for i in mine]
            tokens = [row.prompt.tokens for row in rows]
            padded = pad_prompts(tokens, self.setup.prompt_tokens)
            padded = album.add(padded, mine, album.rung(chosen))
        example_P = np.asarray([row.prompt.example for row in rows], np.int32)
        responses = [row.response for row in rows]
        made = demonstrations(padded, example_P, responses, c.rollout.max_new_tokens)
        rollouts = sharding.put(made, mesh)
        advantages_P1 = sharding.put(np.zeros(made.valid.shape, np.float32), mesh)
        return Batch(rollouts, advantages_P1, rollouts.logps, None)

    def _reinforce(self) -> None:
        """RL: one rollout batch a step."""
        c, progress, say, self._phase = self.config, self.progress, self.console.print, "scoring"
        if c.algorithm.beta and progress.reference is None:
            self.saved.save_reference(progress.state.params)  # once, as it never changes
            progress.reference = self.setup.programs.reference(progress.state.params)
        try:
            self.setup = solvable(self.setup, progress, self._serving, self.workdir, say)
        except errors.RunStopped:
            self._save_now(progress.done)
            raise
        guard = self._guard()
        self.console.phase("rl", c.steps, progress.done)
        if progress.is_open:
            self._close(progress.done)
        for step in range(progress.done + 1, c.steps + 1):
            try:
                with self._profiled(step):
                    values, batch = self.step(step)
            except (errors.RunStopped, errors.UserError):  # nothing of this step is in the state
                self._save_now(step - 1)
                raise
            self._record("train", step, values)
            progress.is_open = True
            guard.watch(step, values)
            self._stop_if(guard.look(step, progress.state, batch, values["reward/invalid"]), step)
            self._close(step)
        self.saved.wait()

    def step(self, step: int) -> tuple[dict[str, float], Batch]:
        """The life of a batch.

        task -> prompts [P, S] -> sample -> rollouts [P, G, T] -> rewards (host) [P, G]
             -> advantages [P, G] -> batch -> minibatches -> updates -> metrics

        Args:
          step: its number; the step before it has been done.

        Returns:
          The metrics, and the batch that was learnt from.
        """
        c, programs, progress = self.config, self.setup.programs, self.progress
        start, self._phase = time.perf_counter(), "sampling"
        # Prompts, rollouts and rewards: `collect.roll_out` says how.
        experience, draws, found, drawn = collect.collect(
            self.setup, self._serving(), self.setup.key(step, setup.SAMPLING), step, progress.drawn
        )
        progress.drawn += drawn
        scoring, self._phase = time.perf_counter(), "scoring"
        # Advantages.
        advantages_PG, valid_PG, facts, memory = programs.advantages(
            self.setup.key(step, setup.ADVANTAGES), experience, progress.state.memory
        )
        progress.state = dataclasses.replace(progress.state, memory=memory)
        rollouts = dataclasses.replace(experience.rollouts, valid=valid_PG)
        # Log-probs of the policy that sampled and of the reference: the loss compares with them.
        old_logps, ref_logps = rollouts.logps, None
        if c.algorithm.old_logps == "rescored":
            old_logps = programs.score(self._whole(progress.state.params), rollouts)
        if progress.reference is not None:
            ref_logps = programs.score(self._whole(progress.reference), rollouts)
        batch = Batch(rollouts, advantages_PG, old_logps, ref_logps)
        batch, facts = jax.block_until_ready((batch, facts))
        updating, self._phase = time.perf_counter(), "update"
        # Updates.
        reported = []
        minibatches = c.batch.prompts // c.batch.minibatch_prompts
        for epoch in range(c.batch.epochs):
            for index in _order(c.seed, step, epoch, minibatches):
                progress.state, measured = programs.update(
                    progress.state, batch, np.int32(index), progress.frozen
                )
                reported.append(measured)
        values = metrics.of_updates(jax.device_get(reported))
        end = time.perf_counter()
        # Records.
        self._show_groups(step, experience, advantages_PG, draws)
        return {
            **metrics.of_batch(jax.device_get(facts)),
            **values,
            "policy/skipped": int(progress.state.skipped),
            **found,
            "time/score": updating - scoring,
            "time/update": end - updating,
            "time/step": end - start,
            "throughput/tokens_per_s": found["throughput/tokens"] / (end - start),
        }, batch

    # The policy's parameters, as they are needed

    def _whole(self, params: model.Params) -> model.Params:
        """All parameters: the trained and the frozen."""
        return model.combine(params, self.progress.frozen)

    def _serving(self) -> model.Params:
        """The parameters cast and laid out for sampling."""
        return model.combine(self.setup.programs.serve(self.progress.state.params), self._served)

    # After a step

    def _close(self, step: int) -> None:
        """Evaluates and saves, if either is due; the best so far is saved in any case."""
        self._end_if_asked(step)
        try:
            accuracy = self._evaluate(step)
        except errors.UserError:
            self._save_now(step)
            raise
        self.progress.is_open = False
        c, index = self.config, self._index(step)
        is_due = step in (0, c.steps) or step % c.checkpoint.every == 0
        if self.saved.latest() == index:  # the run ended before its evaluation and went on
            self.saved.measure(index, accuracy)
        elif is_due or self.saved.is_best(accuracy):
            self._save(step, accuracy)

    def _evaluate(self, step: int) -> float | None:
        """Evaluates if it is due; returns the accuracy that chooses the best checkpoint."""
        c, s, self._phase = self.config, self.setup, "evaluation"
        if step == c.steps and step and c.log.rollouts_every:
            self._sample_again(step)
        if step not in (0, c.steps) and step % c.eval.every:
            return None
        values = evaluation.evaluate(
            self._serving(),
            s.architecture,
            s.tokenizer,
            s.reward,
            s.eval_sets,
            evaluation.key_of(c.seed),
            s.mesh,
            **evaluation.settings(c),
            attention=s.programs.sampling.attention,
        )
        self._record("eval", step, values)
        return values[f"eval/{next(iter(s.eval_sets))}/accuracy_sampled"]

    def _guard(self) -> Guard:
        phase, skipped = self.progress.phase, int(self.progress.state.skipped)
        return Guard(self.config, self.workdir, self.console.print, phase, skipped)

    def _stop_if(self, reason: str, step: int) -> None:
        if reason:
            self._save_now(step)
            raise errors.RunStopped(reason)

    def _end_if_asked(self, step: int) -> None:
        """Saves this step and ends the run if any process has got a SIGTERM."""
        if self._termination is not None and self._termination.is_requested():
            self._save_now(step)
            raise errors.Preempted(
                f"SIGTERM: step {step} of {self.progress.phase} is saved; the same command "
                "continues"
            )

    # Records and checkpoints

    def _record(self, kind: str, step: int, values: dict[str, float]) -> None:
        values, phase = plain(values), self.progress.phase
        self.records.write(kind, phase, step, values)
        self.console.record(kind, phase, step, values)

    def _show_groups(
        self, step: int, experience: Experience, advantages_PG: jax.Array, draws: np.ndarray
    ) -> None:
        """Writes some groups of a step to rollouts.jsonl and shows one, if that is due."""
        c = self.config
        every = c.log.rollouts_every
        if not every or (step % every and step not in (1, c.steps)):
            return
        shown = range(min(c.log.rollouts_prompts, c.batch.prompts))
        if step == 1:
            self.progress.first = draws[shown].tolist()
        groups = collect.groups(self.setup, experience, advantages_PG, shown, "train")
        self._write_groups(step, groups)
        mixed = [group for group in groups if len({row["reward"] for row in group}) > 1]
        self.console.group("rl", step, (mixed or groups)[0])

    def _sample_again(self, step: int) -> None:
        """Samples the recorded groups of step 1 again, with its keys, and writes them.

        An advantage that compares with the whole batch sees these groups alone, one that looks back
        the whole run.
        """
        params, P, first = self._serving(), self.config.batch.prompts, self.progress.first
        groups = []
        for attempt in sorted({draw // P for draw in first}):
            positions = [draw % P for draw in first if draw // P == attempt]
            key = self.setup.key(1, setup.SAMPLING)
            again, _ = collect.roll_out(self.setup, params, key, 1, 0, attempt, positions)
            key = self.setup.key(1, setup.ADVANTAGES)
            memory = self.progress.state.memory
            advantages_PG, *_ = self.setup.programs.advantages(key, again, memory)
            groups += collect.groups(self.setup, again, advantages_PG, positions, "after")
        self._write_groups(step, groups)

    def _write_groups(self, step: int, groups: list[list[dict[str, Any]]]) -> None:
        rows = [row for group in groups for row in group]
        self.records.write_rollouts("rl", step, rows, self.setup.album.thumbnail)

    def _index(self, step: int) -> int:
        return setup.index_of(self.config, self.progress.phase, step)

    def _save_now(self, step: int) -> None:
        """Saves a step, unless it is saved, and waits until it is there."""
        if self.saved.latest() != self._index(step):
            self._save(step, None)
        self.saved.wait()

    def _save(self, step: int, accuracy: float | None) -> None:
        progress = self.progress
        position: dict[str, Any] = {"phase": progress.phase, "step": step}
        if progress.phase == "rl":
            names = ("drawn", "first", "is_open")
            position |= {name: getattr(progress, name) for name in names}
        self.records.upload()  # first: a continuation goes on from records and checkpoint
        self.saved.save(self._index(step), progress.state, position, accuracy)

    def _profiled(self, step: int) -> contextlib.AbstractContextManager:
        """Context manager: writes a trace if profile.steps has this step ("10:12": 10 and 11)."""
        steps, directory = self.config.profile.steps, self.records.directory
        if steps and jax.process_index() == 0:
            first, end = map(int, steps.split(":"))
            if first <= step < end:
                return jax.profiler.trace(str(directory / "profile"))
        return contextlib.nullcontext()


_LESS = "lower batch.microbatch, compute.head_chunk or compute.attention_chunk"
_ROOM = {  # for a phase that runs out of memory
    "warmup": _LESS,
    "sampling": "lower rollout.lanes or rollout.width, or raise rollout.chunks",
    "scoring": _LESS,
    "update": f"{_LESS}; raise mesh.fsdp",
    "evaluation": "lower eval.batch",
}


def _order(seed: int, step: int, epoch: int, minibatches: int) -> list[int]:
    """The minibatches as an epoch takes them: the first as they come, a later one shuffled."""
    if not epoch:
        return list(range(minibatches))
    return np.random.default_rng((seed, step, epoch)).permutation(minibatches).tolist()
