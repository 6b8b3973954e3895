"""Answers a prompt, prints the text as it comes, then its reward, for launch/sample.py."""

import dataclasses
import functools
import itertools
import operator
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from etils import epath

from mapo_jax import errors, rewards, sampling, sharding, tasks
from mapo_jax.config import Config
from mapo_jax.rollouts import pad_prompts
from mapo_jax.run import evaluation, pictures, programs, sources
from mapo_jax.text import Stream, Tokenizer


def run(
    config: Config,
    workdir: epath.Path,
    prompt: str,
    files: Sequence[str] = (),
    *,
    params: str = "",
    checkpoint: str = "newest",
    n: int = 1,
    answer: str | None = None,
    is_raw: bool = False,
    write: Callable[[str], None],
) -> None:
    """Prints n completions.

    Args:
        config: its task, tokenizer and rollout sections count.
        workdir: directory of the run that is sampled.
        prompt: a question of the task.
        files: its pictures. They stand in the places that the prompt has for them, or before it.
        params: a Hugging Face folder, a hub id or another work directory, in place of workdir.
        checkpoint: of the run: newest, best or a number of checkpoints/.
        n: number of completions; a single one is written as it comes.
        answer: the right answer; None takes the task's own if the task has the question.
        is_raw: takes the prompt as it stands, without the task's instruction or chat template.
        write: takes pieces of the output.

    Raises:
        UserError: there is no such policy, the prompt is empty or too long for it, or it cannot
            read the pictures.
    """
    c = config
    if not prompt:
        raise errors.UserError("--prompt: missing; give --prompt TEXT, or text on standard input")
    task, reward = sources.make_task(c)
    one_device = sharding.make_mesh(devices=jax.devices()[:1])
    found = sources.open(c, workdir, params, one_device, checkpoint)
    rewards.log_to(Path(workdir) / "rewards.log")
    question = {"question": prompt}
    if is_raw:
        found.tokenizer.template = None
        task = dataclasses.replace(task, prompt=operator.itemgetter("question"))
    reader = pictures.reader(c.images, found.architecture.vision)
    asking, asked = _ask(task, found.tokenizer, reader, question, files)
    ids = asked.tokens
    limit = found.architecture.max_positions
    if limit and len(ids) + c.rollout.max_new_tokens > limit:
        raise errors.UserError(
            f"--prompt: its {len(ids)} tokens and rollout.max_new_tokens={c.rollout.max_new_tokens}"
            f" are more than the policy's {limit}; shorten one of them"
        )
    known = itertools.chain(task.train, *task.evals.values())
    alike, same = (x for x in known if x["question"] == prompt), tasks.identity(asking, question)
    known_as = functools.partial(errors.attempt, [], tasks.identity, task)  # None: unreadable
    example = next((x for x in alike if known_as(x) == same), None)
    if answer is not None:
        example = {**question, "answer": answer}

    stream, lengths = Stream(found.tokenizer), (len(ids), c.rollout.max_new_tokens)
    attention, _ = programs.choose_decoding(c.compute, found.architecture, one_device, lengths)
    settings = sampling.SamplingConfig(
        group_size=n,
        max_new_tokens=c.rollout.max_new_tokens,
        temperature=c.rollout.temperature,
        top_p=c.rollout.top_p,
        top_k=c.rollout.top_k,
        eos_ids=found.tokenizer.eos_ids,
        attention=attention,
        on_token=(lambda token: write(stream.push(int(token[0, 0])))) if n == 1 else None,
    )
    album = pictures.Album(reader, asking, [question], [asked])
    prompts = album.add(pad_prompts([ids], len(ids)), [0], album.rung())
    key = jax.random.key(c.seed)
    rollouts = sampling.sample(found.params, found.architecture, prompts, key, settings)
    rollouts = jax.device_get(jax.block_until_ready(rollouts))
    jax.effects_barrier()  # waits until the last tokens are written too
    texts = evaluation.decode(found.tokenizer, rollouts.tokens, rollouts.length)
    for i, text in enumerate(texts):
        write(stream.end() if n == 1 else f"--- {i + 1} of {n}\n{text}")
        write("\n" + _verdict(reward, asked.thought + text, example, rollouts, i) + "\n")


def _ask(
    task: tasks.Task,
    tokenizer: Tokenizer,
    reader: pictures.Reader | None,
    question: dict,
    files: Sequence[str],
) -> tuple[tasks.Task, tasks.Prompt]:
    """Returns the task with these files for its pictures, and the encoded question."""
    if files and reader is None:
        raise errors.UserError("--image: the policy sees no pictures; give a vision policy")
    sizes: Sequence[tuple[int, int, int]] = ()
    if reader and (files or task.images):
        has_places = task.placeholder and re.search(task.placeholder, task.prompt(question))
        places = task.placeholder if has_places else ""  # else before the text
        task = dataclasses.replace(task, images=lambda _: list(files), placeholder=places)
        try:
            sizes = reader.sizes(task, question)
        except (ValueError, errors.UserError) as error:
            raise errors.UserError(f"--image: {error}") from None
    encode = functools.partial(tasks.encode_prompts, task, tokenizer, [question], "--prompt")
    (asked,) = encode(sys.maxsize, look=lambda _: sizes)
    return task, asked


def _verdict(reward, text, example, rollouts, i: int) -> str:
    """Returns one line about a completion."""
    size, ended = int(rollouts.length[0, i]), bool(rollouts.finished[0, i])
    about = f"{size} tokens{'' if ended else ', cut'}"
    if example is None:
        return f"[{about}; no reward: the task does not know this question; give --answer]"
    judged = rewards.judge(reward, [text], [example], [ended])
    parts = ", ".join(f"{name} {x[0]:g}" for name, x in judged.parts.items())
    right = "success" if np.asarray(judged.success)[0] else "no success"
    return f"[{about}; reward {judged.rewards[0]:g}{f' ({parts})' if parts else ''}, {right}]"
