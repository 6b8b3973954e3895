"""Compares answers by algebra, in worker processes that are killed if they take too long."""

import os

from mapo_jax import workers

MAX_MATH_CHARS = 500  # a longer answer is not read as mathematics
_ALGEBRA = "mapo_jax.answers.algebra"


class Verifier:
    """Judges answers by symbolic algebra (the package math-verify) in worker processes.

    An answer is wrong if its worker takes more than `timeout` seconds or too much memory. Such a
    worker is killed and replaced. Several threads may ask at once.
    """

    def __init__(self, timeout: float = 2.0, processes: int | None = None):
        """Makes a verifier; workers start with the first question or a `with` block.

        Args:
            timeout: seconds for an answer.
            processes: number of workers. By default one for each core, but at most four, and at
                least two, so that a new one can warm up.
        """
        processes = processes or min(max(os.cpu_count() or 1, 2), 4)
        self._pool = workers.Pool(_ALGEBRA, processes, timeout)

    @property
    def timeouts(self) -> int:
        """The number of answers that took too long or too much memory."""
        return self._pool.failures

    def verify(self, prediction: str, gold: str) -> bool:
        """Asks a worker. Raises UserError if math-verify is not installed."""
        if max(len(prediction), len(gold)) > MAX_MATH_CHARS:
            return False
        return self._pool.ask([prediction, gold]) is True

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()

    def __enter__(self) -> "Verifier":
        self._pool.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
