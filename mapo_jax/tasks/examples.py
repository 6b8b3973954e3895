"""Chooses the next examples and encodes them, which is the first link in the life of a batch.

Nothing here has state. The examples of a step depend only on the seed and on the position in the
data, a number, so a run that continues from a checkpoint sees the same batches.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mapo_jax import errors
from mapo_jax.tasks.base import Task
from mapo_jax.text import Tokenizer


class Prompt(NamedTuple):
    """The prompt of one example, as the policy sees it."""

    example: int  # index in its data set
    tokens: list[int]
    thought: str = ""  # its end, from the <think> on that begins the answer


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


def encode_prompts(
    task: Task,
    tokenizer: Tokenizer,
    examples: Sequence[dict],
    name: str,
    max_prompt_tokens: int,
    too_long: str = "drop",
    say: Callable[[str], None] = print,
) -> list[Prompt]:
    """Encodes the prompts of the examples of the set `name`.

    Args:
        task: writes the prompts.
        tokenizer: of the policy.
        examples: the rows of the set.
        name: the name of the set, for messages.
        max_prompt_tokens: the length of the longest prompt that is kept whole.
        too_long: "drop" leaves out longer prompts, "truncate" keeps their last tokens, which hold
            the instruction and the beginning of the answer.
        say: prints a line with the number of prompts that are too long.

    Raises:
        UserError: no prompt is left.
    """
    texts = map(task.prompt, examples)
    encoded = [
        Prompt(i, tokenizer.encode_prompt(text), tokenizer.open_thought(text))
        for i, text in enumerate(texts)
    ]
    kept = [prompt for prompt in encoded if len(prompt.tokens) <= max_prompt_tokens]
    number = len(encoded) - len(kept)
    if too_long == "truncate":
        kept = [prompt._replace(tokens=prompt.tokens[-max_prompt_tokens:]) for prompt in encoded]
    if not kept:
        shortest = min((len(prompt.tokens) for prompt in encoded), default=0)
        raise errors.UserError(
            f"data.max_prompt_tokens={max_prompt_tokens}: all {len(encoded)} prompts of "
            f"{task.name}'s set {name} are longer; set it to {shortest} (the shortest) or more"
        )
    if number:
        what = "are left out" if too_long == "drop" else "lose their beginning"
        say(
            f"{name}: {number} of {len(examples)} prompts are longer than data.max_prompt_tokens="
            f"{max_prompt_tokens} and {what}"
        )
    return kept


def encode_demonstrations(
    task: Task, tokenizer: Tokenizer, examples: Iterable[dict], max_new_tokens: int
) -> tuple[list[tuple[int, list[int]]], int]:
    """Encodes demonstrations, each with an end-of-sequence token, and drops those too long.

    What the prompt says of the thought, the demonstration does not say again.

    Returns:
        (index in examples, response tokens) of those that are kept, and the number dropped.

    Raises:
        UserError: no demonstration is left, or the task has none.
    """
    if task.demonstration is None:
        raise errors.UserError(f"warmup.steps: {task.name} has no demonstrations; set it to 0")
    eos, encoded = [tokenizer.eos_ids[0]], []
    for example in examples:
        text = task.demonstration(example)
        thought = tokenizer.open_thought(task.prompt(example))
        if "</think>" in thought:
            text = text.rpartition("</think>")[2]
        elif thought:
            text = text.removeprefix("<think>")
        encoded.append(tokenizer.encode(text) + eos)
    kept = [(i, ids) for i, ids in enumerate(encoded) if len(ids) <= max_new_tokens]
    if not kept:
        shortest = min(map(len, encoded), default=0)
        raise errors.UserError(
            f"rollout.max_new_tokens={max_new_tokens}: all {len(encoded)} demonstrations of "
            f"{task.name} are longer; set it to {shortest} (the shortest) or more"
        )
    return kept, len(encoded) - len(kept)
