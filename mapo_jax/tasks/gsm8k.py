"""GSM8K: grade-school word problems with worked answers (arXiv 2110.14168).

Rows `{question, answer}` whose answer ends in `#### number` come from a directory's `train.jsonl`
and `test.jsonl`. Without a directory they come from TensorFlow Datasets, which does not need
TensorFlow here.
"""

import contextlib
import io
import logging
import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mapo_jax import errors, rewards
from mapo_jax.tasks import files
from mapo_jax.tasks.base import Task, merge_options, prompt

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_FINAL = re.compile(r"-?[0-9][0-9,]*(?:\.[0-9]+)?")
_SOURCE = "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/test.jsonl"


def make(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task; it has no options, and nothing in it is random."""
    merge_options(options, {})
    train, test = _from_files(Path(data_path)) if data_path else _from_tfds()
    return Task(
        name="gsm8k",
        train=train,
        evals={"test": test},
        prompt=prompt,
        reward=rewards.accuracy_and_format,
        demonstration=demonstration,
    )


def demonstration(example: dict) -> str:
    """Returns the row's own reasoning and answer in the format that the reward asks for."""
    return f"<think>{example['reasoning']}</think> \\boxed{{{example['answer']}}}"


def _from_files(directory: Path) -> tuple[files.Rows, files.Rows]:
    paths = [directory / "train.jsonl", directory / "test.jsonl"]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise errors.UserError(
            f"data.path={directory}: no {' and no '.join(missing)} there; give the directory that"
            f" holds GSM8K's train.jsonl and test.jsonl{files.there(directory)}"
        )
    mistakes: list[str] = []
    train, test = (files.read(path, _parse_row, mistakes) for path in paths)
    files.check(f"data.path={directory}", mistakes)
    return train, test


def _parse_row(row: dict) -> dict:
    if not all(name in row and isinstance(row[name], str) for name in ("question", "answer")):
        raise ValueError('not a row {"question": text, "answer": text}')
    return _parse(row["question"], row["answer"])


def _parse(question: str, answer: str) -> dict:
    reasoning, mark, final = answer.rpartition("####")
    if not mark or not _FINAL.fullmatch(final.strip()):
        raise ValueError("the answer does not end in '#### number'")
    return {
        "question": question.strip(),
        "answer": final.strip().replace(",", ""),
        "reasoning": _CALCULATOR.sub("", reasoning).strip(),
    }


def _from_tfds() -> tuple[list[dict], list[dict]]:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns about a folder that it is about to make
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.text.gsm8k import gsm8k

        tfds.disable_progress_bar()
        builder = gsm8k.Gsm8k(file_format="array_record")  # the format that needs no tensorflow
        if not builder.is_prepared():
            urllib.request.urlopen(_SOURCE, timeout=20).close()  # the builder retries for minutes
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
        train, test = (
            [
                _parse(row["question"].decode(), row["answer"].decode())
                for row in builder.as_data_source(split)
            ]
            for split in ("train", "test")
        )
    except Exception as error:  # no package, network or room, or another format
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise errors.UserError(
            "data.path: GSM8K is missing: pass --config.data.path=DIR with train.jsonl and"
            " test.jsonl, or run where tensorflow-datasets is installed and can download or has"
            f" prepared it ({reason})"
        ) from None
    finally:
        logging.disable(disabled)
    return train, test
