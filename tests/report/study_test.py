"""Tests the numbers and the page of a study on work directories that the tests write."""

import json

import numpy as np
import pytest
from etils import epath

from mapo_jax.report import study

ACCURACY = {  # by method and seed: after steps 0, 5 and 10
    ("mapo", 0): (0.1, 0.5, 0.6),
    ("mapo", 1): (0.2, 0.4, 0.8),
    ("mapo", 2): (0.3, 0.4, 0.7),
    ("grpo", 0): (0.1, 0.3, 0.5),
    ("grpo", 1): (0.2, 0.4, 0.6),
    ("grpo", 2): (0.3, 0.4),
}
KEY = "eval/test/accuracy_sampled"


@pytest.fixture
def described(tmp_path):
    rows = []
    for (method, seed), values in ACCURACY.items():
        workdir = f"{method}/seed_{seed}"
        (tmp_path / workdir).mkdir(parents=True)
        lines = []
        for i, value in enumerate(values):
            step = {"phase": "rl", "step": 5 * i}
            lines.append({"kind": "eval", **step, KEY: value, f"{KEY}_low": 0, "time/eval": 1})
            if i:
                counts = {"success_count/1": 0.5, "success_count/2": 0.25}
                sizes = {"advantage_magnitude/1": 1.0, "advantage_magnitude/2": 2.0}
                reward = {"reward/mean": value, "time/step": 1.0, "advantage/certainty": None}
                lines.append({"kind": "train", **step, **counts, **sizes, **reward})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / workdir / "metrics.jsonl").write_text(text)
        status = "done" if len(values) == 3 else "stopped"
        reason = "" if status == "done" else "no usable group in <20> batches"
        own = {"setting": "", "method": method, "seed": seed, "workdir": workdir}
        rows.append({**own, "status": status, "reason": reason})
    for method in ("mapo", "grpo"):
        waiting = {"setting": "", "method": method, "seed": 3, "workdir": f"{method}/seed_3"}
        rows.append({**waiting, "status": "waiting", "reason": ""})
    study = {"experiment": "arithmetic:tiny", "command": "mapo study", "baseline": "grpo"}
    lists = {"methods": ["mapo", "grpo"], "seeds": [0, 1, 2, 3], "settings": [""], "runs": rows}
    return study | lists


def test_numbers(tmp_path, described):
    found = study.numbers(study.begun(epath.Path(tmp_path), described), described)
    mapo, grpo = found["table"]
    assert (mapo["method"], grpo["method"], mapo["key"]) == ("mapo", "grpo", KEY)
    assert mapo["after"]["n"] == 3
    assert mapo["after"]["mean"] == pytest.approx(0.7)
    assert grpo["after"]["n"] == 2, "a run that was stopped has no end"
    assert mapo["before"]["mean"] == grpo["before"]["mean"] == pytest.approx(0.2)
    assert mapo["area"]["mean"] == pytest.approx(np.mean([0.425, 0.45, 0.45]))
    assert mapo["minus"]["after"]["n"] == 2, "seeds that both methods have"
    assert mapo["minus"]["after"]["mean"] == pytest.approx(0.15)
    assert "minus" not in grpo
    run = found["runs"][0]
    assert run["evaluations"] == {KEY: {"before": 0.1, "after": 0.6, "area": 0.425}}
    assert run["training"]["reward/mean"] == pytest.approx(0.55)
    assert not {"time/step", "advantage/certainty"} & run["training"].keys()
    assert found["gradient"][0] == {"setting": "", "method": "mapo", "share": {1: 0.5, 2: 0.5}}


def test_page_and_json(tmp_path, described):
    study.write(epath.Path(tmp_path), described)
    numbers = json.loads((tmp_path / "study.json").read_text(), parse_constant=pytest.fail)
    assert numbers["runs"][5]["evaluations"][KEY]["after"] is None
    page = (tmp_path / "report.html").read_text()
    assert "no usable group in &lt;20&gt; batches" in page
    assert "0.700 [0.452, 0.948]" in page
    assert "+0.150" in page
    names = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {"accuracy_test", "difference_test", "reward_mean", "gradient"} <= names
    assert "Accuracy on test, minus grpo" in page


def test_band_is_the_t_interval_over_the_seeds(tmp_path, described):
    found = study.numbers(study.begun(epath.Path(tmp_path), described), described)
    runs = study.read([tmp_path / f"mapo/seed_{seed}" for seed in range(3)])
    curve = study.Method("mapo", runs).interval(KEY)
    after = found["table"][0]["after"]
    assert (curve.low[-1], curve.high[-1]) == pytest.approx((after["low"], after["high"]))


def test_a_study_that_has_not_begun(tmp_path, described):
    rows = [{**row, "status": "waiting"} for row in described["runs"]]
    found = study.write(epath.Path(tmp_path), {**described, "runs": rows})
    assert found["table"] == []
