"""Pictures of examples: their files, their places in prompts, what tells one from another."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mapo_jax import images
from mapo_jax.tasks.base import Task
from mapo_jax.text import Prompt


def listed(value: Any, field: str, root: Path, store: Mapping[str, bytes]) -> list[str | bytes]:
    """Returns the pictures that a field of a row holds; nothing is read.

    Args:
        value: of the field: null or "" for none, one, or a list of them. One is a path, base64
            text, or an object with one of them, {"bytes": ..., "path": ...}, as the hub has it.
        field: its name, for a message.
        root: where paths begin.
        store: the bytes of pictures by their digests, which stand for them in rows of Parquet.

    Raises:
        ValueError: the field holds something else.
    """
    found = value if isinstance(value, list) else [] if value in (None, "") else [value]
    pictures: list[str | bytes] = []
    for one in found:
        if isinstance(one, dict):
            one = one.get("bytes") or one.get("path")
        if not isinstance(one, str) or not one:
            raise ValueError(
                f"the field {field} holds no picture; must be a path, base64 text, an object with "
                "bytes or path, or a list of them"
            )
        if re.match(r"\w+://", one):
            raise ValueError(
                f"the field {field} has the address {one}; nothing is downloaded, so save the "
                "picture and give its path"
            )
        path = os.path.join(root, one)
        is_path = "." in one or os.path.exists(path)  # base64 has no dots
        pictures.append(store[one] if one in store else path if is_path else one)
    return pictures


def parts(task: Task, example: dict) -> Prompt:
    """Returns the prompt of an example, as a tokenizer takes it.

    Raises:
        ValueError: the pictures and their places do not match, see `split`.
    """
    text = task.prompt(example)
    if task.images is None:
        return text
    return split(text, len(task.images(example)), task.placeholder)[0]


def pictures(task: Task, example: dict) -> list[str | bytes]:
    """Returns the pictures of an example, in the order of their places in the prompt.

    Raises:
        ValueError: the pictures and their places do not match, see `split`.
    """
    if task.images is None:
        return []
    found = task.images(example)
    return [found[k] for k in split(task.prompt(example), len(found), task.placeholder)[1]]


def picture_digests(task: Task, example: dict) -> list[str]:
    """Returns the digests of the contents of an example's pictures, see `pictures`.

    Raises:
        ValueError: as `pictures`.
        UserError: a picture cannot be read.
    """
    return [images.digest(picture) for picture in pictures(task, example)]


def identity(task: Task, example: dict) -> str:
    """Returns what tells a prompt from others: its question, and the contents of its pictures.

    Raises:
        ValueError, UserError: as `picture_digests`.
    """
    return "\0".join([example["question"], *picture_digests(task, example)])


def split(text: str, number: int, placeholder: str) -> tuple[Prompt, list[int]]:
    """Splits a text at the places of its pictures.

    Args:
        text: of a prompt.
        number: of pictures.
        placeholder: a regular expression that matches each place. A place with a number in it, such
            as <image3>, is that of the third picture; the others take the rest in order. "" puts
            all pictures before the text.

    Returns:
        The prompt, with None in each place, and for each place the index of its picture. A text
        without pictures stays as it is.

    Raises:
        ValueError: the places are not one for each picture.
    """
    if not placeholder:
        return ([None] * number + [text] if number else text), list(range(number))
    places = list(re.finditer(placeholder, text))
    digits = [re.search(r"\d+", place[0]) for place in places]
    named = [int(found[0]) - 1 if found else None for found in digits]
    rest = iter(k for k in range(number) if k not in named)
    order = [next(rest, number) if k is None else k for k in named]  # number: none is left
    if sorted(order) != list(range(number)):
        shown = ", ".join(place[0] for place in places[:8]) + ", ..." * (len(places) > 8)
        raise ValueError(
            f"places for pictures in the prompt: {len(places)}{f' ({shown})' if shown else ''}, "
            f"pictures: {number}; give each picture one place, which task.options.placeholder="
            f"{placeholder} matches, or set that to '', which puts all before the text"
        )
    pieces: list[str | None] = []
    end = 0
    for place in places:
        pieces += [text[end : place.start()], None]
        end = place.end()
    pieces.append(text[end:])
    return ([piece for piece in pieces if piece != ""] if number else text), order
