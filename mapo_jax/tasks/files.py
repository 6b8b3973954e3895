"""Reads rows and their places from JSON lines and JSON lists, and finds every mistake in them.

`read` and `parse` append lines such as `FILE:LINE: not JSON` to a list; `check` raises them all.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mapo_jax import errors

Row = tuple[str, dict]  # "FILE:LINE" and its object

_MAX_LINES = 10  # at most this many mistakes are named


def read(path: Path, mistakes: list[str]) -> list[Row]:
    """Returns the rows of a file; a byte-order mark, CRLF and empty lines at its end are fine."""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8).rstrip()
    except OSError as error:
        mistakes.append(f"{path}: cannot be read ({error.strerror}); give another file")
        return []
    if not content:
        mistakes.append(f"{path}: empty; one JSON object a line is needed")
        return []
    if path.suffix == ".json":
        return _list(path, content, mistakes)
    lines = [(f"{path}:{n}", line) for n, line in enumerate(content.split(b"\n"), 1)]
    return parse(lines, _object, mistakes)


def _list(path: Path, content: bytes, mistakes: list[str]) -> list[Row]:
    try:
        rows = json.loads(content)
        if not isinstance(rows, list):
            raise ValueError("not a list")
    except (ValueError, RecursionError) as error:
        mistakes.append(f"{path}: not a JSON list of objects ({error}); give another file")
        return []
    places = [(f"{path}: row {n}", row) for n, row in enumerate(rows, 1)]
    return parse(places, _is_object, mistakes)


def _is_object(row: object) -> dict:
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def find(data_path: str, name: str, files: Sequence[str]) -> Path:
    """Returns a task's file: the path itself, or the first of `files` in that directory.

    Raises:
        UserError: there is no such file.
    """
    path = Path(data_path)
    if data_path and path.is_file():
        return path
    for file in files:
        if data_path and (path / file).is_file():
            return path / file
    where = f"data.path={data_path}" if data_path else "data.path=''"
    raise errors.UserError(
        f"{where}: {name} is read from a file; give it, or the directory that holds "
        f"{' or '.join(files)}"
    )


def parse(rows: Iterable[tuple[str, object]], fn: Callable, mistakes: list[str]) -> list[Row]:
    """Applies `fn` to the content of each row; a ValueError that it raises is a mistake."""
    parsed = []
    for where, content in rows:
        try:
            parsed.append((where, fn(content)))
        except ValueError as error:
            mistakes.append(f"{where}: {error}")
    return parsed


def check(data_path: object, mistakes: Sequence[str]) -> None:
    """Raises a UserError with the first mistakes and the number of the rest, if there are any."""
    rest = len(mistakes) - _MAX_LINES
    more = [f"data.path={data_path}: and {rest} more malformed rows"] if rest > 0 else []
    if mistakes:
        raise errors.UserError(*mistakes[:_MAX_LINES], *more)


def _object(line: bytes) -> dict:
    if not line.strip():
        raise ValueError("an empty line; one JSON object a line is needed")
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        what = f"not JSON ({error.msg} at column {error.colno})"
        raise ValueError(f"{what}; one JSON object a line is needed") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
        raise ValueError(f"not JSON that can be read ({error})") from None
    if not isinstance(row, dict):
        raise ValueError('not a JSON object, as in {"question": "2+2=", "answer": "4"}')
    return row
