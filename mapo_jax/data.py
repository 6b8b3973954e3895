"""Which examples come next, and their tokens as padded arrays: the first link in a batch's life.

Nothing here has state: the examples of a step follow from the seed and the position in the data, a
number, so a run that goes on from a checkpoint sees the same batches.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mapo_jax import errors
from mapo_jax.config import DataConfig
from mapo_jax.tasks.base import Task
from mapo_jax.tokenizers import Tokenizer


def indices(n_examples: int, seed: int, start: int, count: int) -> np.ndarray:
    """Returns which examples stand at the positions start ... start + count - 1 of the data.

    Every epoch is its own permutation of all examples; a batch may straddle two.

    Args:
        n_examples: examples in an epoch.
        seed: of the permutations, >= 0.
        start: position of the first one, counted from the beginning of the run.
        count: how many.

    Returns:
        i64[count], each in 0 ... n_examples - 1.
    """
    epochs, offsets = np.divmod(np.arange(start, start + count), n_examples)
    out = np.empty(count, np.int64)
    for epoch in np.unique(epochs):
        order = np.random.default_rng((seed, int(epoch))).permutation(n_examples)
        out[epochs == epoch] = order[offsets[epochs == epoch]]
    return out


def encode_examples(
    task: Task,
    tokenizer: Tokenizer,
    examples: Sequence[dict],
    name: str,
    max_prompt_tokens: int,
    too_long: str = "drop",
) -> tuple[list[tuple[int, list[int]]], int]:
    """Encodes the prompts of the examples of the set `name`.

    Of those that are too long the last tokens are kept where `too_long` is "truncate": the end is
    where the instruction and the beginning of the answer stand. Else they are dropped.

    Returns:
        (index in examples, prompt tokens) of those that are kept, and how many are too long.

    Raises:
        UserError: none is left.
    """
    encoded = [tokenizer.encode_prompt(task.prompt(example)) for example in examples]
    number = sum(len(ids) > max_prompt_tokens for ids in encoded)
    if too_long == "truncate":
        return [(i, ids[-max_prompt_tokens:]) for i, ids in enumerate(encoded)], number
    kept = [(i, ids) for i, ids in enumerate(encoded) if len(ids) <= max_prompt_tokens]
    if not kept:
        shortest = min(map(len, encoded), default=0)
        raise errors.UserError(
            f"data.max_prompt_tokens={max_prompt_tokens}: all {len(encoded)} prompts of "
            f"{task.name}'s set {name} are longer; set it to {shortest} (the shortest) or more"
        )
    return kept, number


def encode_set(
    task: Task,
    tokenizer: Tokenizer,
    examples: Sequence[dict],
    name: str,
    config: DataConfig,
    say: Callable[[str], None],
) -> list[tuple[int, list[int]]]:
    """`encode_examples` as the configuration has it; tells how many prompts are too long."""
    limit = config.max_prompt_tokens
    kept, number = encode_examples(task, tokenizer, examples, name, limit, config.too_long)
    if number:
        what = "are left out" if config.too_long == "drop" else "lose their beginning"
        say(
            f"{name}: {number} of {len(examples)} prompts are longer than data.max_prompt_tokens="
            f"{limit} and {what}"
        )
    return kept


def encode_demonstrations(
    task: Task, tokenizer: Tokenizer, examples: Iterable[dict], max_new_tokens: int
) -> tuple[list[tuple[int, list[int]]], int]:
    """Encodes the demonstrations of examples, each with its end, and drops those too long.

    Returns:
        (index in examples, response tokens) of those that are kept, and the number dropped.

    Raises:
        UserError: none is left, or the task has no demonstrations.
    """
    if task.demonstration is None:
        raise errors.UserError(f"warmup.steps: {task.name} has no demonstrations; set it to 0")
    eos = [tokenizer.eos_ids[0]]
    encoded = [tokenizer.encode(task.demonstration(example)) + eos for example in examples]
    kept = [(i, ids) for i, ids in enumerate(encoded) if len(ids) <= max_new_tokens]
    if not kept:
        shortest = min(map(len, encoded), default=0)
        raise errors.UserError(
            f"rollout.max_new_tokens={max_new_tokens}: all {len(encoded)} demonstrations of "
            f"{task.name} are longer; set it to {shortest} (the shortest) or more"
        )
    return kept, len(encoded) - len(kept)


def pad_prompts(prompts: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads prompts on the right, with zeros.

    Returns:
        tokens i32[P, length] and lengths i32[P].
    """
    tokens = np.zeros((len(prompts), length), np.int32)
    for row, ids in zip(tokens, prompts, strict=True):
        row[: len(ids)] = ids
    return tokens, np.asarray([len(ids) for ids in prompts], np.int32)


def pad_responses(responses: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pads one response per prompt on the right, with zeros: a group of one.

    Returns:
        tokens i32[P, 1, length] and mask bool[P, 1, length].
    """
    tokens, lengths = pad_prompts(responses, length)
    mask = np.arange(length) < lengths[:, None]
    return tokens[:, None], mask[:, None]
