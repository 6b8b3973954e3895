"""Equality by symbolic algebra, in worker processes that are killed when they take too long."""

import os

from mapo_jax import workers

MAX_MATH_CHARS = 500  # a longer answer is not looked at as mathematics
_ALGEBRA = "mapo_jax.answers.algebra"


class Verifier:
    """Judges by symbolic algebra, the package math-verify, in worker processes.

    An answer on which a worker spends more than `timeout` seconds, or more memory than it may, is
    wrong; the worker is killed and replaced. Several threads may ask at once.
    """

    def __init__(self, timeout: float = 2.0, processes: int | None = None):
        """Workers start with the first question, or at the beginning of a `with` block.

        Args:
            timeout: seconds for an answer.
            processes: default: one a core, from two, so that a new one can warm up, to four.
        """
        processes = processes or min(max(os.cpu_count() or 1, 2), 4)
        self._pool = workers.Pool(_ALGEBRA, processes, timeout)

    @property
    def timeouts(self) -> int:
        """Answers that took too long, or too much memory."""
        return self._pool.failures

    def verify(self, prediction: str, gold: str) -> bool:
        """Asks a worker. Raises UserError where math-verify is not installed."""
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
