"""Reads JSON lines: rows with the place where each stands, and every mistake in them.

`read` and `parse` append `FILE:LINE: what is wrong` to a list; `check` raises them together.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mapo_jax import errors

Row = tuple[str, dict]  # "FILE:LINE", and the object that stands there

_MAX_LINES = 10  # mistakes that are named, at most


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
    lines = [(f"{path}:{n}", line) for n, line in enumerate(content.split(b"\n"), 1)]
    return parse(lines, _object, mistakes)


def parse(rows: Iterable[tuple[str, object]], fn: Callable, mistakes: list[str]) -> list[Row]:
    """Returns the rows with `fn` of their contents; a ValueError of `fn` is a mistake."""
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
