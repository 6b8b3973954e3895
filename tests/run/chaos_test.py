"""A run that meets everything ends as one that met nothing. Slow: python -m pytest -m slow."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mapo_jax.run import trainer
from tests.run.damage_test import files, flip
from tests.run.interruption_test import start
from tests.runs import ROOT, command, lines, micro, timeless

pytestmark = pytest.mark.nightly


def newest(run: Path) -> int:
    """The index of the newest whole checkpoint; -1 where there is none."""
    directory = run / "checkpoints"
    names = [p.name for p in directory.iterdir()] if directory.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=-1)


def done(run: Path) -> int:
    """Steps of both phases on record."""
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []
    return sum(row["kind"] == "train" for row in rows)


def finish(process: subprocess.Popen) -> int:
    return process.wait(timeout=600)


def reach(run: Path, steps: int, process: subprocess.Popen) -> None:
    """Waits for steps on record, not for seconds: machines differ."""
    while done(run) < steps:
        assert process.poll() is None, (run.parent / f"{run.name}.log").read_text()[-3000:]
        time.sleep(0.005)


def test_37_kills_at_random_moments(environment, tmp_path):
    """None loses more than the steps since the last save; no data is skipped or seen twice."""
    settings = ["--config.steps=500", "--config.warmup.steps=40", "--config.checkpoint.every=3"]
    settings += ["--config.eval.every=1000", "--config.log.rollouts_every=1"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert finish(start(whole, environment, *settings)) == 0
    rng, saved = random.Random(0), -1
    for kill in range(37):
        before, process = done(run), start(run, environment, *settings)
        if kill % 3:
            reach(run, before + rng.randrange(1, 9), process)
            time.sleep(rng.uniform(0, 0.1))  # part of a step, or of a save
        else:
            time.sleep(rng.uniform(0, 4))  # while it starts
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        before, saved = saved, newest(run)
        assert saved >= before
        # One save may be under way, and one more step be on record.
        assert done(run) - max(saved, 0) <= 3 + 3
    assert finish(start(run, environment, *settings)) == 0
    assert timeless(lines(run)) == timeless(lines(whole))
    assert lines(run, "rollouts") == lines(whole, "rollouts")


REWARD = """
import time
from pathlib import Path
from mapo_jax import rewards

HERE = Path(__file__).parent

def mine(response, example, finished):
    for trick in ("hang", "die", "raise"):
        try:
            (HERE / trick).unlink()
        except FileNotFoundError:
            continue
        if trick == "hang":
            time.sleep(600)
        if trick == "die":
            import os
            os._exit(1)
        raise RuntimeError("for once")
    return rewards.accuracy_and_format(response, example, finished)
"""

# A disk of the run's size and a little more, for as long as the command lives.
FULL = """
mount -t tmpfs -o size=$1k tmpfs "$3" && cp -a "$2/." "$3" && shift 3 && "${@}"
"""


def test_everything_at_once(environment, tmp_path):
    (tmp_path / "my.py").write_text(REWARD)
    settings = [f"--config.task.reward={tmp_path}/my.py:mine", "--config.task.reward_timeout=1"]
    settings += ["--config.steps=200", "--config.warmup.steps=30", "--config.checkpoint.keep=3"]
    settings += ["--config.eval.every=50"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert finish(start(whole, environment, *settings)) == 0
    rng = random.Random(1)
    met: dict[str, int] = {}

    def meet(what: str) -> None:
        met[what] = met.get(what, 0) + 1

    def live(how: int, trick: str = "") -> None:
        before, process = done(run), start(run, environment, *settings)
        reach(run, before + 1, process)
        if trick:
            (tmp_path / trick).write_text("")
        meet(trick or "nothing")
        if trick == "raise":
            assert finish(process) == 2
            return
        reach(run, before + 1 + rng.randrange(10), process)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(how)
        assert finish(process) in (-signal.SIGKILL, 143)
        meet(signal.Signals(how).name)

    def damage() -> None:
        index = newest(run)
        paths = files(run / "checkpoints" / str(index))
        for path in rng.sample(paths, 3):
            flip(path, rng.randrange(8 * path.stat().st_size))
        meet("flipped")

    def fill() -> None:
        # As a disk counts: whole blocks of 4 KiB.
        size = sum(4 * -(-p.stat().st_size // 4096) if p.is_file() else 4 for p in run.rglob("*"))
        place, log = tmp_path / "place", tmp_path / "full.log"
        place.mkdir(exist_ok=True)
        words = ["unshare", "--map-root-user", "--mount", "bash", "-c", FULL, "full"]
        words += [str(size + 300), str(run), str(place), *command(place), *settings]
        with log.open("w") as file:
            code = subprocess.run(words, cwd=ROOT, env=environment, stdout=file, stderr=file)
        text = log.read_text()
        assert code.returncode == 2, text
        assert "disk is full" in text, text
        assert "Traceback" not in text, text
        meet("full disk")

    for trick in ("", "hang", "die", "", "raise", "hang", "", "die", "raise"):
        live(rng.choice([signal.SIGKILL, signal.SIGTERM]), trick)
        if newest(run) > 5 and rng.random() < 0.5:
            damage()
    fill()
    damage()
    for trick in ("hang", "die", "raise"):
        (tmp_path / trick).unlink(missing_ok=True)
    process = start(run, environment, *settings)
    assert finish(process) == 0, (tmp_path / "run.log").read_text()[-3000:]
    kept = [
        [{k: v for k, v in row.items() if k != "reward/failures"} for row in timeless(rows)]
        for rows in (lines(run), lines(whole))
    ]
    assert kept[0] == kept[1]
    assert lines(run, "rollouts") == lines(whole, "rollouts")
    assert {"SIGKILL", "SIGTERM", "flipped", "full disk"} <= met.keys()


def test_a_run_goes_on_bit_for_bit_at_each_step_across_an_epochs_end(tmp_path):
    """200 examples, 16 a step: the first epoch ends within step 13."""
    config = micro(steps=20, checkpoint__every=1, checkpoint__keep=100, eval__every=4)
    whole = tmp_path / "whole"
    trainer.train(config, whole)
    last = 5 + 20
    for step in range(8, 18):
        run = tmp_path / str(step)
        shutil.copytree(whole, run)
        for index in range(5 + step + 1, last + 1):
            shutil.rmtree(run / "checkpoints" / str(index))
        trainer.train(config, run)
        assert timeless(lines(run)) == timeless(lines(whole)), step
        assert lines(run, "rollouts") == lines(whole, "rollouts"), step
        manifests = [
            json.loads((w / "checkpoints" / str(last) / "manifest" / "metadata").read_text())
            for w in (run, whole)
        ]
        assert manifests[0] == manifests[1], step  # every leaf's digest, and the position
        shutil.rmtree(run)


def test_records_survive_a_kill_while_they_are_uploaded(environment, tmp_path):
    """A directory that takes no appends, as a bucket: records are written whole at checkpoints."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    code = (
        "import runpy, sys; sys.path[:0] = ['.']\n"
        "from mapo_jax.run import workdirs\n"
        "workdirs._takes_appends = lambda *_: False\n"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )

    def begin(workdir: Path) -> subprocess.Popen:
        _, *words = command(workdir)
        extra = ["--config.steps=60", "--config.checkpoint.every=1", "--config.eval.every=20"]
        with (tmp_path / "log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code, *words, *extra],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    assert finish(begin(whole)) == 0
    rng = random.Random(2)
    for _ in range(8):
        process = begin(run)
        time.sleep(rng.uniform(4, 9))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert finish(begin(run)) == 0, (tmp_path / "log").read_text()[-2000:]
    assert timeless(lines(run)) == timeless(lines(whole))
    assert lines(run, "rollouts") == lines(whole, "rollouts")
