"""Writes the policy of a run as a Hugging Face folder, and puts it on the hub."""

import re
from pathlib import Path

import huggingface_hub
import jax
from etils import epath

from mapo_jax import errors, model, pretrained, sharding
from mapo_jax.commands import card
from mapo_jax.report import runs
from mapo_jax.run import sources


def run(workdir: str, output: str, dtype: str, checkpoint: str = "newest", push: str = "") -> str:
    """Writes the policy of a checkpoint of a run, adapters merged, as a Hugging Face folder.

    Args:
        workdir: the run's directory.
        output: the folder, new or empty.
        dtype: dtype of the written parameters, float32 or bfloat16.
        checkpoint: newest, best or a number of checkpoints/.
        push: OWNER/NAME on the Hugging Face hub, to which the folder is uploaded; "": none.

    Returns:
        A line that names the folder, the policy and the dtype, and one with the address.

    Raises:
        UserError: there is no such checkpoint, the folder cannot be written, or the hub does not
            take it.
    """
    if push:
        _check(push)
    mesh = sharding.make_mesh(devices=jax.devices("cpu")[:1])
    where = f"--workdir={workdir}"
    found = sources.read_run(epath.Path(workdir), mesh, "float32", "", where, checkpoint)
    (record,) = runs.read([workdir])
    params, architecture = model.merge_adapters(found.params, found.architecture)
    title, sees = push or Path(output).name, architecture.vision is not None
    text = card.write(title, record, found.step, checkpoint, sees)
    pretrained.save(output, architecture, model.cast(params, dtype), found.tokenizer)
    (Path(output) / "README.md").write_text(text, encoding="utf-8")
    said = f"{output}: {found.name}, {dtype}"
    return f"{said}\n{_upload(push, output)}" if push else said


def _check(push: str) -> None:
    """Looks for mistakes that need no network."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", push):
        raise errors.UserError(
            f"--push={push}: is no name on the Hugging Face hub; give OWNER/NAME, as in me/policy"
        )
    if huggingface_hub.get_token() is None:
        raise errors.UserError(
            f"--push={push}: no token of the Hugging Face hub is found; log in with `hf auth "
            "login`, or set HF_TOKEN"
        )


def _upload(push: str, folder: str) -> str:
    """Uploads a folder and returns where it is."""
    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(push, exist_ok=True)
        api.upload_folder(repo_id=push, folder_path=folder)
        return str(address)
    except Exception as error:  # refused, or no network
        reason = next(iter(str(error).splitlines()), "")
        raise errors.UserError(
            f"--push={push}: the hub does not take it ({type(error).__name__}: {reason}); {folder} "
            f"is written, and `hf upload {push} {folder}` tries again"
        ) from None
