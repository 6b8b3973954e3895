"""Asks a user's own reward function, which runs in worker processes (`worker.py`)."""

import atexit
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mapo_jax import errors, workers
from mapo_jax.rewards.output import Output


class Remote:
    """A user's own reward function, `path/to/file.py:function`, in worker processes.

    A worker that does not answer in time, dies or runs out of memory is killed and replaced, and
    the question is asked once more. `failures` counts such workers. A response that still has no
    answer has no reward. A function that raises is a user's mistake, as with any reward function.
    All workers run the file as it was when the first one read it, so it may be edited meanwhile.
    """

    def __init__(self, reference: str, timeout: float, memory: float, size: int):
        """Starts the workers.

        Args:
            reference: "path/to/file.py:function".
            timeout: seconds for one response.
            memory: GiB of address space of each worker.
            size: how many workers.

        Raises:
            UserError: there is no such function, or its file does not run.
        """
        self.output = Output()
        self._kept = tempfile.TemporaryDirectory(prefix="mapo_jax-")
        self._pool = workers.Pool(
            "mapo_jax.rewards.worker",
            size,
            timeout,
            memory=memory,
            argument=json.dumps([reference, self._kept.name]),
            where=f"task.reward={reference}",
            output=self.output.into.fileno(),
        )
        try:
            self._pool.start()
        except BaseException:
            self._end()
            raise
        about = self._pool.loaded
        self.__name__, self.range = about["name"], tuple(about["range"])
        self.takes_finished, self.threads = about["takes_finished"], size
        self.parts: tuple[str, ...] = ()  # names, as far as they are known

    @property
    def failures(self) -> int:
        """The number of workers that were killed so far."""
        return self._pool.failures

    def __call__(self, response: str, example: dict, **told: bool) -> Mapping[str, Any] | None:
        """Returns the checked result; None if the workers gave none."""
        question = {"response": response, "example": example, **told}
        found = self._pool.ask(question) or self._pool.ask(question)
        if found is None:
            return None
        if "mistake" in found:
            raise errors.UserError(found["mistake"])
        self.parts = tuple(found["parts"])
        return found

    def close(self) -> None:
        """Ends the workers, for good."""
        self._pool.close()
        self._end()

    def _end(self) -> None:
        self.output.close()
        self._kept.cleanup()


_loaded: dict[Any, Remote] = {}  # the one in use


def load(reference: str, timeout: float, memory: float, size: int) -> Remote:
    """Returns a user's function in workers; the same `Remote` while file and limits are the same.

    Raises:
        UserError: the function cannot be used.
    """
    path = Path(reference.rpartition(":")[0])
    content = path.read_bytes() if path.is_file() else b""  # `Remote` says what is wrong
    key = (reference, content, timeout, memory, size)
    if key not in _loaded:
        close()
        _loaded[key] = Remote(reference, timeout, memory, size)
    return _loaded[key]


def log_to(path: Path) -> None:
    """Appends what the workers of `load` print to a file, with what they have printed so far."""
    for remote in _loaded.values():
        remote.output.keep(path)


@atexit.register
def close() -> None:
    """Ends the workers of `load`."""
    for remote in _loaded.values():
        remote.close()
    _loaded.clear()


def failures() -> int:
    """The number of workers with the user's function in use that were killed so far."""
    return sum(remote.failures for remote in _loaded.values())
