"""Tests the figures of a plan: bytes are exact, FLOPs agree with the compiler's count."""

import dataclasses
import importlib.util
import math

import jax
import numpy as np
import pytest

from experiments import gsm8k
from mapo_jax import errors, model, rollouts, sharding
from mapo_jax.commands import aot, launchers, plan, work
from mapo_jax.config import from_config_dict
from mapo_jax.pretrained.known import KNOWN
from mapo_jax.run import programs, sources
from tests import small
from tests.runs import micro


def config_of(presets="", **changes):
    tree = gsm8k.get_config(presets)
    with tree.unlocked():
        for name, value in changes.items():
            *groups, last = name.split("__")
            node = tree
            for group in groups:
                node = node[group]
            node[last] = value
    return from_config_dict(tree)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-3B", 3_085_938_688),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen2.5-14B", 14_770_033_664),
        ("Qwen/Qwen2.5-32B", 32_763_876_352),
        ("Qwen/Qwen2.5-72B", 72_706_203_648),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B-Base", 1_720_574_976),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
        ("HuggingFaceTB/SmolLM2-360M", 361_821_120),
        ("HuggingFaceTB/SmolLM2-1.7B", 1_711_376_384),
    ],
)
def test_known_policies_have_as_many_parameters_as_published(name, count):
    shapes = model.abstract_params(KNOWN[name])
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == count


TOWER = {
    "policy__vision__num_layers": 1,
    "policy__vision__embed_dim": 16,
    "policy__vision__mlp_dim": 16,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((2, 2, 2), {}),
        *small.nightly(
            [(1, 4, 2), {}],
            [(8, 1, 1), {}],
            [(1, 8, 1), {}],
            [(2, 4, 1), TOWER],
            [(2, 4, 1), TOWER | {"optimizer__vision_learning_rate": 0.0}],
        ),
    ],
    ids=str,
)
def test_memory_is_that_of_a_runs_arrays(shape, changes, tmp_path):
    """The count on an abstract mesh equals the bytes that lie on a device."""
    names = dict(zip(("mesh__data", "mesh__fsdp", "mesh__tensor"), shape, strict=True))
    config = micro(**names, policy__embed_dim=16, policy__mlp_dim=16, **changes)
    source = sources.find(config)
    mesh = sharding.make_mesh(*shape)
    made = programs.Programs(config, source.architecture, (0,), mesh)
    params = sources.start(source, jax.random.key(0), mesh, "float32")
    state = made.fresh_state("rl", params)
    abstract = jax.sharding.AbstractMesh(shape, sharding.AXES)
    parts = plan.memory(config, source.architecture, abstract)
    device = mesh.devices.flat[-1]

    def lies_there(tree):
        return sum(
            shard.data.nbytes
            for x in jax.tree.leaves(tree)
            for shard in x.addressable_shards
            if shard.device == device
        )

    assert parts["parameters"] == lies_there(state.params)
    assert parts["parameters"] + parts["optimizer"] == lies_there(state)
    assert parts["serving"] == lies_there(made.serve(state.params))
    assert parts["layers"] == lies_there(made.serve(state.params)["layers"])
    batch = jax.tree.map(
        lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding),
        aot.abstract_batch(config, source.architecture, mesh),
    )
    assert parts["batch"] == lies_there(batch)
    compiled = made.update.lower(state, batch, {})["update"].compile()
    arguments = compiled.memory_analysis().argument_size_in_bytes
    counted = lies_there(state) + parts["gradients"]
    assert arguments == pytest.approx(counted, rel=0.01, abs=256)


def test_the_cache_is_that_of_the_sampler(monkeypatch):
    """Each of two shards has 8 prompts and 4 lanes of 2 slots; `tensor` splits the two heads."""
    config = micro(
        mesh__data=2, mesh__tensor=2, rollout__lanes=4, rollout__width=2, batch__prompts=16
    )
    architecture = sources.find(config).architecture
    mesh = jax.sharding.AbstractMesh((2, 1, 2), sharding.AXES)
    parts = plan.memory(config, architecture, mesh)
    a = architecture
    per_token = 2 * a.num_layers * a.num_kv_heads * a.head_dim * 4 // 2
    assert parts["cache"] == 4 * 2 * 16 * per_token
    assert parts["prefix"] == (8 + 4) * 12 * per_token
    padded = plan.memory(config, architecture, mesh, tile=128)
    assert padded["cache"] == parts["cache"] * 128 / a.head_dim


def test_a_steps_arithmetic_is_what_the_compiler_counts():
    """Compares one layer without loops; the formulas leave out the softmax and the norms."""
    architecture = dataclasses.replace(KNOWN["Qwen/Qwen2.5-0.5B"], num_layers=1, vocab_size=4096)
    config = config_of(
        batch__prompts=1,
        batch__group=1,
        batch__minibatch_prompts=1,
        batch__microbatch=(1, 1),
        data__max_prompt_tokens=1,
        rollout__max_new_tokens=256,
        algorithm__beta=0.0,
    )
    mesh = jax.sharding.AbstractMesh((1, 1, 1), sharding.AXES)
    found = plan.phases(config, architecture, mesh)
    params = model.abstract_params(architecture)
    tokens = jax.ShapeDtypeStruct((1, 256), np.int32)
    compiled = jax.jit(lambda p, t: model.apply(p, architecture, t)).lower(params, tokens).compile()
    # The compiler counts all pairs, also the masked ones.
    masked = 4 * architecture.num_heads * architecture.head_dim * 256 * 255 / 2
    counted = compiled.cost_analysis()["flops"] - masked
    assert found["sampling"].flops == pytest.approx(counted, rel=0.02)
    assert found["update"].flops == pytest.approx(4 * found["sampling"].flops)
    assert "scoring" not in found


def test_a_prompt_is_computed_once_for_its_group():
    def flops(group):
        config = config_of(batch__group=group, batch__microbatch=(8, group))
        mesh = jax.sharding.AbstractMesh((1, 1, 1), sharding.AXES)
        return plan.phases(config, KNOWN["Qwen/Qwen2.5-0.5B"], mesh)["update"].flops

    assert flops(24) < 2 * flops(12)


VISION = KNOWN["Qwen/Qwen2.5-VL-7B-Instruct"]
MEGAPIXEL = {"images__max_pixels": 1008**2, "data__max_prompt_tokens": 1296 + 200}


def test_pictures_take_what_the_limits_allow():
    assert aot.picture_patches(config_of(**MEGAPIXEL), VISION) == 72 * 72
    config = config_of(data__max_prompt_tokens=100)
    assert aot.picture_patches(config, VISION) == 400
    assert aot.picture_patches(config, KNOWN["Qwen/Qwen2.5-7B"]) == 0


def test_planned_pictures_are_the_arrays_of_a_run():
    """Two prompts of 20 tokens about a picture of 4 x 8 patches."""
    vision = dataclasses.replace(VISION.vision, max_pixels=4 * 8 * 14**2)
    policy = dataclasses.replace(VISION, vision=vision)
    picture = rollouts.Picture(np.zeros((32, 588), np.uint8), 4, 8, place=0)
    N = rollouts.patch_rung(32, merge=2)
    padded = rollouts.pad_prompts([[1] * 20] * 2, 20)
    made = rollouts.with_pictures(padded, [[picture]] * 2, N, patch=14, merge=2)
    config = config_of(batch__prompts=2, data__max_prompt_tokens=20)
    mesh = jax.sharding.AbstractMesh((1, 1, 1), sharding.AXES)
    planned = aot.abstract_batch(config, policy, mesh).rollouts.prompts
    forms = [jax.tree.map(lambda x: (x.shape, x.dtype), prompts) for prompts in (planned, made)]
    assert forms[0] == forms[1]


@pytest.mark.slow
def test_a_tower_that_stays_has_neither_gradient_nor_moments():
    mesh = jax.sharding.AbstractMesh((1, 8, 1), sharding.AXES)
    found, still = (
        plan.memory(config_of(**MEGAPIXEL, optimizer__vision_learning_rate=rate), VISION, mesh)
        for rate in (None, 0.0)
    )
    tower = 4 * 676_550_144 // 8
    assert found["parameters"] == still["parameters"]
    assert found["gradients"] - still["gradients"] == pytest.approx(
        tower, rel=0.01
    )  # biases lie whole
    assert found["optimizer"] - still["optimizer"] == pytest.approx(2 * tower, rel=0.01)
    inputs = (
        8 * 32 * rollouts.patch_rung(5184, merge=2) * 1280 * 4
    )  # of 32 layers, 8 prompts at once
    assert found["activations"] - still["activations"] == inputs


@pytest.mark.slow
def test_the_tower_is_computed_as_often_as_the_prompt():
    """In sampling once; each part of a group computes it again, and what stays has no gradient."""
    mesh = jax.sharding.AbstractMesh((1, 1, 1), sharding.AXES)
    settings = MEGAPIXEL | {"batch__prompts": 8, "batch__minibatch_prompts": 8}
    settings |= {"batch__microbatch": (1, 3), "algorithm__beta": 0.1, "batch__epochs": 2}
    once = 8 * sum(work.tower(VISION, np.asarray([5184])))

    def towers(**changes):
        found = plan.phases(config_of(**settings, **changes), VISION, mesh)
        return [found[name].tower / once for name in ("sampling", "scoring", "update")]

    assert towers() == pytest.approx([1, 4, 4 * 2 * 4])
    assert towers(optimizer__vision_learning_rate=0.0) == pytest.approx([1, 4, 4 * 2])


def test_a_shared_prompt_saves_most_of_the_forward_pass():
    """Twelve responses of 400 tokens about a megapixel."""
    config = config_of(**MEGAPIXEL, rollout__max_new_tokens=400)
    shared, alone = plan.sharing(config, VISION)
    tower = sum(work.tower(VISION, np.asarray([5184])))
    rows = [work.forward(VISION, np.asarray([1496]), np.asarray([[400]])) for _ in range(12)]
    assert alone == pytest.approx(sum(map(sum, rows)) + 12 * tower)
    assert alone / shared == pytest.approx(4.3, abs=0.05)


def run(*arguments):
    launchers.plan(["--config", "experiments/gsm8k.py", *arguments])


def test_the_screen_without_a_topology(capsys):
    run("--config.mesh.data=1", "--config.mesh.fsdp=8")
    out = capsys.readouterr().out
    assert "494,032,768 parameters on 8 devices: data 1 x fsdp 8 x tensor 1" in out
    assert "seconds" not in out


def test_the_screen_tells_the_budget_of_pictures(capsys):
    run("--config.policy.init=Qwen/Qwen2.5-VL-7B-Instruct", "--config.data.max_prompt_tokens=100")
    out = " ".join(capsys.readouterr().out.split())
    assert "Pictures of a prompt: at most 400 patches, 100 tokens" in out
    assert "room for 448 patches" in out
    assert "windows as masks over all patches" in out
    assert "of the operations, the tower's" in out


@pytest.mark.slow
def test_lora_is_planned(capsys):
    run("--config.lora.rank=8", "--config.mesh.data=1")
    out = capsys.readouterr().out
    assert "frozen parameters" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--topology=v9z:2x2"], "--topology=v9z:2x2: must be GENERATION:AxB"),
        (["--topology=v5e"], "--topology=v5e: must be GENERATION:AxB"),
        (["--efficiency=2"], "--efficiency=2: must be a number > 0 and <= 1"),
        (["--config.policy.init=Qwen/Qwen2.5-9B"], "did you mean Qwen/Qwen2.5-7B?"),
        (["--config.mesh.tensor=5"], "mesh.tensor=5: must divide policy.num_heads=14"),
        (["--config.batch.prompts=0"], "batch.prompts=0: must be >= 1"),
    ],
)
def test_mistakes(arguments, line):
    with pytest.raises(errors.UserError) as caught:
        run(*arguments)
    assert any(line in found for found in caught.value.lines), caught.value.lines


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match=r'pip install "jax\[tpu\]"'):
        run("--topology=v5e:8x8")


def test_collectives_are_counted():
    hlo = """
  %a = bf16[8]{0} all-gather(%x), dimensions={0}
  %b = (f32[4]{0}, f32[]) all-reduce(%y, %z), to_apply=%add
  %c = bf16[8]{0} all-gather-start(%x)
  %d = bf16[8]{0} all-gather-done(%c)
  %e = f32[8]{0} fusion(%all-gather.1)
}
%all-reduce-scatter.2.clone (input: f32[8,4]) -> f32[2,4] {
  %f = f32[8,4]{0,1} all-reduce(%input), to_apply=%add
"""
    assert aot.collectives(hlo) == {"all-gather": 2, "all-reduce": 1, "reduce-scatter": 1}
