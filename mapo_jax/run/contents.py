"""Digests of what a run reads, kept in `contents.json` of its work directory.

A run goes on with the same prompts, tokenizer, architecture and frozen weights, wherever their
files lie now. Each start compares before it trains or writes anything.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from mapo_jax import errors, model, pretrained
from mapo_jax.config import Config, show
from mapo_jax.run import digests, processes, workdirs

_FILE = "contents.json"
_DRAWN = "data.rows"  # in place of data.path, where prompts are encoded when they are drawn


def of(
    config: Config,
    architecture: model.ModelConfig,
    tokenizer_files: Mapping[str, bytes],
    rows: Sequence[Any] | str,
    eval_sets: Mapping[str, Sequence[Any]],
    frozen: Path | None,
) -> dict[str, str]:
    """SHA-256 of each content, by the key that names it; "eval.SET" for an evaluation set.

    Args:
        config: of the run.
        architecture: of the policy.
        tokenizer_files: `sources.tokenizer_files` of the policy.
        rows: training examples with their prompts, JSON-able; or a digest of the examples alone, if
            their prompts are encoded when they are drawn.
        eval_sets: the same of each evaluation set, the one that chooses the best checkpoint first.
        frozen: the folder of the weights under adapters; None without LoRA.

    Raises:
        UserError: processes read different contents.
    """
    fields = dataclasses.asdict(architecture)
    for field in dataclasses.fields(architecture):
        if fields[field.name] == field.default:  # a version may add fields
            del fields[field.name]
    found = {
        "tokenizer.path": digests.of_files(tokenizer_files),
        "architecture": digests.of_json(fields),
    }
    if isinstance(rows, str):
        found[_DRAWN] = rows
    else:
        found["data.path"] = digests.of_json({"rows": rows})
    if config.tokenizer.template:
        template = {"": tokenizer_files["chat_template.jinja"]}
        found["tokenizer.template"] = digests.of_files(template)
    for key, value in _functions(config).items():
        if ".py:" in value:
            found[key] = digests.of_source(Path(value.rpartition(":")[0]))
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


def check(found: dict[str, str], config: Config, workdir: epath.Path) -> tuple[list[str], bool]:
    """Compares contents with those of the run's last start.

    Args:
        found: by `of`.
        config: of the run.
        workdir: of the run, which goes on; one of an older version has no contents yet.

    Returns:
        A sentence for each evaluation set and each function of the user that is not as it was, and
        whether accuracies that chose the best checkpoint compare with those to come.

    Raises:
        UserError: the prompts, the tokenizer, the architecture or the frozen weights are others.
    """
    with processes.together():
        kept = _kept(workdir)
        if mistakes := _mistakes(config, kept, found):
            raise errors.UserError(*mistakes)
    notes = []
    for name in [name for name in kept if name.startswith("eval.")]:
        if name not in found:
            notes.append(f"{name}: is no longer evaluated")
        elif kept[name] != found[name]:
            notes.append(
                f"{name}: its rows are not what this run began with; earlier accuracies are of "
                "others"
            )
    notes += [
        f"{key}={value}: its code is not what this run began with; earlier steps are of the other"
        for key, value in _functions(config).items()
        if kept.get(key, found.get(key)) != found.get(key)
    ]
    compares = not kept or _first_set(kept) == _first_set(found)
    if not compares:
        notes.append("the best checkpoint is chosen among those to come")
    return notes, compares


def encodes_on_demand(workdir: epath.Path) -> bool | None:
    """Whether a run began with prompts that are encoded when they are drawn; None if none began.

    So that the draws stay the same, all its starts do as the first did, whatever the data's size.
    """
    path = workdir / "checkpoints"
    with processes.together():
        has_begun = path.is_dir() and any(entry.name.isdigit() for entry in path.iterdir())
        return _DRAWN in _kept(workdir) if has_begun else None


def _first_set(contents: Mapping[str, str]) -> list[tuple[str, str]]:
    """The set that chooses the best checkpoint, with its digest."""
    return [item for item in contents.items() if item[0].startswith("eval.")][:1]


def _functions(config: Config) -> dict[str, str]:
    """The keys that can name a function of the user, with their values."""
    c = config
    return {
        "algorithm.advantage": c.algorithm.advantage,
        "algorithm.surrogate": c.algorithm.surrogate,
        "task.reward": c.task.reward,
    }


def keep(found: dict[str, str], workdir: epath.Path) -> None:
    """Writes down what the run reads from now on."""
    workdirs.write_json(workdir / _FILE, found)


def _kept(workdir: epath.Path) -> dict[str, str]:
    path = workdir / _FILE
    try:
        kept = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(kept, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise errors.UserError(
            f"{path}: is broken ({error}); delete it, and the run trusts what it reads now"
        ) from None
    return kept


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
    """SHA-256 of the files that a folder's weights are read from."""
    digest = hashlib.sha256()
    for name in pretrained.weight_files(folder):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


_KEYS = {  # by its name in contents.json: the key of a content, and what the lines call it
    "tokenizer.template": ("tokenizer.template", "chat template is"),
    "tokenizer.path": ("tokenizer.path", "tokenizer is"),
    "data.path": ("data.path", "training rows and prompts are"),
    _DRAWN: ("data.path", "training rows are"),
    "architecture": ("policy.init", "architecture is"),
    "policy.init": ("policy.init", "weights under the adapters are"),
}
_IMPLIED = {"tokenizer.template": ("tokenizer.path", "data.path"), "tokenizer.path": ("data.path",)}


def _mistakes(config: Config, kept: dict[str, str], found: dict[str, str]) -> list[str]:
    values = {
        "tokenizer.template": config.tokenizer.template,
        "tokenizer.path": config.tokenizer.path,
        "data.path": config.data.path,
        "policy.init": config.policy.init,
    }
    different = [name for name in _KEYS if kept.get(name, found.get(name)) != found.get(name)]
    implied = {other for name in different for other in _IMPLIED.get(name, ())}
    return [
        f"{key}={show(values[key])}: its {what} not what this run began with; give the same "
        "content, or start a new run in another --workdir"
        for key, what in (_KEYS[name] for name in different if name not in implied)
    ]
