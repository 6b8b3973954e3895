"""Tests that the benchmark reports its figures and measures the configured shapes."""

import json

import jax
import numpy as np
import pytest

from experiments import bench as experiment
from mapo_jax import sharding
from mapo_jax.commands import bench, work
from mapo_jax.run import programs

KEYS = {
    "sample_tokens_per_s",
    "score_tokens_per_s",
    "update_s",
    "step_s",
    "compile_s",
    "compile_cached_s",
    "sample_bytes_per_s",
    "update_flops_per_s",
    "peak_memory_gib",
}


def tiny():
    tree = experiment.get_config("stragglers")
    tree.bench.update(repetitions=2, vocab_size=32, mean_new_tokens=3)
    tree.policy.update(num_layers=1, embed_dim=16, head_dim=8, mlp_dim=16)
    tree.data.max_prompt_tokens = 3
    tree.batch.update(prompts=16, minibatch_prompts=16, group=4, microbatch=(8, 2))
    tree.rollout.update(max_new_tokens=6, lanes=1, width=2)
    return bench.read(tree)


@pytest.mark.nightly  # a command of the README does it too
def test_a_table_and_then_one_line_of_json(capsys):
    config = tiny()
    phases = bench.measure(config)
    limits = bench.draw_limits(config)
    assert {phase.tokens for phase in phases.values()} == {limits.sum()}
    bench.report(config, phases)
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert figures.keys() == KEYS
    assert all(value > 0 for value in figures.values())
    assert all(any(name in line for line in table) for name in phases)


def test_stragglers_are_geometric():
    tree = experiment.get_config("stragglers")
    mean, most = tree.bench.mean_new_tokens, tree.rollout.max_new_tokens
    assert mean * 4 == most
    tree.batch.update(prompts=1000, group=100)
    limits = bench.draw_limits(bench.read(tree))
    assert limits.min() == 1
    assert limits.max() == most
    for length in (1, 10, 32, 100):  # P(length >= n) = (1 - 1/mean)^(n - 1)
        expected = (1 - 1 / mean) ** (length - 1)
        assert np.mean(limits >= length) == pytest.approx(expected, abs=0.01)
    tree.rollout.max_new_tokens = 10_000
    assert bench.draw_limits(bench.read(tree)).mean() == pytest.approx(mean, rel=0.02)


def test_without_a_mean_all_have_the_maximum():
    config = bench.read(experiment.get_config("small"))
    np.testing.assert_array_equal(bench.draw_limits(config), np.full((8, 8), 128))


def test_presets_are_valid_and_of_the_stated_sizes():
    sizes = {}
    for name in experiment.PRESETS:
        config = bench.read(experiment.get_config(name))
        assert bench.validate(config, 1) == [], name
        lengths = config.data.max_prompt_tokens, config.rollout.max_new_tokens
        sizes[name] = (config.batch.prompts, config.batch.group, *lengths)
    assert sizes == {
        "small": (8, 8, 64, 128),
        "mid": (4, 8, 64, 64),
        "qwen2_5_0_5b": (32, 16, 256, 512),
        "qwen2_5_1_5b": (64, 16, 128, 512),
        "long_limits": (8, 8, 2048, 1024),
        "stragglers": (64, 8, 64, 128),
        "pictures": (8, 8, 64, 128),
        "qwen2_5_vl_7b": (64, 12, 1496, 1024),
    }


def test_mistakes_are_listed_together():
    tree = experiment.get_config()
    tree.bench.repetitions = 0
    tree.policy.num_kv_heads = 3
    tree.batch.microbatch = (3, 8)
    tree.mesh.data = 3
    lines = bench.validate(bench.read(tree), 8)
    keys = ("bench.repetitions=0", "batch.microbatch=(3, 8)", "policy.num_kv_heads=3", "mesh")
    assert [line.startswith(key) for line, key in zip(lines, keys, strict=True)] == [True] * 4


def test_lengths_are_at_most_their_limits():
    tree = experiment.get_config("long_limits")
    config = bench.read(tree)
    assert bench.prompt_tokens(config) == 64
    np.testing.assert_array_equal(bench.draw_limits(config), np.full((8, 8), 128))
    tree.bench.update(prompt_tokens=2049, new_tokens=1025)
    lines = bench.validate(bench.read(tree), 1)
    assert lines == [
        "bench.prompt_tokens=2049: must be at most data.max_prompt_tokens, 2048",
        "bench.new_tokens=1025: must be at most rollout.max_new_tokens, 1024",
    ]


def test_pictures_stand_in_front_of_prompts():
    tree = experiment.get_config("pictures")
    tree.batch.update(prompts=64, minibatch_prompts=64)
    config = bench.read(tree)
    policy = bench.architecture(config)
    prompts = bench.make_prompts(config, policy)
    images = prompts.images
    assert images.patches.shape == (64, 64, 192)
    patches, cells = (images.picture >= 0).sum(1), (images.cell >= 0).sum(1)
    assert set(patches.tolist()) == {6 * 6, 8 * 8}
    np.testing.assert_array_equal(cells * 4, patches)
    np.testing.assert_array_equal(bench.draw_patches(config, policy) ** 2, patches)
    assert (prompts.lengths == 64).all()
    assert bench.make_prompts(bench.read(experiment.get_config()), policy).images is None


def test_mistakes_of_pictures_are_told():
    def lines(preset="pictures", **changes):
        tree = experiment.get_config(preset)
        for key, value in changes.items():
            group, name = key.split("__")
            tree[group][name] = value
        return bench.validate(bench.read(tree), 1)

    expected = {
        (8, 64): "must be multiples of 16",
        (48, 128): "a picture has up to 64 tokens, and a prompt of 64",
        (64, 48): "must be (a, b) with 0 <= a <= b",
    }
    for sides, text in expected.items():
        assert f"bench.picture_sides={sides}: {text}" in lines(bench__picture_sides=sides)[0]
    assert "the policy has no tower" in lines("small", bench__picture_sides=(48, 64))[0]
    assert lines("qwen2_5_vl_7b", lora__rank=8) == [
        "lora.rank=8: bench trains all weights; set it to 0"
    ]


@pytest.mark.parametrize("shards", [1, 2])
def test_costs_are_those_of_all_shards(shards):
    """Each shard takes 6 steps, with 4 x 2 slots, or with 2 x 2."""
    tree = experiment.get_config()
    tree.bench.update(vocab_size=32, prompt_tokens=5)
    tree.policy.update(num_layers=1, embed_dim=16, head_dim=8, mlp_dim=16)
    tree.data.max_prompt_tokens = 64
    tree.batch.update(prompts=4, minibatch_prompts=4, group=2, microbatch=(2, 2))
    tree.rollout.max_new_tokens = 6
    tree.mesh.update(data=shards, fsdp=1, tensor=1)
    config = bench.read(tree)
    mesh = sharding.make_mesh(shards, devices=jax.devices()[:shards])
    policy = bench.architecture(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.sharding, "make_mesh", lambda **_: mesh)
        patch.setattr(bench, "draw_limits", lambda _: np.asarray([[2, 6], [1, 1]] * 2, np.int32))
        costs = bench.costs(config, programs.Programs(config, policy, (), mesh))
    _, read, idle = costs["sampling"]
    assert idle == pytest.approx(1 - 20 / (6 * 8))
    weights = 4 * (2 * 16 * 8 * (4 + 2) + 3 * 16 * 16 + 16 * 32)
    token = 4 * 2 * 2 * 8
    assert read == 6 * (shards * weights + token * (8 * 6 + 4 * 16))
    real = costs["update"][2]
    assert 0 < real < 1


def test_the_tower_counts_in_every_phase():
    tree = experiment.get_config("pictures")
    config = bench.read(tree)
    policy, mesh = bench.architecture(config), sharding.make_mesh(1, devices=jax.devices()[:1])
    made = programs.Programs(config, policy, (), mesh)

    def flops():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bench.sharding, "make_mesh", lambda **_: mesh)
            counted = bench.costs(bench.read(tree), made)
        return {name: cost[0] for name, cost in counted.items()}

    found, tower = flops(), work.tower(policy, bench.draw_patches(config, policy) ** 2).needed
    tree.optimizer.vision_learning_rate = 0.0
    still = flops()
    tree.bench.picture_sides = (0, 0)
    text = flops()
    assert tower > 0
    for name, times in {"sampling": 1, "scoring": 1, "update": 3, "step": 4}.items():
        assert found[name] - text[name] == pytest.approx(times * tower)
    assert found["step"] - still["step"] == pytest.approx(2 * tower)
