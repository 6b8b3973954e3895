"""Real processes on one machine, through the real command line."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mapo_jax import errors
from mapo_jax.run import processes
from tests.runs import ROOT, command, lines, micro, one_device, readable, train

HEARTBEAT = 10  # seconds, in the tests below


@pytest.fixture
def start(tmp_path):
    """Starts the processes of a run in tmp_path/run; ends those that a failed test leaves."""
    environment = one_device()
    started: list[subprocess.Popen] = []

    def start(number: int, *settings: str, second: Sequence[str] = ()) -> list[subprocess.Popen]:
        """`second`: settings of process 1 alone."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        together = [f"--coordinator=localhost:{port}", f"--num-processes={number}"]
        together += [f"--config.processes.heartbeat={HEARTBEAT}"] if number > 1 else []
        processes = []
        for i in range(number):
            flags = [*together, f"--process-id={i}"] if number > 1 else []
            flags += second if i == 1 else ()
            with (tmp_path / f"{i}.log").open("w") as log:
                processes.append(
                    subprocess.Popen(
                        [
                            *command(tmp_path / "run"),
                            *flags,
                            *settings,
                            *(second if i == 1 else ()),
                        ],
                        cwd=ROOT,
                        env=environment,
                        stdout=log,
                        stderr=log,
                    )
                )
        started.extend(processes)
        return processes

    yield start
    for process in started:
        process.kill()
        process.wait()


def short(directory: Path) -> str:
    """A reward in which an untrained policy's responses differ: else Adam follows roundings."""
    (directory / "my.py").write_text(
        "def short(response, example):\n"
        "    print('judged')\n"
        "    n = len(response)\n"
        "    return {'reward': 1 / (1 + n), 'success': n < 9, 'parts': {'n': n}}\n"
    )
    return f"{directory}/my.py:short"


def wait_for(workdir: Path, processes: list[subprocess.Popen], phase: str, step: int) -> None:
    while ("train", phase, step) not in [
        (row["kind"], row["phase"], row["step"]) for row in readable(workdir)
    ]:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def assert_close(ours: list[dict], theirs: list[dict]) -> None:
    places = [(row["kind"], row["phase"], row["step"]) for row in ours]
    assert [(row["kind"], row["phase"], row["step"]) for row in theirs] == places
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if name.startswith(("loss/", "reward/", "eval/", "success_count/", "policy/grad")):
                np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.nightly
def test_four_processes_one_is_killed_and_one_process_goes_on(tmp_path, start):
    """The others end soon; what four saved continues in one, to the metrics of a single run."""
    run, reward = tmp_path / "run", short(tmp_path)
    setting = f"--config.task.reward={reward}"
    processes = start(4, "--config.steps=100000", "--config.eval.every=100000", setting)
    wait_for(run, processes, "rl", 3)
    processes[2].send_signal(signal.SIGKILL)
    began = time.monotonic()
    codes = [process.wait(timeout=120) for process in processes]
    assert time.monotonic() - began < HEARTBEAT + 20
    assert codes[2] == -signal.SIGKILL
    assert {abs(code) for i, code in enumerate(codes) if i != 2} <= {134, signal.SIGABRT}
    said = "".join((tmp_path / f"{i}.log").read_text() for i in (0, 1, 3))
    assert "another process is gone" in said or "another task died" in said

    (alone,) = start(1, setting)  # from the newest checkpoint, to step 5
    assert alone.wait() == 0, (tmp_path / "0.log").read_text()
    assert "continued after step" in (tmp_path / "0.log").read_text()
    train(micro(task__reward=reward), tmp_path / "whole")
    ours = [row for row in lines(run) if row["kind"] == "train"]
    assert_close(ours, [row for row in lines(tmp_path / "whole") if row["kind"] == "train"])


@pytest.mark.nightly
def test_two_processes_train_on_the_prompts_that_one_chooses(tmp_path, start):
    """Each of them tries half of the prompts for `data.solve_rate`."""
    reward, rate = short(tmp_path), "0.25:0.5"
    settings = {"task.reward": reward, "data.solve_rate": rate, "data.solve_prompts": 32}
    words = [f"--config.{key}={value}" for key, value in settings.items()]
    processes = start(2, *words, "--config.warmup.steps=1", "--config.steps=2")
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    changes = {key.replace(".", "__"): value for key, value in settings.items()}
    train(micro(**changes, warmup__steps=1, steps=2), tmp_path / "whole")
    ours, theirs = (
        json.loads((tmp_path / x / "solved.json").read_text()) for x in ("run", "whole")
    )
    assert ours == theirs
    kept = [0.25 <= share <= 0.5 for share in ours["rates"].values()]
    assert 0 < sum(kept) < len(kept) == 32
    assert_close(
        *([x for x in lines(tmp_path / y) if x["kind"] == "train"] for y in ("run", "whole"))
    )


@pytest.mark.nightly
def test_sigterm_to_one_process_saves_one_step_of_all(tmp_path, start):
    run = tmp_path / "run"
    processes = start(2, "--config.checkpoint.every=100000", "--config.steps=100000")
    wait_for(run, processes, "rl", 2)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(timeout=120) for process in processes] == [143, 143]
    done = [row["step"] for row in lines(run) if row["phase"] == "rl"][-1]
    for i in range(2):
        assert f"SIGTERM: step {done} of rl is saved" in (tmp_path / f"{i}.log").read_text()
    assert (run / "checkpoints" / str(5 + done)).is_dir()


# The command line of the process that a reward's worker is for; between them is the keeper.
MINE = """asks = Path(f"/proc/{os.getppid()}/stat").read_text().split()[3]
mine = Path(f"/proc/{asks}/cmdline").read_bytes()
"""


@pytest.mark.slow
def test_a_mistake_that_one_process_meets_ends_both_with_its_line(tmp_path, start):
    (tmp_path / "my.py").write_text(
        "import os\n"
        "from pathlib import Path\n" + MINE + "calls = []\n"
        "def picky(response, example):\n"
        "    calls.append(response)\n"
        "    if len(calls) > 20 and b'--process-id=1' in mine:\n"
        "        raise KeyError('oops')\n"
        "    return {'reward': 0.5, 'success': False, 'parts': {}}\n"
    )
    processes = start(2, f"--config.task.reward={tmp_path}/my.py:picky")
    assert [process.wait(timeout=120) for process in processes] == [2, 2]
    for i in range(2):
        log = (tmp_path / f"{i}.log").read_text()
        assert "task.reward: picky raised KeyError: 'oops'" in log
        assert "Traceback" not in log


@pytest.mark.slow
def test_what_differs_between_processes_ends_them(tmp_path, start):
    """Settings, and a file that only one of them lacks: before anything else would hang."""
    both = "process 1 was started with other settings than process 0"
    processes = start(2, "--config.steps=3", second=["--config.seed=1"])
    assert [process.wait(timeout=120) for process in processes] == [2, 2]
    assert all(both in (tmp_path / f"{i}.log").read_text() for i in range(2))

    (tmp_path / "my.py").write_text(
        "from pathlib import Path\n"
        "import os\n" + MINE + "if b'--process-id=1' in mine:\n"
        "    raise FileNotFoundError('dictionary.txt')\n"
        "def fn(response, example):\n"
        "    return {'reward': 0.5, 'success': False, 'parts': {}}\n"
    )
    processes = start(2, f"--config.task.reward={tmp_path}/my.py:fn")
    assert [process.wait(timeout=120) for process in processes] == [2, 2]
    for i in range(2):
        log = (tmp_path / f"{i}.log").read_text()
        assert "raised FileNotFoundError: dictionary.txt" in log
        assert "Traceback" not in log


def test_the_odd_ones_are_named(monkeypatch):
    monkeypatch.setattr(processes, "everyones", lambda text: [text, "other", text, "another"])
    with pytest.raises(errors.UserError, match=r"^process 1, 3 read something else$") as caught:
        processes.check_same("a", "read something else")
    assert caught.value.everywhere
    monkeypatch.setattr(processes, "everyones", lambda text: [text] * 4)
    processes.check_same("a", "read something else")


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """The same losses within tolerance, and one set of records."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = one_device()
    reward = short(tmp_path)
    together = [
        f"--config.task.reward={reward}",
        "--config.dynamic.max_tries=20",
        "--config.algorithm.advantage=ebpo",  # compares with all groups, and remembers earlier ones
        "--config.rollout.chunks=2",
        "--config.log.console=json",
    ]
    together += [f"--coordinator=localhost:{port}", "--num-processes=2"]
    processes = [
        subprocess.Popen(
            [*command(tmp_path / "two"), *together, f"--process-id={i}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert '"event"' in outputs[0][0]
    assert '"event"' not in outputs[1][0]  # the first process alone speaks
    for log in ("rewards.log", "rewards.1.log"):  # but each keeps what its workers print
        assert "judged" in (tmp_path / "two" / log).read_text()

    config = micro(task__reward=reward, dynamic__max_tries=20, algorithm__advantage="ebpo")
    train(config, tmp_path / "one")  # two devices in this process
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    assert_close(one, two)
    assert max(row["groups/tries"] for row in two if "groups/tries" in row) > 1
    # The first process writes of all: dynamic sampling may have taken prompts from any.
    texts = [
        [(row["kind"], row["step"], row["prompt"], row["response"]) for row in rows]
        for rows in (lines(tmp_path / "one", "rollouts"), lines(tmp_path / "two", "rollouts"))
    ]
    assert texts[0] == texts[1]
