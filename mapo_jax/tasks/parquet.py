"""Reads rows of Parquet files, such as those of data sets on the Hugging Face hub."""

import glob
import re
from pathlib import Path
from typing import Any

from mapo_jax import errors, images

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})[^.]*\.parquet$")  # ends train-00000-of-00002.parquet


def set_name(path: Path) -> str:
    """Returns the name of the set that a file belongs to, as train."""
    found = _SHARD.search(path.name)
    return path.name[: found.start()] if found else path.stem


def is_first(path: Path) -> bool:
    """Whether a file begins its set."""
    found = _SHARD.search(path.name)
    return found is None or int(found[1]) == 0


def rows(
    path: Path, mistakes: list[str], store: dict[str, bytes]
) -> list[tuple[str, dict[str, Any]]]:
    """Reads a file; one of several shards stands for all of them.

    Args:
        path: of the file.
        mistakes: gets a line for each file that cannot be read.
        store: gets all bytes, those of pictures, by their digests, which replace them in the rows.
            What JSON cannot hold otherwise, such as a time, becomes text.

    Returns:
        Rows with their places, as in "FILE: row 1".

    Raises:
        UserError: pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise errors.UserError(f"{path}: needs the package pyarrow; pip install pyarrow") from None
    found = []
    for shard in _shards(path, mistakes):
        try:
            batches = pyarrow.parquet.ParquetFile(shard).iter_batches(batch_size=64)
            read = [_plain(row, store) for batch in batches for row in batch.to_pylist()]
        except (OSError, pyarrow.ArrowException) as error:
            reason = " ".join(str(error).split())[:200]
            mistakes.append(f"{shard}: cannot be read as Parquet ({reason}); give another file")
            continue
        if not read:
            mistakes.append(f"{shard}: holds no rows; give another file")
        found += [(f"{shard}: row {n}", row) for n, row in enumerate(read, 1)]
    return found


def _shards(path: Path, mistakes: list[str]) -> list[Path]:
    found = _SHARD.search(path.name)
    if not found:
        return [path]
    shards = []
    for n in range(int(found[2])):
        name = f"{set_name(path)}-{n:05}-of-{found[2]}"
        if there := sorted(path.parent.glob(f"{glob.escape(name)}*.parquet")):
            shards.append(there[0])
        else:
            mistakes.append(f"{path.parent}/{name}.parquet: missing; download all of the set")
    return shards


def _plain(value: Any, store: dict[str, bytes]) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part, store) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, store) for part in value]
    if isinstance(value, bytes):
        store[digest := images.digest(value)] = value
        return digest
    return value if isinstance(value, str | int | float | None) else str(value)
