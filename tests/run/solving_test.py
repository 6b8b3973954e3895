"""Prompts that the start policy solves sometimes, and the check that they are all learnt."""

import dataclasses
import datetime
import functools
import json
from zlib import crc32

import jax
import numpy as np
import pytest
from etils import epath

from mapo_jax import errors, sharding
from mapo_jax.run import checkpoints, collect, setup, solving, trainer
from tests import runs
from tests.runs import lines, micro, timeless

# A policy that knows nothing differs in its responses, so their checksums are coin tosses.
REWARD = """\
from zlib import crc32

def some(response, example):  # 70% of the questions have no right response
    right = crc32(response.encode()) % 2 == 0 and crc32(example["question"].encode()) % 10 < 3
    return {"reward": float(right), "success": False, "parts": {"accuracy": float(right)}}
"""


def can_be_solved(question):
    return crc32(question.encode()) % 10 < 3


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "my.py"
    path.write_text(REWARD)
    return f"{path}:some"


@pytest.fixture(autouse=True)
def _few_tries(monkeypatch):
    monkeypatch.setattr(solving, "TRIES", 7)  # two groups of 4 have as many


def config(reward, **changes):
    settings = {
        "task__reward": reward,
        "data__solve_rate": "0.2:0.8",
        "data__solve_prompts": 40,  # two batches and a half
        "warmup__steps": 0,
        "log__rollouts_prompts": 16,
        "algorithm__beta": 0.0,
        "steps": 3,
    }
    return micro(**(settings | changes))


def test_rl_draws_from_prompts_that_are_solved_sometimes(reward, tmp_path):
    with runs.traced_once():
        asked = config(reward, data__solve_rate="0.2:0.3")  # 2 of 8
        run = setup.prepare(asked, print, datetime.datetime.now(datetime.UTC))
    path = epath.Path(tmp_path)
    progress = setup.begin(run, checkpoints.Checkpoints(path / "checkpoints", 1), print)

    def serving():
        return run.programs.serve(progress.state.params)

    said = []
    kept = solving.solvable(run, progress, serving, path, said.append)
    tried = run.draw(0, 40).tolist()
    rates = json.loads((tmp_path / "solved.json").read_text())["rates"]
    assert rates.keys() == {*map(str, tried)}
    right = [i for i in tried if 0.2 <= rates[str(i)] <= 0.3]
    assert kept.kept.tolist() == right
    assert 1 < len(right) < sum(rate > 0 for rate in rates.values())
    assert any(rate * 8 % 2 for rate in rates.values())  # two passes draw anew
    questions = {i: run.task.train[run.prompts[i].example]["question"] for i in tried}
    assert all(can_be_solved(questions[i]) or rates[str(i)] == 0 for i in tried)
    assert said[0].startswith(
        f"data.solve_rate=0.2:0.3: the start policy solves {len(right)} of 40"
    )
    epoch = kept.draw(0, len(right)).tolist()
    assert sorted(epoch) == sorted(right) != epoch

    later = dataclasses.replace(progress, done=1)
    again = solving.solvable(run, later, lambda: None, path, said.append)  # does not sample
    assert again.kept.tolist() == right
    never = dataclasses.replace(run, config=config(reward, data__solve_rate="0.99:1"))
    with pytest.raises(errors.RunStopped, match=r"solves 0 of 40 .*raise data.solve_prompts=40"):
        solving.solvable(never, later, lambda: None, path, said.append)
    (tmp_path / "solved.json").write_text("{}")
    with pytest.raises(errors.UserError, match=r"solved.json: is missing or broken \(KeyError\)"):
        solving.solvable(run, later, lambda: None, path, said.append)
    off = dataclasses.replace(run, config=config(reward, data__solve_rate=""))
    assert solving.solvable(off, progress, lambda: None, path, said.append) is off


@pytest.mark.slow
def test_a_run_goes_on_with_its_choice(reward, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    runs.train(config(reward), whole)
    original = collect.collect

    def runs_dry(setup, params, key, step, start):
        if step == 3:
            raise errors.RunStopped("dry")
        return original(setup, params, key, step, start)

    with monkeypatch.context() as patch:
        patch.setattr(collect, "collect", runs_dry)
        with pytest.raises(errors.RunStopped):
            runs.train(config(reward), stopped)
    runs.train(config(reward), stopped)
    assert timeless(lines(stopped)) == timeless(lines(whole))
    written = lines(whole, "rollouts")
    assert lines(stopped, "rollouts") == written
    assert len({row["prompt"] for row in written}) > 5
    assert all(can_be_solved(row["prompt"]) for row in written)


@pytest.mark.slow
def test_a_run_without_such_prompts_keeps_its_start_policy(reward, tmp_path):
    rate = {"data__solve_rate": "0.99:1", "warmup__steps": 1}
    for _ in range(2):
        with pytest.raises(errors.RunStopped, match="widen it"):
            runs.train(config(reward, **rate), tmp_path)
        assert (tmp_path / "checkpoints" / "1").is_dir()


def train(config, workdir):
    """`trainer.train` on one device, which is fastest for a run of its own."""
    with pytest.MonkeyPatch.context() as patch:
        one = functools.partial(runs.make_mesh, devices=jax.devices()[:1])
        patch.setattr(sharding, "make_mesh", one)
        trainer.train(config, workdir)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A policy that is sometimes right, and how it goes on from there."""
    settings = {
        "policy__embed_dim": 64,
        "policy__num_heads": 4,
        "policy__head_dim": 16,
        "policy__mlp_dim": 128,
        "policy__num_layers": 2,
        "task__options__train_size": 2000,
        "warmup__batch": 128,
        "batch__group": 8,
        "batch__minibatch_prompts": 16,
        "batch__microbatch": (16, 8),
        "batch__epochs": 1,
        "algorithm__beta": 0.0,
        "data__solve_prompts": 64,
        "eval__every": 1000,
        "checkpoint__every": 1000,
        "log__rollouts_every": 0,
        "log__console": "quiet",
    }
    workdir = tmp_path_factory.mktemp("start")
    train(micro(**settings, warmup__steps=250, steps=0), workdir)
    return {**settings, "warmup__steps": 0, "policy__init": str(workdir)}


FLIPPED = """\
def flipped(rewards_G, success_G, mask_G):
    return rewards_G.mean() - rewards_G
"""


@pytest.mark.nightly
@pytest.mark.parametrize("advantage", ["mapo", "grpo", "flipped"])
def test_what_is_solved_sometimes_is_learnt(start, advantage, tmp_path, monkeypatch):
    """The sanity check of arXiv 2510.26788; a wrong sign does not pass it."""
    monkeypatch.setattr(solving, "TRIES", 40)
    if advantage == "flipped":
        (tmp_path / "my.py").write_text(FLIPPED)
        advantage = f"{tmp_path}/my.py:flipped"
    settings = {"algorithm__advantage": advantage, "steps": 60 if "flipped" in advantage else 200}
    settings |= {"optimizer__learning_rate": 1e-3, "optimizer__decay": "linear"}
    train(micro(**start, **settings, data__solve_rate="0.2:0.8"), tmp_path / "run")
    rows = [row["reward/accuracy"] for row in lines(tmp_path / "run") if row["kind"] == "train"]
    means = np.convolve(rows, np.ones(10) / 10, "valid")  # each prompt about three times
    assert 0.3 < np.mean(rows[:2]) < 0.7
    if "flipped" in advantage:
        assert means[-1] < 0.1
    else:
        assert means.max() >= 0.95
