"""Runs code that may never end in worker processes, killed and replaced when they hang.

A worker is `python -m mapo_jax.workers MODULE ...`. It imports MODULE and calls its
`load(argument)` if it is given an argument. Then it answers each question, a line of JSON from its
socket, with a line of JSON, `MODULE.answer(question)`. A worker ends with the process that asks,
and what a worker has started ends with the worker.

For that each worker has a keeper, the process that the pool starts. It runs none of MODULE's code.
On Linux it is the parent of all that loses its own parent below it. So whatever the worker has
started stands below the keeper, also with a session and an environment of its own.
"""

import collections
import contextlib
import ctypes
import functools
import importlib
import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mapo_jax import errors

_ROOT = str(Path(__file__).resolve().parent.parent)
_START = 120.0  # seconds until a worker has imported its module, on the busiest machine
_END = 10.0  # seconds until a killed process is gone; one that waits for a dead disk stays
_LEFT = 300  # processes that a worker may have started and left; a machine has fewer cores
_SET_CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


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
        output: int = subprocess.DEVNULL,
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
            output: descriptor that takes what the processes print.
        """
        self._size = size
        self._timeout = 0.9 * timeout  # killing takes some of it
        arguments = [module, str(self._timeout), str(int(memory * 2**30)), argument]
        self._new = functools.partial(_Worker, arguments, where, output)
        self.loaded: Any = None  # the result of `load`
        self._idle: queue.Queue[_Worker] = queue.Queue()  # FIFO, so that new ones warm up
        self._lock, self._is_started = threading.Lock(), False
        self.failures = 0  # questions without an answer in time

    def start(self) -> None:
        """Starts all workers and waits until they are ready.

        Raises:
            UserError: the module cannot be imported there, or no process can be started.
        """
        with self._lock:
            if self._is_started:
                return
            started = [self._new() for _ in range(self._size)]
            try:
                for worker in started:
                    worker.spawn()
                for worker in started:
                    self.loaded = worker.wait_until_ready()
            except BaseException:
                for worker in started:
                    worker.kill()
                raise
            for worker in started:
                self._idle.put(worker)
            self._is_started = True

    def ask(self, question: Any) -> Any:
        """Returns the answer; None if there was none in time.

        Raises:
            UserError: a worker was replaced, and the new one does not start.
        """
        self.start()
        worker = self._idle.get()
        try:
            return worker.ask(question, self._timeout)
        except _Failed:
            with self._lock:
                self.failures += 1
            worker.spawn()
            return None
        finally:  # whatever happened: else the next to ask waits for ever
            self._idle.put(worker)

    def close(self) -> None:
        """Ends all workers; a later question starts new ones."""
        with self._lock:
            while self._is_started and not self._idle.empty():
                self._idle.get().kill()
            self._is_started = False


class _Failed(Exception):
    """No answer in time, or the process is gone."""


class _Worker:
    """A place in the pool, whose process comes and goes."""

    def __init__(self, arguments: list[str], where: str, output: int):
        self._command = [sys.executable, "-X", "faulthandler", "-m", "mapo_jax.workers", *arguments]
        self._where, self._output = where, output
        self._process: subprocess.Popen | None = None

    def spawn(self) -> None:
        """Starts the process; it need not be ready."""
        paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=theirs.fileno(),
                    stdout=self._output,
                    stderr=self._output,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                    start_new_session=True,  # Ctrl-C is for the run, which ends its workers itself
                )
            except OSError as error:
                self._socket.close()
                why = f"{error.strerror}; free memory, processes (ulimit -u) or open files"
                raise self._unusable(why) from None
        self._is_ready, self._buffer = False, b""

    def wait_until_ready(self) -> Any:
        """Waits until the process is ready and returns the result of `load`."""
        if self._process is None:
            self.spawn()
        if not self._is_ready:
            try:
                start = self._read(time.monotonic() + _START)
            except _Failed:
                start = {
                    "error": "one ends or hangs as it starts; import its file by hand to see why"
                }
            if "mistakes" in start:
                raise errors.UserError(*start["mistakes"])
            if "error" in start:
                raise self._unusable(start["error"])
            self._loaded, self._is_ready = start["loaded"], True
        return self._loaded

    def ask(self, question: Any, timeout: float) -> Any:
        try:
            self.wait_until_ready()
            end = time.monotonic() + timeout
            self._write(question, end)
            return self._read(end)
        except BaseException:  # Ctrl-C too: this answer is not that to the next question
            self.kill()
            raise

    def _write(self, question: Any, end: float) -> None:
        line = json.dumps(question).encode() + b"\n"
        try:
            self._socket.settimeout(max(end - time.monotonic(), 0))
            self._socket.sendall(line)
        except OSError:
            raise _Failed from None

    def _read(self, end: float) -> Any:
        try:
            while b"\n" not in self._buffer:
                self._socket.settimeout(max(end - time.monotonic(), 0))
                piece = self._socket.recv(65536)
                if not piece:
                    raise _Failed
                self._buffer += piece
        except OSError:
            raise _Failed from None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def _unusable(self, why: str) -> errors.UserError:
        return errors.UserError(f"{self._where}: worker processes cannot be used: {why}")

    def kill(self) -> None:
        """Ends the process and all that it has started."""
        if self._process is None:
            return
        self._socket.close()
        _kill_all(self._process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END)
        self._process = None


def _kill_all(keeper: int) -> None:
    """Kills all below a keeper, and then itself with its process group.

    Where there is no /proc, as on macOS, only the group.
    """
    end = time.monotonic() + _END
    while (found := _below(keeper)) and time.monotonic() < end:  # until nothing is forked meanwhile
        for pid in found:
            with contextlib.suppress(OSError):  # it is another user's, or gone
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(OSError):
        os.killpg(keeper, signal.SIGKILL)


def _below(process: int) -> list[int]:
    """The living children of a process, their children and so on; [] where there is no /proc."""
    children = collections.defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it is gone
            state, parent = path.read_bytes().rpartition(b")")[2].split()[:2]
            if state not in b"ZX":
                children[int(parent)].append(int(path.parent.name))
    found = [process]
    for pid in found:
        found += children[pid]
    return found[1:]


def _keep() -> None:
    """Forks: goes on as a worker, and stays as its keeper until the worker or who asks ends."""
    asker = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    worker = os.fork()
    if not worker:
        return
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a reward may send to its group
        signal.signal(kind, signal.SIG_IGN)
    os.closerange(0, 3)  # the worker's
    while os.getppid() == asker and worker not in _ended():
        time.sleep(1.0)
    _kill_all(os.getpid())


def _ended() -> Iterator[int]:
    """Yields the children that have ended since the last call."""
    with contextlib.suppress(ChildProcessError):  # there is none
        while ended := os.waitpid(-1, os.WNOHANG)[0]:
            yield ended


def _limit(kind: int, most: int, *, is_final: bool) -> None:
    """Sets a limit of this process, if the system lets it: macOS refuses one of memory.

    The process itself cannot raise one that is final.
    """
    hard = resource.getrlimit(kind)[1]
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (soft, soft if is_final else hard))


def main(module: str, timeout: float, memory: int, argument: str) -> None:
    """Answers questions until there are no more."""
    _keep()
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:  # what reads its input must not wait for a question
        os.dup2(nothing.fileno(), 0)
    sys.stdout.reconfigure(line_buffering=True)  # pyrefly: ignore[missing-attribute]

    def reply(value: Any) -> None:
        channel.sendall(json.dumps(value).encode() + b"\n")

    try:
        imported = importlib.import_module(module)
        answer, loaded = imported.answer, imported.load(argument) if argument else None
    except ImportError as error:
        reply({"error": str(error)})
        return
    except errors.UserError as error:
        reply({"mistakes": error.lines})
        return
    _limit(resource.RLIMIT_AS, memory, is_final=True)
    reply({"loaded": loaded})
    for number, line in enumerate(channel.makefile("rb")):
        if number % 100 == 99 and len(_below(os.getppid())) > _LEFT:
            os._exit(1)
        # Ends a worker if the process that would kill it is gone; threads use more than the time.
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        most = int(used + timeout * (os.cpu_count() or 1)) + 2
        _limit(resource.RLIMIT_CPU, most, is_final=False)  # the next question has more
        try:
            reply(answer(json.loads(line)))
        except (Exception, RecursionError):
            reply(None)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
