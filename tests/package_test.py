"""Tests that the package has all its files, one version, and an import that stays light.

`.ci/package` installs it for real, which needs the network.
"""

import re
import subprocess
import sys
import tomllib

import yaml

import mapo_jax
from tests.runs import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"flax", "orbax", "optax", "matplotlib", "tensorboardX"}


def test_a_few_advantages_do_not_bring_a_trainer_along():
    script = "import sys\nfrom mapo_jax import advantages, answers\n"
    script += "print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert HEAVY & set(done.stdout.split()) == set()


def test_every_file_that_is_not_code_is_packaged():
    room = ROOT / "mapo_jax"
    other = {p for p in room.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["mapo_jax"]
    packaged = {p for pattern in patterns for p in room.glob(pattern)}
    assert other == packaged


def test_the_console_script_is_there():
    module, _, name = PROJECT["project"]["scripts"]["mapo"].partition(":")
    __import__(module)
    assert callable(getattr(sys.modules[module], name))


def test_the_version_is_one():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.*?)\]", changelog, re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert headings[:2] == ["Unreleased", mapo_jax.__version__]
    assert citation["version"] == mapo_jax.__version__


def test_the_image_is_made_of_what_is_there():
    """No machine of the tests has Docker: its instructions are read, and the pages' arguments."""
    text = (ROOT / "launch" / "Dockerfile").read_text(encoding="utf-8")
    copies = re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE)
    copied = {name for names in copies for name in names.split()}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert all((ROOT / name).exists() for name in copied)
    assert not copied & set(ignored)
    packages = {
        name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    read = {"pyproject.toml", "requirements.txt", PROJECT["project"]["readme"], *packages}
    assert copied == {*read, *PROJECT["project"]["license-files"], "constraints.txt"}
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    extras = {
        x for names in re.findall(r"EXTRA=(\w+(?:,\w+)*)", text + page) for x in names.split(",")
    }
    assert {"gpu", "tpu"} <= extras <= PROJECT["project"]["optional-dependencies"].keys()
    assert set(re.findall(r"^ARG (\w+)=", text, re.MULTILINE)) == {"EXTRA", "COMMIT"}
    (program,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', text, re.MULTILINE)
    assert program in PROJECT["project"]["scripts"]


def test_the_workflow_runs_scripts_that_exist():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    steps = [step for job in yaml.safe_load(text)["jobs"].values() for step in job["steps"]]
    called = {step["run"].split()[0] for step in steps if "run" in step}
    assert called == {".ci/run", ".ci/package"}
    assert all((ROOT / name).stat().st_mode & 0o111 for name in called)


def test_constraints_name_what_is_required():
    lines = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    pinned = {line.partition("==")[0] for line in lines}
    required = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-dev.txt").read_text()
    names = re.findall(r"^(\w[\w-]*)", required.lower().replace("_", "-"), re.MULTILINE)
    assert len(names) > 20
    assert set(names) - pinned == set()
