"""A model card says which command made a policy, and what was measured of it."""

import json

import pytest
import yaml

from mapo_jax.commands import card
from mapo_jax.report import runs


@pytest.fixture
def run(tmp_path):
    """A run on record with evaluations of steps 0, 2 and 4; the last one has no intervals."""
    config = {
        "policy": {"init": "owner/base", "revision": "abc"},
        "task": {"name": "gsm8k", "reward": ""},
        "algorithm": {"advantage": "mapo"},
        "batch": {"prompts": 16, "group": 8},
        "eval": {"problems": 100, "temperature": 0.7},
        "warmup": {"steps": 5},
        "seed": 3,
    }
    environment = {"mapo_jax": "0.1.0", "commit": "c0ffee", "jax": "0.10.2", "devices": "1 x cpu"}
    starts = [
        {"argv": ["launch/run.py", "--workdir", "my run"], "environment": environment}
        for _ in range(2)
    ]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "run.json").write_text(json.dumps({"starts": starts}))
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in (0, 2, 4):
            line = {"kind": "eval", "phase": "rl", "step": step, "eval/test/length_mean": 9.0}
            ends = {"": 0.0, "_low": -0.05, "_high": 0.1} if step < 4 else {"": 0.0}
            line |= {f"eval/test/accuracy{end}": 0.3 + step / 10 + x for end, x in ends.items()}
            file.write(json.dumps(line) + "\n")
    (found,) = runs.read([tmp_path])
    return found


def test_a_card_has_the_command_and_the_evaluation_with_intervals(run):
    text = card.write("mine", run, 3, "newest", sees=False)
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["base_model"] == "owner/base"
    assert head["pipeline_tag"] == "text-generation"
    for line in (
        "# mine",
        "| base policy | owner/base at abc |",
        "| task | gsm8k |",
        "| saved | after 3 steps of RL |",
        "| commit | c0ffee |",
        "| metric | step 0 | step 2 |",  # the newest evaluation up to the checkpoint
        "| `eval/test/accuracy` | 0.300 [0.250, 0.400] | 0.500 [0.450, 0.600] |",
    ):
        assert text.splitlines().count(line) == 1, line
    assert text.count("python launch/run.py --workdir 'my run'\n") == 1
    assert "https://arxiv.org/abs/2509.18849" in text
    assert "length_mean" not in text  # has no interval
    assert "best of several" not in text


def test_a_card_says_how_its_numbers_came_about(run, tmp_path, monkeypatch):
    assert "best of several" in card.write("mine", run, 3, "best", sees=False)
    assert "[nan, nan]" in card.write("mine", run, 4, "newest", sees=False)
    text = card.write("mine", run, None, "newest", sees=True)
    assert "There is none on record." in text
    assert "| saved | in the warm-up |" in text
    assert "image-text-to-text" in text
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "base").mkdir(parents=True)  # a folder is not of the hub
    assert "base_model" not in card.write("mine", run, 3, "newest", sees=False)
    run.config["policy.init"] = run.config["policy.revision"] = ""
    run.starts.clear()
    text = card.write("mine", run, 3, "newest", sees=False)
    assert "| base policy | none; random parameters and 5 steps of warm-up |" in text
    assert "Command" not in text
