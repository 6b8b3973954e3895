"""Runs code that may never end in worker processes, killed and replaced when they hang.

A worker is `python -m mapo_jax.workers MODULE ...`. It imports MODULE and calls its
`load(argument)` if it is given an argument. Then it answers each question, a line of JSON on its
input, with a line of JSON, `MODULE.answer(question)`. No worker outlives the process that asks.
"""

import contextlib
import functools
import importlib
import json
import os
import queue
import resource
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mapo_jax import errors

_ROOT = str(Path(__file__).resolve().parent.parent)
_START = 120.0  # seconds until a worker has imported its module, on the busiest machine


class Pool:
    """Workers that answer questions within a time limit. Several threads may ask at once."""

    def __init__(
        self,
        module: str,
        size: int,
        timeout: float,
        *,
        memory: float = 4.0,
        argument: str = "",
        where: str = "answers",
    ):
        """Makes a pool; its processes start with `start` or the first question.

        Args:
            module: has a function `answer(question)`, whose question and answer are JSON-able,
                and, if there is an argument, `load(argument)`, which may raise a UserError.
            size: number of processes.
            timeout: seconds for an answer; a worker that takes longer is killed.
            memory: GiB of address space for each process; macOS sets no limit.
            argument: see `module`.
            where: the beginning of the line if the pool cannot be used.
        """
        self._size = size
        self._timeout = 0.9 * timeout  # killing takes some of it
        self._new = functools.partial(
            _Worker, [module, str(self._timeout), str(int(memory * 2**30)), argument], where
        )
        self.loaded: Any = None  # the result of `load`
        self._idle: queue.Queue[_Worker] = queue.Queue()  # FIFO, so that new ones warm up
        self._lock, self._is_started = threading.Lock(), False
        self.failures = 0  # questions without an answer in time

    def start(self) -> None:
        """Starts all workers and waits until they are ready.

        Raises:
            UserError: the module cannot be imported there.
        """
        with self._lock:
            if self._is_started:
                return
            started = [self._new() for _ in range(self._size)]
            try:
                for worker in started:
                    self.loaded = worker.wait_until_ready()
            except errors.UserError:
                for worker in started:
                    worker.kill()
                raise
            for worker in started:
                self._idle.put(worker)
            self._is_started = True

    def ask(self, question: Any) -> Any:
        """Returns the answer; None if there was none in time."""
        self.start()
        worker = self._idle.get()
        try:
            worker.wait_until_ready()
            answer = worker.ask(question, self._timeout)
        except _Failed:
            worker.kill()
            with self._lock:
                self.failures += 1
            worker, answer = self._new(), None
        self._idle.put(worker)
        return answer

    def close(self) -> None:
        """Ends all workers; a later question starts new ones."""
        with self._lock:
            while self._is_started and not self._idle.empty():
                self._idle.get().kill()
            self._is_started = False


class _Failed(Exception):
    """No answer in time, or the process is gone."""


class _Worker:
    def __init__(self, arguments: list[str], where: str):
        command = [sys.executable, "-m", "mapo_jax.workers", *arguments]
        paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the run, which ends its workers itself
        )
        self._where, self._is_ready, self._buffer = where, False, b""
        self._loaded: Any = None

    def wait_until_ready(self) -> Any:
        """Waits until the worker is ready and returns the result of `load`."""
        if not self._is_ready:
            try:
                start = self._read(_START)
            except _Failed:
                start = {"error": "it does not start"}
            if "mistakes" in start:
                raise errors.UserError(*start["mistakes"])
            if "error" in start:
                self.kill()
                raise errors.UserError(
                    f"{self._where}: worker processes cannot be used: {start['error']}"
                )
            self._loaded, self._is_ready = start["loaded"], True
        return self._loaded

    def ask(self, question: Any, timeout: float) -> Any:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise _Failed from None
        return self._read(timeout)

    def _read(self, timeout: float) -> Any:
        assert self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + timeout
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([pipe], [], [], max(end - time.monotonic(), 0))
            piece = os.read(pipe, 65536) if ready else b""
            if not piece:
                raise _Failed
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def kill(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        self._process.wait()


def _end_with(parent: int) -> None:
    """Ends this process when the one that asks ends, even while an answer hangs."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main(module: str, timeout: float, memory: int, argument: str) -> None:
    """Answers questions until there are no more."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    lines, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps prints of a library out of the answers

    def reply(value: Any) -> None:
        out.write(json.dumps(value).encode() + b"\n")
        out.flush()

    try:
        imported = importlib.import_module(module)
        answer, loaded = imported.answer, imported.load(argument) if argument else None
    except ImportError as error:
        reply({"error": str(error)})
        return
    except errors.UserError as error:
        reply({"mistakes": error.lines})
        return
    if sys.platform != "darwin":  # macOS refuses such a limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    reply({"loaded": loaded})
    for line in lines:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        # Ends a worker if the process that would kill it is gone.
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + timeout) + 2, hard))
        try:
            reply(answer(json.loads(line)))
        except (Exception, RecursionError):
            reply(None)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
