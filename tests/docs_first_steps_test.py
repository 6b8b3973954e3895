"""Runs docs/first_steps.ipynb from its first cell to its last, and keeps it in step with the pages.

pip only looks whether all is there: the installation itself needs the network.
"""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from mapo_jax.commands import cli
from tests.runs import ROOT, one_device

NOTEBOOK = ROOT / "docs" / "first_steps.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
SOURCES = ["".join(cell["source"]) for cell in CELLS]
TRAIN = [source for source in SOURCES if source.startswith("!python launch/run.py ")]
OWN = next(source for source in SOURCES if source.startswith("%%writefile loo.py\n"))


@pytest.fixture
def clone(tmp_path):
    """Makes a directory that looks like the clone, with a copy of the notebook that runs tiny."""
    for name in ("experiments", "launch", "mapo_jax", "requirements.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").mkdir()
    text, count = re.subn(r'PRESET = \\"\\"', r'PRESET = \\":tiny\\"', NOTEBOOK.read_text())
    assert count == 1
    (tmp_path / "docs" / NOTEBOOK.name).write_text(text)
    return tmp_path


@pytest.mark.nightly
def test_every_cell_runs(clone, tmp_path):
    python = tmp_path / "bin" / "python"  # no link, as Python finds its packages by its own path
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    own = {"PATH": f"{python.parent}:{os.environ['PATH']}", "IPYTHONDIR": str(tmp_path / "ipython")}
    pip = {"PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", NOTEBOOK.name],
        cwd=clone / "docs",
        env=one_device() | own | pip,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads((clone / "docs" / NOTEBOOK.name).read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    for name in ("first", "loo"):  # a command of the shell that fails is no error of its cell
        lines = (clone / "runs" / name / "metrics.jsonl").read_text()
        assert '"phase": "rl", "step": 4' in lines, outputs
    shown = [kind for output in outputs for kind in output.get("data", ())]
    assert (shown.count("text/html"), shown.count("image/png")) == (2, 1)
    assert "ERROR" not in str(outputs)  # of pip


@pytest.mark.parametrize("command", TRAIN)
def test_what_trains_is_a_valid_command(clone, monkeypatch, command):
    monkeypatch.chdir(clone)
    (clone / "loo.py").write_text(OWN.partition("\n")[2])
    words = shlex.split(command.replace("{PRESET}", "").replace("\\\n", ""))[2:]
    assert cli.parse(words, "", several=True).workdir.parent.name == "runs"


def test_the_notebook_is_clean_and_agrees_with_the_pages():
    assert len(TRAIN) == 2
    for cell in CELLS:
        assert not cell.get("outputs"), cell["id"]
        assert cell.get("execution_count") is None, cell["id"]
    page = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")
    assert "# loo.py\n" + OWN.partition("\n")[2] + "\n```" in page
    links = re.findall(r"\]\(([^)#]+)", "\n".join(SOURCES))
    assert [link for link in links if not (NOTEBOOK.parent / link).is_file()] == []
