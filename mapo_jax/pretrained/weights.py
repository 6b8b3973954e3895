"""Turns Hugging Face's safetensors into parameters and back.

A matrix of Hugging Face is [out, in], with one tensor per layer. Ours is [in..., out...], stacked
over the layers. Each device's part of an array is read from the files by itself, one array at a
time, so that the host never holds the whole policy beside the result.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.sharding import Mesh

from mapo_jax import errors, model, sharding
from mapo_jax.pretrained import vision

_DTYPES = ("F32", "BF16", "F16", "F64")
_SHARD_BYTES = 5 * 10**9  # approximate size of a file
_ROWS = 16_384  # of the head that are compared at once
_SHOWN = 3  # at most this many tensors are named in a mistake
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_INDEX = "model.safetensors.index.json"


class _Array(NamedTuple):
    """The tensors from which one of our arrays is made."""

    names: tuple[str, ...]  # names of the tensors: one, or one per layer
    shape: tuple[int, ...]  # ours; the first axis is the layers if it is stacked
    inputs: int  # number of input axes, layers aside; 0: not transposed
    is_stacked: bool
    window: tuple[int, ...] = ()  # axes of a convolution's window, which are one of ours

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
        axes = self.shape[1:] if self.is_stacked else self.shape
        if not self.inputs:
            return (math.prod(axes),) if self.is_stacked else axes
        outs, ins = axes[self.inputs :], axes[: self.inputs]
        if self.window:
            return *outs, *ins[:-1], *self.window
        return math.prod(outs), math.prod(ins)


def _arrays(config: model.ModelConfig) -> model.Params:
    """Returns the tree of the parameters with an `_Array` in the place of each."""
    shapes = model.abstract_params(config)
    norms = {
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        "q_norm": "self_attn.q_norm",
        "k_norm": "self_attn.k_norm",
    }
    if config.post_norms:
        norms |= {
            "attention_post_norm": "post_attention_layernorm",
            "mlp_norm": "pre_feedforward_layernorm",
            "mlp_post_norm": "post_feedforward_layernorm",
        }
    inner = {x: f"self_attn.{x}_proj" for x in "qkvo"}
    inner |= {x: f"mlp.{x}_proj" for x in ("gate", "up", "down")}
    ends = {
        "embedding": _Array((_EMBEDDING,), shapes["ends"]["embedding"].shape, 0, False),
        "norm": {
            "scale": _Array(("model.norm.weight",), shapes["ends"]["norm"]["scale"].shape, 0, False)
        },
    }
    if not config.tie_embeddings:
        ends["head"] = _Array((_HEAD,), shapes["ends"]["head"].shape, 1, False)

    def layered(path, x):
        name, kind = (key.key for key in path)
        tensor = (norms | inner)[name] + (".bias" if kind == "bias" else ".weight")
        names = tuple(f"model.layers.{i}.{tensor}" for i in range(config.num_layers))
        inputs = 0 if kind != "kernel" else 2 if name == "o" else 1
        return _Array(names, x.shape, inputs, True)

    arrays = {"ends": ends, "layers": jax.tree_util.tree_map_with_path(layered, shapes["layers"])}
    if config.vision is not None:
        arrays["vision"] = _tower(config, shapes["vision"])
    return arrays


def _tower(config: model.ModelConfig, shapes: model.Params) -> model.Params:
    names, c = vision.tensor_names(config), config.vision
    assert c is not None

    def one(path, x):
        keys = [key.key for key in path]
        kind = keys.pop() if keys[-1] in ("kernel", "bias", "scale") else ""
        name = names[".".join(keys)] + (".bias" if kind == "bias" else ".weight")
        is_stacked, inputs, window = keys[0] in ("layers", "deepstack"), 0, ()
        if kind == "kernel":
            inputs = {"o": 2, "patches": 3}.get(keys[-1], 1)
        if inputs == 3:
            window = (c.patch, c.patch)
        layers = range(x.shape[0] if is_stacked else 1)
        return _Array(tuple(map(name.format, layers)), x.shape, inputs, is_stacked, window)

    return jax.tree_util.tree_map_with_path(one, shapes)


class _Folder:
    """The tensors of a folder, by the names that they have in a plain decoder and its tower."""

    def __init__(self, path: Path, where: str):
        self.where = where
        self._files: dict[str, Any] = {}
        self._places: dict[str, tuple[str, str]] = {}  # name -> file, name there
        for file in files(path, self.where):
            try:
                self._files[file] = safetensors.safe_open(path / file, framework="np")
            except (OSError, safetensors.SafetensorError) as error:
                raise errors.UserError(
                    f"{self.where}: {file} cannot be read ({error}); download it again"
                ) from None
            for name in self._files[file].keys():  # it is not a dict
                if (plain := _plain(name)) is None:
                    continue
                if plain in self._places:
                    there = " and in ".join(sorted({file, self._places[plain][0]}))
                    raise errors.UserError(
                        f"{self.where}: the tensor {plain} stands twice, in {there}; remove one"
                    )
                self._places[plain] = file, name

    def names(self) -> set[str]:
        return {*self._places}

    def slice(self, name: str) -> Any:
        """Returns a tensor that can be read in parts."""
        file, there = self._places[name]
        return self._files[file].get_slice(there)


def files(path: Path, where: str) -> list[str]:
    """Returns the names of a folder's weight files; model.safetensors goes before an index."""
    if (path / "model.safetensors").is_file():
        return ["model.safetensors"]
    if not (path / _INDEX).is_file():
        others = sorted(file.name for file in path.glob("*.bin"))
        raise errors.UserError(
            f"{where}: has no model.safetensors"
            + (f"; {others[0]} is in PyTorch's own format: " if others else "; ")
            + "give a folder in the safetensors format"
        )
    try:
        found = sorted({*json.loads((path / _INDEX).read_bytes())["weight_map"].values()})
        missing = [file for file in found if not (path / file).is_file()]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise errors.UserError(f"{where}: {_INDEX} is broken; download it again") from None
    if missing:
        raise errors.UserError(
            f"{where}: {len(missing)} of {len(found)} files of {_INDEX} are missing, first "
            f"{missing[0]}; download them"
        )
    return found


def _plain(name: str) -> str | None:
    """Returns a tensor's name in a plain decoder or its tower; None if neither uses it."""
    if "vision_tower" in name or "multi_modal_projector" in name or "rotary_emb" in name:
        return None
    return vision.plain(name.removeprefix("language_model."))  # Gemma 3 with pictures


def read(
    path: Path, config: model.ModelConfig, dtype: str, mesh: Mesh | None, where: str
) -> model.Params:
    """Reads the parameters of a folder, as `pretrained.load_params` describes."""
    arrays, folder = _arrays(config), _Folder(path, where)
    leaves = jax.tree.leaves(arrays, is_leaf=lambda x: isinstance(x, _Array))
    _check(folder, leaves, config)

    def one(array: _Array, where: Any) -> jax.Array:
        def part(index) -> np.ndarray:
            return _read(folder, array, index, dtype)

        if where is None:
            return jnp.asarray(part((slice(None),) * len(array.shape)))
        return jax.make_array_from_callback(array.shape, where, part)

    shardings = jax.tree.map(lambda _: None, arrays, is_leaf=lambda x: isinstance(x, _Array))
    if mesh is not None:
        shardings = sharding.shardings(mesh, model.logical_axes(config))
    return jax.tree.map(one, arrays, shardings, is_leaf=lambda x: isinstance(x, _Array))


def _check(folder: _Folder, arrays: list[_Array], config: model.ModelConfig) -> None:
    """Raises UserError with every tensor that is missing, has another shape or is left over."""
    wanted = {name: array.tensor_shape for array in arrays for name in array.names}
    names = folder.names()
    missing = [name for name in wanted if name not in names]
    unused = sorted(names - {*wanted} - ({_HEAD} if config.tie_embeddings else set()))
    misshapen, mistyped = [], []
    for name, shape in wanted.items():
        if name in names:
            tensor = folder.slice(name)
            if tuple(tensor.get_shape()) != shape:
                misshapen.append(f"{name} is {tensor.get_shape()}, not {[*shape]}")
            if tensor.get_dtype() not in _DTYPES:
                mistyped.append(f"{name} is {tensor.get_dtype()}")
    lines = [
        f"{folder.where}: {len(found)} of {len(wanted)} tensors {what}: {'; '.join(found[:_SHOWN])}"
        + (" ..." if len(found) > _SHOWN else "")
        + f"; {fix}"
        for found, what, fix in (
            (
                missing,
                "are missing",
                "set tie_word_embeddings to true in config.json if the embedding is the head"
                if missing == [_HEAD]
                else "download the folder again",
            ),
            (misshapen, "do not have the shapes of config.json", "download the folder again"),
            (mistyped, f"are none of {', '.join(_DTYPES)}", "give a policy that is not quantised"),
        )
        if found
    ]
    if unused:
        lines.append(
            f"{folder.where}: {len(unused)} tensors that an architecture of this config.json does "
            f"not have: {'; '.join(unused[:_SHOWN])}; is config.json of another policy?"
        )
    if not lines and config.tie_embeddings and _HEAD in names and not _is_tied(folder):
        lines.append(
            f"{folder.where}: {_HEAD} differs from the embedding, but tie_word_embeddings is true; "
            "set it to false in config.json to use the head, or remove the tensor"
        )
    if lines:
        raise errors.UserError(*lines)


def _is_tied(folder: _Folder) -> bool:
    """Whether a head that is stored beside the embedding equals it."""
    head, embedding = (folder.slice(name) for name in (_HEAD, _EMBEDDING))
    if head.get_shape() != embedding.get_shape():
        return False
    end = head.get_shape()[0]
    parts = [slice(i, min(i + _ROWS, end)) for i in range(0, end, _ROWS)]
    return all(np.array_equal(head[part], embedding[part]) for part in parts)


def _read(folder: _Folder, array: _Array, index: tuple[slice, ...], dtype: str) -> np.ndarray:
    """Reads a part of one of our arrays."""
    bounds = [range(*s.indices(n)) for s, n in zip(index, array.shape, strict=True)]
    layers, axes = (bounds[0], bounds[1:]) if array.is_stacked else (range(1), bounds)
    sizes = array.shape[1:] if array.is_stacked else array.shape
    out = np.empty(tuple(map(len, bounds)), jnp.dtype(dtype))
    for i, layer in enumerate(layers):
        tensor = folder.slice(array.names[layer])
        place = out[i] if array.is_stacked else out
        if n := array.inputs:
            ins, outs = _Rows.of(axes[:n], sizes[:n]), _Rows.of(axes[n:], sizes[n:])
            if array.window:
                piece = tensor[outs.rows].reshape(-1, math.prod(sizes[:n]))[:, ins.rows].T
            else:
                piece = tensor[outs.rows, ins.rows].T
            piece = piece.reshape(ins.shape + outs.shape)[ins.part + outs.part]
        elif len(array.tensor_shape) == 1:
            outs = _Rows.of(axes, sizes)
            piece = tensor[outs.rows].reshape(outs.shape)[outs.part]
        else:
            piece = tensor[tuple(slice(r.start, r.stop) for r in axes)]
        place[...] = piece
        if not np.isfinite(place).all():
            raise errors.UserError(
                f"{folder.where}: the tensor {array.names[layer]} holds NaN or an infinity in "
                f"{dtype}; download the folder again, or give another"
            )
    return out


class _Rows(NamedTuple):
    """The rows of a tensor that hold a part of some of our axes, which are one axis there."""

    rows: slice
    shape: tuple[int, ...]  # of the rows, as our axes
    part: tuple[slice, ...]  # the part in that shape: less if another axis than the first is split

    @classmethod
    def of(cls, axes: list[range], sizes: tuple[int, ...]) -> "_Rows":
        first, *others = axes
        inner = math.prod(sizes[1:])
        return cls(
            slice(first.start * inner, first.stop * inner),
            (len(first), *sizes[1:]),
            (slice(None), *(slice(r.start, r.stop) for r in others)),
        )


def dtype(params: model.Params) -> str:
    """Returns the name of the dtype that all parameters have."""
    (name,) = {x.dtype.name for x in jax.tree.leaves(params)}
    return name


def write(path: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes named tensors as safetensors into a folder, in several files if they are large."""
    files: list[list[str]] = [[]]
    held: dict[str, np.ndarray] = {}
    total = size = 0

    def flush() -> None:
        part = path / f"part-{len(files)}"
        part.touch()  # gives it the usual permissions; the package's are private
        mode = part.stat().st_mode
        safetensors.numpy.save_file(held, part, metadata={"format": "pt"})
        part.chmod(mode)
        files[-1].extend(held)
        held.clear()

    for name, tensor in tensors:
        if held and size + tensor.nbytes > _SHARD_BYTES:
            flush()
            files.append([])
            size = 0
        held[name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    if len(files) == 1:
        (path / "part-1").rename(path / "model.safetensors")
        return
    places = {}
    for i, names in enumerate(files, 1):
        file = f"model-{i:05}-of-{len(files):05}.safetensors"
        (path / f"part-{i}").rename(path / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (path / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def tensors(config: model.ModelConfig, params: model.Params) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the parameters one by one, with Hugging Face's names and shapes."""
    is_array: Callable = lambda x: isinstance(x, _Array)  # noqa: E731
    arrays = jax.tree.leaves(_arrays(config), is_leaf=is_array)
    for array, leaf in zip(arrays, jax.tree.leaves(params), strict=True):
        x = np.asarray(leaf)  # once: each slice of a device's array is a program to compile
        for i, name in enumerate(array.names):
            piece = x[i] if array.is_stacked else x
            if array.inputs:
                piece = piece.reshape(math.prod(piece.shape[: array.inputs]), -1).T
            piece = np.ascontiguousarray(piece.reshape(array.tensor_shape))
            yield vision.stored(config, name), piece
