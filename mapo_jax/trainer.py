"""The loop, and nothing but the loop: where host and device meet.

The life of a batch:
  task -> prompts [P, S] -> sample -> Rollouts [P, G, T] -> rewards (host) [P, G]
       -> advantages [P, G] -> Batch -> minibatches -> train_step -> metrics

A step is a pure function of (state, step): examples follow from the position in the data, draws
from `fold_in(fold_in(run_key, step), PURPOSE)`. So a run that is killed and started again repeats
itself.
"""

import dataclasses
import functools
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mapo_jax import (
    checkpoints,
    data,
    errors,
    evaluation,
    loading,
    metrics,
    model,
    programs,
    rewards,
    sampling,
    sharding,
    tokenizers,
    train_step,
)
from mapo_jax import config as config_lib
from mapo_jax.rollouts import Batch, Rollouts
from mapo_jax.tasks import registry

# What a key is for, folded into the key of the step. Initialisation uses step 0.
_INIT, _SAMPLING, _ADVANTAGES, _EVALUATION = range(4)


def train(config: config_lib.Config, workdir: Path, overrides: tuple[str, ...] = ()) -> None:
    """Runs warm-up and RL to their ends, or goes on from the newest checkpoint in `workdir`.

    Args:
      config: valid, see `config.validate`.
      workdir: made if it does not exist; records and checkpoints go there.
      overrides: what the command line changed, shown at the start.

    Raises:
      UserError: the work directory belongs to another configuration, or data cannot be had.
    """
    _check_workdir(config, workdir)
    jax.config.update("jax_default_matmul_precision", config.compute.matmul_precision)
    with metrics.Console(config.log.console) as console:
        run = _Run(config, workdir, console)
        console.table(f"{workdir}", run.sizes(overrides))
        try:
            run.go()
        finally:
            run.records.close()
            run.saved.close()


def _check_workdir(config: config_lib.Config, workdir: Path) -> None:
    """Raises UserError where the directory cannot be written or holds a run that differs."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "config.tmp").touch()
    except OSError as error:
        raise errors.UserError(
            f"--workdir={workdir}: cannot be written ({error.strerror}); choose another directory"
        ) from None
    path = workdir / "config.json"
    if path.exists():
        old = json.loads(path.read_text())
        mistakes = config_lib.continuation_mistakes(old, config_lib.to_dict(config))
        if mistakes:
            raise errors.UserError(*mistakes)


def _write_config(config: config_lib.Config, workdir: Path) -> None:
    temporary = workdir / "config.tmp"
    temporary.write_text(json.dumps(config_lib.to_dict(config), indent=2) + "\n")
    temporary.replace(workdir / "config.json")


class _Run:
    """A run's fixed parts, and its state."""

    def __init__(self, config: config_lib.Config, workdir: Path, console: metrics.Console):
        c = self.config = config
        self.console = console
        self.task = registry.make(c.task.name, dict(c.task.options), c.data.path, c.seed)
        self.tokenizer = tokenizers.load(c.tokenizer.path)
        self.reward = self.task.reward
        if c.task.reward:
            self.reward = loading.load_function(c.task.reward, "task.reward")
        self.prompts = self._encode(self.task.train, "train")
        self.eval_sets = {}
        for name, examples in self.task.evals.items():
            kept = self._encode(examples, name)[: c.eval.problems]
            self.eval_sets[name] = evaluation.EvalSet(
                [examples[i] for i, _ in kept], [ids for _, ids in kept]
            )
        if c.warmup.steps:
            self.demonstrations = self._encode_demonstrations()
        policy: dict[str, Any] = {
            k: v for k, v in dataclasses.asdict(c.policy).items() if k != "init"
        }
        self.model = model.ModelConfig(vocab_size=self.tokenizer.vocab_size, **policy)
        self.mesh = sharding.make_mesh(**dataclasses.asdict(c.mesh))
        self.key = jax.random.key(c.seed)
        self.programs = programs.Programs(c, self.model, self.tokenizer.eos_ids, self.mesh)
        self.saved = checkpoints.Checkpoints(workdir / "checkpoints", c.checkpoint.keep)
        self.reference: model.Params | None = None
        self._start_or_continue()
        _write_config(c, workdir)  # no sooner: until here a mistake can be mended
        self.records = metrics.Records(workdir, self.restored, c.log.tensorboard)

    def _encode(self, examples, name: str) -> list[tuple[int, list[int]]]:
        kept, dropped = data.encode_examples(
            self.task, self.tokenizer, examples, self.config.data.max_prompt_tokens
        )
        if dropped:
            self.console.print(
                f"{name}: {dropped} of {len(examples)} prompts are longer than "
                f"data.max_prompt_tokens={self.config.data.max_prompt_tokens} and are left out"
            )
        return kept

    def _encode_demonstrations(self) -> list[tuple[int, list[int], list[int]]]:
        """(example, prompt, response) of what the warm-up learns from."""
        limit = self.config.rollout.max_new_tokens
        kept, dropped = data.encode_demonstrations(
            self.task, self.tokenizer, self.task.train, limit
        )
        if dropped:
            self.console.print(
                f"warm-up: {dropped} of {dropped + len(kept)} demonstrations are longer than "
                f"rollout.max_new_tokens={limit} and are left out"
            )
        prompts = dict(self.prompts)
        return [(i, prompts[i], ids) for i, ids in kept if i in prompts]

    def _start_or_continue(self) -> None:
        c = self.config
        self.phase, self.done = ("warmup" if c.warmup.steps else "rl"), 0
        self.restored: tuple[str, int] | None = None
        index = self.saved.latest()
        abstract = self.programs.abstract_state(self.phase)
        if index is not None:
            self.phase = "rl" if index >= c.warmup.steps else "warmup"
            self.state, position = self.saved.restore(self.programs.abstract_state(self.phase))
            self.done = position["step"]
            self.restored = (self.phase, self.done)
            if self.phase == "rl" and c.algorithm.beta:
                self.reference = self.saved.restore_reference(abstract.params)
            left = (
                "" if self.restored != ("rl", c.steps) else "; nothing is left to do: raise steps"
            )
            self.console.print(f"continued after step {self.done} of {self.phase}{left}")
            return
        if c.policy.init:
            params = checkpoints.restore_params(Path(c.policy.init), abstract.params)
        else:
            params = self.programs.init_params(self._key(0, _INIT), self.phase)
        self.state = self.programs.fresh_state(self.phase, params)

    def _key(self, step: int, purpose: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(self.key, step), purpose)

    def sizes(self, overrides: tuple[str, ...]) -> list[tuple[str, Any, str]]:
        """The rows of the start table: what follows from the configuration."""
        c, (p, g) = self.config, self.config.batch.microbatch
        minibatches = c.batch.prompts // c.batch.minibatch_prompts
        count = sum(x.size for x in jax.tree.leaves(self.state.params))
        shape = " x ".join(f"{name} {n}" for name, n in self.mesh.shape.items())
        rows = [
            ("parameters", f"{count:,}", f"{self.model.vocab_size} pieces of vocabulary"),
            ("mesh", shape, jax.devices()[0].device_kind),
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
            self.phase, self.done = "rl", 0
        self._reinforce()

    def _warm_up(self) -> None:
        """Cross-entropy on the task's demonstrations."""
        c, pairs = self.config, self.demonstrations
        self.console.phase("warmup", c.warmup.steps, self.done)
        for step in range(self.done + 1, c.warmup.steps + 1):
            start = time.perf_counter()
            positions = data.indices(
                len(pairs), c.seed, (step - 1) * c.warmup.batch, c.warmup.batch
            )
            batch = self._demonstration_batch([pairs[i] for i in positions])
            self.state, reported = self.programs.warmup_step(self.state, batch, jnp.int32(0))
            values = _values([jax.device_get(reported)])
            values["time/step"] = time.perf_counter() - start
            self._record("train", "warmup", step, values)
            if step % c.checkpoint.every == 0 and step < c.warmup.steps:
                self.saved.save(step, self.state, {"phase": "warmup", "step": step}, None)

    def _demonstration_batch(self, rows: list[tuple[int, list[int], list[int]]]) -> Batch:
        c = self.config
        examples, prompts, responses = zip(*rows, strict=True)
        tokens_PS, lengths_P = data.pad_prompts(prompts, c.data.max_prompt_tokens)
        tokens_P1T, mask_P1T = data.pad_responses(responses, c.rollout.max_new_tokens)
        put = functools.partial(jax.device_put, device=sharding.by_prompt(self.mesh))
        zeros = put(np.zeros(mask_P1T.shape, np.float32))
        true = put(np.ones(mask_P1T.shape[:2], bool))
        rollouts = Rollouts(
            prompt_tokens=put(tokens_PS),
            prompt_lengths=put(lengths_P),
            example=put(np.asarray(examples, np.int32)),
            tokens=put(tokens_P1T),
            mask=put(mask_P1T),
            logps=zeros,
            finished=true,
            valid=true,
        )
        return Batch(rollouts, put(np.zeros(true.shape, np.float32)), zeros, None)

    def _reinforce(self) -> None:
        """RL: one rollout batch a step."""
        c = self.config
        if c.algorithm.beta and self.reference is None:
            # A copy: the state is donated. Saved once, as it never changes.
            self.reference = jax.tree.map(jnp.copy, self.state.params)
            self.saved.save_reference(self.reference)
        self.console.phase("rl", c.steps, self.done)
        if self.restored is None or self.restored[0] != "rl":
            self._evaluate_and_save(0)
        for step in range(self.done + 1, c.steps + 1):
            self._record("train", "rl", step, self._step(step))
            self._evaluate_and_save(step)
        self.saved.wait()

    def _evaluate_and_save(self, step: int) -> None:
        c = self.config
        ends, accuracy = step in (0, c.steps), None
        if ends or step % c.eval.every == 0:
            values = evaluation.evaluate(
                self.programs.serve(self.state.params),
                self.model,
                self.tokenizer,
                self.reward,
                self.eval_sets,
                self._key(0, _EVALUATION),
                self.mesh,
                batch=c.eval.batch,
                max_prompt_tokens=c.data.max_prompt_tokens,
                max_new_tokens=c.rollout.max_new_tokens,
            )
            self._record("eval", "rl", step, values)
            accuracy = values[f"eval/{next(iter(self.eval_sets))}/accuracy_sampled"]
        if ends or step % c.checkpoint.every == 0:
            position = {"phase": "rl", "step": step}
            self.saved.save(c.warmup.steps + step, self.state, position, accuracy)

    def _record(self, kind: str, phase: str, step: int, values: dict[str, float]) -> None:
        self.records.write(kind, phase, step, values)
        if kind == "eval":
            names = [name for name in values if not name.endswith(("_low", "_high"))]
        else:
            names = [name for name in _SHOWN[phase] if name in values]
        self.console.step(step, {name: values[name] for name in names})

    # A step of RL

    def _step(self, step: int) -> dict[str, float]:
        c, start = self.config, time.perf_counter()
        rollouts, judged, responses, times = self._roll_out(step)
        batch, group_values, advantages_PG = self._make_batch(step, rollouts, judged)
        updating = time.perf_counter()
        reported = []
        for _ in range(c.batch.epochs):
            for index in range(c.batch.prompts // c.batch.minibatch_prompts):
                self.state, values = self.programs.update(self.state, batch, jnp.int32(index))
                reported.append(values)
        values = _values(jax.device_get(reported))
        end = time.perf_counter()
        if c.log.rollouts_every and step % c.log.rollouts_every == 0:
            self._write_rollouts(step, rollouts, judged, responses, advantages_PG)
        lengths = rollouts.mask.sum(-1)
        return (
            _judged_values(judged)
            | group_values
            | values
            | {
                "policy/skipped": int(self.state.skipped),
                "rollout/length_mean": float(lengths.mean()),
                "rollout/truncated": float(1 - rollouts.finished.mean()),
                "time/update": end - updating,
                "time/step": end - start,
                "throughput/tokens_per_s": float(lengths.sum()) / (end - start),
            }
            | times
        )

    def _roll_out(self, step: int):
        """Samples the step's prompts in chunks; judges each while the next ones are sampled.

        Returns the rollouts (host), what the reward found [P * G], the texts and the times.
        """
        c, start = self.config, time.perf_counter()
        P = c.batch.prompts
        chosen = data.indices(len(self.prompts), c.seed, (step - 1) * P, P)
        rows = [self.prompts[i] for i in chosen]
        tokens_PS, lengths_P = data.pad_prompts([ids for _, ids in rows], c.data.max_prompt_tokens)
        example_P = np.asarray([i for i, _ in rows], np.int32)
        params, key = self.programs.serve(self.state.params), self._key(step, _SAMPLING)
        pieces = [
            sampling.sample(
                params,
                self.model,
                tokens_PS[piece],
                lengths_P[piece],
                key,
                self.programs.sampling,
                example_P=example_P[piece],
                prompt_index_P=piece.astype(np.int32),
                mesh=self.mesh,
            )
            for piece in np.split(np.arange(P), c.rollout.chunks)
        ]
        done, responses, judged, judging = [], [], [], 0.0
        for piece in pieces:
            piece = jax.device_get(piece)
            began = time.perf_counter()
            texts = evaluation.decode(self.tokenizer, piece.tokens, piece.mask)
            examples = [self.task.train[i] for i in np.repeat(piece.example, c.batch.group)]
            judged.append(rewards.judge(self.reward, texts, examples))
            judging += time.perf_counter() - began
            done.append(piece)
            responses += texts
        rollouts = jax.tree.map(lambda *x: np.concatenate(x), *done)
        merged = jax.tree.map(lambda *x: np.concatenate(x), *judged)
        if c.task.shuffle_rewards:
            merged = _shuffle(merged, c.batch.group, np.random.default_rng((c.seed, step)))
        times = {
            "time/sample": time.perf_counter() - start - judging,
            "time/reward": judging,
        }
        return rollouts, merged, responses, times

    def _make_batch(self, step: int, rollouts: Rollouts, judged: rewards.Judged):
        """Rewards become advantages; the batch goes to the device, with what the loss needs."""
        c, shape = self.config, rollouts.valid.shape
        valid = rollouts.valid & np.isfinite(judged.rewards).reshape(shape)
        rollouts = jax.device_put(
            dataclasses.replace(rollouts, valid=valid), sharding.by_prompt(self.mesh)
        )
        parts = np.array([*judged.parts.values()], np.float32).reshape(len(judged.parts), *shape)
        found = (
            judged.rewards.reshape(shape),
            judged.success.reshape(shape),
            np.moveaxis(parts, 0, -1),
        )
        found = jax.device_put(found, sharding.by_prompt(self.mesh))
        advantages_PG, group_values = self.programs.advantages(
            self._key(step, _ADVANTAGES), *found, rollouts.valid, rollouts.mask
        )
        old_logps, ref_logps = rollouts.logps, None
        if c.algorithm.old_logps == "rescored":
            old_logps = self.programs.score(self.state.params, rollouts)
        if self.reference is not None:
            ref_logps = self.programs.score(self.reference, rollouts)
        advantages_on_host, group_values = jax.device_get((advantages_PG, group_values))
        values = {name: float(x / max(n, 1)) for name, (x, n) in group_values.items()}
        return Batch(rollouts, advantages_PG, old_logps, ref_logps), values, advantages_on_host

    def _write_rollouts(self, step, rollouts, judged, responses, advantages_PG) -> None:
        G = self.config.batch.group
        rows = []
        for p in range(min(self.config.log.rollouts_prompts, len(rollouts.example))):
            example = self.task.train[rollouts.example[p]]
            for g in range(G):
                i = p * G + g
                rows.append(
                    {
                        "example": rollouts.example[p],
                        "prompt": self.task.prompt(example),
                        "rollout": g,
                        "response": responses[i],
                        "reward": judged.rewards[i],
                        "success": judged.success[i],
                        "parts": {name: x[i] for name, x in judged.parts.items()},
                        "advantage": advantages_PG[p, g],
                        "tokens": rollouts.mask[p, g].sum(),
                        "finished": rollouts.finished[p, g],
                    }
                )
        self.records.write_rollouts("rl", step, rows)


# What the console shows of a training line; the rest is in metrics.jsonl.
_SHOWN = {
    "warmup": ("loss/total", "policy/entropy", "time/step"),
    "rl": (
        "reward/mean",
        "reward/accuracy",
        "loss/surrogate",
        "policy/entropy",
        "rollout/length_mean",
        "time/step",
    ),
}


def _shuffle(judged: rewards.Judged, group: int, rng: np.random.Generator) -> rewards.Judged:
    """Permutes what was found within each group: a control that must not learn."""
    order = np.argsort(rng.random((len(judged.rewards) // group, group)), -1)
    order = (order + np.arange(len(order))[:, None] * group).reshape(-1)
    return jax.tree.map(lambda x: x[order], judged)


def _judged_values(judged: rewards.Judged) -> dict[str, float]:
    finite = np.isfinite(judged.rewards)
    return {
        "reward/mean": float(judged.rewards[finite].mean()) if finite.any() else math.nan,
        "reward/success": float(judged.success.mean()),
        "reward/invalid": float(1 - finite.mean()),
        **{f"reward/{name}": float(x.mean()) for name, x in judged.parts.items()},
    }


def _values(reported: list[train_step.Metrics]) -> dict[str, float]:
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
