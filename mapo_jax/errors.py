"""The exceptions that launchers turn into lines and an exit code."""


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
