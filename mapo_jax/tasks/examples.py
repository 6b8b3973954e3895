"""Chooses the next examples and encodes them, which is the first link in the life of a batch.

Nothing here has state. The examples of a step depend only on the seed and on the position in the
data, a number, so a run that continues from a checkpoint sees the same batches.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from mapo_jax import errors
from mapo_jax.tasks import files, places
from mapo_jax.tasks.base import Task
from mapo_jax.text import Tokenizer

T = TypeVar("T")

_AT_START = 16_000_000  # characters: to encode prompts of so many takes 2 to 10 seconds
_LOOKED_AT = 1000  # rows of a larger set that are looked at before the run begins


# Returns (height, width, number of image tokens) of each picture of an example, in the order of
# `places.pictures`. Raises a ValueError or a UserError for one that cannot be used.
Look = Callable[[dict], Sequence[tuple[int, int, int]]]


class Picture(NamedTuple):
    """A picture in a prompt."""

    place: int  # index of its first image token in the prompt's tokens
    height: int  # pixels that the policy sees
    width: int


class Prompt(NamedTuple):
    """The prompt of one example, as the policy sees it."""

    example: int  # index in its data set
    tokens: list[int]  # [] if a picture cannot be read, see `encode_prompts`
    thought: str = ""  # its end, from the <think> on that begins the answer
    pictures: tuple[Picture, ...] = ()


def indices(n_examples: int, seed: int, start: int, count: int) -> np.ndarray:
    """Returns the examples at the positions start ... start + count - 1 of the data.

    Every epoch is its own permutation of all examples; a batch may straddle two.

    Args:
        n_examples: examples in an epoch.
        seed: the seed of the permutations, >= 0.
        start: position of the first example, counted from the beginning of the run.
        count: number of examples.

    Returns:
        i64[count], each in 0 ... n_examples - 1.
    """
    epochs, offsets = np.divmod(np.arange(start, start + count), n_examples)
    out = np.empty(count, np.int64)
    for epoch in np.unique(epochs):
        order = np.random.default_rng((seed, int(epoch))).permutation(n_examples)
        out[epochs == epoch] = order[offsets[epochs == epoch]]
    return out


class OnDemand(Sequence, Generic[T]):
    """Prompts or demonstrations of a large set, each encoded when it is asked for.

    A row for which `encode` returns None, as it is too long, gives way to one that is drawn by its
    number; the next one would do for many, where a file is sorted by length. So a position and the
    data alone say what stands there, and all processes agree. Some row has to be short enough.
    """

    def __init__(self, size: int, encode: Callable[[int], T | None]):
        self._rows, self.encode = range(size), encode

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: Any) -> Any:
        row = self._rows[i]
        rng = random.Random(row)
        while (found := self.encode(row)) is None:
            row = rng.choice(self._rows)
        return found


def is_large(task: Task) -> bool:
    """Whether a task's training prompts are too many to encode them all at the start.

    Those with pictures never are, as every picture is looked at before the run begins.
    """
    if task.images:
        return False
    n, rows = len(task.train), spread(len(task.train))
    return n * sum(len(task.prompt(task.train[i])) for i in rows) > _AT_START * len(rows)


def spread(size: int) -> list[int]:
    """Returns the numbers of some rows, evenly spread over a set; of all, if it is small."""
    return np.linspace(0, size - 1, min(size, _LOOKED_AT)).astype(int).tolist()


def check_too_long(task: Task, too_long: str) -> None:
    """Raises a UserError if prompts would be truncated that have pictures."""
    if task.images and too_long == "truncate":
        raise errors.UserError(
            f"data.too_long=truncate: would cut the pictures of {task.name}'s prompts; set it to "
            "drop"
        )


def encode_prompts(
    task: Task,
    tokenizer: Tokenizer,
    examples: Sequence[dict],
    name: str,
    max_prompt_tokens: int,
    too_long: str = "drop",
    say: Callable[[str], None] = print,
    at_most: int | None = None,
    look: Look | None = None,
    unreadable: list[str] | None = None,
) -> list[Prompt]:
    """Encodes the prompts of the examples of the set `name`.

    Args:
        task: writes the prompts.
        tokenizer: of the policy.
        examples: the rows of the set.
        name: the name of the set, for messages.
        max_prompt_tokens: the length of the longest prompt that is kept whole.
        too_long: "drop" leaves out longer prompts, "truncate" keeps their last tokens, which hold
            the instruction and the beginning of the answer; see `check_too_long`.
        say: prints a line with the number of prompts that are too long.
        at_most: looks at no more rows when it has so many prompts; None for all.
        look: needed if the task has pictures.
        unreadable: gets a line for each row with a picture that cannot be read, whose prompt is
            kept without tokens; None if that is a mistake.

    Raises:
        UserError: no prompt is left, a picture cannot be used, or none can be read.
    """
    check_too_long(task, too_long)
    kept: list[Prompt] = []
    lengths: list[int] = []
    mistakes: list[str] = []
    has_read = False  # a picture
    for i, example in enumerate(examples):
        if len(kept) == at_most:
            break
        try:
            sizes = look(example) if look and task.images else ()
        except (ValueError, errors.UserError) as error:
            line = f"{_place(examples, name, i)}: {error}"
            if unreadable is not None and isinstance(error, errors.UserError):
                unreadable.append(line)
                kept.append(Prompt(i, []))
            else:
                mistakes.append(line)
            continue
        prompt = _encode(task, tokenizer, example, i, sizes)
        has_read |= bool(sizes)
        if prompt.pictures and prompt.tokens[-1] == tokenizer.image_id:  # begins the response
            where = _place(examples, name, i)
            mistakes.append(f"{where}: the prompt ends with a picture; let text follow it")
        lengths.append(len(prompt.tokens))
        if (fitting := _fit(prompt, max_prompt_tokens, too_long)) is not None:
            kept.append(fitting)
    files.check(name, mistakes)
    if unreadable and not has_read:
        raise errors.UserError(
            f"{name}: no picture of its {len(unreadable)} problems with pictures can be read; the "
            f"first: {unreadable[0]}"
        )
    number = sum(length > max_prompt_tokens for length in lengths)
    if not any(prompt.tokens for prompt in kept):
        raise _none_fits(task, name, max_prompt_tokens, f"all {len(lengths)}", lengths)
    if number:
        what = "are left out" if too_long == "drop" else "lose their beginning"
        of = len(examples) if len(lengths) == len(examples) else f"the first {len(lengths)}"
        say(
            f"{name}: {number} of {of} prompts are longer than data.max_prompt_tokens="
            f"{max_prompt_tokens} and {what}"
        )
    return kept


def prompts_on_demand(
    task: Task,
    tokenizer: Tokenizer,
    max_prompt_tokens: int,
    too_long: str,
    say: Callable[[str], None],
) -> OnDemand[Prompt]:
    """Encodes the prompts of a large training set when they are drawn; see `encode_prompts`."""
    seen = spread(len(task.train))
    lengths = [len(_encode(task, tokenizer, task.train[i], i).tokens) for i in seen]
    number, longest = sum(length > max_prompt_tokens for length in lengths), max(lengths)
    if number == len(lengths) and too_long == "drop":
        what = f"all {number} that were looked at of {len(task.train)}"
        raise _none_fits(task, "train", max_prompt_tokens, what, lengths)
    limit = f"data.max_prompt_tokens={max_prompt_tokens}"
    hint = "; a lower limit would cost less" if longest < max_prompt_tokens else ""
    say(
        f"train: {len(task.train)} prompts, too many to encode them all now, are encoded when they "
        f"are drawn and padded to {limit}; the longest of {len(seen)} has {longest} tokens{hint}"
    )
    if number:
        drop = "give way to others that are not" if too_long == "drop" else "lose their beginning"
        say(f"train: {number} of {len(seen)} prompts are longer than {limit}; such prompts {drop}")
    return OnDemand(
        len(task.train),
        lambda i: _fit(_encode(task, tokenizer, task.train[i], i), max_prompt_tokens, too_long),
    )


def _encode(
    task: Task,
    tokenizer: Tokenizer,
    example: dict,
    i: int,
    sizes: Sequence[tuple[int, int, int]] = (),
) -> Prompt:
    prompt = places.parts(task, example)
    ids, thought = tokenizer.encode_prompt(prompt), tokenizer.open_thought(prompt)
    if isinstance(prompt, str):
        return Prompt(i, ids, thought)
    tokens: list[int] = []
    pictures, rest = [], iter(sizes)
    for token in ids:
        copies = 1
        if token == tokenizer.image_id:
            height, width, copies = next(rest)
            pictures.append(Picture(len(tokens), height, width))
        tokens += [token] * copies
    return Prompt(i, tokens, thought, tuple(pictures))


def _place(examples: Sequence[dict], name: str, i: int) -> str:
    """Returns where a row stands, for a message."""
    return examples.place(i) if isinstance(examples, files.Rows) else f"{name}: row {i + 1}"


def _fit(prompt: Prompt, limit: int, too_long: str) -> Prompt | None:
    if len(prompt.tokens) <= limit:
        return prompt
    return None if too_long == "drop" else prompt._replace(tokens=prompt.tokens[-limit:])


def _none_fits(
    task: Task, name: str, limit: int, which: str, lengths: Sequence[int]
) -> errors.UserError:
    return errors.UserError(
        f"data.max_prompt_tokens={limit}: {which} prompts of {task.name}'s set {name} are longer; "
        f"set it to {min(lengths, default=0)} (the shortest) or more"
    )


def digest(examples: Sequence[dict]) -> str:
    """SHA-256 of the rows of a set: of a file's bytes, where they are read from one."""
    lines: Iterable[bytes] = (json.dumps(row, sort_keys=True).encode() for row in examples)
    if isinstance(examples, files.Rows):
        lines = examples.lines()
    found = hashlib.sha256()
    for line in lines:
        found.update(line + b"\n")
    return found.hexdigest()


def encode_demonstrations(
    task: Task, tokenizer: Tokenizer, examples: Iterable[dict], max_new_tokens: int
) -> tuple[list[tuple[int, list[int]]], int]:
    """Encodes demonstrations and drops those too long.

    Returns:
        (index in examples, response tokens) of those that are kept, and the number dropped.

    Raises:
        UserError: no demonstration is left, or the task has none.
    """
    encoded = [encode_demonstration(task, tokenizer, example) for example in examples]
    kept = [(i, ids) for i, ids in enumerate(encoded) if len(ids) <= max_new_tokens]
    if not kept:
        shortest = min(map(len, encoded), default=0)
        raise errors.UserError(
            f"rollout.max_new_tokens={max_new_tokens}: all {len(encoded)} demonstrations of "
            f"{task.name} are longer; set it to {shortest} (the shortest) or more"
        )
    return kept, len(encoded) - len(kept)


def encode_demonstration(task: Task, tokenizer: Tokenizer, example: dict) -> list[int]:
    """Encodes the demonstration of an example, with an end-of-sequence token.

    What the prompt says of the thought, the demonstration does not say again.

    Raises:
        UserError: the task has no demonstrations.
    """
    if task.demonstration is None:
        raise errors.UserError(f"warmup.steps: {task.name} has no demonstrations; set it to 0")
    text = task.demonstration(example)
    thought = tokenizer.open_thought(places.parts(task, example))
    if "</think>" in thought:
        text = text.rpartition("</think>")[2]
    elif thought:
        text = text.removeprefix("<think>")
    return [*tokenizer.encode(text), tokenizer.eos_ids[0]]
