"""The paper's reward, case by case, and the checks on what a reward function returns."""

import json
import math
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from mapo_jax import errors, rewards
from mapo_jax.rewards import output, remote
from tests import small

GOOD = {"reward": 1.0, "success": True, "parts": {"accuracy": 1.0}}


@pytest.mark.parametrize(
    ("response", "accuracy", "format_"),
    [
        (r"<think>17+2=19</think> \boxed{19}", 1, 1),
        (" <think>\n17+2=19\n</think>\nIt is \\boxed{19.0}.\n", 1, 1),
        (r"<think></think>\boxed{19}", 1, 1),
        (r"<think>17+2=20</think> \boxed{20}", 0, 1),
        (r"\boxed{19}", 1, 0),
        (r"17+2=19</think> \boxed{19}", 1, 0),
        (r"So <think>17+2=19</think> \boxed{19}", 1, 0),
        (r"<think>a</think><think>b</think> \boxed{19}", 1, 0),
        (r"<think>17+2=19 \boxed{19}", 0, 0),
        (r"<think>17+2=19 \boxed{19}</think>", 0, 0),
        (r"\boxed{19} <think>17+2=19</think>", 1, 0),
        (r"<think>17+2=19</think> 19", 0, 0),
        (r"<think>17+2=19</think> \boxed{19", 0, 0),
        ("", 0, 0),
    ],
)
def test_accuracy_and_format(response, accuracy, format_):
    result = rewards.accuracy_and_format(response, {"answer": "19"})
    assert result["parts"] == {"accuracy": accuracy, "format": format_}
    assert result["reward"] == pytest.approx(0.9 * accuracy + 0.1 * format_)
    assert result["success"] is (accuracy == format_ == 1)
    assert (result["reward"] == 1.0) is result["success"]  # exactly 1, not 0.99...


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"<think>17+2=19</think> \boxed{19}", "19"),
        (r"\boxed{\frac{1}{2}} or 3", r"\frac{1}{2}"),
        ("The answer is 19.", "19"),
        ("17+2=19 #### 19", "19"),
        ("<think>It was 20.</think> So 17+2=19", "19"),
        ("<think>17+2=19", "19"),  # nothing after the thought
        (r"<think>17+2=19 \boxed{19}</think>", "19"),
    ],
)
def test_an_answer_is_put_into_the_form(response, answer):
    formed = rewards.in_form(response)
    assert formed == f"<think></think> \\boxed{{{answer}}}"
    assert rewards.accuracy_and_format(formed, {"answer": answer})["success"]


def test_no_answer_has_no_form():
    for response in ("", "<think></think>", "I do not know", r"\boxed{"):
        assert rewards.in_form(response) == ""


def test_judge_hands_back_arrays():
    examples = [{"answer": "19"}, {"answer": "5"}]
    responses = [r"<think>a</think> \boxed{19}"] * 2
    judged = rewards.judge(rewards.accuracy_and_format, responses, examples)
    np.testing.assert_array_equal(judged.rewards, np.float32([1.0, 0.1]))
    np.testing.assert_array_equal(judged.success, [True, False])
    np.testing.assert_array_equal(judged.parts["accuracy"], [1, 0])
    np.testing.assert_array_equal(judged.parts["format"], [1, 1])
    assert judged.rewards.dtype == judged.parts["format"].dtype == np.float32
    assert rewards.judge(rewards.accuracy_and_format, [], []).rewards.shape == (0,)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, np.float32("inf")])
def test_a_reward_that_is_not_finite_is_none(reward):
    judged = rewards.judge(lambda response, example: {**GOOD, "reward": reward}, ["a"], [{}])
    assert np.isnan(judged.rewards[0])


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (1.0, "must be a dict with the keys reward, success and parts"),
        ({"reward": 1.0, "success": True}, "must be a dict with the keys"),
        ({**GOOD, "reward": "high"}, "the reward must be a number"),
        ({**GOOD, "reward": 1.5}, r"outside \[0, 1\]; set mine.range"),
        ({**GOOD, "reward": -1e-9}, r"outside \[0, 1\]"),
        ({**GOOD, "success": 1.0}, "success must be True or False"),
        ({**GOOD, "parts": [1.0]}, "parts must be a dict of numbers"),
        ({**GOOD, "parts": {"accuracy": None}}, "parts must be a dict of numbers"),
        ({**GOOD, "parts": {1: 1.0}}, "parts must be a dict of numbers by their names"),
    ],
)
def test_what_a_function_must_not_return(result, line):
    def mine(response, example):
        return result

    with pytest.raises(errors.UserError, match=line) as raised:
        rewards.judge(mine, ["a"], [{}])
    assert str(raised.value).startswith("task.reward: mine returned ")
    assert len(raised.value.lines) == 1


def test_parts_must_not_change_their_names():
    def mine(response, example):
        return {**GOOD, "parts": {response: 1.0}}

    with pytest.raises(errors.UserError, match=r"must have the parts of the first: a$"):
        rewards.judge(mine, ["a", "b"], [{}, {}])


def test_range():
    def mine(response, example):
        return {**GOOD, "reward": -1}

    assert rewards.reward_range(rewards.accuracy_and_format) == (0, 1)
    assert rewards.reward_range(mine) == (0, 1)
    mine.range = (-1, 1)
    assert rewards.reward_range(mine) == (-1, 1)
    assert rewards.judge(mine, ["a"], [{}]).rewards[0] == -1


@pytest.mark.parametrize("declared", [(1, 0), (0, 0), (0, math.inf), (0,), 1, ("a", "b"), None])
def test_malformed_range(declared):
    def mine(response, example):
        return GOOD

    mine.range = declared
    with pytest.raises(errors.UserError, match=r"mine.range=.* must be two finite numbers"):
        rewards.reward_range(mine)


def test_a_reward_that_raises_is_named_with_its_line_and_the_response():
    def broken(response, example):
        return {"reward": 1 / 0}

    with pytest.raises(errors.UserError, match=r"broken raised ZeroDivisionError.*\.py:\d+.*'hm'"):
        rewards.judge(broken, ["hm"], [{}])


CUT = [True, False]  # the second response did not come to its end


def test_the_papers_reward_gives_a_cut_response_only_its_format():
    examples = [{"answer": "19"}] * 2
    judged = rewards.judge(
        rewards.accuracy_and_format, [r"<think>a</think> \boxed{19}"] * 2, examples, CUT
    )
    np.testing.assert_array_equal(judged.rewards, np.float32([1.0, 0.1]))
    np.testing.assert_array_equal(judged.success, CUT)
    np.testing.assert_array_equal(judged.parts["accuracy"], [1, 0])
    np.testing.assert_array_equal(judged.parts["format"], [1, 1])


@pytest.mark.parametrize(
    ("result", "reward", "parts"),
    [
        ({"reward": 0.5, "success": True, "parts": {"length": 3.0}}, -2, {"length": 3}),
        ({"reward": 0.5, "success": False, "parts": {"accuracy": 0.5}}, -2, {"accuracy": 0}),
        ({"reward": 0.5, "success": False, "parts": {"accuracy": 0.0}}, 0.5, {"accuracy": 0}),
        ({"reward": 0.5, "success": False, "parts": {"length": 3.0}}, 0.5, {"length": 3}),
        ({"reward": math.nan, "success": False, "parts": {}}, math.nan, {}),
    ],
)
def test_a_function_that_is_not_told_cannot_find_a_cut_response_right(result, reward, parts):
    def mine(response, example):
        return result

    mine.range = (-2, 1)
    judged = rewards.judge(mine, ["a", "a"], [{}, {}], np.array(CUT))
    np.testing.assert_array_equal(judged.rewards, np.float32([result["reward"], reward]))
    np.testing.assert_array_equal(judged.success, [result["success"], False])
    for name, value in parts.items():
        np.testing.assert_array_equal(judged.parts[name], [result["parts"][name], value])
    whole = rewards.judge(mine, ["a"], [{}])
    np.testing.assert_array_equal(whole.rewards, judged.rewards[:1])


def test_a_function_that_is_told_decides_itself():
    def third(response, example, finished):
        return {**GOOD, "reward": 1.0 if finished else 0.25}

    def keyword(response, example, *, finished=True):
        return third(response, example, finished)

    for fn in (third, keyword):
        judged = rewards.judge(fn, ["a", "b"], [{}, {}], CUT)
        np.testing.assert_array_equal(judged.rewards, np.float32([1.0, 0.25]))
        np.testing.assert_array_equal(judged.success, [True, True])
        np.testing.assert_array_equal(judged.parts["accuracy"], [1, 1])
        assert rewards.judge(fn, ["b"], [{}]).rewards[0] == 1


def test_a_cut_response_is_still_checked():
    with pytest.raises(errors.UserError, match="outside"):
        rewards.judge(lambda response, example: {**GOOD, "reward": 2.0}, ["a"], [{}], [False])
    with pytest.raises(ValueError, match="shorter"):
        rewards.judge(rewards.accuracy_and_format, ["a"] * 2, [{"answer": "1"}] * 2, [True])


def test_the_line_that_is_named_is_the_users_own():
    """The line is not the one inside the library that the user called."""

    def broken(response, example):
        return json.loads(response)

    with pytest.raises(errors.UserError, match=rf"\({__file__}:\d+\) for") as raised:
        rewards.judge(broken, ["hm\nhm"], [{}])
    assert len(str(raised.value).splitlines()) == 1


def test_parts_come_in_alphabetical_order():
    def mine(response, example):
        return {**GOOD, "parts": {"z": 1.0, "b": 2.0, "accuracy": 0.0}}

    assert list(rewards.judge(mine, ["a"], [{}]).parts) == ["accuracy", "b", "z"]


def test_overlong_is_the_penalty_of_dapo():
    """The paper allows 20,480 tokens, and the last 4,096 of them cost up to 1."""
    lengths = np.array([1, 16_384, 17_408, 18_432, 20_480])
    judged = rewards.Judged(
        np.array([1, -1, 1, np.nan, -1], np.float32),
        np.array([True, False, True, False, False]),
        {"accuracy": np.ones(5, np.float32)},
    )
    found = rewards.overlong(judged, lengths / 20_480, penalty=1.0, buffer=0.2)
    np.testing.assert_allclose(found.parts["overlong"], [0, 0, -0.25, -0.5, -1], atol=1e-6)
    np.testing.assert_allclose(found.rewards, [1, -1, 0.75, np.nan, -2], atol=1e-6)
    assert not np.any(np.signbit(found.parts["overlong"][:2]))  # -0 would be shown as such
    assert found.rewards.dtype == found.parts["overlong"].dtype == np.float32
    np.testing.assert_array_equal(found.success, judged.success)
    np.testing.assert_array_equal(found.parts["accuracy"], judged.parts["accuracy"])
    assert set(judged.parts) == {"accuracy"}
    half = rewards.overlong(judged, lengths / 20_480, penalty=0.5, buffer=1.0)
    np.testing.assert_allclose(half.parts["overlong"], -0.5 * lengths / 20_480, atol=1e-6)


def test_the_symbolic_reward_knows_algebra():
    example = {"answer": r"\frac{\sqrt{2}}{2}"}
    text = r"<think>hm</think> \boxed{\frac{1}{\sqrt{2}}}"
    assert rewards.symbolic_accuracy_and_format(text, example)["success"]
    assert not rewards.accuracy_and_format(text, example)["success"]
    wrong = rewards.symbolic_accuracy_and_format(r"\boxed{\sqrt{2}}", example)
    assert wrong == {"reward": 0.0, "success": False, "parts": {"accuracy": 0.0, "format": 0.0}}
    cut = rewards.symbolic_accuracy_and_format(text, example, finished=False)
    assert cut["parts"] == {"accuracy": 0.0, "format": 1.0}
    assert rewards.reward_range(rewards.symbolic_accuracy_and_format) == (0.0, 1.0)
    assert rewards.symbolic_accuracy_and_format.threads > 1


def test_questions_with_choices():
    def right(given: str, **example) -> bool:
        response = f"<think></think> \\boxed{{{given}}}"
        judged = rewards.choice_accuracy_and_format(response, example)
        cut = rewards.choice_accuracy_and_format(response, example, finished=False)
        assert (cut["reward"], judged["reward"] == 1.0) == (0.1, judged["success"])
        return judged["success"]

    choices = ["9", r"\frac{3}{\sqrt{3}}"]
    assert right("B", answer="B", choices=choices)
    assert right(r"\sqrt{3}", answer="B", choices=choices)  # by algebra
    assert not right("9", answer="B", choices=choices)
    assert right("1.26", answer="1.3", precision=1)
    assert not right("1.26", answer="1.3")
    assert right(r"\frac{1}{\sqrt{2}}", answer=r"\frac{\sqrt{2}}{2}")


def test_a_reward_with_threads_keeps_the_order():
    barrier = threading.Barrier(4, timeout=30)

    def fn(response, example):
        barrier.wait()  # never passes with fewer threads
        return {"reward": int(response) / 10, "success": True, "parts": {}}

    fn.threads = 4
    judged = rewards.judge(fn, [str(i) for i in range(8)], [{}] * 8)
    np.testing.assert_allclose(judged.rewards, np.arange(8) / 10)


def test_a_reward_with_threads_that_raises_is_one_line():
    def fn(response, example):
        raise ValueError("no")

    fn.threads = 2
    with pytest.raises(errors.UserError, match="fn raised ValueError: no") as caught:
        rewards.judge(fn, ["a", "b"], [{}] * 2)
    assert len(caught.value.lines) == 1


# A user's own function, in worker processes

OWN = """
import ctypes, json, os, subprocess, time
import numpy as np
from pathlib import Path

HERE = Path(__file__).parent

def own(response, example):
    print("noise")
    if response == "hang":
        while True: pass
    if response == "sleep":
        time.sleep(600)
    if response == "exit":
        os._exit(0)
    if response == "crash":
        ctypes.string_at(0)
    if response == "eat":
        np.empty(5 * 2**30, np.uint8)  # the limit is one of addresses: none need be written
    if response == "hang once":
        with open(HERE / "hung", "a") as file:
            file.write("x")
        if (HERE / "hung").stat().st_size == 1:
            time.sleep(600)
    if response == "close":
        os.close(2)
        raise ValueError("x")
    if response == "interrupt":
        raise KeyboardInterrupt("x")
    if response == "raise":
        json.loads("{")
    if response == "child":
        subprocess.Popen(f"echo from the child >&2; exec sleep {example['seconds']}", shell=True)
        time.sleep(600)
    return {
        "reward": np.float32(example["worth"]),
        "success": np.bool_(True),
        "parts": {"pid": os.getpid(), "length": np.int64(len(response))},
    }

own.range = (0, 5)

def told(response, example, finished):
    return {"reward": float(finished), "success": finished, "parts": {}}

def nothing(response, example):
    return {"reward": float("nan"), "success": False, "parts": {}}
"""


@pytest.fixture
def own(tmp_path):
    """Returns a function that loads a function of own.py by name, in workers."""
    (tmp_path / "own.py").write_text(OWN)
    made = []

    def make(name="own", timeout=1.0, memory=4.0, size=1):
        made.append(rewards.Remote(f"{tmp_path}/own.py:{name}", timeout, memory, size))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_users_function_runs_elsewhere(own):
    fn = own(size=2, timeout=30.0)
    assert (fn.__name__, fn.range, fn.threads, fn.takes_finished) == ("own", (0, 5), 2, False)
    judged = rewards.judge(fn, ["a", "bb", "ccc"] * 20, [{"worth": 3}, {"worth": 4}] * 30)
    assert judged.rewards.tolist() == [3, 4] * 30
    assert judged.success.all()
    assert judged.parts["length"].tolist() == [1, 2, 3] * 20
    assert os.getpid() not in judged.parts["pid"]
    assert fn.failures == 0


def test_a_users_function_may_be_told_and_may_have_no_reward(own):
    judged = rewards.judge(own("told"), ["", ""], [{}, {}], [True, False])
    assert judged.rewards.tolist() == [1, 0]
    assert np.isnan(rewards.judge(own("nothing"), [""], [{}]).rewards).all()


ORDERS = ("first", "last", "alone")


@pytest.mark.parametrize(
    ("trick", "orders"),
    [
        ("exit", ORDERS),
        *small.slow(*((trick, ORDERS) for trick in ("crash", "eat", "hang", "sleep"))),
    ],
    ids=str,
)
def test_a_response_without_reward_is_asked_once_more_and_left_out(own, trick, orders):
    fn = own()
    for order in orders:
        responses = {"first": [trick, "b"], "last": ["b", trick], "alone": [trick]}[order]
        before = fn.failures
        judged = rewards.judge(fn, responses, [{"worth": 1}] * len(responses))
        at = responses.index(trick)
        assert np.isnan(judged.rewards[at])
        assert not judged.success[at]
        assert {name: x[at] for name, x in judged.parts.items()} == {"length": 0, "pid": 0}
        assert np.isfinite(np.delete(judged.rewards, at)).all()
        assert fn.failures == before + 2


@pytest.mark.slow
def test_what_hangs_once_has_its_reward(own):
    fn = own()
    assert rewards.judge(fn, ["hang once"], [{"worth": 2}]).rewards.tolist() == [2]
    assert fn.failures == 1


def test_memory_is_limited_as_asked(own):
    assert np.isnan(rewards.judge(own(memory=3.0), ["eat"], [{"worth": 1}]).rewards).all()
    fn = own(memory=12.0, timeout=60.0)
    assert rewards.judge(fn, ["eat"], [{"worth": 1}]).rewards.tolist() == [1]


def test_a_users_function_that_raises_is_one_line(own, tmp_path):
    with pytest.raises(errors.UserError) as caught:
        rewards.judge(own(), ["a", "raise"], [{"worth": 1}] * 2)
    (line,) = caught.value.lines
    assert line.startswith("task.reward: own raised JSONDecodeError: Expecting property name")
    assert f"({tmp_path}/own.py:31) for the response 'raise'" in line


@pytest.mark.parametrize(("trick", "kind"), [("close", "Value"), ("interrupt", "Keyboard")])
def test_a_users_function_may_raise_anything(own, trick, kind):
    with pytest.raises(errors.UserError, match=rf"own raised {kind}\w+: x \(.*own.py:\d+\) for"):
        rewards.judge(own(), [trick], [{"worth": 1}])


def test_a_users_mistake_in_what_it_returns_is_one_line(own):
    with pytest.raises(errors.UserError, match=r"the reward is outside \[0, 5\]; set own.range"):
        rewards.judge(own(), ["a"], [{"worth": 6}])


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    with pytest.raises(errors.UserError, match=r"cannot read .*gone.py: No such file"):
        rewards.Remote(f"{tmp_path}/gone.py:f", 1.0, 4.0, 2)
    (tmp_path / "dies.py").write_text("import os\nos._exit(3)\n")
    with pytest.raises(errors.UserError, match=r"dies.py:f: worker processes cannot be used"):
        rewards.Remote(f"{tmp_path}/dies.py:f", 1.0, 4.0, 2)


def test_the_same_file_is_loaded_once(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    own = (f"{tmp_path}/own.py:told", 1.0, 4.0, 1)
    first = rewards.load(*own)
    assert rewards.load(*own) is first
    (tmp_path / "own.py").write_text(OWN + "\n")
    second = rewards.load(*own)
    assert second is not first
    remote.close()


@pytest.mark.slow
def test_what_hangs_leaves_no_process_and_what_it_said(own, tmp_path):
    seconds = f"600.{os.getpid()}"
    fn = own(size=2, timeout=0.7)
    judged = rewards.judge(fn, ["child"] * 2, [{"worth": 1, "seconds": seconds}] * 2)
    assert np.isnan(judged.rewards).all()
    fn.output.keep(tmp_path / "rewards.log")  # with what was said before
    fn.close()
    assert f"sleep\0{seconds}\0" not in [command(path) for path in Path("/proc").glob("[0-9]*")]
    said = (tmp_path / "rewards.log").read_text()
    assert (said.count("from the child"), said.count("noise")) == (4, 4)


def command(process):
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return None  # it is gone


def test_prints_and_tracebacks_are_kept(own, tmp_path):
    fn = own()
    log = tmp_path / "later" / "rewards.log"
    fn.output.keep(log)
    with pytest.raises(errors.UserError):
        rewards.judge(fn, ["a", "raise"], [{"worth": 1}] * 2)
    log.parent.mkdir()
    fn.close()
    said = log.read_text()
    assert said.startswith("noise\nnoise\nTraceback (most recent call last):\n")
    assert f'File "{tmp_path}/own.py", line 31, in own' in said
    assert said.endswith("(char 1)\n")


def test_what_is_kept_is_bounded_and_the_newest(tmp_path):
    made = output.Output()
    for i, begins in enumerate((False, True, True)):
        if begins:
            made.keep(tmp_path / "log")
        for j in range(3):
            made.into.write(b"%d" % i * (output.LIMIT // 2) + b"%d" % j)
    made.close()
    said = (tmp_path / "log").read_bytes()
    assert output.LIMIT // 2 <= len(said) <= output.LIMIT
    assert said.endswith(b"2" * (output.LIMIT // 2) + b"2")


def test_a_file_imports_its_neighbours_whenever_it_likes(tmp_path):
    (tmp_path / "helper.py").write_text("worth = 0.5\n")
    (tmp_path / "later.py").write_text("import helper\nhelper.worth += 0.25\n")
    (tmp_path / "own.py").write_text(
        "import helper\n"
        "def fn(response, example):\n"
        "    import later\n"
        "    return {'reward': helper.worth, 'success': True, 'parts': {}}\n"
    )
    fn = rewards.Remote(f"{tmp_path}/own.py:fn", 5.0, 4.0, 1)
    assert rewards.judge(fn, [""] * 2, [{}] * 2).rewards.tolist() == [0.75] * 2
    fn.close()


def test_a_replaced_worker_runs_the_code_that_the_run_began_with(tmp_path):
    """A file may be edited while a run goes on."""
    (tmp_path / "parts").mkdir()

    def write(worth):
        (tmp_path / "helper.py").write_text(f"worth = {worth}\n")
        (tmp_path / "parts" / "__init__.py").write_text("")
        (tmp_path / "parts" / "inner.py").write_text(f"import helper\nbonus = {worth / 2}\n")
        (tmp_path / "own.py").write_text(
            "import os\n"
            "import helper\n"
            "from parts import inner\n"
            "def fn(response, example):\n"
            "    if response == 'exit':\n"
            "        os._exit(0)\n"
            f"    parts = {{'helper': helper.worth, 'inner': inner.bonus, 'own': {worth}}}\n"
            "    return {'reward': 1.0, 'success': True, 'parts': parts}\n"
        )

    write(1)
    own = f"{tmp_path}/own.py:fn", 5.0, 4.0, 1
    fn = rewards.load(*own)
    began = fn("", {})["parts"]
    assert began == {"helper": 1, "inner": 0.5, "own": 1}
    write(3)
    assert fn("exit", {}) is None
    assert fn.failures == 2
    assert fn("", {})["parts"] == began
    fn = rewards.load(*own)
    assert fn("", {})["parts"] == {"helper": 3, "inner": 1.5, "own": 3}
    kept = Path(fn._kept.name)
    assert len(list(kept.iterdir())) == 4
    remote.close()
    assert not kept.exists()
