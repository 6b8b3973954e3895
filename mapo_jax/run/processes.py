"""Connects the processes of one run: messages between them, and the signal that ends all.

All processes of a run do the same work. If only one of them meets a mistake or a SIGTERM, it must
tell the others; else they wait for it in the next collective.
"""

import contextlib
import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from types import TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

from mapo_jax import errors

_LENGTH = 8000  # bytes of a message


def everyones(text: str) -> list[str]:
    """The texts of all processes, by their numbers; all processes must call this."""
    if jax.process_count() == 1:
        return [text]
    words = text.encode()[:_LENGTH]
    padded = np.frombuffer(words.ljust(_LENGTH, b"\0"), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(-1, _LENGTH)
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Context manager: a UserError raised in any process is raised in all of them."""
    mistakes = ""
    try:
        yield
    except errors.UserError as error:
        mistakes = str(error)
    lines = [line for said in everyones(mistakes) for line in said.splitlines()]
    if lines:
        raise errors.UserError(*dict.fromkeys(lines), everywhere=True)


def check_same(content: str, mistake: str) -> None:
    """Checks that all processes have the same `content`.

    Raises:
        UserError: some have another one; the line is "process 1, 3" and then `mistake`.
    """
    said = everyones(hashlib.sha256(content.encode()).hexdigest())
    odd = [str(i) for i, digest in enumerate(said) if digest != said[0]]
    if odd:
        raise errors.UserError(f"process {', '.join(odd)} {mistake}", everywhere=True)


class Termination:
    """Notes a SIGTERM, which a machine sends before it is taken away; a second one exits.

    A context manager. Only the main thread may handle signals: in other threads it does nothing. A
    thread of its own sees the signal, because Python runs handlers between bytecodes of the main
    thread, and a device computation may take minutes.
    """

    EXIT_CODE = 128 + signal.SIGTERM  # 143

    def __init__(self) -> None:
        self._is_requested = False

    def __enter__(self) -> "Termination":
        self._is_active = threading.current_thread() is threading.main_thread()
        if not self._is_active:
            return self
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._handler = signal.signal(signal.SIGTERM, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_active:
            return
        signal.set_wakeup_fd(self._wakeup)
        signal.signal(signal.SIGTERM, self._handler)
        os.close(self._write)  # ends the thread
        self._thread.join()
        os.close(self._read)

    def _watch(self) -> None:
        while numbers := os.read(self._read, 64):
            for _ in range(numbers.count(signal.SIGTERM)):
                if self._is_requested:
                    os._exit(self.EXIT_CODE)
                self._is_requested = True

    def is_requested(self) -> bool:
        """Whether any process has got the signal; all processes must call this."""
        return any(everyones("x" if self._is_requested else ""))
