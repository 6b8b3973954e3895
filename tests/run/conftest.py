"""What tests of a run share: a process of its own, and one that ran to its end."""

import subprocess

import pytest

from tests import runs


@pytest.fixture(scope="session")
def environment():
    """Of a run's own process."""
    return runs.one_device()


@pytest.fixture(scope="session")
def whole(environment, tmp_path_factory):
    """The work directory of the smallest run, by the command line, in a process of its own."""

    def make(workdir):
        words = runs.command(workdir)
        subprocess.run(words, cwd=runs.ROOT, env=environment, check=True, capture_output=True)

    return runs.once(tmp_path_factory, "whole", make)
