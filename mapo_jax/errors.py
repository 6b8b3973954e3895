"""The exceptions that launchers turn into lines and an exit code."""


class UserError(Exception):
    """One or more mistakes of the user, each a line that names the key, the value and the fix."""

    def __init__(self, *lines: str, everywhere: bool = False):
        """`everywhere`: of several processes, all of them raise it."""
        super().__init__("\n".join(lines))
        self.lines, self.everywhere = lines, everywhere


class Preempted(Exception):
    """A SIGTERM ended the run, after a checkpoint; launchers exit with 143."""


class RunStopped(Exception):
    """The run's own guard stopped it (non-finite, no usable group); launchers exit with 3."""
