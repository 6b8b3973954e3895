"""Digests of what a run reads, kept in `contents.json` of its work directory.

A run goes on with the same prompts, tokenizer and frozen weights, wherever their files lie now.
Each start compares before it trains or writes anything.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from mapo_jax import errors
from mapo_jax.config import Config, show
from mapo_jax.run import digests, processes, workdirs

_FILE = "contents.json"


def of(
    tokenizer_files: Mapping[str, bytes],
    rows: Sequence[Any],
    eval_sets: Mapping[str, Sequence[Any]],
    frozen: Path | None,
) -> dict[str, str]:
    """SHA-256 of each content, by the key that names it; "eval.SET" for an evaluation set.

    Args:
        tokenizer_files: `sources.tokenizer_files` of the policy.
        rows: training examples with their prompts, JSON-able.
        eval_sets: the same of each evaluation set.
        frozen: the folder of the weights under adapters; None without LoRA.

    Raises:
        UserError: processes read different contents.
    """
    found = {
        "tokenizer.path": digests.of_files(tokenizer_files),
        "data.path": digests.of_json({"rows": rows}),
    }
    if frozen is not None:
        found["policy.init"] = of_weights(frozen)
    found |= {f"eval.{name}": digests.of_json({"rows": rows}) for name, rows in eval_sets.items()}
    said = [json.loads(text) for text in processes.everyones(json.dumps(found))]
    mistakes = []
    for i, theirs in enumerate(said):
        if keys := [key for key, digest in said[0].items() if theirs.get(key) != digest]:
            mistakes.append(
                f"process {i} reads other content than process 0 of {', '.join(keys)}; give all "
                "machines the same files"
            )
    if mistakes:
        raise errors.UserError(*mistakes, everywhere=True)
    return found


def check(found: dict[str, str], config: Config, workdir: epath.Path) -> list[str]:
    """Compares contents with those of the run's first start.

    Args:
        found: by `of`.
        config: of the run.
        workdir: of the run, which goes on; one of an older version has no contents yet.

    Returns:
        A sentence for each evaluation set whose rows are others than before.

    Raises:
        UserError: the prompts, the tokenizer or the frozen weights are others.
    """
    with processes.together():
        kept = _kept(workdir)
        if mistakes := _mistakes(config, kept, found):
            raise errors.UserError(*mistakes)
    return [
        f"{name}: its rows are not what this run began with; earlier accuracies are of others"
        for name in found
        if name.startswith("eval.") and kept.get(name, found[name]) != found[name]
    ]


def keep(found: dict[str, str], workdir: epath.Path) -> None:
    """Writes down what the run reads from now on."""
    workdirs.write_json(workdir / _FILE, found)


def _kept(workdir: epath.Path) -> dict[str, str]:
    path = workdir / _FILE
    return json.loads(path.read_text()) if path.exists() else {}


def check_base(workdir: epath.Path, folder: Path, where: str) -> None:
    """Checks that the weights under a run's adapters are those that it began with.

    Args:
        workdir: of the run.
        folder: of the weights.
        where: begins the line of a mistake.

    Raises:
        UserError: they are others.
    """
    kept = _kept(workdir).get("policy.init")
    if kept is not None and kept != of_weights(folder):
        raise errors.UserError(
            f"{where}: the weights in {folder} are not those that its adapters were trained on; "
            "put them back"
        )


def of_weights(folder: Path) -> str:
    """SHA-256 of a folder's weight files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


_NAMES = {
    "tokenizer.path": "tokenizer",
    "data.path": "training rows and prompts",
    "policy.init": "weights under the adapters",
}


def _mistakes(config: Config, kept: dict[str, str], found: dict[str, str]) -> list[str]:
    values = {
        "tokenizer.path": config.tokenizer.path,
        "data.path": config.data.path,
        "policy.init": config.policy.init,
    }
    different = [key for key in _NAMES if kept.get(key, found.get(key)) != found.get(key)]
    if "tokenizer.path" in different:  # by which the prompts differ too
        different = [key for key in different if key != "data.path"]
    return [
        f"{key}={show(values[key])}: its {_NAMES[key]} are not what this run began with; give the "
        "same content, or start a new run in another --workdir"
        for key in different
    ]
