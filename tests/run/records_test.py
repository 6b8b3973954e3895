"""Records read back to the bit and never hold a step twice."""

import json
import math
import struct
import sys
import time
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto import event_pb2

from experiments import common
from mapo_jax import errors
from mapo_jax.config import from_config_dict
from mapo_jax.run import records, workdirs, writers
from tests import small


def lines(workdir, name="metrics"):
    return [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]


def open_records(directory, keep_until, tensorboard=False, **log):
    mirror = workdirs.Mirror(directory, records.RECORDS)
    config = common.get_config()
    config.log.update(tensorboard=tensorboard, **log)
    config = from_config_dict(config)
    opened = writers.open_writers(config, directory, "1a2b", mirror.local, keep_until)
    return records.Records(mirror, keep_until, opened)


def test_a_line_has_kind_phase_and_step(tmp_path):
    records = open_records(tmp_path, None)
    records.write("train", "rl", 3, {"reward/mean": jnp.float32(0.1), "n": np.int64(2)})
    # read before close: each line is flushed
    assert lines(tmp_path) == [
        {"kind": "train", "phase": "rl", "step": 3, "reward/mean": float(np.float32(0.1)), "n": 2}
    ]
    records.close()


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8))
def test_float32_reads_back_to_the_bit(tmp_path_factory, values):
    workdir = tmp_path_factory.mktemp("run")
    records = open_records(workdir, None)
    records.write("train", "rl", 0, {str(i): np.float32(x) for i, x in enumerate(values)})
    records.close()
    (line,) = lines(workdir)
    for i, x in enumerate(values):
        assert struct.pack("f", line[str(i)]) == struct.pack("f", x)


def test_what_json_lacks_is_null(tmp_path):
    records = open_records(tmp_path, None, tensorboard=True)
    values = {"a": math.nan, "b": jnp.float32(jnp.inf), "c": -math.inf, "d": 1.5}
    records.write("train", "rl", 1, values)
    records.close()
    (line,) = lines(tmp_path)
    assert [line[name] for name in "abcd"] == [None, None, None, 1.5]


def no_thumbnail(example, k):
    return None


def write_run(workdir):
    records = open_records(workdir, None)
    for phase in ("warmup", "rl"):
        for step in range(4):
            records.write("train", phase, step, {"x": step / 3})
            if step % 2 == 0:
                records.write("eval", phase, step, {"y": step / 7})
            rows = [{"prompt": "1+1=", "response": "\u2028 \n é", "reward/accuracy": 1.0}]
            records.write_rollouts(phase, step, rows, no_thumbnail)
    records.close()


def test_pictures_are_written_once_and_before_their_lines(tmp_path):
    asked = []

    def thumbnail(example, k):
        asked.append((example, k, len(lines(tmp_path, "rollouts"))))
        return None if k else b"JPEG"

    named = [{"file": "pictures/a.jpg"}, {"file": "pictures/b.jpg"}]
    for start in range(2):
        written = open_records(tmp_path, ("rl", start) if start else None)
        rows = [{"kind": "train", "example": 3, "images": named[:n]} for n in (1, 0, 1, 2)]
        written.write_rollouts("rl", start + 1, rows, thumbnail)
        written.close()
    assert asked == [(3, 0, 0), (3, 1, 3), (3, 1, 7)]  # example, picture, lines before it
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["a.jpg"]
    assert (tmp_path / "pictures" / "a.jpg").read_bytes() == b"JPEG"


@pytest.mark.parametrize(
    ("keep_until", "last"),
    [
        (("warmup", 2), ("eval", "warmup", 2)),
        (("warmup", 3), ("train", "warmup", 3)),
        (("rl", 0), ("eval", "rl", 0)),
        (("rl", 2), ("eval", "rl", 2)),
        (("rl", 9), ("train", "rl", 3)),
    ],
)
def test_continuing_drops_what_comes_again(tmp_path, keep_until, last):
    write_run(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    open_records(tmp_path, keep_until).close()
    after = (tmp_path / "metrics.jsonl").read_bytes()
    assert before.startswith(after)
    end = lines(tmp_path)[-1]
    assert (end["kind"], end["phase"], end["step"]) == last
    rollouts = lines(tmp_path, "rollouts")
    assert (rollouts[-1]["phase"], rollouts[-1]["step"]) == last[1:]
    assert rollouts[-1]["response"] == "\u2028 \n é"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "rollouts.jsonl"]


def test_a_new_run_starts_empty(tmp_path):
    """A run that died before its first checkpoint begins again."""
    write_run(tmp_path)
    open_records(tmp_path, None).close()
    assert lines(tmp_path) == lines(tmp_path, "rollouts") == []


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_half_written_line_goes(tmp_path, cut):
    """Cut by 1, only the end of the line is missing: the next line must not be glued to it."""
    write_run(tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    records = open_records(tmp_path, ("rl", 3))
    records.write("train", "rl", 4, {})
    records.close()
    assert [line["step"] for line in lines(tmp_path)][-2:] == ([3, 4] if cut == 1 else [2, 4])


@pytest.mark.parametrize("name", records.RECORDS)
@pytest.mark.parametrize(
    "line", [b"5", *small.slow([b"{}"], [b"[1]"], [b'{"st'], [b'{"phase": "x"}'], [b'"\xff"'])]
)
def test_a_line_that_is_no_record_is_named(tmp_path, name, line):
    write_run(tmp_path)
    path = tmp_path / f"{name}"
    first, rest = path.read_bytes().split(b"\n", 1)
    path.write_bytes(b"\n".join([first, line, rest]))
    before = [(tmp_path / one).read_bytes() for one in records.RECORDS]
    with pytest.raises(errors.UserError, match=rf"{name}: line 2 is no record \(.*\); mend or"):
        open_records(tmp_path, ("rl", 3))
    assert [(tmp_path / one).read_bytes() for one in records.RECORDS] == before


def events(directory):
    """The events of the one TensorBoard file, in order."""
    (file,) = directory.iterdir()
    data, found = file.read_bytes(), []
    while data:  # length, its checksum, an event, its checksum
        (size,) = struct.unpack("Q", data[:8])
        found.append(event_pb2.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return found


def test_tensorboard_has_a_run_per_phase(tmp_path):
    records = open_records(tmp_path, None, tensorboard=True)
    records.write("train", "warmup", 1, {"loss/total": 2.5, "loss/kl": math.nan, "n": 3})
    records.write("train", "rl", 1, {"loss/total": 0.5})
    records.close()
    for phase, values in (("warmup", {"loss/total": 2.5, "n": 3}), ("rl", {"loss/total": 0.5})):
        version, start, event = events(tmp_path / "tensorboard" / phase)
        assert version.file_version == "brain.Event:2"
        assert start.session_log.status == event_pb2.SessionLog.START
        assert event.step == 1
        assert {value.tag: value.simple_value for value in event.summary.value} == values


@pytest.mark.parametrize(
    ("keep_until", "purged_from"),
    [(None, 0), (("warmup", 9), 0), (("rl", 4), 5)],
)
def test_tensorboard_hides_what_comes_again(tmp_path, keep_until, purged_from):
    records = open_records(tmp_path, keep_until, tensorboard=True)
    records.write("train", "rl", 5, {"a": 1.0})
    records.write("train", "rl", 6, {"a": 1.0})
    records.close()
    _, start, *rest = events(tmp_path / "tensorboard" / "rl")
    assert start.session_log.status == event_pb2.SessionLog.START
    assert [start.step, *(event.step for event in rest)] == [purged_from, 5, 6]


def test_tensorboard_is_there_before_a_process_dies(tmp_path, monkeypatch):
    """After each upload, and within seconds."""
    now = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(writers, "time", clock)
    written = open_records(tmp_path, None, tensorboard=True)
    written.write("train", "rl", 5, {"a": 1.0})
    written.upload()
    assert [event.step for event in events(tmp_path / "tensorboard" / "rl")] == [0, 0, 5]
    now[0] = 20.0
    written.write("train", "rl", 6, {"a": 1.0})
    assert [event.step for event in events(tmp_path / "tensorboard" / "rl")] == [0, 0, 5, 6]
    written.close()


def test_who_writes_meets_a_full_disk(tmp_path, monkeypatch):
    """And does not wait for ever for a thread that has died of it."""
    with open("/dev/full", "wb", buffering=0) as full:
        monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda path: full)
        records = open_records(tmp_path, None, tensorboard=True)
        with pytest.raises(OSError, match="No space left on device"):
            records.write("train", "rl", 5, {"a": 1.0})
    records.close()


class Service:
    """Stands for the package wandb or trackio, and for its one run: the used part."""

    def __init__(self):
        self.defined, self.logged, self.is_finished = {}, [], False

    def init(self, **given):
        if given["project"].endswith("_system"):
            raise ValueError("Project name is not allowed.")
        print("* Created new run")
        self.given = given
        return self

    def define_metric(self, name, step_metric):
        self.defined[name] = step_metric

    def log(self, values, **step):
        self.logged.append(values | step)

    def finish(self):
        assert "dir" not in self.given or Path(self.given["dir"]).is_dir()  # it writes there
        self.is_finished = True


@pytest.fixture
def services(monkeypatch):
    made = {name: Service() for name in ("wandb", "trackio")}
    for name, service in made.items():
        monkeypatch.setitem(sys.modules, name, service)
    return made.values()


def test_services_count_by_phase_and_go_on_with_a_run(tmp_path, services, capsys):
    wandb, trackio = services
    records = open_records(tmp_path, None, tensorboard=True, wandb="p", trackio="q")
    assert capsys.readouterr().out.count("* Created") == 1  # W&B's: trackio's goes to stderr
    records.write("train", "warmup", 3, {"loss/total": 2.5})
    records.write("train", "rl", 1, {"loss/total": np.float32(0.5)})
    records.close()
    assert [line["step"] for line in lines(tmp_path)] == [3, 1]
    logged = [{"warmup/loss/total": 2.5}, {"rl/loss/total": 0.5}]
    assert wandb.defined == {"warmup/*": "warmup/step", "rl/*": "rl/step"}
    assert wandb.logged == [logged[0] | {"warmup/step": 3}, logged[1] | {"rl/step": 1}]
    assert trackio.logged == [logged[0] | {"step": 3}, logged[1] | {"step": 1}]
    for service, name in ((wandb, tmp_path.name), (trackio, f"{tmp_path.name}-1a2b")):
        assert service.is_finished
        assert (service.given["name"], service.given["resume"]) == (name, "allow")
        assert service.given["config"]["log"]["trackio"] == "q"
    assert (wandb.given["project"], wandb.given["id"]) == ("p", "1a2b")
    assert trackio.given["project"] == "q"


def test_a_project_that_trackio_refuses_is_one_line(tmp_path, services):
    with pytest.raises(
        errors.UserError, match=r"^log\.trackio=a_system: Project name is not allow"
    ):
        open_records(tmp_path, None, trackio="a_system")


def test_weights_and_biases_ends_before_its_directory(tmp_path, monkeypatch, services):
    """A remote work directory has a local mirror, which is removed at the end."""
    monkeypatch.setattr(workdirs, "_takes_appends", lambda *_: False)
    written = open_records(tmp_path, None, wandb="p")
    written.write("train", "rl", 1, {"x": 1.0})
    written.close()
    wandb, _ = services
    assert wandb.is_finished
    assert not written.directory.exists()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1


def test_a_process_beside_the_first_brings_its_own_files(tmp_path, monkeypatch):
    monkeypatch.setattr(workdirs, "_takes_appends", lambda *_: False)
    (tmp_path / "metrics.jsonl").write_text("the first's\n")
    (tmp_path / "rewards.1.log").write_text("an earlier start\n")
    written = records.NoRecords(workdirs.Mirror(tmp_path, ["rewards.1.log"]))
    written.write("train", "rl", 1, {"x": 1.0})
    for text, bring in (("1\n", written.upload), ("2\n", written.close)):
        with (written.directory / "rewards.1.log").open("a") as file:
            file.write(text)
        bring()
        assert (tmp_path / "rewards.1.log").read_text().endswith(text)
    assert (tmp_path / "rewards.1.log").read_text() == "an earlier start\n1\n2\n"
    assert (tmp_path / "metrics.jsonl").read_text() == "the first's\n"
    assert not written.directory.exists()


def test_of_a_step_that_was_left_open_only_the_training_stays(tmp_path):
    """Its evaluation is made again; an earlier one stays."""
    written = open_records(tmp_path, None)
    for step in (1, 2):
        written.write("train", "rl", step, {"x": 1})
        written.write("eval", "rl", step, {"x": 1})
        written.write_rollouts("rl", step, [{"kind": "train"}, {"kind": "after"}], no_thumbnail)
    written.close()
    mirror = workdirs.Mirror(tmp_path, records.RECORDS)
    records.Records(mirror, ("rl", 2), is_open=True).close()
    assert [(r["kind"], r["step"]) for r in lines(tmp_path)] == [
        ("train", 1),
        ("eval", 1),
        ("train", 2),
    ]
    kept = [(r["kind"], r["step"]) for r in lines(tmp_path, "rollouts")]
    assert kept == [("train", 1), ("after", 1), ("train", 2)]
