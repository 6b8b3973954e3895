"""A run's directory: who may use it, and how records reach one that takes no appends."""

import builtins
import errno
import fcntl
import io
import json
import os
import pathlib
import re
import socket
import subprocess
import sys

import pytest
from etils import epath

import mapo_jax
from mapo_jax import errors, report
from mapo_jax.config import to_dict
from mapo_jax.run import records, workdirs
from tests.runs import ROOT, lines, micro, timeless, train


def check(directory, config=None):
    workdirs.check(epath.Path(directory), config or to_dict(micro()), writes=True)


def test_a_new_and_an_empty_directory_will_do(tmp_path):
    check(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "notes.txt").touch()  # in nobody's way
    check(tmp_path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl", "run.json"])
def test_records_of_something_else_are_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(errors.UserError, match=r"holds files but no run \(no config\.json\)"):
        check(tmp_path)
    assert (tmp_path / name).read_text() == "precious"


@pytest.mark.parametrize("text", ['{"model_type": "qwen2"}', "[1]", "not JSON"])
def test_the_config_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(errors.UserError, match=r"its config\.json is not that of a run"):
        check(tmp_path)


def test_the_config_of_a_run_may_be_deleted_and_not_cut(tmp_path):
    """Where there are checkpoints, the line names a fix, and it works."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "config.json").write_text('{"task": {"na')
    with pytest.raises(errors.UserError, match=r"config\.json: is broken \(.*\); delete it"):
        check(tmp_path)
    (tmp_path / "config.json").unlink()
    check(tmp_path)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["checkpoints", "metrics.jsonl"]


def test_a_continuation_must_not_differ(tmp_path):
    old = to_dict(micro())
    workdirs.write_json(epath.Path(tmp_path / "config.json"), old)
    check(tmp_path, old)
    with pytest.raises(errors.UserError, match=r"seed=7: .* started with 0"):
        check(tmp_path, old | {"seed": 7})


def test_starts_are_added_up(tmp_path):
    path = epath.Path(tmp_path)
    first = workdirs.began(path)
    run_id = workdirs.add_start(path, ["seed=1"], None, first)
    assert workdirs.began(path) == first
    assert workdirs.add_start(path, [], ("rl", 4), first) == run_id
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["id"] == run_id
    assert [start["overrides"] for start in run["starts"]] == [["seed=1"], []]
    assert [start["continued_after"] for start in run["starts"]] == [None, ["rl", 4]]
    environment = run["starts"][0]["environment"]
    assert {"python", "jax", "numpy", "devices", "processes", "commit"} <= environment.keys()
    assert environment["mapo_jax"] == mapo_jax.__version__
    # A new run in a directory that one died in begins again.
    assert workdirs.add_start(path, [], None, first) != run_id


@pytest.mark.parametrize(
    "content", ['{"id": "x", "starts": [{"ti', "", "[]", '{"id": "x", "starts": []}', "null"]
)
def test_a_run_json_that_was_cut_is_one_line(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    workdirs.write_json(epath.Path(tmp_path / "config.json"), to_dict(micro()))
    with pytest.raises(errors.UserError, match=r"run\.json: is broken \(.*\); delete it"):
        check(tmp_path, to_dict(micro()))


def git(directory, *words):
    person = ["-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *person, *words], cwd=directory, check=True, capture_output=True)


def test_the_commit_is_that_of_the_packages_own_clone(tmp_path, monkeypatch):
    """Not of a repository that the package is installed in."""
    installed = tmp_path / "venv" / "site-packages" / "mapo_jax" / "run" / "workdirs.py"
    clone = tmp_path / "mapo_jax" / "run" / "workdirs.py"
    for file in (installed, clone):
        file.parent.mkdir(parents=True)
        file.touch()
        (file.parents[1] / "commit.txt").write_text("$Format:%h$")

    def commit(file):
        monkeypatch.setattr(workdirs, "__file__", str(file))
        return workdirs.environment()["commit"]

    assert commit(clone) is None  # an archive
    git(tmp_path, "init")
    git(tmp_path, "add", "mapo_jax")
    git(tmp_path, "commit", "-m", "x")
    assert re.fullmatch(r"[0-9a-f]{12} \(with changes\)", commit(clone))
    assert commit(installed) is None
    (tmp_path / ".gitignore").write_text("*")
    assert re.fullmatch(r"[0-9a-f]{12}", commit(clone))
    (clone.parents[1] / "commit.txt").write_text("0123abc\n")  # as `git archive` fills it in
    assert commit(clone) == "0123abc"


@pytest.fixture
def no_appends(tmp_path, monkeypatch):
    """A directory of a file system, as object stores are mounted, that refuses appends."""
    directory = tmp_path / "objects"

    def refusing(real):
        def fake_open(file, mode="r", *args, **kwargs):
            inside = isinstance(file, str | pathlib.PurePath) and str(directory) in str(file)
            if inside and "a" in mode:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            return real(file, mode, *args, **kwargs)

        return fake_open

    monkeypatch.setattr(builtins, "open", refusing(builtins.open))
    monkeypatch.setattr(io, "open", refusing(io.open))
    return directory


def test_a_mirror_brings_files_whole(no_appends):
    no_appends.mkdir()
    (no_appends / "metrics.jsonl").write_text("1\n")
    mirror = workdirs.Mirror(epath.Path(no_appends), records.RECORDS)
    assert mirror.local != no_appends
    with (mirror.local / "metrics.jsonl").open("a") as file:
        file.write("2\n")
    (mirror.local / "tensorboard").mkdir()
    (mirror.local / "tensorboard" / "events").write_bytes(b"x")
    mirror.upload()
    assert (no_appends / "metrics.jsonl").read_text() == "1\n2\n"
    assert (no_appends / "tensorboard" / "events").read_bytes() == b"x"
    (no_appends / "metrics.jsonl").unlink()
    mirror.upload()  # what has not changed is not sent again
    assert not (no_appends / "metrics.jsonl").exists()


def test_where_appends_work_nothing_is_copied(tmp_path):
    mirror = workdirs.Mirror(epath.Path(tmp_path), records.RECORDS)
    assert mirror.local == tmp_path


@pytest.mark.slow
def test_a_run_and_its_continuation_leave_whole_records(no_appends, tmp_path):
    plain = tmp_path / "plain"
    train(micro(steps=3), plain)
    train(micro(steps=2), no_appends)
    assert lines(no_appends)[-1]["step"] == 2
    train(micro(steps=3), no_appends)
    assert timeless(lines(no_appends)) == timeless(lines(plain))
    ours = [r for r in lines(no_appends, "rollouts") if (r["kind"], r["step"]) != ("after", 2)]
    assert ours == lines(plain, "rollouts")
    steps = [row["step"] for row in lines(no_appends) if row["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 1, 2, 3]
    assert list((no_appends / "tensorboard").rglob("events*"))
    report.write([no_appends], epath.Path(no_appends))
    assert (no_appends / "report.html").exists()


def test_a_bucket_needs_its_package(monkeypatch):
    def mkdir(*_, **__):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(epath.gpath.PosixGPath, "mkdir", mkdir)
    with pytest.raises(errors.UserError, match=r"--workdir=gs://b/run: .* pip install gcsfs"):
        check("gs://b/run")


# ---- one run at a time ----


def test_a_directory_is_held_by_one_run(tmp_path):
    where = epath.Path(tmp_path / "run")
    with workdirs.hold(where):
        mine = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(errors.UserError, match=rf"{mine} is training there; wait") as caught:
            with workdirs.hold(where):
                pass
        assert len(caught.value.lines) == 1
    with workdirs.hold(where), workdirs.hold(epath.Path(tmp_path / "other")):
        pass  # free again


def test_a_killed_run_holds_nothing(tmp_path):
    code = (
        "import os, sys; from etils import epath; from mapo_jax.run import workdirs\n"
        "with workdirs.hold(epath.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert (tmp_path / "lock").read_text().startswith("process ")
    with workdirs.hold(epath.Path(tmp_path)):
        pass


def test_where_nothing_can_be_locked_a_run_goes_on(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with workdirs.hold(epath.Path(tmp_path)):
        pass
    with workdirs.hold(epath.Path("gs://bucket/run")):
        pass


@pytest.mark.parametrize("name", ["lr[1e-3]", "a[bc]d", "a\\b", "[x]/run"])
def test_paths_that_orbax_takes_for_patterns_are_refused(tmp_path, name):
    with pytest.raises(errors.UserError, match=r"has \[\.\.\.\] or a backslash in its path"):
        with workdirs.hold(epath.Path(tmp_path / name)):
            pass
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["a[b", "a{b}", "a*b", "a?b", "a b", "ä#%20"])
def test_other_paths_will_do(tmp_path, name):
    with workdirs.hold(epath.Path(tmp_path / name)):
        check(tmp_path / name)


def test_records_whose_checkpoints_are_gone_are_set_aside(tmp_path):
    where = epath.Path(tmp_path)
    assert workdirs.set_aside(where) == ""
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "phase": "warmup", "step": 1}\n')
    assert workdirs.set_aside(where) == ""  # it died before its first checkpoint
    for number in (1, 2):
        line = '{"kind": "train", "phase": "rl", "step": 1}\n'
        (tmp_path / "metrics.jsonl").write_text(line)
        (tmp_path / "run.json").write_text(str(number))
        (tmp_path / "pictures").mkdir()
        assert f"its records are in before-{number}/ now" in workdirs.set_aside(where)
        assert (tmp_path / f"before-{number}" / "metrics.jsonl").read_text() == line
        assert (tmp_path / f"before-{number}" / "run.json").read_text() == str(number)
        assert (tmp_path / f"before-{number}" / "pictures").is_dir()
        assert not (tmp_path / "metrics.jsonl").exists()
