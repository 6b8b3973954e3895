"""Reads and writes pretrained policies as Hugging Face folders.

A run does so before its first batch and after its last. `configs` turns config.json into a
ModelConfig and back, with `vision` and `preparation` for policies that see pictures; `weights`
reads and writes safetensors, `gguf` makes a folder of a GGUF file, and `known` holds the configs of
well-known policies.
"""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub
import numpy as np
from jax.sharding import Mesh

from mapo_jax import errors, model
from mapo_jax.pretrained import configs, weights
from mapo_jax.text import Tokenizer, is_in, load_tokenizer

_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
_HUB_TWICE = ["*consolidated*"]  # Mistral's own format of the same weights


def load(
    path_or_hub_id: str | Path, dtype: str = "float32", mesh: Mesh | None = None
) -> tuple[model.ModelConfig, model.Params, Tokenizer | None]:
    """Loads a pretrained policy.

    Args:
        path_or_hub_id: a folder with config.json and safetensors, or an id of the Hugging Face
            hub.
        dtype: the dtype of the parameters, "float32", "bfloat16" or "float16".
        mesh: the devices; each gets its part. None for the default device.

    Returns:
        The architecture, the parameters as of `model.init_params`, and the tokenizer, which is
        None if the folder holds none.

    Raises:
        UserError: the folder cannot be read, or its policy cannot be computed; every reason is
            named.
    """
    path = folder(path_or_hub_id)
    config = read_config(path)
    tokenizer = load_tokenizer(str(path)) if is_in(path) else None
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise errors.UserError(
            f"policy.init={path}: the tokenizer has {tokenizer.vocab_size} tokens, but the policy "
            f"knows {config.vocab_size}; give a folder whose files belong together"
        )
    if tokenizer is not None:
        tokenizer.picture_ids = config.picture_ids
    return config, load_params(path, config, dtype, mesh), tokenizer


def save(
    directory: str | Path,
    config: model.ModelConfig,
    params: model.Params,
    tokenizer: Tokenizer | None,
) -> None:
    """Writes a Hugging Face folder that `load`, transformers and vLLM read.

    Args:
        directory: new or empty. It appears when it is complete.
        config: an architecture that one of the families has, without adapters.
        params: parameters as of `model.init_params`; they are stored in their dtype.
        tokenizer: its files are written too; None for none.

    Raises:
        UserError: the directory is not empty or cannot be written, or no family has `config`.
    """
    tensors = weights.tensors(config, params)
    save_tensors(directory, config, tensors, weights.dtype(params), tokenizer)


def save_tensors(
    directory: str | Path,
    config: model.ModelConfig,
    tensors: Iterable[tuple[str, np.ndarray]],
    dtype: str,
    tokenizer: Tokenizer | None,
) -> None:
    """Does the same as `save` with tensors that have Hugging Face's names and shapes."""
    directory, eos_ids = Path(directory), tokenizer.eos_ids if tokenizer else ()
    where = f"--output={directory}"
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise errors.UserError(f"{where}: is there and not empty; choose another directory")
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
            whole = Path(scratch) / "folder"
            whole.mkdir()
            if tokenizer is not None:
                tokenizer.save(whole)
            configs.write(whole, config, dtype, eos_ids, where)
            weights.write(whole, tensors)
            if directory.exists():
                directory.rmdir()
            shutil.move(whole, directory)
    except OSError as error:
        raise errors.UserError(
            f"{where}: cannot be written ({error.strerror or error}); choose another directory"
        ) from None


def folder(path_or_hub_id: str | Path, where: str = "", revision: str = "") -> Path:
    """Returns the path itself, or the folder of the hub's files, downloaded if necessary.

    Args:
        path_or_hub_id: see `load`.
        where: the beginning of a mistake's line; by default policy.init=...
        revision: commit, tag or branch of a hub id; "" for its main branch.

    Raises:
        UserError: there is no such folder, and the hub cannot give one.
    """
    name, path = str(path_or_hub_id), Path(path_or_hub_id)
    where = where or f"policy.init={name}"
    if path.is_dir():
        return path
    if path.exists():
        raise errors.UserError(f"{where}: is a file; give the folder that holds config.json")
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or name.startswith(("~", ".")):
        raise errors.UserError(
            f"{where}: no such folder; give one that holds config.json and safetensors, the work "
            "directory of a run, or a hub id such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    try:
        found = huggingface_hub.snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=_HUB_FILES,
            ignore_patterns=_HUB_TWICE,
        )
        return Path(found)
    except Exception as error:  # no such repository, no network or no room
        raise errors.UserError(
            f"{where}: no such folder, and the hub cannot give it ({type(error).__name__}); give a "
            "folder with config.json and safetensors, downloaded where there is a network"
        ) from None


def read_config(path: Path, where: str = "") -> model.ModelConfig:
    """Reads the architecture of a folder; `where` begins the lines of mistakes, as in `folder`.

    Raises:
        UserError: config.json is missing or broken, or this project cannot compute its policy.
    """
    return configs.read(path, where or f"policy.init={path}")


def weight_files(path: Path, where: str = "") -> list[str]:
    """Returns the names of the files that `load_params` reads, sorted."""
    return weights.files(path, where or f"policy.init={path}")


def load_params(
    path: Path,
    config: model.ModelConfig,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    where: str = "",
) -> model.Params:
    """Reads a folder's parameters; `load` and `folder` describe arguments and mistakes."""
    return weights.read(path, config, dtype, mesh, where or f"policy.init={path}")
