"""The console shows what a run does in five modes, and interprets nothing that a model wrote."""

import importlib.util
import io
import json
import re
import xml.etree.ElementTree
from pathlib import Path

import pytest
import rich.console
from hypothesis import given, settings
from hypothesis import strategies as st

from mapo_jax.run import console

HOSTILE = "[bold]x[/bold] :smile: \x1b[31mred\x00\r\n\t\u202e\u2028\ud800 \\boxed{4} é 日本"


class Terminal(io.TextIOWrapper):
    """A stream with an encoding, as a terminal has; strict, so that a wrong character raises."""

    def __init__(self, encoding="utf-8", terminal=False):
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", newline="\n")
        self._terminal = terminal

    def isatty(self):
        return self._terminal

    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


def evaluation(accuracy):
    values = {"time/eval": 1.0, "eval/test/length_mean": 9.0}
    for metric in ("accuracy", "accuracy_sampled", "reward_mean"):
        key = f"eval/test/{metric}"
        values |= {key: accuracy, f"{key}_low": accuracy - 0.05, f"{key}_high": accuracy + 0.05}
    return values


def test_white_pictures_have_a_column():
    """Of the sets that have some, also if the first evaluation had none."""
    first = evaluation(0.5)
    last = {key.replace("test", "other"): x for key, x in evaluation(0.7).items()} | first
    white = {f"eval/test/accuracy_blank{end}": 0.125 for end in ("", "_low", "_high")}
    for mode in ("plain", "rich"):
        stream = Terminal()
        with console.Console(mode, stream, clock=lambda: 0.0) as shown:
            shown.out.width = 120
            shown.phase("rl", total=4, done=0)
            shown.record("eval", "rl", 0, first)
            assert "white" not in stream.text()
            shown.record("eval", "rl", 4, last | white)
        assert "white" in stream.text()
        assert stream.text().count("0.125") == 3


def row(reward, response="7", **changes):
    return {
        "prompt": "3+4=",
        "response": response,
        "reward": reward,
        "success": reward == 1,
        "parts": {"accuracy": reward, "format": 1.0},
        "advantage": reward,
        "tokens": 12,
        "finished": True,
    } | changes


ROWS = [row(0.1, "the middle"), row(1.0, "the best"), row(0.0, "the worst", finished=False)]


def show(mode, width=100, encoding="utf-8", hostile=""):
    """Everything that a short run prints."""
    stream, now = Terminal(encoding), [0.0]
    with console.Console(mode, stream, clock=lambda: now[0]) as shown:
        shown.out.width = width
        shown.table("Sizes", [("rollouts", 128, "prompts x group"), ("path", "a" * 70, hostile)])
        shown.phase("warmup", total=21, done=0)
        for step in range(1, 22):
            now[0] += 2
            shown.record("train", "warmup", step, {"loss/total": 1.25, "time/step": 2.0})
        shown.phase("rl", total=4, done=0)
        shown.record("eval", "rl", 0, evaluation(0.5))
        for step in range(1, 5):
            now[0] += 60
            values = {"reward/mean": 0.2 * step, "reward/accuracy": 0.1 * step, "loss/total": None}
            shown.record("train", "rl", step, values)
        shown.record("eval", "rl", 4, evaluation(0.7))
        rows = [r | {"response": r["response"] + hostile, "prompt": "3+4=" + hostile} for r in ROWS]
        shown.group("rl", 4, rows)
        shown.print("[bold] saved" + hostile)
    return stream.text()


def readable(text):
    """Without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_plain_lines():
    """Every RL step, set of an evaluation and 20th warm-up step, with the remaining time."""
    lines = show("plain").splitlines()
    assert [line for line in lines if line.startswith("warm-up")] == [
        "warm-up 20/21  loss 1.250  2.00 s  0:00:02 left",
        "warm-up 21/21  loss 1.250  2.00 s  0:00:00 left",
    ]
    assert [line for line in lines if line.startswith("RL")] == [
        "RL 0/4  evaluation of test  greedy 0.500 [0.450, 0.550]  sampled 0.500 [0.450, 0.550]  "
        "reward 0.500 [0.450, 0.550]  -:--:-- left",
        "RL 1/4  reward 0.200  accuracy 0.100  -:--:-- left",
        "RL 2/4  reward 0.400  accuracy 0.200  0:02:00 left",
        "RL 3/4  reward 0.600  accuracy 0.300  0:01:00 left",
        "RL 4/4  reward 0.800  accuracy 0.400  0:00:00 left",
        "RL 4/4  evaluation of test  greedy 0.700 +0.200 [0.650, 0.750]  "
        "sampled 0.700 +0.200 [0.650, 0.750]  reward 0.700 +0.200 [0.650, 0.750]  0:00:00 left",
    ]
    assert "  rollouts  128" + " " * 69 + "prompts x group" in lines
    assert lines[-7:] == [
        "  RL step 4, one prompt: 1 of 3 succeed",
        "    prompt: 3+4=",
        "    best: the best",
        "      success  reward 1 (accuracy 1, format 1)  advantage +1.00  12 tokens",
        "    worst: the worst",
        "      no success  reward 0 (accuracy 0, format 1)  advantage +0.00  12 tokens  cut",
        "[bold] saved",
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_rich_fits_the_terminal(width):
    text = show("rich", width)
    assert "\x1b[" in text
    lines = [line for line in readable(text).splitlines() if "saved" not in line]
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "4/4" in text
    assert "the best" in text
    assert "the worst" in text
    assert "the middle" not in text
    assert text.count(" +0.200") == text.count("[0.650, 0.750]") == 3
    assert len([line for line in lines if line.startswith("warm-up") and "loss" in line]) == 1
    assert "a" * 70 in re.sub(r"\W", "", text)  # a path is folded, not cut


def test_quiet_prints_nothing():
    assert show("quiet", hostile=HOSTILE) == ""


def test_json_is_an_object_a_line():
    events = [json.loads(line) for line in show("json", hostile=HOSTILE).splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[:3] == ["table", "phase", "train"]
    assert kinds[-3:] == ["eval", "group", "message"]
    assert events[0]["rows"][0] == {"name": "rollouts", "value": 128, "meaning": "prompts x group"}
    assert events[1] == {"event": "phase", "phase": "warmup", "total": 21, "done": 0}
    assert kinds.count("train") == 25
    assert {"event": "eval", "phase": "rl", "step": 0} | evaluation(0.5) in events
    assert events[-2]["rows"][0]["response"] == "the middle" + HOSTILE
    assert events[-1]["text"] == "[bold] saved" + HOSTILE


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("mode", ["rich", "plain"])
@pytest.mark.parametrize("width", [20, 60, 120])
def test_model_output_is_harmless(mode, encoding, width):
    text = show(mode, width, encoding, HOSTILE)
    body = readable(text) if mode == "rich" else text
    for bad in "\x1b", "\x00", "\u202e", "\u2028":
        assert bad not in body
    assert "\x1b[31mred" not in text
    if width == 120:
        assert "[bold]x[/bold] :smile: \\x1b[31mred\\x00" in body


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=400), st.sampled_from(["utf-8", "ascii"]))
def test_any_text_is_shown_without_control_codes(text, encoding):
    for mode in "plain", "rich":
        stream = Terminal(encoding)
        with console.Console(mode, stream) as shown:
            shown.print(text)
            shown.group("rl", 1, [row(1.0, text), row(0.0, "")])
            shown.table(text, [(text, text, text)])
        body = readable(stream.text())
        assert all(c.isprintable() or c in "\n\r" for c in body)


def test_a_long_text_is_cut_in_its_middle():
    stream = Terminal()
    with console.Console("plain", stream) as shown:
        shown.group("rl", 1, [row(1.0, "A" + "b" * 1_000_000 + "C"), row(0.0)])
    (line,) = [line for line in stream.text().splitlines() if "best" in line]
    assert re.fullmatch(r"    best: Ab+ … 999,502 characters … b+C", line)
    assert len(line) < 600


def test_an_equal_group_shows_one_response():
    for mode in "plain", "rich":
        stream = Terminal()
        with console.Console(mode, stream) as shown:
            shown.group("rl", 1, [row(1.0, "first"), row(1.0, "second")])
        text = readable(stream.text())
        assert "2 of 2 succeed, all with the same reward" in text
        assert ("first" in text) + ("second" in text) == 1


def test_what_has_no_value_is_shown_as_such():
    """A reward that raised or was not finite is null in the records."""
    stream = Terminal()
    with console.Console("plain", stream) as shown:
        shown.phase("rl", total=2, done=0)
        shown.record("train", "rl", 1, {"reward/mean": None, "policy/entropy": 0.5})
        shown.record("eval", "rl", 1, dict.fromkeys(evaluation(0.5)))
        lost = row(0.0, "lost") | {"reward": None, "advantage": None, "parts": {}}
        shown.group("rl", 1, [lost, row(0.0, "wrong")])
    text = stream.text()
    assert "RL 1/2  entropy 0.500  -:--:-- left" in text
    assert "greedy - [-, -]" in text
    assert re.search(r"best: wrong\n.*\n    worst: lost\n.*reward -  advantage -  12 tokens", text)


def test_remaining_time_counts_this_process_and_not_its_compilation():
    """Of 10 steps 4 were taken before and the fifth compiled; the next took 60 s, so 4 take 240."""
    stream, now = Terminal(), [1000.0]
    with console.Console("plain", stream, clock=lambda: now[0]) as shown:
        shown.phase("rl", total=10, done=4)
        for step, seconds in ((5, 900), (6, 60)):
            now[0] += seconds
            shown.record("train", "rl", step, {})
    assert stream.text().splitlines() == ["RL 5/10    -:--:-- left", "RL 6/10    0:04:00 left"]


def test_the_bar_moves_with_the_clock_and_its_phases():
    now = [0.0]
    shown = console.Console("rich", Terminal(), clock=lambda: now[0])

    def bars():
        out = rich.console.Console(file=io.StringIO(), width=100)
        out.print(shown.bars())
        return [" ".join(line.split()) for line in out.file.getvalue().splitlines()]

    shown.phase("warmup", total=1, done=0)
    now[0] = 5
    shown.record("train", "warmup", 1, {"loss/total": 3.0})
    shown.phase("rl", total=10, done=0)
    for step, reward in ((1, 0.0), (2, 1.0), (3, 1.0)):
        now[0] += 10
        shown.record("train", "rl", step, {"reward/mean": reward})
    now[0] += 4
    warmup, rl, moving = bars()
    assert re.fullmatch(r"warm-up ━+ 1/1 0:00:05", warmup)  # its time stands still
    assert re.fullmatch(r"RL [━╸╺]+ 3/10 0:00:34 0:01:06 left", rl)  # 70 s, 4 of them gone
    assert moving == "average reward 0.360 ▁▅█"  # 0, 0.2, 0.36


def test_the_sparkline_spans_the_whole_curve():
    assert console._sparkline([5.0] * 3, "_-^", 8) == "___"
    assert console._sparkline([float(i) for i in range(1000)], "0123456789", 10) == "0123456789"
    assert console._sparkline([0.0] * 999 + [1.0], "_^", 10) == "_________^"


def test_a_change_is_coloured_where_the_intervals_are_disjoint():
    first = {"a": 0.5, "a_low": 0.4, "a_high": 0.6}
    for low, style in ((0.61, "green"), (0.59, "dim"), (0.21, "dim"), (0.19, "red")):
        then = {"a": low + 0.1, "a_low": low, "a_high": low + 0.2}
        assert console._change(first, then, "a") == (f" {low - 0.4:+.3f}", style)


def test_no_more_than_20_lines_of_a_phase_stand_above_the_bar():
    assert [console._every(n) for n in (0, 4, 20, 21, 60, 292, 10_000)] == [1, 1, 1, 2, 5, 20, 500]


@pytest.mark.parametrize(
    ("mode", "terminal", "term", "codes"),
    [
        ("auto", True, "xterm", True),
        ("auto", True, "dumb", False),
        ("auto", False, "xterm", False),
        ("plain", True, "xterm", False),
        ("rich", False, "xterm", True),
    ],
)
def test_auto_is_rich_on_a_terminal(monkeypatch, mode, terminal, term, codes):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as CI services set it: their log is no terminal
    stream = Terminal(terminal=terminal)
    with console.Console(mode, stream) as shown:
        shown.phase("rl", total=2, done=0)
        shown.record("train", "rl", 1, {})
    assert ("\x1b[" in stream.text()) == codes
    assert ("RL 1/2    -:--:-- left\n" in stream.text()) != codes


def test_the_screenshot_is_drawn_from_the_records_and_asks_nobody(tmp_path):
    path = Path(__file__).parents[2] / "docs" / "figures.py"
    spec = importlib.util.spec_from_file_location("docs_figures", path)
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    lines = [("eval", "rl", 0, evaluation(0.5))]
    for step in range(1, 11):
        lines.append(("train", "rl", step, {"reward/mean": step / 10, "time/step": 60.0}))
        lines.append(("eval", "rl", step, evaluation(0.5 + step / 20) | {"time/eval": 6.0}))
    config = {"warmup": {"steps": 0}, "steps": 10, "task": {"name": "arithmetic"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    names = ("kind", "phase", "step")
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(dict(zip(names, x, strict=False)) | x[3]) + "\n" for x in lines)
    )
    (tmp_path / "rollouts.jsonl").write_text(
        "".join(json.dumps({"phase": "rl", "step": 5} | r) + "\n" for r in ROWS)
    )
    svg = figures.console_svg(tmp_path)
    assert re.findall(r"https?://[^\"]*|@import|@font-face|url\(h", svg) == [
        "http://www.w3.org/2000/svg"
    ]
    text = " ".join(xml.etree.ElementTree.fromstring(svg).itertext()).replace("\xa0", " ")
    assert "RL  5/10" in text
    assert "RL  2/10" not in text  # before the window
    assert "the best" in text
    assert "[0.650, 0.750]" in text
    assert "7/10" in text
    assert "0:07:43" in text  # 7 steps of 60 s, 7 evaluations of 6 s and the first one of 1 s
