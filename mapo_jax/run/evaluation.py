"""Evaluation: greedy and sampled answers to held-out sets, with 95% intervals over problems.

Two compiled programs serve all sets, greedy and sampled, because every call has one shape. All
evaluations of a run draw with the same keys, so that the curve compares policies and not draws.
An answer becomes a row, a row a column of numbers, and these the metrics; `launch/evaluate.py`
keeps the rows.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from mapo_jax import answers, errors, model, rewards, sampling, sharding, tasks
from mapo_jax.config import Config
from mapo_jax.rollouts import pad_prompts
from mapo_jax.run import processes, statistics
from mapo_jax.run.statistics import mean_interval, wilson_interval
from mapo_jax.tasks import Task
from mapo_jax.text import Tokenizer

MODES = ("greedy", "sampled")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A held-out set, ready to be sampled."""

    examples: Sequence[dict]
    prompts: Sequence[Sequence[int]]  # their tokens
    reward: rewards.RewardFunction | None = None  # None: that of the run
    is_in_domain: bool = True  # of the task that is trained


class Store(Protocol):
    """Keeps rows, so that an evaluation can go on."""

    def rows(self, name: str, mode: str) -> Mapping[int, Sequence[Row]]:
        """What is there: problem -> its rows."""
        ...

    def add(self, name: str, mode: str, rows: Iterable[Row]) -> None:
        """Keeps the rows of some problems."""
        ...


class Nowhere:
    """Keeps nothing: evaluations during training."""

    def rows(self, name: str, mode: str) -> Mapping[int, Sequence[Row]]:
        return {}

    def add(self, name: str, mode: str, rows: Iterable[Row]) -> None:
        pass


def further_tasks(sets: str, seed: int) -> dict[str, Task]:
    """The tasks of `eval.sets`, "NAME=PATH,...", by what was written.

    Raises:
        UserError: one is no NAME=PATH, or cannot be made.
    """
    made, lines = {}, []
    for part in filter(None, (part.strip() for part in sets.split(","))):
        name, equals, path = part.partition("=")
        try:
            if not equals:
                raise errors.UserError(
                    f"eval.sets={sets}: {part} is no NAME=PATH; give a task and its data, as in "
                    "svamp=DIR/svamp.json,multiarith=DIR/multiarith.jsonl"
                )
            made[part] = tasks.make(name, {}, path, seed)
        except errors.UserError as error:
            lines += [line.replace("task.name=", "eval.sets: ") for line in error.lines]
    if lines:
        raise errors.UserError(*lines)
    return made


def prepare(
    config: Config, task: Task, tokenizer: Tokenizer, say: Callable[[str], None]
) -> dict[str, EvalSet]:
    """The evaluation sets of a configuration: the task's own, and those of eval.sets.

    Args:
        config: its task, data, eval and seed count.
        task: of `config.task`.
        tokenizer: of the policy.
        say: told of rows and prompts that are left out.

    Raises:
        UserError: a set cannot be made, or all of its prompts are too long.
    """
    sources = [(task, True)]
    sources += [(one, False) for one in further_tasks(config.eval.sets, config.seed).values()]
    sets: dict[str, EvalSet] = {}
    for one, is_in_domain in sources:
        for note in () if is_in_domain else one.notes:
            say(note)
        for name, examples in one.evals.items():
            name = f"{one.name}_{name}" if name in sets else name
            limits = config.data.max_prompt_tokens, config.data.too_long
            kept = tasks.encode_prompts(one, tokenizer, examples, name, *limits, say)
            kept = kept[: config.eval.problems]
            sets[name] = EvalSet(
                [examples[i] for i, _ in kept],
                [ids for _, ids in kept],
                None if is_in_domain else one.reward,
                is_in_domain,
            )
    return sets


def settings(config: Config) -> dict[str, Any]:
    """The keyword arguments of `evaluate` that a configuration gives."""
    c = config
    return {
        "batch": c.eval.batch,
        "samples": c.eval.samples,
        "temperature": c.eval.temperature,
        "top_p": c.eval.top_p,
        "max_prompt_tokens": c.data.max_prompt_tokens,
        "max_new_tokens": c.rollout.max_new_tokens,
    }


def key_of(seed: int) -> jax.Array:
    """The key of all evaluations of a run; purpose 3 of step 0, see trainer.py."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), 3)


def evaluate(
    params: model.Params,
    config: model.ModelConfig,
    tokenizer: Tokenizer,
    reward: rewards.RewardFunction,
    sets: Mapping[str, EvalSet],
    key: jax.Array,
    mesh: Mesh,
    *,
    batch: int,
    max_prompt_tokens: int,
    max_new_tokens: int,
    samples: int = 1,
    temperature: float = 1.0,
    top_p: float = 1.0,
    store: Store | None = None,
) -> dict[str, float]:
    """Answers every problem once greedily and `samples` times at random, and judges the answers.

    Accuracy is the mean of the reward's part of that name; where it has none, the share of
    successes. An answer that was cut is judged as it stands. `_low` and `_high` are 95% intervals
    over problems: Wilson's of shares, the bootstrap's where a problem has several samples.

    Returns:
      {"eval/SET/accuracy": greedy, "eval/SET/accuracy_sampled": mean over samples,
      "eval/SET/reward_mean": of the sampled answers}, each with `_low` and `_high`; "eval/SET/..."
      `truncated` (share), `length_mean` (tokens) and, where the reward has such a part, `format`,
      of the sampled answers. With several samples also `pass@K`, `maj@K` and `mean@K` with their
      intervals, K = 2, 4, ... up to `samples`: pass@K is unbiased, maj@K and mean@K are of the
      first K. With sets out of domain "overall/A_S" (mean accuracy in domain), "overall/A_T" (out
      of it) and "overall/A" (the mean of both), as the paper has it, and `_sampled` likewise. And
      "time/eval" (seconds).
    """
    start = time.perf_counter()
    store = store or Nowhere()
    values: dict[str, float] = {}
    tables: dict[str, dict[str, np.ndarray]] = {mode: {} for mode in MODES}
    for number, (name, problems) in enumerate(sets.items()):
        for mode in MODES:
            size = 1 if mode == "greedy" else samples
            settings = sampling.SamplingConfig(
                group_size=size,
                max_new_tokens=max_new_tokens,
                temperature=0.0 if mode == "greedy" else temperature,
                top_p=1.0 if mode == "greedy" else top_p,
                eos_ids=tokenizer.eos_ids,
                # With several samples fewer problems at once: as many slots as without.
                lanes=max(1, batch // (size * sharding.batch_shards(mesh))),
            )
            there = store.rows(name, mode)
            questions = [example.get("question") for example in problems.examples]
            found = {
                i: _columns(there[i])
                for i, question in enumerate(questions)
                if i in there and there[i][0]["question"] == question
            }
            todo = [i for i in range(len(questions)) if i not in found]
            sampler = _Sampler(params, config, tokenizer, settings, key, mesh, max_prompt_tokens)
            for indices in (todo[i : i + batch] for i in range(0, len(todo), batch)):
                own = sharding.own_rows(mesh, batch)
                mine = [indices[i] if i < len(indices) else None for i in own]
                grouped = sampler.answer(problems, mine, number, problems.reward or reward, mode)
                local = np.zeros((len(own), len(_names(size))), np.float32)  # padding stays 0
                for row, rows in zip(local, grouped, strict=False):
                    row[:] = _columns(rows)
                store.add(name, mode, [row for rows in grouped for row in rows])
                everyones = sharding.everyones(local, mesh)
                found |= dict(zip(indices, everyones, strict=False))
            table = np.stack([found[i] for i in range(len(questions))]).astype(np.float64)
            tables[mode][name] = table
            values |= _metrics(f"eval/{name}", mode, table, size)
    values |= _overall(sets, tables, samples)
    return values | {"time/eval": time.perf_counter() - start}


class _Sampler:
    """Answers problems, a call's worth at a time."""

    def __init__(self, params, config, tokenizer, settings, key, mesh, max_prompt_tokens):
        self._params, self._config, self._tokenizer = params, config, tokenizer
        self._settings, self._key, self._mesh = settings, key, mesh
        self._max_prompt_tokens = max_prompt_tokens

    def answer(
        self,
        problems: EvalSet,
        mine: Sequence[int | None],
        number: int,
        reward: rewards.RewardFunction,
        mode: str,
    ) -> list[list[Row]]:
        """The rows of this process's problems, None being padding, which comes last."""
        rows = [() if i is None else problems.prompts[i] for i in mine]
        # A draw belongs to its problem, whatever call it is answered in.
        index = np.asarray([len(problems.prompts) if i is None else i for i in mine], np.int32)
        padded = pad_prompts(rows, self._max_prompt_tokens)
        prompts, index_P = sharding.put((padded, index), self._mesh)
        rollouts = sampling.sample(
            self._params,
            self._config,
            prompts,
            jax.random.fold_in(self._key, number),
            self._settings,
            prompt_index_P=index_P,
            mesh=self._mesh,
        )
        n, G = sum(i is not None for i in mine), self._settings.group_size
        tokens, length, finished = (
            sharding.own(x)[:n] for x in (rollouts.tokens, rollouts.length, rollouts.finished)
        )
        responses = decode(self._tokenizer, tokens, length)
        examples = [problems.examples[i] for i in mine if i is not None for _ in range(G)]
        with processes.together():
            judged = rewards.judge(reward, responses, examples)
        right = judged.parts["accuracy"] if "accuracy" in judged.parts else judged.success
        lengths, ended = length.reshape(-1), finished.reshape(-1)
        made = [
            {
                "mode": mode,
                "problem": mine[j // G],
                "sample": j % G,
                "question": examples[j].get("question"),
                "answer": examples[j].get("answer"),
                "response": response,
                "extracted": answers.extract(response),
                "accuracy": float(right[j]),
                "reward": float(judged.rewards[j]),
                "success": bool(judged.success[j]),
                "parts": {name: float(x[j]) for name, x in judged.parts.items()},
                "tokens": int(lengths[j]),
                "finished": bool(ended[j]),
            }
            for j, response in enumerate(responses)
        ]
        return [made[j : j + G] for j in range(0, len(made), G)]


def _ks(samples: int) -> list[int]:
    """2, 4, 8 ... and all of them."""
    powers = [2**i for i in range(1, samples.bit_length())]
    return sorted({*(k for k in powers if k < samples), samples}) if samples > 1 else []


def _names(samples: int) -> list[str]:
    names = ["accuracy", "reward", "truncated", "length", "format"]
    return names + [f"{kind}@{k}" for k in _ks(samples) for kind in ("pass", "maj", "mean")]


def _columns(rows: Sequence[Row]) -> np.ndarray:
    """f32[columns] of one problem, from the rows of its answers: see `_names`."""
    right = [row["accuracy"] for row in rows]
    given = [row["reward"] for row in rows if row["reward"] is not None]  # JSON has no NaN
    finite = [x for x in given if math.isfinite(x)]
    formats = [row["parts"]["format"] for row in rows if "format" in row["parts"]]
    found = [
        np.mean(right),
        np.mean(finite) if finite else math.nan,
        np.mean([not row["finished"] for row in rows]),
        np.mean([row["tokens"] for row in rows]),
        np.mean(formats) if formats else math.nan,
    ]
    n, is_right = len(rows), [x > 0 for x in right]
    votes = [row["extracted"] and answers.canonical(row["extracted"]) for row in rows]
    for k in _ks(n):
        elected = statistics.majority(votes[:k])
        found += [
            statistics.pass_at_k(n, np.asarray([sum(is_right)]), k)[0],
            0.0 if elected is None else right[elected],
            np.mean(right[:k]),
        ]
    return np.asarray(found, np.float32)


def _metrics(prefix: str, mode: str, table: np.ndarray, samples: int) -> dict[str, float]:
    columns = dict(zip(_names(samples), table.T, strict=True))
    n = len(table)

    def share(values: np.ndarray) -> tuple[float, float]:
        if samples == 1:
            return wilson_interval(float(values.sum()), n)
        return statistics.interval(statistics.bootstrap([values]))

    accuracy = columns["accuracy"]
    if mode == "greedy":
        mean = float(accuracy.sum()) / n
        return _with_interval(f"{prefix}/accuracy", mean, share(accuracy))
    mean = float(accuracy.sum()) / n
    values = _with_interval(f"{prefix}/accuracy_sampled", mean, share(accuracy))
    finite = columns["reward"][np.isfinite(columns["reward"])]
    values |= _with_interval(
        f"{prefix}/reward_mean",
        float(finite.mean()) if len(finite) else math.nan,
        mean_interval(finite) if len(finite) else (math.nan, math.nan),
    )
    values[f"{prefix}/truncated"] = float(columns["truncated"].mean())
    values[f"{prefix}/length_mean"] = float(columns["length"].mean())
    if not np.isnan(columns["format"]).any():
        values[f"{prefix}/format"] = float(columns["format"].mean())
    for name, column in columns.items():
        if "@" in name:
            values |= _with_interval(f"{prefix}/{name}", float(column.mean()), share(column))
    return values


def _overall(
    sets: Mapping[str, EvalSet], tables: Mapping[str, Mapping[str, np.ndarray]], samples: int
) -> dict[str, float]:
    """A_S, A_T and A, where there are sets of both kinds."""
    values: dict[str, float] = {}
    sides = {
        "A_S": [name for name, one in sets.items() if one.is_in_domain],
        "A_T": [name for name, one in sets.items() if not one.is_in_domain],
    }
    if not all(sides.values()):
        return {}
    for mode, suffix in zip(MODES, ("", "_sampled"), strict=True):
        resampled, means = {}, {}
        for side, names in sides.items():
            accuracies = [tables[mode][name][:, 0] for name in names]
            resampled[side] = statistics.bootstrap(accuracies)
            means[side] = float(np.mean([x.mean() for x in accuracies]))
        resampled["A"] = np.mean([*resampled.values()], 0)
        means["A"] = float(np.mean([*means.values()]))
        for side, mean in means.items():
            bounds = statistics.interval(resampled[side])
            values |= _with_interval(f"overall/{side}{suffix}", mean, bounds)
    return values


def _with_interval(name, value, interval):
    return {name: value, f"{name}_low": interval[0], f"{name}_high": interval[1]}


def decode(tokenizer: Tokenizer, tokens_PGT: np.ndarray, length_PG: np.ndarray) -> list[str]:
    """The texts of P * G responses, in order."""
    rows = tokens_PGT.reshape(-1, tokens_PGT.shape[-1])
    pairs = zip(rows, length_PG.reshape(-1), strict=True)
    return [tokenizer.decode(tokens[:n].tolist()) for tokens, n in pairs]
