"""Tests that worker processes answer, and that silent ones are killed, counted and replaced."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mapo_jax import errors, workers

TRICKS = """
import mmap, os, sys, time

def answer(question):
    print("noise")  # a library that prints
    if question == "hang":
        while True: pass
    if question == "sleep":
        time.sleep(60)
    if question == "crash":
        os._exit(1)
    if question == "raise":
        raise ValueError("x")
    if question == "eat":
        return len(mmap.mmap(-1, 5 * 2**30))
    if question == "pid":
        return os.getpid()
    return [question, os.getcwd()]
"""


@pytest.fixture
def tricks(tmp_path, monkeypatch):
    (tmp_path / "tricks.py").write_text(TRICKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # not the repository's root
    pools = []

    def make(size=1, timeout=0.5):
        pools.append(workers.Pool("tricks", size, timeout))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_answers(tricks, tmp_path):
    pool = tricks()
    for question in ("a", 1, ["\ud800", None], "x" * 10**6, ""):
        assert pool.ask(question) == [question, str(tmp_path)]
    assert pool.failures == 0


@pytest.mark.parametrize("trick", ["hang", "sleep", "crash"])
def test_what_gives_no_answer_is_killed_and_replaced(trick, tricks):
    pool = tricks()
    before = pool.ask("pid")
    assert pool.ask(trick) is None
    assert pool.failures == 1
    assert not is_alive(before)
    assert pool.ask("pid") not in (None, before)
    assert pool.failures == 1


@pytest.mark.parametrize("trick", ["raise", "eat"])
def test_what_raises_or_eats_memory_has_no_answer(trick, tricks):
    pool = tricks(timeout=5.0)
    assert pool.ask(trick) is None
    assert pool.ask("a") is not None


def test_threads_ask_at_the_same_time(tricks):
    pool = tricks(size=2, timeout=30.0)
    pids = []
    barrier = threading.Barrier(2)

    def ask():
        barrier.wait()
        pids.extend(pool.ask("pid") for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 40
    assert len({*pids}) == 2


def test_close_leaves_no_process(tricks):
    pool = tricks(size=2)
    pids = {pool.ask("pid") for _ in range(2)}
    pool.close()
    assert not any(map(is_alive, pids))
    assert pool.ask("a") is not None  # the pool starts anew


@pytest.mark.parametrize("trick", ["hang", "sleep"])
def test_no_worker_outlives_who_asks(tricks, tmp_path, trick):
    code = (
        "from mapo_jax import workers; p = workers.Pool('tricks', 2, 60.0);"
        f"print(p.ask('pid'), p.ask('pid'), flush=True); p.ask({trick!r})"
    )
    root = Path(workers.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"}
    asks = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True
    )
    pids = [int(pid) for pid in asks.stdout.readline().split()]
    assert all(map(is_alive, pids))
    asks.send_signal(signal.SIGKILL)
    asks.wait()
    asks.stdout.close()
    # The waiting worker reads the end of its input; the busy one notices that it is alone.
    assert wait_for(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("module", ["no_such_module", "json"])
def test_what_cannot_be_imported(module):
    pool = workers.Pool(module, 1, 1.0)
    with pytest.raises(errors.UserError, match="worker processes cannot be used") as caught:
        pool.ask("a")
    assert len(caught.value.lines) == 1
