"""A run goes on with another configuration if only the keys differ that may."""

import functools
import json
import operator

import pytest

from experiments import arithmetic, jsonl
from mapo_jax.config import OPEN, from_config_dict, to_dict
from mapo_jax.run.continuation import ADDED, ADDED_OPTIONS, _flat, continuation_mistakes
from mapo_jax.tasks.jsonl import DEFAULTS
from tests.runs import ROOT


def test_continuation():
    config = from_config_dict(arithmetic.get_config("tiny"))
    old = json.loads(json.dumps(to_dict(config)))
    assert continuation_mistakes(old, to_dict(config)) == []

    def change(changes):
        new = json.loads(json.dumps(old))
        for key, value in changes.items():
            *groups, name = key.split(".")
            node = new
            for group in groups:
                node = node[group]
            node[name] = value
        return continuation_mistakes(old, new)

    allowed = {
        "steps": 9,
        "eval.every": 9,
        "log.console": "rich",
        "checkpoint.keep": 9,
        "mesh.fsdp": 2,
        "data.path": "moved",
        "tokenizer.path": "moved",
        "batch.microbatch": [1, 1],
        "rollout.lanes": 2,
        "rollout.chunks": 2,
        "compute.remat": True,
    }
    assert change(allowed) == []
    lines = change({"seed": 1, "batch.prompts": 2, "algorithm.advantage_options.ddof": 1})
    assert [line.partition(": ")[0] for line in lines] == [
        "algorithm.advantage_options.ddof=1",
        "batch.prompts=2",
        "seed=1",
    ]
    assert "started with absent" in lines[0]
    assert "started with 16" in lines[1]


def test_a_run_from_before_a_key_can_be_continued():
    """A new key must be in `ADDED` with the value of older runs, or they could not go on."""
    first = set((ROOT / "tests" / "first_keys.txt").read_text().split())
    tree = to_dict(from_config_dict(arithmetic.get_config("tiny")))
    for key in OPEN:
        group, name = key.split(".")
        tree[group][name] = 0  # hides its options
    assert _flat(tree).keys() == first | ADDED.keys()
    assert not first & ADDED.keys()


@pytest.mark.parametrize("key", ADDED)
def test_a_value_of_older_runs_is_one_of_its_key(key):
    tree = to_dict(from_config_dict(arithmetic.get_config("tiny")))
    *groups, name = key.split(".")
    node = functools.reduce(operator.getitem, groups, tree)
    node[name] = ADDED[key]
    assert to_dict(from_config_dict(tree)) == tree
    assert key not in OPEN or ADDED[key] == {}
    old = json.loads(json.dumps(tree))
    del functools.reduce(operator.getitem, groups, old)[name]
    assert continuation_mistakes(old, tree) == []


def test_another_value_than_older_runs_had_is_refused(monkeypatch):
    monkeypatch.setitem(ADDED, "algorithm.beta", 0.0)
    new = to_dict(from_config_dict(arithmetic.get_config("tiny")))
    new["algorithm"] |= {"beta": 0.5, "surrogate_options": {"scale": 2.0}}
    old = json.loads(json.dumps(new))
    del old["algorithm"]["beta"], old["algorithm"]["surrogate_options"]
    back = "set it back, or start a new run in another --workdir"
    assert continuation_mistakes(old, new) == [
        f"algorithm.beta=0.5: the run in this work directory was started with 0.0; {back}",
        "algorithm.surrogate_options.scale=2.0: the run in this work directory was started with "
        f"absent; {back}",
    ]


def test_a_run_from_before_an_option_can_be_continued():
    tree = to_dict(from_config_dict(jsonl.get_config("tiny")))
    old = json.loads(json.dumps(tree))
    for key, value in ADDED_OPTIONS.items():
        assert DEFAULTS[key.removeprefix("task.options.")] == value
        del old["task"]["options"][key.removeprefix("task.options.")]
    assert continuation_mistakes(old, tree) == continuation_mistakes(tree, old) == []
    tree["task"]["options"]["images"] = "image"
    (line,) = continuation_mistakes(old, tree)
    assert line.startswith("task.options.images=image: the run in this work directory was started ")
