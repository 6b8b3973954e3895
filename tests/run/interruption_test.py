"""A run that is told to end, or has to: SIGTERM, damage, numbers that are not finite."""

import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mapo_jax import errors, report
from mapo_jax.commands import exits, launchers
from mapo_jax.run import collect, guard, processes, programs, records, trainer
from tests import runs
from tests.run.damage_test import files, flip
from tests.runs import ROOT, command, lines, micro, readable, timeless


def start(workdir: Path, environment, *settings: str) -> subprocess.Popen:
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(
            [*command(workdir), *settings], cwd=ROOT, env=environment, stdout=log, stderr=log
        )


def wait_for(process: subprocess.Popen, workdir: Path, phase: str, step: int) -> None:
    while ("train", phase, step) not in [
        (row["kind"], row["phase"], row["step"]) for row in readable(workdir)
    ]:
        assert process.poll() is None, (workdir.parent / f"{workdir.name}.log").read_text()
        time.sleep(0.01)


def test_sigterm_in_both_phases_saves_and_ends_with_143(undisturbed, tmp_path, monkeypatch, capsys):
    """Sent when a line of either phase has been written."""
    run = tmp_path / "run"
    settings = [*command(run)[2:], "--config.checkpoint.every=100"]
    monkeypatch.setattr(sys, "argv", ["run.py", *settings])
    monkeypatch.setattr(report, "write", lambda *_: "")  # it takes longer than the runs
    write, active = records.Records.write, []
    enter = processes.Termination.__enter__
    monkeypatch.setattr(
        processes.Termination, "__enter__", lambda self: active.append(self) or enter(self)
    )
    for phase, step in (("warmup", 1), ("rl", 3)):

        def then_signal(self, *place_and_values, last=("train", phase, step)):
            write(self, *place_and_values)
            if place_and_values[:3] == last:
                os.kill(os.getpid(), signal.SIGTERM)
                while not active[-1]._is_requested:  # a thread notes it
                    time.sleep(0.001)

        monkeypatch.setattr(records.Records, "write", then_signal)
        with runs.traced_once():
            assert exits.main(launchers.run) == 143
        done = [row["step"] for row in lines(run) if row["phase"] == phase][-1]
        index = done + (5 if phase == "rl" else 0)
        assert (run / "checkpoints" / str(index)).is_dir()
        said = f"SIGTERM: step {done} of {phase} is saved; the same command continues\n"
        assert capsys.readouterr().err == said
    runs.train(micro(checkpoint__every=100), run)
    assert timeless(lines(run)) == timeless(lines(undisturbed))
    assert lines(run, "rollouts") == lines(undisturbed, "rollouts")


def test_a_batch_of_the_warm_up_that_cannot_be_made_loses_no_step(tmp_path, monkeypatch):
    make, run = trainer.Trainer._demonstration_batch, tmp_path / "run"

    def broken(self, step):
        if step == 4:
            raise errors.UserError("0.png: is not the picture that it was")
        return make(self, step)

    monkeypatch.setattr(trainer.Trainer, "_demonstration_batch", broken)
    with pytest.raises(errors.UserError, match=r"0\.png"):
        runs.train(micro(checkpoint__every=100), run)
    assert [row["step"] for row in lines(run)] == [1, 2, 3]
    assert (run / "checkpoints" / "3").is_dir()


@pytest.mark.nightly
def test_sigterm_to_a_process_in_both_phases(whole, environment, tmp_path):
    """The same in processes of their own, at any moment of a step."""
    run = tmp_path / "run"
    for phase, step in (("warmup", 1), ("rl", 3)):
        process = start(run, environment, "--config.checkpoint.every=100")
        wait_for(process, run, phase, step)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
        done = [row["step"] for row in lines(run) if row["phase"] == phase][-1]
        index = done + (5 if phase == "rl" else 0)
        assert (run / "checkpoints" / str(index)).is_dir()
        log = (tmp_path / "run.log").read_text()
        assert f"SIGTERM: step {done} of {phase} is saved; the same command continues" in log
    assert start(run, environment, "--config.checkpoint.every=100").wait() == 0
    assert timeless(lines(run)) == timeless(lines(whole))
    assert lines(run, "rollouts") == lines(whole, "rollouts")


@pytest.mark.slow
def test_a_second_sigterm_ends_at_once():
    """Even where the main thread does not come back to Python."""
    code = (
        "import ctypes, time\n"
        "from mapo_jax.run import processes\n"
        "with processes.Termination() as termination:\n"
        "    print(termination.is_requested(), flush=True)\n"
        "    ctypes.CDLL(None).pause()\n"  # a signal ends it
        "    time.sleep(0.5)\n"
        "    print(termination.is_requested(), flush=True)\n"
        "    while True:\n"
        "        ctypes.CDLL(None).sleep(100)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "False\n"
    time.sleep(0.5)  # until it pauses
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "True\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    process.stdout.close()


def test_signals_are_the_callers_again_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with processes.Termination() as termination:
        os.kill(os.getpid(), signal.SIGTERM)
        while not termination.is_requested():
            time.sleep(0.01)
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_run_in_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)

    def run():
        with processes.Termination() as termination:
            found.append((signal.getsignal(signal.SIGTERM), termination.is_requested()))

    found = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(before, False)]


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    undisturbed, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    for path in files(run / "checkpoints" / "10" / "params" / "d"):
        for place in range(0, path.stat().st_size, 500):
            flip(path, 8 * place)
    runs.train(micro(), run)
    log = " ".join(capsys.readouterr().out.split())
    assert "checkpoint 10 is damaged (" in log
    assert "it is checkpoints/damaged-10 now" in log
    assert "continued after step 4 of rl" in log
    assert timeless(lines(run)) == timeless(lines(undisturbed))
    assert (run / "checkpoints" / "damaged-10").is_dir()
    assert (run / "checkpoints" / "10").is_dir()


@pytest.mark.slow
def test_updates_that_are_not_finite_end_the_run(tmp_path):
    """The parameters stay those before them, and another run starts from these."""
    config = micro(
        optimizer__learning_rate=1e30,
        optimizer__max_grad_norm=1e30,
        guard__max_skipped=3,
        warmup__steps=2,
        steps=50,
    )
    with pytest.raises(errors.RunStopped) as stopped:
        runs.train(config, tmp_path / "run")
    rows = [row for row in lines(tmp_path / "run") if row["phase"] == "rl"]
    last = rows[-1]["step"]
    assert rows[-1]["policy/skipped"] >= 3
    assert f"step {last} of rl: {int(rows[-1]['policy/skipped'])} updates in a row" in str(
        stopped.value
    )
    newest = 2 + last
    assert f"checkpoint {newest}." in str(stopped.value)
    assert f"policy.init={tmp_path / 'run'}" in str(stopped.value)
    assert (tmp_path / "run" / "checkpoints" / str(newest)).is_dir()
    dumped = sorted((tmp_path / "run" / "skipped").iterdir())
    assert dumped[-1].name == f"rl-{last:06d}-0.npz"
    with np.load(dumped[-1]) as batch:
        assert batch["rollouts.tokens"].shape == (16, 4, 16)
        assert batch["advantages"].shape == (16, 4)

    runs.train(micro(policy__init=str(tmp_path / "run"), warmup__steps=0, steps=1), tmp_path / "b")


@pytest.mark.slow
def test_a_batch_without_rewards_is_no_update(tmp_path):
    """NaN says that there is no reward: nothing is learnt, not even weights decay."""
    (tmp_path / "my.py").write_text(
        "def none(response, example):\n"
        "    return {'reward': float('nan'), 'success': False, 'parts': {}}\n"
    )
    config = micro(
        task__reward=f"{tmp_path}/my.py:none",
        warmup__steps=0,
        guard__max_skipped=9,
        steps=4,
    )
    with pytest.raises(errors.RunStopped, match=r"step 3 of rl: 12 updates in a row"):
        runs.train(config, tmp_path / "run")
    rows = [row for row in lines(tmp_path / "run") if row["kind"] == "train"]
    assert [row["policy/skipped"] for row in rows] == [4, 8, 12]
    assert rows[0]["reward/invalid"] == 1
    assert rows[0]["reward/mean"] is None or math.isnan(rows[0]["reward/mean"])


@pytest.mark.slow
def test_rewards_that_are_not_finite_are_left_out(tmp_path, capsys, monkeypatch):
    assert guard._KEPT == 20
    monkeypatch.setattr(guard, "_KEPT", 2)  # so that few steps will do
    (tmp_path / "my.py").write_text(
        "def mine(response, example):\n"
        "    n = len(response)\n"
        "    odd = [float('nan'), float('inf'), -float('inf')]\n"
        "    reward = 1 / (1 + n) if n % 4 else odd[n // 4 % 3]\n"
        "    return {'reward': reward, 'success': n < 9, 'parts': {}}\n"
    )
    config = micro(task__reward=f"{tmp_path}/my.py:mine", warmup__steps=0, steps=4)
    runs.train(config, tmp_path / "run")
    rows = [row for row in lines(tmp_path / "run") if row["kind"] == "train"]
    assert all(0 < row["reward/invalid"] < 1 for row in rows)
    assert all(0 < row["reward/mean"] < 1 for row in rows)
    assert rows[-1]["policy/skipped"] == 0
    share = f"{rows[0]['reward/invalid']:.2%} of the rollouts have no finite reward"
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"step 1 of rl: {share} and are left out; the batch is skipped/" in said
    dumped = sorted((tmp_path / "run" / "skipped").iterdir())
    assert len(dumped) == 2  # the first ones
    with np.load(dumped[0]) as batch:
        invalid = ~batch["rollouts.valid"]
        assert invalid.mean() == pytest.approx(rows[0]["reward/invalid"])
        assert not batch["advantages"][invalid].any()


@pytest.mark.nightly
def test_a_reward_that_raises_in_mid_run_loses_nothing(whole, environment, tmp_path):
    """Mended, the same command ends as if nothing had been."""
    reward = tmp_path / "my.py"
    fine = "from mapo_jax import rewards\ndef mine(response, example, finished):\n"
    answer = "    return rewards.accuracy_and_format(response, example, finished)\n"
    broken = (
        "    from pathlib import Path\n"
        f"    counter = Path({str(tmp_path / 'count')!r})\n"
        "    with counter.open('a') as file:\n"
        "        file.write('x')\n"
        "    if counter.stat().st_size > 260:\n"
        "        raise KeyError('oops')\n"
    )
    reward.write_text(fine + broken + answer)
    run, setting = tmp_path / "run", f"--config.task.reward={reward}:mine"
    process = start(run, environment, setting, "--config.checkpoint.every=100")
    assert process.wait() == 2
    log = (tmp_path / "run.log").read_text()
    assert "task.reward: mine raised KeyError: 'oops'" in log
    done = max(row["step"] for row in lines(run) if row["phase"] == "rl")
    assert done >= 1
    assert (run / "checkpoints" / str(5 + done)).is_dir()
    reward.write_text(fine + answer)
    assert start(run, environment, setting, "--config.checkpoint.every=100").wait() == 0
    dropped = ("reward/", "advantage", "success_count")  # of another function, to the same effect
    kept = [
        [{k: v for k, v in row.items() if not k.startswith(dropped)} for row in timeless(rows)]
        for rows in (lines(run), lines(whole))
    ]
    assert [(r["kind"], r["phase"], r["step"]) for r in kept[0]] == [
        (r["kind"], r["phase"], r["step"]) for r in kept[1]
    ]


class JaxRuntimeError(Exception):
    """Has the name by which JAX's error is recognised."""


def test_a_phase_that_runs_out_of_memory_names_its_settings(tmp_path, monkeypatch, capsys):
    def lacks(*_):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB are missing")

    monkeypatch.setattr(collect, "collect", lacks)
    monkeypatch.setattr(report, "write", lambda *_: "")
    monkeypatch.setattr(sys, "argv", ["run.py", *command(tmp_path / "run")[2:]])
    with runs.traced_once():
        assert exits.main(launchers.run) == 2
    assert capsys.readouterr().err == (
        "out of memory (RESOURCE_EXHAUSTED: 9 GiB are missing); for sampling lower rollout.lanes "
        "or rollout.width, or raise rollout.chunks\n"
    )


def test_memory_that_runs_out_before_the_first_step_is_told_too(tmp_path, monkeypatch, capsys):
    def lacks(*_):
        raise JaxRuntimeError("RESOURCE_EXHAUSTED: 9 GiB are missing")

    monkeypatch.setattr(programs.Programs, "reference", lacks)
    settings = [*command(tmp_path / "run")[2:], "--config.warmup.steps=0"]
    monkeypatch.setattr(sys, "argv", ["run.py", *settings, "--config.algorithm.beta=0.1"])
    with runs.traced_once():
        assert exits.main(launchers.run) == 2
    assert "are missing); for scoring lower batch.microbatch" in capsys.readouterr().err
