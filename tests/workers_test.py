"""Tests that worker processes answer, and that silent ones are killed, counted and replaced."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mapo_jax import errors, workers

TRICKS = """
import mmap, os, resource, signal, subprocess, sys, time

def answer(question):
    print("noise")  # a library that prints
    if isinstance(question, list) and question[0] == "family":
        seconds = question[1]
        for command in ("S", "sh -c 'S & S'", "timeout 600 S", "setsid S", "setsid sh -c 'S & S'"):
            subprocess.Popen("exec " + command.replace("S", f"sleep {seconds}"), shell=True)
        bare = {"env": {}, "start_new_session": True}
        subprocess.Popen(["/bin/sh", "-c", f"sleep {seconds}"], **bare)
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", seconds])
        if os.fork() == 0:  # a daemon
            os.setsid()
            if os.fork() == 0:
                os.execvpe("sleep", ["sleep", seconds], {"PATH": os.environ["PATH"]})
            os._exit(0)
        os.wait()
        os.environ.clear()
    if question == "read":
        return subprocess.run(["cat"], capture_output=True).stdout.decode() + sys.stdin.read()
    if question == "interrupt":
        with open(f"/proc/{os.getppid()}/stat") as file:  # the keeper's parent
            os.kill(int(file.read().rpartition(")")[2].split()[1]), signal.SIGINT)
        time.sleep(0.5)
        return "late"
    if isinstance(question, list) and question[0] == "leave":
        for _ in range(4):
            subprocess.Popen(["sleep", question[1]])
        return os.getpid()
    if question == "hang":
        while True: pass
    if question == "sleep":
        time.sleep(60)
    if question == "crash":
        os._exit(1)
    if question == "limit":
        return resource.getrlimit(resource.RLIMIT_CPU)[0]
    if question == "memory":
        return resource.getrlimit(resource.RLIMIT_AS)
    if question == "fault":
        import ctypes
        ctypes.string_at(0)
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


@pytest.fixture
def seconds():
    """A number of seconds that nobody else sleeps; ends those who still do."""
    text = f"600.{os.getpid()}{time.monotonic_ns()}"
    yield text
    for pid in sleepers(text):
        os.kill(pid, signal.SIGKILL)


def sleepers(seconds):
    """The processes `sleep SECONDS`; "family" starts 10, some with a session of their own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it is gone
            if path.read_text() == f"sleep\0{seconds}\0":
                found.append(int(path.parent.name))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def asker(code, path, **options):
    """Starts another process that asks."""
    root = Path(workers.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": f"{root}:{path}"}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, **options)


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
    with asker(code, tmp_path) as asks:
        pids = [int(pid) for pid in asks.stdout.readline().split()]
        assert all(map(is_alive, pids))
        asks.kill()
    # The waiting worker reads the end of its input; the busy one notices that it is alone.
    assert wait_for(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("module", ["no_such_module", "json"])
def test_what_cannot_be_imported(module):
    pool = workers.Pool(module, 1, 1.0)
    with pytest.raises(errors.UserError, match="worker processes cannot be used") as caught:
        pool.ask("a")
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("trick", ["hang", "crash", None])
def test_what_a_worker_has_started_ends_with_it(tricks, seconds, trick):
    pool = tricks(timeout=1.0)
    assert pool.ask(["family", seconds]) is not None
    assert wait_for(lambda: len(sleepers(seconds)) == 10)
    if trick:
        assert pool.ask(trick) is None
    else:
        pool.close()
    assert wait_for(lambda: not sleepers(seconds))


@pytest.mark.parametrize("trick", ["sleep", "a"])
def test_what_a_worker_has_started_ends_with_who_asks(tricks, seconds, trick, tmp_path):
    code = (
        "from mapo_jax import workers; p = workers.Pool('tricks', 1, 60.0);"
        f"p.ask(['family', {seconds!r}]); print(flush=True); p.ask({trick!r}); input()"
    )
    with asker(code, tmp_path, stdin=subprocess.PIPE) as asks:
        asks.stdout.readline()
        assert wait_for(lambda: len(sleepers(seconds)) == 10)
        asks.kill()
    assert wait_for(lambda: not sleepers(seconds))


def test_a_worker_that_has_left_too_many_processes_is_replaced(tricks, seconds):
    pool = tricks(timeout=10.0)
    assert len({pool.ask(["leave", seconds]) for _ in range(99)}) == 1
    assert len(sleepers(seconds)) == 396
    assert pool.ask(["leave", seconds]) is None
    assert not sleepers(seconds)
    assert pool.failures == 1
    assert pool.ask(["leave", seconds]) is not None


def test_what_reads_its_input_finds_its_end_and_takes_no_question(tricks):
    pool = tricks(timeout=5.0)
    assert [pool.ask("read"), pool.ask(1)[0], pool.failures] == ["", 1, 0]


def test_what_is_printed_goes_where_it_is_asked_to(tricks, tmp_path):
    with (tmp_path / "log").open("w") as log:
        pool = workers.Pool("tricks", 1, 5.0, output=log.fileno())
        assert pool.ask(["family", "0"])[0] == ["family", "0"]
        assert pool.ask("fault") is None
        pool.close()
    said = (tmp_path / "log").read_text()
    assert said.startswith("noise\n")
    assert "Fatal Python error: Segmentation fault" in said


def ends(ask):
    """Returns what `ask` returns or raises; fails if it waits for ever."""
    found = []

    def run():
        try:
            found.append(ask())
        except errors.UserError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60.0)
    assert found
    return found[0]


@pytest.mark.parametrize("trouble", ["mistake", "dies", "hangs", "no process"])
def test_a_replacement_that_does_not_start_is_said_and_tried_again(
    tricks, tmp_path, monkeypatch, trouble
):
    pool = tricks(timeout=5.0)
    assert pool.ask("a") is not None
    broken = {"mistake": "import no_such", "dies": "1 / 0", "hangs": "import time\ntime.sleep(60)"}
    with monkeypatch.context() as patch:
        if trouble == "no process":
            refused = OSError(errno.EAGAIN, "Resource temporarily unavailable")
            patch.setattr(subprocess, "Popen", lambda *_, **__: (_ for _ in ()).throw(refused))
        else:
            (tmp_path / "tricks.py").write_text(broken[trouble])
            patch.setattr(workers, "_START", 0.2 if trouble == "hangs" else 60.0)
        said = {str(ends(lambda: pool.ask("crash"))) for _ in range(2)}
    why = {"mistake": "No module named", "no process": "Resource temporarily unavailable"}
    (line,) = said - {"None"}
    assert "answers: worker processes cannot be used: " in line
    assert why.get(trouble, "one ends or hangs as it starts") in line
    (tmp_path / "tricks.py").write_text(TRICKS)
    assert ends(lambda: pool.ask("a")) is not None


def test_a_worker_that_does_not_read_is_killed(tricks):
    pool = tricks(timeout=1.0)
    pid = pool.ask("pid")
    os.kill(pid, signal.SIGSTOP)
    assert ends(lambda: pool.ask("x" * 10**7)) is None
    assert not is_alive(pid)


def test_an_interrupted_question_leaves_no_answer_to_the_next(tricks):
    pool = tricks(timeout=30.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.ask("interrupt")
    finally:
        signal.signal(signal.SIGINT, before)
    assert ends(lambda: pool.ask("a"))[0] == "a"


def test_a_worker_cannot_raise_its_own_memory_limit(tricks):
    assert tricks(timeout=5.0).ask("memory") == [4 * 2**30] * 2  # the hard limit too


def test_more_than_1024_descriptors_may_be_open(tricks):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 2048
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.enter_context(open(os.devnull))
        pool = tricks(timeout=5.0)
        assert pool.ask("a") is not None
        pool.close()


REFUSED = """
import resource
def refuse(kind, limits):  # as macOS does for memory
    raise ValueError("current limit exceeds maximum limit")
resource.setrlimit = refuse
"""


def test_a_worker_starts_where_limits_are_refused(tricks, tmp_path):
    (tmp_path / "tricks.py").write_text(REFUSED + TRICKS)
    assert tricks(timeout=5.0).ask("a") is not None


def test_a_worker_starts_under_lower_limits(tricks, tmp_path):
    code = (
        "import resource as r; from mapo_jax import workers;"
        "r.setrlimit(r.RLIMIT_AS, (2**31, 2**31)); r.setrlimit(r.RLIMIT_CPU, (60, 60));"
        "p = workers.Pool('tricks', 1, 100.0, memory=4.0); print(p.ask('a')[0]); p.close()"
    )
    with asker(code, tmp_path) as asks:
        assert asks.stdout.read() == "a\n"


def test_threads_may_use_all_cores_within_the_time(tricks):
    assert tricks(timeout=40.0).ask("limit") >= 36 * os.cpu_count()
