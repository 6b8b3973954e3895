"""Digests by which a checkpoint notices a flipped bit, and an evaluation what it is of."""

import ast
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def of_files(files: Mapping[str, bytes]) -> str:
    return of_json({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})


def of_source(path: Path) -> str:
    """Digest of a Python file, with the modules that it imports from beside it or from here."""
    found, waiting = {"": path.read_bytes()}, [("", "")]  # modules, with their packages
    while waiting:
        module, package = waiting.pop()
        for name in _imported(found[module], package):
            stem = name.replace(".", "/")
            ends = (f"{stem}.py", f"{stem}/__init__.py")
            files = [root / end for root in (path.parent, Path()) for end in ends]
            file = next(filter(Path.is_file, files), None)
            if name not in found and file is not None:
                found[name] = file.read_bytes()
                is_package = file.name == "__init__.py"
                waiting.append((name, name if is_package else name.rpartition(".")[0]))
    return of_files(found)


def _imported(source: bytes, package: str) -> Iterator[str]:
    """Yields the modules that a package's source may import: a.b gives a and a.b."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # whoever imports it does without: it imports nothing
        return
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".") if node.level and package else []
            above = above[: len(above) - node.level + 1]
            base = ".".join([*above, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
        for name in names:
            yield from itertools.accumulate(name.split("."), "{}.{}".format)


def of_arrays(tree: Any) -> str:
    """Digest of a pytree of arrays, the same on any mesh."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return of_json(describe({jax.tree_util.keystr(path): leaf for path, leaf in leaves}))


def describe(flat: Mapping[str, jax.Array]) -> dict[str, list[Any]]:
    digests = jax.device_get(_digests(dict(flat)))
    return {
        path: [str(x.dtype), list(x.shape), "".join(f"{word:08x}" for word in digests[path])]
        for path, x in flat.items()
    }


@jax.jit
def _digests(flat: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns u32[2] for each leaf: sums over its elements of a hash of bits and place.

    A sum modulo 2**32 is the same in any order, and so on any mesh. At one place the hash is one to
    one in the bits: the change of a single element always shows. Other changes go unnoticed once in
    2**64.
    """

    def digest(x):
        bits = x.astype(jnp.uint8) if x.dtype == bool else x
        bits = jax.lax.bitcast_convert_type(bits, f"uint{8 * bits.dtype.itemsize}")
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        sums = [
            _mix(bits.astype(jnp.uint32) ^ _mix(place + np.uint32(seed))).sum(dtype=jnp.uint32)
            for seed in (0x9E3779B9, 0x7F4A7C15)
        ]
        return jnp.stack(sums)

    return jax.tree.map(digest, dict(flat))


def _mix(x):
    """A hash u32 -> u32, one to one: the constants are those of C. Wellons' "lowbias32"."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)


def differences(saved: Mapping[str, list[Any]], wanted: Mapping[str, Any]) -> list[str]:
    """A line for each array whose name, shape or dtype differs.

    Orbax does not compare dtypes: it casts silently.
    """
    there = {path: f"{dtype}{shape}" for path, (dtype, shape, _) in saved.items()}
    here = {path: f"{x.dtype}{list(x.shape)}" for path, x in wanted.items()}
    return [
        f"{path} is {there.get(path, 'absent')} there and {here.get(path, 'absent')}"
        for path in sorted({*there, *here})
        if there.get(path) != here.get(path)
    ]
