"""Tests reports of work directories that are whole, early, old, huge, hostile or several.

A report needs no JAX.
"""

import base64
import html.parser
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mapo_jax import errors, report
from mapo_jax.commands import launchers
from mapo_jax.report import health, markup, runs, samples
from tests import small

ROOT = Path(__file__).resolve().parents[2]
GROUP = 8


def metrics_of(steps, seed=0, lift=0.0):
    """Makes the lines of a run whose policy goes from 30% to 90% success."""
    rng = np.random.default_rng(seed)
    lines = [
        {"kind": "train", "phase": "warmup", "step": s + 1, "loss/total": 3 / (1 + s / 9)}
        | {"policy/grad_norm": 1.0, "policy/entropy": 3 / (1 + s / 9), "time/step": 0.1}
        for s in range(40)
    ]
    for step in range(steps + 1):
        p = 0.3 + (0.6 + lift) * (1 - np.exp(-3 * step / max(steps, 1)))
        if step % max(steps // 5, 1) == 0:
            lines.append(evaluation(step, p))
        if step:
            lines.append(training(step, p, rng))
    return lines


def evaluation(step, p):
    values = {}
    for name, share in (("test", p), ("hard", p / 8)):
        found = {"truncated": 0.0, "length_mean": 17.0}
        for key, mean in (
            ("accuracy", min(share + 0.1, 1)),
            ("accuracy_sampled", share),
            ("reward_mean", share),
        ):
            found |= {key: mean, f"{key}_low": mean * 0.9, f"{key}_high": mean * 1.1}
        values |= {f"eval/{name}/{key}": x for key, x in found.items()}
    return {"kind": "eval", "phase": "rl", "step": step, **values, "time/eval": 1.5}


def training(step, p, rng):
    counts = np.bincount(rng.binomial(GROUP, rng.beta(8 * p, 8 * (1 - p), 64)), minlength=GROUP + 1)
    line = {f"success_count/{k}": n / 64 for k, n in enumerate(counts.tolist())}
    for k in range(GROUP + 1):
        if counts[k] and k:
            line[f"advantage_of_success/{k}"] = (GROUP - k) / k * 0.8 + rng.normal() / 50
        if counts[k] and k < GROUP:
            line[f"advantage_of_failure/{k}"] = -0.8 * bool(k) - k / 40 + rng.normal() / 50
        if counts[k]:
            line[f"advantage_magnitude/{k}"] = k * (GROUP - k) / 40
    noise = rng.normal() / 30
    seconds = {"sample": 0.5, "reward": 0.05, "score": 0.1, "update": 0.8 + 6 * (step == 1)}
    return {
        "kind": "train",
        "phase": "rl",
        "step": step,
        "reward/mean": p + noise,
        "reward/success": p + noise,
        "reward/invalid": 0.0,
        "reward/accuracy": p + noise,
        "reward/format": 0.98,
        "advantage/certainty": 0.25 + p / 2,
        "groups/degenerate": float(counts[0] + counts[-1]) / 64,
        "groups/successes": GROUP * p,
        **line,
        "loss/surrogate": noise / 100,
        "loss/kl": 0.002 * step,
        "loss/total": noise / 100,
        "policy/grad_norm": 0.3 + abs(noise),
        "policy/clip_fraction_low": 0.001,
        "policy/clip_fraction_high": 0.002 * (1 + noise),
        "policy/clip_fraction_dual": 0.0,
        "policy/entropy": 0.3 - 0.2 * p,
        "policy/logp_gap_mean": 1e-7 * (1 + abs(noise)),
        "policy/ratio_mean": 1.0,
        "policy/logp_gap_max": 1e-5,
        "policy/skipped": 0,
        "rollout/length_mean": 17 + noise * 9,
        "rollout/length_max": 34,
        "rollout/truncated": max(noise, 0.0) / 9,
        **{f"time/{name}": x for name, x in seconds.items()},
        "time/step": sum(seconds.values()) + 0.02,
        "throughput/tokens_per_s": 9000.0 + 3000 * noise,
    }


def rollouts_of(steps, response="<think>1+2=3</think> \\boxed{3}"):
    return [
        {"phase": "rl", "kind": kind, "step": step, "example": p, "prompt": f"1+2*{p}="}
        | {"rollout": g, "response": response, "reward": 0.1 + 0.9 * (g < n), "success": g < n}
        | {"parts": {"accuracy": float(g < n), "format": 1.0}, "advantage": 0.5 if g < n else -0.5}
        | {"tokens": 24, "finished": g != 7}
        for kind, step, n in (("train", 1, 3), ("train", steps, 6), ("after", steps, 7))
        for p in range(2)
        for g in range(GROUP)
    ]


def make_run(workdir, lines, samples=(), config=None, run=None):
    """Writes a work directory."""
    workdir.mkdir(parents=True)
    for name, rows in (("metrics", lines), ("rollouts", samples)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (workdir / f"{name}.jsonl").write_text(text)
    if config is not None:
        (workdir / "config.json").write_text(json.dumps(config))
    if run is not None:
        (workdir / "run.json").write_text(json.dumps(run))
    return workdir


def config(seed=0, advantage="mapo", steps=60):
    algorithm = {"advantage": advantage, "advantage_options": {}, "beta": 0.01}
    return {
        "seed": seed,
        "steps": steps,
        "task": {"name": "arithmetic", "reward": ""},
        "algorithm": algorithm,
        "optimizer": {"learning_rate": 5e-4, "max_grad_norm": 1.0},
    }


RUN = {
    "id": "0123abcd",
    "starts": [
        {
            "time": "2026-11-23T10:00:00+00:00",
            "argv": ["launch/run.py", "--config", "experiments/arithmetic.py"],
            "overrides": ["algorithm.beta=0.01"],
            "continued_after": ["rl", 10],
            "environment": {"python": "3.11.7", "jax": "0.10.2", "commit": None},
        }
    ],
}


# Of a run in two pictures, for tests of something else: to draw all takes seconds.
FEW = [
    {"kind": "train", "phase": "rl", "step": step, "reward/mean": 0.5, "policy/entropy": 1.0}
    for step in (1, 2)
]


class Page(html.parser.HTMLParser):
    """Collects a page's text, and the links and scripts that a browser would fetch or run."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.fetched, self.words, self.pictures = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.pictures += [dict(attrs)] if tag == "img" else []
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.fetched += [value] if tag != "a" else []

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def check_self_contained(page):
    assert all(url.startswith(("data:", "#")) for url in page.fetched), page.fetched
    assert not {"script", "iframe", "object", "embed", "form"} & set(page.tags)
    assert not re.findall(r"url\((?!#)|@import", page.source)
    ids = re.findall(r'\sid="([^"]*)"', page.source)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page.source)) <= set(ids)


def write(workdirs, output):
    return check(Path(report.write(workdirs, output)))


def check(path):
    page = Page(path)
    check_self_contained(page)
    pictures = {p.stem for p in (path.parent / "figures").iterdir()}
    assert page.tags.count("figure") == len(pictures)
    return page, pictures


def test_a_whole_run(tmp_path):
    workdir = make_run(tmp_path / "a", metrics_of(60), rollouts_of(60), config(), RUN)
    page, pictures = write([workdir], workdir)
    assert pictures >= {"accuracy_test", "accuracy_hard", "reward", "success_counts", "kl", "time"}
    assert pictures >= {"advantage_by_successes", "length", "truncated", "warmup_loss", "clipping"}
    assert pictures >= {"gradient_by_successes"}
    for words_ in (
        "arithmetic, mapo",
        "0.300 [0.270, 0.330]",  # the accuracy before training, with its interval
        "60 of 60",
        "17 of 17 checks are fine",
        "step 1: 3 of 8 succeed",
        "after step 60: 7 of 8 succeed",
        "python launch/run.py --config experiments/arithmetic.py",
        "continued after step 10 of rl",
        "1 changed",
    ):
        assert words_ in page.text, words_
    assert page.source.count("<tr class=mark>") == 1  # marks the override
    assert page.text.count(" cut ") >= 4  # rollout 7 of each shown group is cut
    assert (workdir / "figures" / "reward.png").read_bytes().startswith(b"\x89PNG")


def only(lines, *kinds):
    return [line for line in lines if (line["kind"], line["phase"]) in kinds]


def without_new_keys(lines):
    new = re.compile(r"(success_count|advantage_\w+)/|length_|time/(score|eval)|truncated")
    return [{k: v for k, v in line.items() if not new.match(k)} for line in lines]


def with_holes(lines):
    return [
        line | {k: None for k in list(line)[3 + line["step"] % 3 :: 3] if line["step"] % 2}
        for line in lines
    ]


CASES = {
    "warm-up only": only(metrics_of(5), ("train", "warmup")),
    "first evaluation only": only(metrics_of(0), ("eval", "rl")),
    "one step": metrics_of(1),
    "no evaluation": only(metrics_of(9), ("train", "rl")),
    "holes": with_holes(metrics_of(40)),
    "only holes": [
        {key: x if key in ("kind", "phase", "step") else None for key, x in line.items()}
        for line in metrics_of(2)
    ],
    "an old record": without_new_keys(metrics_of(9)),
    "unknown keys": [{"kind": "train", "phase": "rl", "step": 1, "x": 1.0, "y": "z", "n": 10**400}],
    "nothing but a step": [{"kind": "train", "phase": "rl", "step": 1}],
}


# A whole page takes seconds.
WHOLE = ("one step", "no evaluation", "an old record", "holes")


@pytest.mark.parametrize(
    "name", [*(n for n in CASES if n not in WHOLE), *small.slow(*([n] for n in WHOLE))]
)
def test_a_run_that_lacks_something(tmp_path, name):
    workdir = make_run(tmp_path / "a", CASES[name])
    (workdir / "rollouts.jsonl").unlink()
    _, pictures = write([workdir], workdir)
    assert bool(pictures) == (name not in ("only holes", "nothing but a step", "unknown keys"))


def test_a_run_that_is_still_writing(tmp_path):
    lines = [FEW[0] | {"step": step, "time/step": 1.0} for step in range(1, 10)]
    workdir = make_run(tmp_path / "a", lines, rollouts_of(1), config())
    for name in ("metrics", "rollouts"):
        with (workdir / f"{name}.jsonl").open("a") as file:
            file.write('{"kind": "train", "phase": "rl", "st')
    page, _ = write([workdir], workdir)
    assert "look at: Finished" in page.text
    assert "9 of 60" in page.text


@pytest.mark.parametrize("keys", ["reward/mean|success_count|eval/test", *small.slow([""])])
def test_several_runs_are_compared(tmp_path, keys):
    kept = re.compile(f"kind|phase|step|{keys}")
    workdirs = [
        make_run(
            tmp_path / f"{name}{seed}",
            [
                {key: x for key, x in line.items() if kept.match(key)}
                for line in metrics_of(30, seed, lift)
            ],
            rollouts_of(30),
            config(seed, name, 30),
        )
        for name, lift in (("mapo", 0.05), ("grpo", 0.0))
        for seed in (0, 1)
    ]
    page, pictures = write(workdirs, tmp_path / "out")
    assert {"reward", "success_counts_0", "success_counts_1"} <= pictures
    for words_ in ("4 runs compared", "mapo, 2 seeds", "grpo, 2 seeds", "algorithm.advantage"):
        assert words_ in page.text, words_
    assert not (tmp_path / "mapo0" / "report.html").exists()


def test_seeds_become_a_mean_and_their_range(tmp_path):
    lines = [{"kind": "train", "phase": "rl", "step": s, "x": float(s)} for s in (1, 2)]
    more = [line | {"x": line["x"] + 2} for line in lines] + [{**lines[0], "step": 3, "x": None}]
    dirs = [make_run(tmp_path / n, x, config=config(i)) for i, (n, x) in
            enumerate((("a", lines), ("b", more)))]  # fmt: skip
    (arm,) = runs.arms(runs.read(dirs))
    steps, values, low, high = (x.tolist() for x in arm.curve("train", "rl", "x"))
    assert (steps, values, low, high) == ([1, 2], [2.0, 3.0], [1.0, 2.0], [3.0, 4.0])


def test_the_later_of_two_lines_counts(tmp_path):
    points = ((2, 1), (1, 5), (2, 3))
    lines = [{"kind": "train", "phase": "rl", "step": s, "x": x} for s, x in points]
    (run,) = runs.read([make_run(tmp_path / "a", lines)])
    assert [x.tolist() for x in run.curve("train", "rl", "x")[:2]] == [[1, 2], [5.0, 3.0]]


def test_hostile_text_stays_text(tmp_path):
    evil = "</pre><script>alert(1)</script><img src=http://x.y onerror=a>\0\x1b[31m\ud800\u202e$x$"
    lines = [dict(line) for line in (*FEW, evaluation(0, 0.3), evaluation(2, 0.5))]
    for line in lines:
        if line["kind"] == "eval":
            line |= {f"eval/{evil}/accuracy": 0.5, f"eval/{evil}/accuracy_sampled": 0.5}
        line[f"reward/{evil}"] = 0.5
    samples = rollouts_of(3, evil + "x" * 10**6)
    for row in samples:
        row["prompt"] += evil
        row["parts"][evil] = "<b>"
    hostile = config() | {evil: evil}
    run = json.loads(json.dumps(RUN).replace("arithmetic.py", "<script>"))
    workdir = make_run(tmp_path / "<script>$a$", lines, samples, hostile, run)
    page, _ = write([workdir], workdir)
    assert "alert(1)" in page.text
    assert "img" not in page.tags
    assert "\0" not in page.source
    assert "more characters" in page.text
    assert len(page.source) < 2_000_000


def with_pictures(workdir, rows, *sources):
    """Adds pictures to rows, and writes a thumbnail of each."""
    (workdir / "pictures").mkdir(parents=True, exist_ok=True)
    found = []
    for i, source in enumerate(sources):
        file = f"pictures/{i}.jpg"
        Image.new("RGB", (40, 30), "red").save(workdir / file)
        found.append({"source": source, "height": 420, "width": 560, "file": file})
    return [row | {"images": [*found]} for row in rows]


def samples_of(workdir, rows):
    """Returns the section of the samples."""
    lines = {"metrics": FEW, "rollouts": rows}
    for name, values in lines.items():
        text = "".join(json.dumps(value) + "\n" for value in values)
        (workdir / f"{name}.jsonl").write_text(text)
    path = workdir / "section.html"
    path.write_text(samples.section(*runs.read([workdir]), False), encoding="utf-8")
    page = Page(path)
    check_self_contained(page)
    return page


def test_pictures_stand_beside_their_prompts(tmp_path):
    rows = [row | {"prompt": "<image>x?"} for row in rollouts_of(2)]
    rows = with_pictures(tmp_path, rows, "a.png", "b.png")
    for row in rows:  # the prompts differ in their pictures alone
        row["images"] = row["images"][row["example"] :]
    page = samples_of(tmp_path, rows)
    assert [one["alt"] for one in page.pictures] == ["a.png", "b.png", "b.png"]
    assert re.findall(r"step \d: \d of 8 succeed", page.text) == 2 * [
        "step 1: 3 of 8 succeed",
        "step 2: 7 of 8 succeed",
    ]
    for one in page.pictures:
        assert (one["width"], one["height"]) == ("40", "30")
        content = base64.b64decode(one["src"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(content)).size == (40, 30)
    assert page.text.count(", 560 \u00d7 420 pixels") == 3


@pytest.mark.parametrize("damage", ["gone", "empty", "text", "cut", "PNG"])
def test_a_thumbnail_that_cannot_be_shown_is_named(tmp_path, damage):
    rows = with_pictures(tmp_path, rollouts_of(1), "a.png")
    path = tmp_path / "pictures" / "0.jpg"
    whole = path.read_bytes()
    Image.new("RGB", (40, 30)).save(path, "PNG")
    if damage == "gone":
        path.unlink()
    elif damage != "PNG":
        contents = {"empty": b"", "text": b"<script>", "cut": whole[:-10]}
        path.write_bytes(contents[damage])
    page = samples_of(tmp_path, rows)
    assert page.pictures == []
    words = "a.png , 560 \u00d7 420 pixels; pictures/0.jpg is missing or broken"
    assert page.text.count(words) == 2


def test_names_of_pictures_stay_text(tmp_path):
    evil = "\"'><script>alert(1)</script><img src=http://x.y onerror=a>\ud800\u202e\u00e9&lt;"
    workdir = tmp_path / "run"
    rows = with_pictures(workdir, rollouts_of(1), evil)
    shutil.copy(workdir / "pictures" / "0.jpg", tmp_path / "out.jpg")
    outside = ("../out.jpg", "pictures/../../out.jpg", f"{tmp_path}/out.jpg", evil, 3, None)
    for row in rows:
        row["images"] += [{"source": evil, "width": evil, "file": file} for file in outside]
        row["images"] += [evil] * 5
    for example, images in ((2, 3), (3, evil), (4, [evil])):
        rows.append(rows[0] | {"example": example, "prompt": f"<b>{example}", "images": images})
    page = samples_of(workdir, rows)
    assert [one["alt"] for one in page.pictures] == 2 * [evil.replace("\ud800", "?")]
    assert page.text.count("is missing or broken") == 2 * len(outside)
    assert page.text.count("\u2026 and 4 more pictures") == 2


def test_a_long_run_stays_small(tmp_path):
    kept = ("kind", "phase", "step", "reward/mean", "success_count/4")
    lines = [{k: line[k] for k in kept if k in line} for line in metrics_of(300)]
    long = [line | {"step": line["step"] + 301 * i} for i in range(20) for line in lines]
    workdir = make_run(tmp_path / "a", long, rollouts_of(60))
    short = make_run(tmp_path / "b", lines, rollouts_of(60))
    sizes = [len(write([w], w)[0].source) for w in (workdir, short)]
    assert sizes[0] < 3 * sizes[1] < 1_000_000


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (None, "has no metrics.jsonl"),
        ("", "is empty"),
        ('{"kind": "train", "phase": "rl", "step": 1}\n{"a\n{}\n', "line 2 is not a JSON object"),
        ("3\n", "line 1 is not a JSON object"),
        ('{"kind": "train", "step": 1}\n', "line 1 has no phase"),
        ('{"kind": "train", "phase": "rl", "step": "1"}\n', "line 1 step='1' is not an integer"),
    ],
)
def test_a_wrong_directory_is_named(tmp_path, text, wrong):
    workdir = tmp_path / "a"
    workdir.mkdir()
    if text is not None:
        (workdir / "metrics.jsonl").write_text(text)
    with pytest.raises(errors.UserError) as error:
        report.write([workdir, tmp_path / "b"], tmp_path / "out")
    assert wrong in error.value.lines[0]
    assert str(workdir) in error.value.lines[0]
    assert error.value.lines[1].endswith("no such directory; give the work directory of a run")


def test_a_run_is_not_its_own_second_seed(tmp_path):
    workdir = make_run(tmp_path / "a", FEW)
    with pytest.raises(errors.UserError, match=r"a: is given twice; give each run once"):
        report.write([workdir, f"{tmp_path}/b/../a"], tmp_path / "out")


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    workdir = make_run(tmp_path / "a", FEW)
    (tmp_path / "file").touch()
    with pytest.raises(errors.UserError, match=r"^--output=.*file: cannot be written \(Not a dir"):
        report.write([workdir], tmp_path / "file")


def test_the_launcher(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdirs = [str(make_run(tmp_path / name, FEW)) for name in "ab"]
    for argv, path in (
        (workdirs[:1], f"{workdirs[0]}/report.html"),
        (workdirs, "report/report.html"),
        ([*workdirs, "--output", "x/y"], "x/y/report.html"),
    ):
        launchers.report(argv)
        assert capsys.readouterr().out.strip() == path
        assert Path(path).exists()
    with pytest.raises(errors.UserError, match="required: DIR; see --help"):
        launchers.report([])


def test_a_check_is_looked_at_outside_its_range(tmp_path):
    good = metrics_of(20)
    for name, key, value in (
        ("Truncation", "rollout/truncated", 0.5),
        ("Invalid rewards", "reward/invalid", 0.01),
        ("Degenerate groups", "groups/degenerate", 0.95),
        ("First ratio", "policy/ratio_mean", 1.02),
        ("Log-prob gap", "policy/logp_gap_mean", 0.1),
        ("Skipped updates", "policy/skipped", 1),
        ("KL", "loss/kl", 2.0),
        ("Clipping", "policy/clip_fraction_high", 0.3),
        ("Success", "reward/success", 0.0),
    ):
        bad = [line | {key: value} if key in line else line for line in good]
        (run,) = runs.read([make_run(tmp_path / name, bad, config=config(steps=20))])
        assert [f.check.name for f in health.examine(run) if not f.ok] == [name]


def test_steps_that_teach_nothing_are_no_spike(tmp_path):
    lines = metrics_of(20)
    for line in lines:
        if line["phase"] == "rl" and line["kind"] == "train" and line["step"] > 4:
            line["policy/grad_norm"] = 0.0
    (run,) = runs.read([make_run(tmp_path / "run", lines, config=config(steps=20))])
    (found,) = [f for f in health.examine(run) if f.check.name == "Gradient norm"]
    assert found.ok
    assert 1 <= found.value < 20


def test_the_page_of_the_docs_has_every_check_with_its_range():
    page = (ROOT / "docs" / "healthy.md").read_text()
    for check in health.CHECKS:
        row = f"| {check.name} | {check.measured} | {check.healthy} | {check.otherwise} |"
        assert row in page, row


def documented(key):
    """Returns the key as docs/healthy.md writes it."""
    key = re.sub(r"_(low|high)$", "", key) if key.startswith("eval/") else key
    key = re.sub(r"^eval/.+/", "eval/SET/", key)
    return re.sub(r"^(\w+)/\d+$", r"\1/K", key)


def test_the_page_of_the_docs_has_every_key_that_a_run_writes(undisturbed):
    page = (ROOT / "docs" / "healthy.md").read_text()
    lines = [json.loads(x) for x in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    keys = {key for line in [*lines, *metrics_of(9)] for key in line}
    parts = {"reward/accuracy", "reward/format"}
    missing = [k for k in sorted(keys - parts) if f"`{documented(k)}`" not in page]
    assert not missing


def test_the_report_of_a_run(undisturbed):
    check(undisturbed / "report.html")


def test_numbers():
    numbers = [markup.number(x) for x in (None, float("nan"), 12345, 0.000123456, 1e400, "<b>")]
    assert numbers == ["\u2013", "\u2013", "12,345", "0.0001235", "\u2013", "<b>"]


def test_it_runs_without_jax(tmp_path):
    import subprocess

    make_run(tmp_path / "a", FEW)
    code = (
        "import sys; sys.modules['jax'] = None; from mapo_jax import report; "
        f"report.write([{str(tmp_path / 'a')!r}], {str(tmp_path)!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_part_of_a_reward_may_be_any_number(tmp_path):
    """On an axis from 0 to 1, the names of lines far outside it would leave no room for it."""
    lines = [
        {"kind": "train", "phase": "rl", "step": step, "reward/mean": -n, "reward/n": n}
        for step, n in ((1, 15.0), (2, 12.0))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report.write([tmp_path], tmp_path)
    assert (tmp_path / "figures" / "reward_parts.png").exists()
