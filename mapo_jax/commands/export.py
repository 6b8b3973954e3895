"""Writes the policy of a run as a Hugging Face folder."""

import jax
from etils import epath

from mapo_jax import model, pretrained, sharding
from mapo_jax.run import sources


def run(workdir: str, output: str, dtype: str, checkpoint: str = "newest") -> str:
    """Writes the policy of a checkpoint of a run, adapters merged, as a Hugging Face folder.

    Args:
        workdir: the run's directory.
        output: the folder, new or empty.
        dtype: dtype of the written parameters, float32 or bfloat16.
        checkpoint: newest, best or a number of checkpoints/.

    Returns:
        A line that names the folder, the policy and the dtype.

    Raises:
        UserError: there is no such checkpoint, or the folder cannot be written.
    """
    mesh = sharding.make_mesh(devices=jax.devices("cpu")[:1])
    where = f"--workdir={workdir}"
    found = sources.read_run(epath.Path(workdir), mesh, "float32", "", where, checkpoint)
    params, architecture = model.merge_adapters(found.params, found.architecture)
    pretrained.save(output, architecture, model.cast(params, dtype), found.tokenizer)
    return f"{output}: {found.name}, {dtype}"
