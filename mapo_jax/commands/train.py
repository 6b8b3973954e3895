"""Trains a policy, then writes the report, for `mapo run`."""

from collections.abc import Sequence

import jax
from etils import epath

from mapo_jax import report
from mapo_jax.config import Config
from mapo_jax.run import trainer
from mapo_jax.run.console import Console


def run(config: Config, workdir: epath.Path, overrides: Sequence[str] = ()) -> None:
    """Runs to the end and writes the report; takes and raises the same as `trainer.train`."""
    trainer.train(config, workdir, overrides)
    if jax.process_index() == 0:
        page = report.write([workdir], workdir)
        Console(config.log.console).print(f"report: {page}")
