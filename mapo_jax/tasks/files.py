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
    if form := _other_form(path, content):
        mistakes.append(f"{path}: {form}")
        return []
    if path.suffix == ".json":
        return _list(path, content, mistakes)
    lines = [(f"{path}:{n}", line) for n, line in enumerate(content.split(b"\n"), 1)]
    return parse(lines, _object, mistakes)


_FORMS = (  # how files begin that hold no JSON, and what helps
    (b"\x1f\x8b", "is compressed (gzip); unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd); unpack it"),
    (b"BZh", "is compressed (bzip2); unpack it"),
    (b"\xfd7zXZ", "is compressed (xz); unpack it"),
    (b"PK\x03\x04", "is a zip archive; unpack it"),
    (codecs.BOM_UTF16_LE, "is UTF-16; save it as UTF-8"),
    (codecs.BOM_UTF16_BE, "is UTF-16; save it as UTF-8"),
    (b"PAR1", "is a Parquet file; convert it to JSON lines, one object a line"),
)


def _other_form(path: Path, content: bytes) -> str:
    """Returns what is wrong with a file that is no JSON as a whole, and the fix; else ""."""
    for begin, what in _FORMS:
        if content.startswith(begin):
            return what
    if path.suffix in (".csv", ".tsv") and not content.startswith(b"{"):
        return "is a table; convert it to JSON lines, one object a line"
    if path.suffix == ".json" and content.startswith(b"{") and b"\n{" in content:
        return f"holds JSON lines, not a JSON list; rename it to {path.stem}.jsonl"
    if path.suffix != ".json" and b"\r" in content and b"\n" not in content:
        return "its lines end in CR alone; convert them to LF, as dos2unix -c mac does"
    return ""


def _list(path: Path, content: bytes, mistakes: list[str]) -> list[Row]:
    try:
        rows = json.loads(content, object_pairs_hook=_fields)
        if not isinstance(rows, list):
            raise ValueError("not a list")
    except (ValueError, RecursionError) as error:
        mistakes.append(f"{path}: not a JSON list of objects ({error}); give another file")
        return []
    places = [(f"{path}: row {n}", row) for n, row in enumerate(rows, 1)]
    return parse(places, _checked, mistakes)


def _fields(pairs: Sequence[tuple[str, object]]) -> dict:
    """Makes an object of its fields. JSON lets a name stand twice, and Python takes the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice} stands there twice; keep one")
    return fields


def _checked(row: object) -> dict:
    """Returns a row that is an object without NaN and infinities, which are no JSON."""
    if not isinstance(row, dict):
        raise ValueError('not a JSON object, as in {"question": "2+2=", "answer": "4"}')
    for name, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError(
                f"the field {name} holds NaN or an infinity; give a number or leave the row out"
            ) from None
    return row


def there(path: Path) -> str:
    """Returns what a directory holds, for a message, as in " (there: a.json, b.csv)"."""
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    more = ", ..." if len(names) > _MAX_LINES else ""
    return f" (there: {', '.join(names[:_MAX_LINES])}{more})" if names else ""


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
        f"{' or '.join(files)}{there(path) if data_path else ''}"
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
        row = json.loads(line.decode(), object_pairs_hook=_fields)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        what = f"not JSON ({error.msg} at column {error.colno})"
        raise ValueError(f"{what}; one JSON object a line is needed") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
        raise ValueError(f"not JSON that can be read ({error})") from None
    return _checked(row)
