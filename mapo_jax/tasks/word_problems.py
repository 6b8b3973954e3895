"""SVAMP (arXiv 2103.07191) and MultiArith (Roy and Roth 2015): word problems of one or two steps.

They evaluate a policy outside the domain of GSM8K and have no training rows here. `data.path` is
the file itself or its directory.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from mapo_jax import rewards
from mapo_jax.tasks import files
from mapo_jax.tasks.base import Task, merge_options, prompt


def make_svamp(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task of svamp.json; it has no options, and nothing in it is random."""
    return _make("svamp", options, data_path, ("svamp.json", "svamp.jsonl"), _svamp)


def make_multiarith(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task of multiarith.jsonl; it has no options, and nothing in it is random."""
    return _make("multiarith", options, data_path, ("multiarith.jsonl",), _multiarith)


def _make(
    name: str,
    options: Mapping[str, Any],
    data_path: str,
    names: tuple[str, ...],
    example: Callable[[dict], dict],
) -> Task:
    merge_options(options, {})
    mistakes: list[str] = []
    examples = list(files.read(files.find(data_path, name, names), example, mistakes))
    files.check(f"data.path={data_path}", mistakes)
    return Task(
        name=name,
        train=[],
        evals={name: examples},
        prompt=prompt,
        reward=rewards.accuracy_and_format,
        demonstration=None,
    )


def _svamp(row: dict) -> dict:
    body, question = (files.text(row, name) for name in ("Body", "Question"))
    stop = "" if body.endswith((".", "!", "?", ",")) else "."
    return {"question": f"{body}{stop} {question}", "answer": _number(row, "Answer")}


def _multiarith(row: dict) -> dict:
    return {"question": files.text(row, "input"), "answer": _number(row, "target")}


def _number(row: dict, name: str) -> str:
    """Returns a number as people write it, 12.0 as 12."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f"no number in the field {name}")
    return json.dumps(int(value) if value == int(value) else value)
