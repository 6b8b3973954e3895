"""The benchmark: what it reports, and that it measures the shapes it says."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import bench as experiment
from mapo_jax.commands import bench

KEYS = {
    "sample_tokens_per_s",
    "score_tokens_per_s",
    "update_s",
    "step_s",
    "compile_s",
    "peak_memory_gib",
}


def tiny():
    tree = experiment.get_config("stragglers")
    tree.repetitions = 2
    tree.policy.update(vocab_size=32, num_layers=1, embed_dim=16, head_dim=8, mlp_dim=16)
    tree.batch.update(prompts=16, group=4, prompt_tokens=3, microbatch=(8, 2))
    tree.rollout.update(max_new_tokens=6, mean_new_tokens=3, lanes=1, width=2)
    return bench.read(tree)


def test_a_table_and_then_one_line_of_json(capsys):
    config = tiny()
    phases = bench.measure(config)
    limits = bench.draw_limits(config.rollout, (16, 4), config.seed)
    assert {phase.tokens for phase in phases.values()} == {limits.sum()}
    bench.report(config, phases)
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures.keys() == KEYS
    assert all(value > 0 for value in figures.values())
    assert all(any(name in line for line in table) for name in phases)


def test_stragglers_are_geometric():
    settings = bench.read(experiment.get_config("stragglers")).rollout
    assert settings.mean_new_tokens * 4 == settings.max_new_tokens
    limits = bench.draw_limits(settings, (1000, 100), 0)
    assert limits.min() == 1
    assert limits.max() == settings.max_new_tokens
    for length in (1, 10, 32, 100):  # P(length >= n) = (1 - 1/mean)^(n - 1)
        expected = (1 - 1 / settings.mean_new_tokens) ** (length - 1)
        assert np.mean(limits >= length) == pytest.approx(expected, abs=0.01)
    uncut = dataclasses.replace(settings, max_new_tokens=10_000)
    mean = bench.draw_limits(uncut, (1000, 100), 0).mean()
    assert mean == pytest.approx(settings.mean_new_tokens, rel=0.02)


def test_without_a_mean_all_have_the_maximum():
    settings = bench.read(experiment.get_config("small")).rollout
    np.testing.assert_array_equal(bench.draw_limits(settings, (2, 3), 0), np.full((2, 3), 128))


def test_presets_are_valid_and_of_the_stated_sizes():
    sizes = {}
    for name in experiment.PRESETS:
        config = bench.read(experiment.get_config(name))
        assert bench.validate(config, 1) == [], name
        batch, rollout = config.batch, config.rollout
        sizes[name] = (batch.prompts, batch.group, batch.prompt_tokens, rollout.max_new_tokens)
    assert sizes == {
        "small": (8, 8, 64, 128),
        "mid": (4, 8, 64, 64),
        "qwen2_5_0_5b": (32, 16, 256, 512),
        "stragglers": (64, 8, 64, 128),
    }


def test_mistakes_are_listed_together():
    tree = experiment.get_config()
    tree.repetitions = 0
    tree.policy.num_kv_heads = 3
    tree.batch.microbatch = (3, 8)
    tree.mesh.data = 3
    lines = bench.validate(bench.read(tree), 8)
    keys = ("repetitions=0", "batch.microbatch=(3, 8)", "policy.num_kv_heads=3", "mesh")
    assert [line.startswith(key) for line, key in zip(lines, keys, strict=True)] == [True] * 4
