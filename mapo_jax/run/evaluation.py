"""Answers held-out sets greedily and by sampling, with 95% intervals over problems.

Sets whose prompts are about equally long share their compiled programs. So do greedy and sampled
answers if there is one sample of each problem. All evaluations of a run draw with the same keys, so
that the curve compares policies and not draws. Each answer is one row, first the response and then
its verdict too; scores.py makes metrics of them. `mapo evaluate` keeps the rows; it judges kept
responses anew, as a verdict may depend on anything that the reward reads.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from mapo_jax import answers, errors, model, rewards, sampling, sharding, tasks
from mapo_jax.config import Config
from mapo_jax.rollouts import pad_prompts, padded_length
from mapo_jax.run import pictures, processes, scores
from mapo_jax.run.scores import MODES, Row
from mapo_jax.tasks import Task
from mapo_jax.text import Tokenizer


@dataclasses.dataclass(frozen=True)
class EvalSet:
    """A held-out set with encoded prompts."""

    examples: Sequence[dict]
    prompts: Sequence[Sequence[int]]  # their tokens
    reward: rewards.RewardFunction | None = None  # None means the reward of the run
    is_in_domain: bool = True  # belongs to the trained task
    thoughts: Sequence[str] = ()  # for each prompt, see `tasks.Prompt`; () means none is open
    album: pictures.Album = dataclasses.field(default_factory=pictures.Album)  # of the prompts
    unreadable: Sequence[int] = ()  # problems with a picture that cannot be read; they are wrong
    blank_of: str = ""  # the set whose pictures are white in this one


class Store(Protocol):
    """Keeps the rows of one evaluation, so that it can continue after an interruption."""

    def rows(self, name: str, mode: str) -> Mapping[int, Sequence[Row]]:
        """Returns the stored rows of each problem whose responses are all there."""
        ...

    def add(self, name: str, mode: str, rows: Iterable[Row]) -> None:
        """Stores new responses, all of some problems, before they are judged."""
        ...

    def judged(self, name: str, mode: str, rows: Iterable[Row]) -> None:
        """Takes the rows of a whole set with their verdicts."""
        ...


class Nowhere:
    """A store that keeps nothing, for evaluations during training."""

    def rows(self, name: str, mode: str) -> Mapping[int, Sequence[Row]]:
        return {}

    def add(self, name: str, mode: str, rows: Iterable[Row]) -> None:
        pass

    def judged(self, name: str, mode: str, rows: Iterable[Row]) -> None:
        pass


def further_tasks(sets: str, seed: int) -> dict[str, Task]:
    """Returns the tasks of `eval.sets`, "NAME=PATH,...", in a dict by their NAME=PATH.

    Raises:
        UserError: a part is not NAME=PATH, or its task cannot be made.
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
    config: Config,
    task: Task,
    tokenizer: Tokenizer,
    reader: pictures.Reader | None,
    say: Callable[[str], None],
    keeps_unreadable: bool = False,
) -> dict[str, EvalSet]:
    """Makes the evaluation sets of a configuration, from its task and from `eval.sets`.

    Args:
        config: only its data, eval and seed matter.
        task: the task of `config.task`.
        tokenizer: the policy's tokenizer.
        reader: of pictures; None if the policy sees none.
        say: is called with a line about rows and prompts that are left out, and about animations
            among all pictures that the reader has seen.
        keeps_unreadable: whether a problem with a picture that cannot be read counts as wrong, with
            a line; otherwise it is a mistake.

    Returns:
        The sets by name. With `eval.blank` those with white pictures, SET_blank, come last.

    Raises:
        UserError: a set cannot be made, a picture cannot be used, or all prompts of a set are too
            long.
    """
    sources = [(task, True)]
    sources += [(one, False) for one in further_tasks(config.eval.sets, config.seed).values()]
    sets: dict[str, EvalSet] = {}
    mistakes: list[str] = []
    for one, is_in_domain in sources:
        for note in () if is_in_domain else one.notes:
            say(note)
        for name, examples in one.evals.items():
            name = f"{one.name}_{name}" if name in sets else name
            limits = config.data.max_prompt_tokens, config.data.too_long
            encode = functools.partial(tasks.encode_prompts, one, tokenizer, examples, name)
            look = reader.look(one, examples) if reader else None
            lost: list[str] | None = [] if keeps_unreadable else None
            most = config.eval.problems
            kept = errors.attempt(mistakes, encode, *limits, say, most, look, lost) or []
            if lost and kept:
                say(
                    f"{name}: {len(lost)} of {len(kept)} problems have a picture that cannot be "
                    f"read and count as wrong: {'; '.join(lost[:3])}{'; ...' * (len(lost) > 3)}"
                )
            sets[name] = EvalSet(
                [examples[prompt.example] for prompt in kept],
                [prompt.tokens for prompt in kept],
                None if is_in_domain else one.reward,
                is_in_domain,
                [prompt.thought for prompt in kept],
                pictures.Album(reader, one, examples, kept),
                [i for i, prompt in enumerate(kept) if not prompt.tokens],
            )
    if config.eval.blank and not mistakes:
        sets |= errors.attempt(mistakes, _with_white_pictures, sets) or {}
    if mistakes:
        raise errors.UserError(*mistakes)
    for note in reader.notes() if reader else ():
        say(note)
    return sets


def _with_white_pictures(sets: Mapping[str, EvalSet]) -> dict[str, EvalSet]:
    """Returns the sets that have pictures, with white ones, as SET_blank."""
    found = {
        f"{name}_blank": dataclasses.replace(one, album=one.album.blank(), blank_of=name)
        for name, one in sets.items()
        if one.album.has_pictures
    }
    if not found:
        raise errors.UserError("eval.blank=True: no evaluation set has pictures; set it to False")
    if twice := [name for name in found if name in sets]:
        raise errors.UserError(
            f"eval.blank=True: would name a set {twice[0]}, and there is one; rename that, or set "
            "eval.blank to False"
        )
    return found


def number(sets: Mapping[str, EvalSet], name: str) -> int:
    """Returns the number on which the draws of a set depend; white pictures leave it as it is."""
    return list(sets).index(sets[name].blank_of or name)


def settings(config: Config) -> dict[str, Any]:
    """Returns the keyword arguments of `evaluate` that come from a configuration."""
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
    """Returns the key of all evaluations of a run, for purpose 3 of step 0; see setup.py."""
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
    attention: str = "plain",
    store: Store | None = None,
) -> dict[str, float]:
    """Answers every problem once greedily and `samples` times at random, and judges the answers.

    Accuracy is the mean of the reward's part `accuracy`, or the share of successes if the reward
    has no such part. An answer that was cut is judged as it is. `_low` and `_high` are bounds of
    95% intervals over problems: Wilson's interval for shares, the bootstrap's if a problem has
    several samples.

    Returns:
      A dict of metrics. For each set, each of these with `_low` and `_high`:
      - "eval/SET/accuracy", greedy;
      - "eval/SET/accuracy_sampled", the mean over samples;
      - if the reward asks for a form, "eval/SET/accuracy_lenient" and
        "eval/SET/accuracy_lenient_sampled", the same for the answer wherever it stands, see
        `rewards.in_form`;
      - "eval/SET/reward_mean", the mean over the sampled answers;
      - with several samples also "eval/SET/pass@K", "eval/SET/maj@K" and "eval/SET/mean@K",
        K = 2, 4, ... up to `samples`. pass@K is unbiased; maj@K and mean@K use the first K.
      For each set, over the sampled answers, without an interval: "eval/SET/truncated" (share),
      "eval/SET/length_mean" (tokens) and, if the reward has such a part, "eval/SET/format". Over
      all answers "eval/SET/invalid", the share without a finite reward; they count as wrong.
      For a set with pictures "eval/SET/unreadable", the share of problems with a picture that
      cannot be read; they count as wrong and in nothing but accuracies, pass@K, maj@K and mean@K.
      Of a set SET_blank only "eval/SET/accuracy_blank" and "eval/SET/accuracy_blank_sampled", with
      `_low` and `_high`; they are in no mean over sets.
      If there are sets out of domain, as in the paper: "overall/A_S" (mean accuracy in domain),
      "overall/A_T" (mean accuracy out of domain) and "overall/A" (mean of the two), with `_low` and
      `_high`, and each of them with the suffix `_sampled`.
      Always "time/eval" (seconds).
    """
    start = time.perf_counter()
    store = store or Nowhere()
    values: dict[str, float] = {}
    tables: dict[str, dict[str, np.ndarray]] = {mode: {} for mode in MODES}
    for name, problems in sets.items():
        S = padded_length(max(map(len, problems.prompts)), max_prompt_tokens)
        for mode in MODES:
            size = 1 if mode == "greedy" else samples
            settings = sampling.SamplingConfig(
                group_size=size,
                max_new_tokens=max_new_tokens,
                temperature=0.0 if mode == "greedy" else temperature,
                top_p=1.0 if mode == "greedy" else top_p,
                eos_ids=tokenizer.eos_ids,
                # Fewer problems at once if there are several samples; the number of slots stays.
                lanes=max(1, batch // (size * sharding.batch_shards(mesh))),
                attention=attention,
            )
            there, n = store.rows(name, mode), len(problems.prompts)
            # In the order of their patches, so that a large picture pads few others.
            done = {*there, *problems.unreadable}
            todo = sorted((i for i in range(n) if i not in done), key=problems.album.count)
            kept = [row for i in range(n) for row in there.get(i, ())]
            rows = _judge(problems, reward, kept)
            found = dict.fromkeys(problems.unreadable, scores.unanswered(size))
            found |= scores.columns(rows)
            sampler = _Sampler(params, config, tokenizer, settings, key, mesh, S)
            own = sharding.own_rows(mesh, batch)
            calls = [todo[i : i + batch] for i in range(0, len(todo), batch)]
            mine = [[call[i] if i < len(call) else None for i in own] for call in calls]
            for k, indices in enumerate(calls):
                problems.album.ahead(itertools.chain(*mine[k : k + 2]))
                N = problems.album.rung(indices)
                responses = sampler.answer(problems, mine[k], number(sets, name), mode, N)
                store.add(name, mode, responses)
                rows += (judged := _judge(problems, reward, responses))
                local = np.zeros((len(own), len(scores.names(size))), np.float32)  # padding stays 0
                for row, columns in zip(local, scores.columns(judged).values(), strict=False):
                    row[:] = columns
                everyones = sharding.everyones(local, mesh)
                found |= dict(zip(indices, everyones, strict=False))
            store.judged(name, mode, rows)
            table = np.stack([found[i] for i in range(n)]).astype(np.float64)
            tables[mode][name] = table
            if problems.blank_of:
                metric = f"eval/{problems.blank_of}/accuracy_blank"
                values |= scores.accuracy(metric, mode, table, size)
            else:
                values |= scores.metrics(f"eval/{name}", mode, table, size)
        if problems.blank_of:
            continue
        values[f"eval/{name}/invalid"] = scores.invalid(
            {m: tables[m][name] for m in MODES}, samples
        )
        if problems.album.has_pictures:
            values[f"eval/{name}/unreadable"] = len(problems.unreadable) / len(problems.prompts)
    domain = {name: one.is_in_domain for name, one in sets.items() if not one.blank_of}
    values |= scores.overall(domain, tables)
    return values | {"time/eval": time.perf_counter() - start}


class _Sampler:
    """Answers problems, as many at a time as one call takes."""

    def __init__(self, params, config, tokenizer, settings, key, mesh, prompt_tokens):
        self._params, self._config, self._tokenizer = params, config, tokenizer
        self._settings, self._key, self._mesh = settings, key, mesh
        self._prompt_tokens = prompt_tokens

    def answer(
        self,
        problems: EvalSet,
        mine: Sequence[int | None],
        number: int,
        mode: str,
        N: int,
    ) -> list[Row]:
        """Returns the responses to this process's problems; None is padding, which comes last.

        N: of `Album.rung`.
        """
        rows = [() if i is None else problems.prompts[i] for i in mine]
        # A draw depends on its problem and not on the call that answers it.
        index = np.asarray([len(problems.prompts) if i is None else i for i in mine], np.int32)
        with processes.together():
            padded = pad_prompts(rows, self._prompt_tokens)
            padded = problems.album.add(padded, mine, N)
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
        lengths, ended = length.reshape(-1), finished.reshape(-1)
        return [
            {
                "mode": mode,
                "problem": mine[j // G],
                "sample": j % G,
                "response": response,
                "tokens": int(lengths[j]),
                "finished": bool(ended[j]),
            }
            for j, response in enumerate(responses)
        ]


def _judge(problems: EvalSet, reward: rewards.RewardFunction, rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with the verdicts on their responses."""
    indices = [row["problem"] for row in rows]
    examples = [problems.examples[i] for i in indices]
    thoughts = [problems.thoughts[i] if problems.thoughts else "" for i in indices]
    texts = [thought + row["response"] for thought, row in zip(thoughts, rows, strict=True)]
    fn = problems.reward or reward
    with processes.together():
        judged = rewards.judge(fn, texts, examples)
        right = judged.parts["accuracy"] if "accuracy" in judged.parts else judged.success
        lenient = right.copy() if getattr(fn, "is_in_form", False) else None
        if lenient is not None and not right.all():
            wrong = np.flatnonzero(right == 0)
            formed = [rewards.in_form(texts[j]) for j in wrong]
            again = rewards.judge(fn, formed, [examples[j] for j in wrong])
            lenient[wrong] = again.parts["accuracy"]
    return [
        {
            **row,
            "question": examples[j].get("question"),
            "answer": examples[j].get("answer"),
            "extracted": answers.extract(texts[j]),
            "accuracy": float(right[j]),
            **({} if lenient is None else {"accuracy_lenient": float(lenient[j])}),
            "reward": float(judged.rewards[j]),
            "success": bool(judged.success[j]),
            "parts": {name: float(x[j]) for name, x in judged.parts.items()},
        }
        for j, row in enumerate(rows)
    ]


def decode(tokenizer: Tokenizer, tokens_PGT: np.ndarray, length_PG: np.ndarray) -> list[str]:
    """Returns the texts of P * G responses, in order."""
    rows = tokens_PGT.reshape(-1, tokens_PGT.shape[-1])
    pairs = zip(rows, length_PG.reshape(-1), strict=True)
    return [tokenizer.decode(tokens[:n].tolist()) for tokens, n in pairs]
