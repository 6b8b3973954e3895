"""Reads rows from JSON lines, JSON lists and Parquet files, and finds every mistake in them.

`read` appends lines such as `FILE:LINE: not JSON` to a list; `check` raises them all.
"""

import array
import codecs
import hashlib
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapo_jax import errors
from mapo_jax.tasks import parquet

_MAX_LINES = 10  # at most this many mistakes are named


class Rows(Sequence[dict]):
    """Examples that are made of a file's bytes when they are asked for.

    A row takes as much memory as it has bytes, and 24 more; as a dict it takes twice as much.
    """

    def __init__(
        self,
        content: bytes,
        spans: np.ndarray,
        questions: np.ndarray,
        fields: frozenset[str],
        make: Callable[[dict], dict],
        where: str,
    ):
        """Takes what `read` has found.

        Args:
            content: of the file.
            spans: i64[n, 2], where each row begins and ends.
            questions: u64[n], hashes of the examples' questions, see `read`.
            fields: the names that rows have.
            make: makes an example of a row.
            where: what stands before a row's line or number in a message.
        """
        self.questions, self.fields = questions, fields
        self._content, self._spans, self._make, self._where = content, spans, make, where

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, i: Any) -> Any:
        start, end = self._spans[i].tolist()
        return self._make(_object(self._content[start:end]))

    def lines(self) -> Iterator[bytes]:
        """Yields the bytes of each row."""
        return (self._content[start:end] for start, end in self._spans.tolist())

    def place(self, i: int) -> str:
        """Returns where a row stands, for a message, as in FILE:LINE."""
        before = self._content.count(b"\n", 0, self._spans[i, 0])
        return f"{self._where}{before + 1}"

    def take(self, chosen: np.ndarray) -> "Rows":
        """Returns the rows with the numbers `chosen`."""
        spans, questions = self._spans[chosen], self.questions[chosen]
        return Rows(self._content, spans, questions, self.fields, self._make, self._where)


def read(
    path: Path,
    make: Callable[[dict], dict],
    mistakes: list[str],
    unfit: list[str] | None = None,
    identity: Callable[[dict], str] = operator.itemgetter("question"),
    store: dict[str, bytes] | None = None,
) -> Rows:
    """Reads a file; a byte-order mark, CRLF and empty lines at its end are fine.

    Args:
        path: of the file, JSON lines, a JSON list or an object of rows by their names, or a Parquet
            file, see `parquet.rows`.
        make: makes an example of a row, the same whenever it is called.
        mistakes: gets a line for each row that cannot be read.
        unfit: gets a line for each row that `make` raises a ValueError for; None for `mistakes`,
            after those of this file.
        identity: what tells an example from others; `Rows.questions` has the hash. May raise as
            `make` does, or a UserError.
        store: gets the bytes in rows of a Parquet file, by the digests that replace them.
    """
    if path.suffix == ".parquet":
        content, rows = b"", parquet.rows(path, mistakes, {} if store is None else store)
    else:
        content = _content(path, mistakes)
        rows = _list(path, content, mistakes) if path.suffix == ".json" and content else []
    where, places = f"{path}:", [place for place, _ in rows]
    if path.suffix in (".json", ".parquet"):
        where = f"{path}: row "
        content = b"\n".join(json.dumps(row).encode() for _, row in rows)
    spans, questions, fields = array.array("q"), array.array("Q"), set()
    refused: list[str] = []
    for n, (start, end) in enumerate(_spans(content)):
        said = mistakes
        try:
            row = _object(content[start:end])
            fields.update(row)
            said = refused
            text = identity(make(row)).encode(errors="surrogatepass")
        except (ValueError, errors.UserError) as error:
            said.append(f"{places[n] if places else f'{where}{n + 1}'}: {error}")
            continue
        questions.frombytes(hashlib.blake2b(text, digest_size=8).digest())
        spans.extend((start, end))
    (mistakes if unfit is None else unfit).extend(refused)
    made = np.frombuffer(spans, np.int64).reshape(-1, 2)
    return Rows(content, made, np.frombuffer(questions, np.uint64), frozenset(fields), make, where)


def _content(path: Path, mistakes: list[str]) -> bytes:
    """Returns the bytes of a file of rows; nothing, and a line, if it has none."""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        mistakes.append(f"{path}: cannot be read ({error.strerror}); give another file")
        return b""
    if not content or content.isspace():
        mistakes.append(f"{path}: empty; one JSON object a line is needed")
        return b""
    if form := _other_form(path, content):
        mistakes.append(f"{path}: {form}")
        return b""
    return content


def _spans(content: bytes) -> Iterator[tuple[int, int]]:
    """Yields where each line begins and ends; space at the end of the file is no line."""
    start, last = 0, len(content)
    while last and content[last - 1 : last].isspace():  # a stripped copy would need its memory
        last -= 1
    while start < last:
        end = content.find(b"\n", start, last)
        end = last if end < 0 else end
        yield start, end
        start = end + 1


_FORMS = (  # how files begin that hold no JSON, and what helps
    (b"\x1f\x8b", "is compressed (gzip); unpack it"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd); unpack it"),
    (b"BZh", "is compressed (bzip2); unpack it"),
    (b"\xfd7zXZ", "is compressed (xz); unpack it"),
    (b"PK\x03\x04", "is a zip archive; unpack it"),
    (codecs.BOM_UTF16_LE, "is UTF-16; save it as UTF-8"),
    (codecs.BOM_UTF16_BE, "is UTF-16; save it as UTF-8"),
    (b"PAR1", "is a Parquet file; give it a name that ends in .parquet"),
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


def _list(path: Path, content: bytes, mistakes: list[str]) -> list[tuple[str, dict]]:
    """Returns the places and the objects of a JSON list, or of an object of objects."""
    try:
        rows = json.loads(content, object_pairs_hook=_fields)
        if isinstance(rows, dict) and rows and all(isinstance(x, dict) for x in rows.values()):
            rows = [*rows.values()]
        if not isinstance(rows, list):
            raise ValueError("not a list")
    except (ValueError, RecursionError) as error:
        mistakes.append(f"{path}: not a JSON list of objects ({error}); give another file")
        return []
    found = []
    for n, row in enumerate(rows, 1):
        try:
            found.append((f"{path}: row {n}", _checked(row)))
        except ValueError as error:
            mistakes.append(f"{path}: row {n}: {error}")
    return found


def _fields(pairs: Sequence[tuple[str, object]]) -> dict:
    """Makes an object of its fields. JSON lets a name stand twice, and Python takes the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice} stands there twice; keep one")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_fields)


def _checked(row: object) -> dict:
    """Returns a row that is an object without NaN and infinities, which are no JSON."""
    if not isinstance(row, dict):
        raise ValueError('not a JSON object, as in {"question": "2+2=", "answer": "4"}')
    for name, value in row.items():
        if isinstance(value, str):
            continue
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError(
                f"the field {name} holds NaN or an infinity; give a number or leave the row out"
            ) from None
    return row


def read_object(path: Path, mistakes: list[str]) -> dict | None:
    """Reads a file that is one JSON object; None, and a line in `mistakes`, if it is none."""
    content = _content(path, mistakes)
    try:
        return _checked(json.loads(content, object_pairs_hook=_fields)) if content else None
    except (ValueError, RecursionError) as error:
        mistakes.append(f"{path}: cannot be read as a JSON object ({error}); give another file")
    return None


def text(row: dict, field: str) -> str:
    """Returns the text of a row's field without white space around it.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(row.get(field), str) or not row[field].strip():
        raise ValueError(f"no text in the field {field}")
    return row[field].strip()


def stamps(data_path: str) -> list[tuple[str, int, int, int]]:
    """Returns what changes with a file, or with one of a directory: sizes, times and inodes.

    So it is for files in its directories too, but deeper down only for new ones and for those that
    are gone.
    """
    path = Path(data_path).absolute()
    try:
        found = [path]
        if data_path and path.is_dir():
            found = sorted([*path.glob("*"), *path.glob("*/*")])
        stats = [(str(file), file.stat()) for file in found if data_path and file.exists()]
    except OSError:  # whoever reads there says so
        return []
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in stats]


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


def find_set(folder: Path, names: Sequence[str]) -> Path | None:
    """Returns the file of rows of the first set that a directory, or its folder `data`, holds.

    It is NAME.parquet, NAME.jsonl or NAME.json. Of shards, NAME-00000-of-00002.parquet and so on,
    it is the first.
    """
    for name in names:
        for kind in (".parquet", ".jsonl", ".json"):  # a Parquet file holds the pictures as well
            for place in (folder, folder / "data"):
                for path in sorted(place.glob(f"{name}*{kind}")):
                    if parquet.set_name(path) == name and parquet.is_first(path):
                        return path
    return None


def check(where: str, mistakes: Sequence[str]) -> None:
    """Raises a UserError with the first mistakes and the number of the rest, if there are any."""
    rest = len(mistakes) - _MAX_LINES
    more = [f"{where}: and {rest} more malformed rows"] if rest > 0 else []
    if mistakes:
        raise errors.UserError(*mistakes[:_MAX_LINES], *more)


def _object(line: bytes) -> dict:
    if not line.strip():
        raise ValueError("an empty line; one JSON object a line is needed")
    try:
        row = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start + 1}; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        what = f"not JSON ({error.msg} at column {error.colno})"
        raise ValueError(f"{what}; one JSON object a line is needed") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
        raise ValueError(f"not JSON that can be read ({error})") from None
    return _checked(row)
