"""Trains a policy, then writes the report, for `mapo run`."""

import contextlib
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from mapo_jax import errors
from mapo_jax.config import Config
from mapo_jax.run import trainer
from mapo_jax.run.console import Console


def run(config: Config, workdir: epath.Path, overrides: Sequence[str] = ()) -> None:
    """Runs and writes the report, also of a run that was stopped.

    Takes and raises the same as `trainer.train`.
    """
    with _reported(config, workdir):
        trainer.train(config, workdir, overrides)


@contextlib.contextmanager
def _reported(config: Config, workdir: epath.Path) -> Iterator[None]:
    """Context manager: writes the report at its end, and after a stop if anything was recorded."""

    def recorded() -> tuple[int, int] | None:
        path = workdir / "metrics.jsonl"
        return (path.stat().length, path.stat().mtime) if path.exists() else None

    def write() -> None:
        from mapo_jax import report  # only now: Matplotlib takes a third of a start's imports

        try:
            said = f"report: {report.write([workdir], workdir)}"
        except Exception as error:  # the run itself is whole
            said = (
                f"report: not written ({type(error).__name__}: {error}); "
                f"python launch/report.py {workdir} tries again"
            )
        mode = config.log.console  # a quiet run still says where its report is
        Console("plain" if mode == "quiet" else mode).print(said)

    first = jax.process_index() == 0
    before = recorded() if first else None
    try:
        yield
    except (errors.UserError, errors.RunStopped, errors.Preempted):
        if first and recorded() != before:
            write()
        raise
    if first:
        write()
