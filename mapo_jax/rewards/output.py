"""Keeps what the workers of a user's reward function print, in a file of bounded size."""

import contextlib
import os
import threading
from pathlib import Path

LIMIT = 2**20  # bytes


class Output:
    """A pipe that processes print into; it is read all the time, so that none of them waits.

    What comes before there is a file waits in memory. Of more than `LIMIT` bytes the newest stay.
    """

    def __init__(self) -> None:
        self._pipe, into = os.pipe()
        self.into = open(into, "wb")  # its descriptor is for the processes
        self._lock = threading.Lock()
        self._path: Path | None = None
        self._waiting = b""
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def keep(self, path: Path) -> None:
        """Appends to a file from now on, made when there is something to write and a directory."""
        with self._lock:
            self._path = path
            self._write(b"")

    def close(self) -> None:
        """Writes the rest; whoever printed has ended."""
        self.into.close()
        self._thread.join(1.0)  # a process that got away may hold the pipe for longer
        with self._lock:
            self._write(b"")

    def _copy(self) -> None:
        while piece := os.read(self._pipe, 65536):
            with self._lock:
                self._write(piece)
        os.close(self._pipe)

    def _write(self, piece: bytes) -> None:
        self._waiting = (self._waiting + piece)[-LIMIT:]
        if self._path is None or not self._waiting:
            return
        with contextlib.suppress(OSError):  # a full disk must not stop the workers
            with self._path.open("ab") as file:
                file.write(self._waiting)
                size = file.tell()
            self._waiting = b""
            if size > LIMIT:
                self._path.write_bytes(self._path.read_bytes()[-LIMIT // 2 :])
