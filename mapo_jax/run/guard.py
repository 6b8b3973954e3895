"""Saves faulty batches to disk, and tells when a run goes nowhere."""

from collections.abc import Callable, Mapping

import jax
from etils import epath

from mapo_jax import sharding
from mapo_jax.config import Config
from mapo_jax.rollouts import Batch
from mapo_jax.run import setup, workdirs
from mapo_jax.training import TrainState

_KEPT = 20  # faulty batches that are kept of each phase, at most
_PATIENCE = 3  # steps in a row without a success before the run says so


class Guard:
    """Watches the updates of one phase."""

    def __init__(
        self,
        config: Config,
        workdir: epath.Path,
        say: Callable[[str], None],
        phase: str,
        skipped: int,
    ):
        """Begins to watch.

        Args:
            config: its guard section counts.
            workdir: of the run; faulty batches go into skipped/ there.
            say: is told about faults.
            phase: "warmup" or "rl".
            skipped: updates that the phase has skipped so far.
        """
        self._config, self._workdir, self._say = config, workdir, say
        self._phase, self._skipped = phase, skipped
        self._in_vain = 0  # steps in a row with right answers and no success

    def look(self, step: int, state: TrainState, batch: Batch, invalid: float = 0.0) -> str:
        """Saves a faulty batch and says so.

        Args:
            step: the phase's own count.
            state: after the updates on `batch`.
            batch: of the step.
            invalid: share of its rollouts without a finite reward.

        Returns:
            Why the run must stop: `guard.max_skipped` updates in a row were skipped; else "".
        """
        before, self._skipped = self._skipped, int(state.skipped)
        found = []
        if self._skipped > before:
            skipped = self._skipped - before
            were = "update was" if skipped == 1 else "updates were"
            found.append(f"{skipped} {were} skipped: not finite or without a reward")
        if invalid:
            found.append(f"{invalid:.2%} of the rollouts have no finite reward and are left out")
        if not found:
            return ""
        where = f"step {step} of {self._phase}"
        self._say(f"{where}: {'; '.join(found)}{self._keep(step, batch)}")
        most, in_a_row = self._config.guard.max_skipped, int(state.in_a_row)
        if not most or in_a_row < most:
            return ""
        return (
            f"{where}: {in_a_row} updates in a row were not finite or had no reward, "
            f"guard.max_skipped={most}; the parameters before them are checkpoint "
            f"{setup.index_of(self._config, self._phase, step)}. Lower the learning rate or take "
            "compute.dtype=float32, and start from them in another --workdir with "
            f"policy.init={self._workdir}"
        )

    def watch(self, step: int, values: Mapping[str, float]) -> None:
        """Says when some steps in a row had right answers and no success.

        Args:
            step: the phase's own count.
            values: metrics of the step.
        """
        in_vain = values.get("reward/accuracy", 0) > 0 and values["reward/success"] == 0
        self._in_vain = self._in_vain + 1 if in_vain else 0
        if self._in_vain == min(_PATIENCE, self._config.steps):
            self._say(
                f"step {step} of {self._phase}: {self._in_vain} steps in a row had right answers "
                f"(reward/accuracy {values['reward/accuracy']:.3f}) and no success, so an "
                "advantage that counts successes, as MAPO's does, sees none; read a sample: the "
                "prompt, tokenizer.template or the reward may not allow the format"
            )

    def _keep(self, step: int, batch: Batch) -> str:
        """Saves this process's rows of a batch, unless enough are kept; says where."""
        index = jax.process_index()
        if len(list((self._workdir / "skipped").glob(f"{self._phase}-*-{index}.npz"))) >= _KEPT:
            return ""
        name = f"skipped/{self._phase}-{step:06d}-{index}.npz"
        workdirs.write_arrays(self._workdir / name, sharding.own_tree(batch))
        return f"; the batch is {name}"
