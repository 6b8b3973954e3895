"""Turns the exceptions of a launcher into lines on stderr and an exit code."""

import errno
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from mapo_jax import errors
from mapo_jax.commands import memory


class Help(Exception):
    """Raised for --help; its message is the text of the help."""


def main(run: Callable[[list[str]], None]) -> int:
    """Runs a launcher on the command line and returns its exit code.

    The code is 0 after success, 2 after the user's mistakes, which are printed one per line on
    stderr, 3 if the run's own guard stopped it, 130 if it was interrupted, 143 after a SIGTERM, and
    134 if another process is gone and all may start again. Any other exception is a bug and
    propagates. If only one of several processes fails, it ends at once, so that the others need not
    wait for it.
    """
    sys.unraisablehook = _unraisable
    memory.keep()
    try:
        run(sys.argv[1:])
    except Help as message:
        print(message)
    except errors.UserError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        if "disk is full" in str(error):
            _leave_quietly()
        return 2 if error.everywhere else _leave_others(2)
    except errors.RunStopped as error:
        print(error, file=sys.stderr)
        return 3
    except errors.Preempted as error:
        print(error, file=sys.stderr)
        return 143
    except errors.StartAgain as error:
        print(error, file=sys.stderr)
        return _leave_others(134)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        return _leave_others(130)
    except Exception as error:
        if line := lack(error):
            print(line, file=sys.stderr)
            return _leave_others(2)
        if not _is_one_of_several():
            raise
        traceback.print_exception(error)
        if not any(word in str(error) for word in _GONE):
            return _leave_others(1)
        print(
            "another process is gone, or far behind; start the same command on all of them again, "
            "which continues from the last checkpoint",
            file=sys.stderr,
        )
        return _leave_others(134)  # JAX ends processes with 134 if they do not notice themselves
    return 0


def lack(error: Exception) -> str:
    """Returns a line if the disk or the memory was too small, else ""."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _leave_quietly()
        return "--workdir: its disk is full; free some or choose another one"
    if errors.is_out_of_memory(error):
        room = getattr(error, "__notes__", ["lower batch.microbatch or rollout.lanes"])[0]
        return f"out of memory ({str(error).splitlines()[0]}); {room}"
    return ""


def _unraisable(found: Any, shown: Callable[[Any], Any] = sys.__unraisablehook__) -> None:
    """Silences tracebacks from a failed save's worker threads; the failure is raised elsewhere."""
    if str(found.exc_value) != "Event loop is closed":
        shown(found)


def _leave_quietly() -> None:
    """Silences the exit on a full disk, when every file still open would raise again at length."""
    sys.unraisablehook = threading.excepthook = lambda _: None
    warnings.simplefilter("ignore")


def _is_one_of_several() -> bool:
    if "jax" not in sys.modules:
        return False
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1


def _leave_others(code: int) -> int:
    """Ends one of several processes at once; a normal exit would wait for the others."""
    if _is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


# Words of Gloo and of JAX's service in the errors of collectives after a peer's connection broke.
_GONE = ("Connection reset by peer", "Connection closed", "Broken pipe", "heartbeat", "preempted")
_GONE += ("DEADLINE_EXCEEDED",)
