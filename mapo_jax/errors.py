"""Exceptions that launchers turn into lines and an exit code, and a hint for such lines."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any


class UserError(Exception):
    """One or more mistakes of the user, each a line that names the key, the value and the fix."""

    def __init__(self, *lines: str, everywhere: bool = False):
        """`everywhere` is true if every process of the run raises it.

        Lines may quote data or a model, so control characters in them are made visible.
        """
        self.lines = tuple(
            "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines
        )
        super().__init__("\n".join(self.lines))
        self.everywhere = everywhere


class Preempted(Exception):
    """A SIGTERM ended the run, after a checkpoint; launchers exit with 143."""


class RunStopped(Exception):
    """The run's own guard stopped it (non-finite, no usable group); launchers exit with 3."""


class StartAgain(Exception):
    """A process cannot go on, but the run can if all processes start again: exit code 134."""


def attempt(lines: list[str], make: Callable, *args: Any, **options: Any) -> Any:
    """Returns the result of `make`; on a UserError None, with its lines added to `lines`."""
    try:
        return make(*args, **options)
    except UserError as error:
        lines.extend(error.lines)
        return None


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Returns the end of a line about an unknown name: "; did you mean X?" or "; `otherwise`"."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; {otherwise}" if otherwise else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Says whether an error tells that a device has too little memory."""
    return type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)
