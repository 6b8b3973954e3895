"""The exceptions that launchers turn into lines and an exit code, and the hint that lines share."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One or more mistakes of the user, each a line that names the key, the value and the fix."""

    def __init__(self, *lines: str, everywhere: bool = False):
        """`everywhere`: of several processes, all of them raise it.

        Lines may quote data or a model; what a terminal would obey in them becomes visible.
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
    """One of several processes cannot go on, but all of them can, started again: exit code 134."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of a line about an unknown name: "; did you mean X?", or "; `otherwise`" if any."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; {otherwise}" if otherwise else ""
