"""Folders of policies that see pictures: every form that transformers wrote, and each mistake."""

import functools
import itertools
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import tokenizers as huggingface
from etils import epath

from mapo_jax import errors, model, pretrained, sharding
from mapo_jax.pretrained import configs, preparation, vision
from mapo_jax.pretrained.known import KNOWN
from mapo_jax.run import sources
from mapo_jax.text import load_tokenizer
from tests import small
from tests.pretrained.pretrained_test import ODD, equal, rewrite

TEXT = small.replace(
    small.CONFIG,
    max_positions=64,
    image_token=30,
    image_frame=(28, 29),
    rope_sections=(2, 1, 1),
)
PLAIN = small.replace(TEXT, embed_dim=32, qk_norm=False)
TOWER = model.VisionConfig(
    num_layers=3,
    embed_dim=16,
    num_heads=2,
    mlp_dim=32,
    patch=2,
    merge=2,
    activation="quick_gelu",
    mean=(0.5, 0.25, 0.125),
    deviation=(0.5, 0.75, 1.0),
    min_pixels=64,
    max_pixels=4096,
)
POLICIES = {
    "qwen2_vl": small.replace(PLAIN, vision=TOWER),
    "qwen2_5_vl": small.replace(
        PLAIN,
        tie_embeddings=True,
        windows=(0, 5),
        vision=small.replace(
            TOWER,
            mlp_dim=20,
            norm="rms",
            is_gated=True,
            activation="silu",
            window=6,
            full_layers=(1,),
        ),
    ),
    "qwen3_vl": small.replace(
        TEXT,
        qkv_bias=False,
        rope_theta=5e6,
        rope_interleaved=True,
        vision=small.replace(
            TOWER, activation="gelu_tanh", patch_bias=True, position_table=3, deepstack=(0, 2)
        ),
    ),
}
RAW = POLICIES["qwen3_vl"]
each_family = pytest.mark.parametrize("kind", POLICIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small policies, saved once."""
    where = tmp_path_factory.mktemp("policies")
    for kind, config in POLICIES.items():
        pretrained.save(where / kind, config, small.params(config), None)
    return where


@pytest.fixture
def saved(tmp_path, folders):
    """Returns a folder of its own with a small policy, and its tensors."""

    def save(kind):
        folder = shutil.copytree(folders / kind, tmp_path / "a")
        return folder, safetensors.numpy.load_file(folder / "model.safetensors")

    return save


@pytest.fixture
def written(tmp_path):
    """Returns a folder with the same but its tensors, and its fields of config.json."""

    def write(kind):
        configs.write(tmp_path, POLICIES[kind], "float32", (), "")
        return tmp_path, json.loads((tmp_path / "config.json").read_text())

    return write


def write(folder, fields, name="config.json"):
    (folder / name).write_text(json.dumps(fields))


def lines(folder):
    with pytest.raises(errors.UserError) as caught:
        pretrained.read_config(folder)
    return [line.removeprefix(f"policy.init={folder}: ") for line in caught.value.lines]


# ---- weights ----


@each_family
def test_a_policy_comes_back_bit_for_bit(kind, saved):
    folder, _ = saved(kind)
    config, params, _ = pretrained.load(folder)
    assert config == POLICIES[kind]
    equal(params, small.params(config))


BLOCK = {
    "norm1.weight": (16,),
    "norm2.weight": (16,),
    "attn.qkv.weight": (48, 16),
    "attn.qkv.bias": (48,),
    "attn.proj.weight": (16, 16),
    "attn.proj.bias": (16,),
}
NORMS = {"norm1.bias": (16,), "norm2.bias": (16,)}
# The tensors of a block, and those beside the blocks.
TENSORS = {
    "qwen2_vl": (
        BLOCK
        | NORMS
        | {
            "mlp.fc1.weight": (32, 16),
            "mlp.fc1.bias": (32,),
            "mlp.fc2.weight": (16, 32),
            "mlp.fc2.bias": (16,),
        },
        {
            "patch_embed.proj.weight": (16, 3, 2, 2, 2),
            "merger.ln_q.weight": (16,),
            "merger.ln_q.bias": (16,),
            "merger.mlp.0.weight": (64, 64),
            "merger.mlp.0.bias": (64,),
            "merger.mlp.2.weight": (32, 64),
            "merger.mlp.2.bias": (32,),
        },
    ),
    "qwen2_5_vl": (
        BLOCK
        | {
            "mlp.gate_proj.weight": (20, 16),
            "mlp.gate_proj.bias": (20,),
            "mlp.up_proj.weight": (20, 16),
            "mlp.up_proj.bias": (20,),
            "mlp.down_proj.weight": (16, 20),
            "mlp.down_proj.bias": (16,),
        },
        {
            "patch_embed.proj.weight": (16, 3, 2, 2, 2),
            "merger.ln_q.weight": (16,),
            "merger.mlp.0.weight": (64, 64),
            "merger.mlp.0.bias": (64,),
            "merger.mlp.2.weight": (32, 64),
            "merger.mlp.2.bias": (32,),
        },
    ),
    "qwen3_vl": (
        BLOCK
        | NORMS
        | {
            "mlp.linear_fc1.weight": (32, 16),
            "mlp.linear_fc1.bias": (32,),
            "mlp.linear_fc2.weight": (16, 32),
            "mlp.linear_fc2.bias": (16,),
        },
        {
            "patch_embed.proj.weight": (16, 3, 2, 2, 2),
            "patch_embed.proj.bias": (16,),
            "pos_embed.weight": (9, 16),
        }
        | {
            f"{merger}.{name}": shape
            for merger, norm in (
                ("merger", 16),
                ("deepstack_merger_list.0", 64),
                ("deepstack_merger_list.1", 64),
            )
            for name, shape in {
                "norm.weight": (norm,),
                "norm.bias": (norm,),
                "linear_fc1.weight": (64, 64),
                "linear_fc1.bias": (64,),
                "linear_fc2.weight": (16, 64),
                "linear_fc2.bias": (16,),
            }.items()
        },
    ),
}


@each_family
def test_names_and_shapes_are_those_of_transformers(kind, saved):
    _, tensors = saved(kind)
    tower, decoder = "visual.", "model."
    if kind == "qwen3_vl":
        tower, decoder = "model.visual.", "model.language_model."
    block, ends = TENSORS[kind]
    expected = ends | {f"blocks.{i}.{name}": x for i in range(3) for name, x in block.items()}
    found = {name: x.shape for name, x in tensors.items() if name.startswith(tower)}
    assert found == {tower + name: shape for name, shape in expected.items()}
    others = {*tensors} - {*found, "lm_head.weight"}
    assert f"{decoder}layers.1.self_attn.q_proj.weight" in others
    assert f"{decoder}embed_tokens.weight" in others
    assert all(name.startswith(decoder) for name in others)


def test_the_axes_of_the_patches_and_of_the_fused_heads(saved):
    _, tensors = saved("qwen2_5_vl")
    params = small.params(POLICIES["qwen2_5_vl"])["vision"]
    kernel = params["patches"]["kernel"]  # colour, frame, pixel, D
    theirs = tensors["visual.patch_embed.proj.weight"]
    np.testing.assert_array_equal(theirs[5, 2, 1, 1, 0], kernel[2, 1, 2 * 1 + 0, 5])
    qkv = params["layers"]["qkv"]  # layer, D, which, head, H
    theirs = tensors["visual.blocks.2.attn.qkv.weight"]
    np.testing.assert_array_equal(theirs[2 * 16 + 8 * 1 + 3], qkv["kernel"][2, :, 2, 1, 3])
    theirs = tensors["visual.blocks.2.attn.qkv.bias"]
    np.testing.assert_array_equal(theirs[1 * 16 + 8 * 1 + 3], qkv["bias"][2, 1, 1, 3])


@each_family
def test_the_other_form_of_names_is_read(kind, saved):
    """Raw state dicts have long names; Qwen3-VL's folders have them too."""
    folder, tensors = saved(kind)
    rename = vision.plain if kind == "qwen3_vl" else functools.partial(vision.stored, RAW)
    named = {rename(name): x for name, x in tensors.items()}
    assert not {*named} & {*tensors} - {"lm_head.weight"}
    rewrite(folder, named)
    equal(pretrained.load(folder)[1], small.params(POLICIES[kind]))


@each_family
def test_each_device_reads_its_part_of_the_files(kind, saved):
    folder, _ = saved(kind)
    config, mesh = POLICIES[kind], sharding.make_mesh(2, 2, 2)
    params = pretrained.load_params(folder, config, mesh=mesh)
    equal(params, small.params(config))
    expected = sharding.shardings(mesh, model.logical_axes(config))
    for x, where in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert x.sharding.is_equivalent_to(where, x.ndim)
    # Heads are split, which are neither the first nor the last of the fused axes.
    assert params["vision"]["layers"]["qkv"]["kernel"].sharding.spec[3] == "tensor"


def test_a_tensor_of_the_tower_that_is_missing_is_named(saved):
    folder, tensors = saved("qwen3_vl")
    del tensors["model.visual.deepstack_merger_list.1.norm.bias"]
    rewrite(folder, tensors)
    with pytest.raises(errors.UserError, match=r"1 of \d+ tensors are missing: visual\.deepstack"):
        pretrained.load(folder)


def test_adapters_are_merged_beside_a_tower_that_stays(tmp_path):
    config = POLICIES["qwen2_5_vl"]
    with_adapters = small.replace(config, lora_rank=2, lora_alpha=4.0, lora_targets=("q", "down"))
    params = small.params(with_adapters)
    merged, plain = model.merge_adapters(params, with_adapters)
    assert plain == config
    pretrained.save(tmp_path / "a", plain, merged, None)
    read = pretrained.load(tmp_path / "a")[1]
    equal(read["vision"], params["vision"])
    kernels = [x["layers"]["q"]["kernel"] for x in (read, params)]
    assert not np.array_equal(*kernels)


# ---- config.json ----


def flat(kind, fields):
    """As transformers wrote it before 4.52."""
    text = {**fields.get("text_config", fields)}
    for name in ("text_config", "architectures"):
        text.pop(name, None)
    return {**text, **{k: v for k, v in fields.items() if k != "text_config"}}


def nested(kind, fields):
    """As transformers 4.57 writes it."""
    fields = flat(kind, fields)
    outer = ("architectures", "model_type", "vision_config", *vision._TOKENS)
    text = {k: v for k, v in fields.items() if k not in outer} | {"model_type": f"{kind}_text"}
    return {k: v for k, v in fields.items() if k in outer} | {"text_config": text}


def fifth(kind, fields):
    """As transformers 5 writes it: another name of RoPE, tied at the top alone."""
    fields = nested(kind, fields)
    text, tower = fields["text_config"], fields["vision_config"]
    rope = {k: v for k, v in text.pop("rope_scaling").items() if k != "type"}
    rope |= {"rope_theta": text.pop("rope_theta"), "rope_type": "default"}
    tied = text.pop("tie_word_embeddings")
    tower |= {
        "model_type": f"{kind}_vision",
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "axial"},
    }
    return fields | {"text_config": text | {"rope_parameters": rope}, "tie_word_embeddings": tied}


def renamed(*kinds):
    """Names M-RoPE in another way."""

    def write(kind, fields):
        text = fields.get("text_config", fields)
        text["rope_scaling"].pop("type", None)
        text["rope_scaling"] |= dict(zip(("type", "rope_type"), kinds, strict=False))
        text["rope_scaling"].pop("mrope_interleaved", None)
        return fields

    return write


STYLES = {
    "flat": flat,
    "nested": nested,
    "5": fifth,
    "mrope": renamed("mrope"),
    "default": renamed("default", "default"),
    "both": renamed("mrope", "default"),
    "neither": renamed(),
}


@pytest.mark.parametrize(("kind", "style"), [*itertools.product(POLICIES, STYLES)])
def test_every_style_of_config_is_read(kind, style, written):
    folder, fields = written(kind)
    write(folder, STYLES[style](kind, fields))
    assert pretrained.read_config(folder) == POLICIES[kind]


def test_the_written_styles(written):
    """Every version of transformers, and vLLM, reads these."""
    _, fields = written("qwen2_5_vl")
    assert "text_config" not in fields
    assert fields["rope_scaling"] == {"type": "mrope", "mrope_section": [2, 1, 1]}


def test_the_written_style_of_qwen3(written):
    _, fields = written("qwen3_vl")
    assert fields["text_config"]["rope_scaling"] == {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    }
    assert fields["text_config"]["model_type"] == "qwen3_vl_text"
    assert "hidden_size" not in fields


HUB = {  # config.json of some policies there
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "image_token_id": 151655,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 128000,
        "max_window_layers": 28,
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vision_config": {
            "hidden_size": 1280,
            "in_chans": 3,
            "spatial_patch_size": 14,
            "tokens_per_second": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vocab_size": 152064,
    },
    "Qwen/Qwen2-VL-2B": {
        "model_type": "qwen2_vl",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "max_position_embeddings": 32768,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vision_config": {"hidden_size": 1536, "in_chans": 3, "spatial_patch_size": 14},
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vocab_size": 151936,
    },
    "Qwen/Qwen3-VL-8B-Instruct": {
        "model_type": "qwen3_vl",
        "text_config": {
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "max_position_embeddings": 262144,
            "model_type": "qwen3_vl_text",
            "num_attention_heads": 32,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
            "rope_scaling": {"rope_type": "default"},
            "rope_theta": 5000000,
            "vocab_size": 151936,
        },
        "vision_config": {"out_hidden_size": 4096},
    },
}


@pytest.mark.parametrize("name", HUB)
def test_what_a_config_leaves_out_has_the_default_of_its_class(name, tmp_path):
    write(tmp_path, HUB[name])
    assert pretrained.read_config(tmp_path) == KNOWN[name]


def test_known_policies_have_the_numbers_of_their_folders():
    for name, config in KNOWN.items():
        assert configs.to_fields(config), name
    sizes = {"Qwen2-VL-7B": 675_759_104, "Qwen2.5-VL-3B-Instruct": 668_684_288}
    for name, size in sizes.items():
        tower = model.abstract_params(KNOWN[f"Qwen/{name}"])["vision"]
        assert sum(x.size for x in jax.tree.leaves(tower)) == size


# ---- preprocessor_config.json ----


@pytest.mark.parametrize(
    "size",
    [
        {"min_pixels": 100, "max_pixels": 900},
        {"size": {"shortest_edge": 100, "longest_edge": 900}},
        {"size": {"min_pixels": 100, "max_pixels": 900}},
        {"size": {"shortest_edge": 1, "longest_edge": 2}, "min_pixels": 100, "max_pixels": 900},
        {"size": {"shortest_edge": 100, "longest_edge": 900}, "min_pixels": None},
    ],
)
def test_the_size_of_pictures_under_each_of_its_names(size, written):
    folder, _ = written("qwen2_vl")
    write(folder, size, preparation.FILE)
    found = pretrained.read_config(folder).vision
    assert (found.min_pixels, found.max_pixels) == (100, 900)
    assert found.mean == (0.48145466, 0.4578275, 0.40821073)  # of the class: the file has none


def test_transformers_5_keeps_it_in_another_file(written):
    folder, _ = written("qwen3_vl")
    inner = {"image_mean": [0, 0.5, 1], "image_std": 0.25, "patch_size": 2, "merge_size": 2}
    write(folder, {"image_processor": inner}, "processor_config.json")
    found = pretrained.read_config(folder).vision
    assert (found.mean, found.deviation) == ((0.0, 0.5, 1.0), (0.25, 0.25, 0.25))
    assert (found.min_pixels, found.max_pixels) == (3136, 1_003_520)  # of the class
    write(folder, {"processor_class": "X"}, "processor_config.json")  # as transformers 4
    assert pretrained.read_config(folder) == POLICIES["qwen3_vl"]


@each_family
def test_without_it_pictures_are_prepared_as_for_the_hub_s_policies(kind, written):
    folder, _ = written(kind)
    (folder / preparation.FILE).unlink()
    found = pretrained.read_config(folder).vision
    if kind == "qwen3_vl":
        assert (found.min_pixels, found.max_pixels) == (65_536, 16_777_216)
        assert found.mean == found.deviation == (0.5, 0.5, 0.5)
    else:
        assert (found.min_pixels, found.max_pixels) == (3136, 12_845_056)
        assert found.deviation == (0.26862954, 0.26130258, 0.27577711)


def test_it_is_written_for_every_version_of_transformers(written):
    folder, _ = written("qwen2_5_vl")
    assert json.loads((folder / preparation.FILE).read_text()) == {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.25, 0.125],
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": [0.5, 0.75, 1.0],
        "max_pixels": 4096,
        "merge_size": 2,
        "min_pixels": 64,
        "patch_size": 2,
        "processor_class": "Qwen2_5_VLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 4096, "shortest_edge": 64},
        "temporal_patch_size": 2,
    }


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"do_resize": False}, "do_resize=False is not supported; True is"),
        ({"resample": 2}, "resample=2 is not supported; 3 is"),
        ({"rescale_factor": 1.0}, "rescale_factor=1.0 is not supported; 1/255 is"),
        ({"temporal_patch_size": 1}, "temporal_patch_size=1 is not supported; 2 is"),
        ({"image_mean": [0.5]}, "image_mean=[0.5] must be three numbers"),
        ({"image_std": [1, 1, 0]}, "image_std has a 0; colours are divided by it"),
        ({"min_pixels": 9000}, "min_pixels=9000 is above max_pixels=4096"),
        ({"max_pixels": "x"}, "max_pixels is x; must be a positive integer"),
    ],
)
def test_a_preparation_that_is_not_ours_is_one_line(changes, what, written):
    folder, _ = written("qwen2_vl")
    fields = json.loads((folder / preparation.FILE).read_text())
    write(folder, fields | changes, preparation.FILE)
    found = lines(folder)
    assert found[0] == f"{preparation.FILE}: {what}"
    assert len(found) == (2 if changes == {"max_pixels": "x"} else 1)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_file_is_one_line(text, written):
    folder, _ = written("qwen2_vl")
    (folder / preparation.FILE).write_text(text)
    (line,) = lines(folder)
    assert line.startswith(f"{preparation.FILE}: is broken (")
    assert line.endswith("); download it again")


def test_files_that_only_transformers_reads_go_along(tmp_path):
    """From the folder of a policy through the work directory of a run to the exported folder."""
    source, work, out = (tmp_path / name for name in ("source", "work", "out"))
    source.mkdir()
    words = {"a": 0, "<|im_end|>": 1, "<|image_pad|>": 2}
    made = huggingface.Tokenizer(huggingface.models.WordLevel(words, unk_token="a"))
    made.add_special_tokens(["<|im_end|>", "<|image_pad|>"])
    made.save(str(source / "tokenizer.json"))
    files = {
        "tokenizer_config.json": {"eos_token": "<|im_end|>"},
        "chat_template.json": {"chat_template": "{{ messages[0].content }}"},
        "video_preprocessor_config.json": {"video_processor_type": "Qwen3VLVideoProcessor"},
    }
    for name, content in files.items():
        write(source, content, name)
    config = POLICIES["qwen3_vl"]
    sources.save_description(epath.Path(work), config, load_tokenizer(str(source)))
    read, tokenizer = sources.describe(epath.Path(work), "--workdir=x", "")
    assert read == config
    assert tokenizer.picture_ids == config.picture_ids == (28, 30, 29)
    few = small.replace(config, image_frame=(28, 151_653))  # of another vocabulary
    assert few.picture_ids == (30,)
    pretrained.save_tensors(out, read, [], "float32", tokenizer)
    for name, content in files.items():
        assert json.loads((out / name).read_text()) == content
    assert (out / preparation.FILE).is_file()


# ---- what is refused ----


def test_a_tower_from_scratch_is_not_exported(tmp_path):
    config = small.replace(POLICIES["qwen2_5_vl"], image_frame=())
    with pytest.raises(errors.UserError, match=r"^--output=x: a tower from scratch cannot be exp"):
        configs.write(tmp_path, config, "float32", (), "--output=x")


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("qwen2_vl", {"model_type": "qwen3_vl_moe"}, "not supported, it would take experts; those"),
        ("qwen2_vl", {"model_type": "qwen2_5_omni"}, "it would take sound and speech; those that"),
        ("qwen2_vl", {"model_type": "qwen3_5"}, "would take layers of linear attention; those"),
        ("qwen2_vl", {"model_type": "qwen3_5_moe"}, "experts and layers of linear attention"),
        ("qwen2_vl", {"model_type": "smolvlm"}, "a SigLIP tower .* over tiles of 512 x 512"),
        ("qwen2_vl", {"model_type": "idefics3"}, "it would take a SigLIP tower"),
        ("qwen2_vl", {"model_type": "internvl"}, r"not supported; those .* qwen2_5_vl, qwen3_vl$"),
        ("qwen2_vl", {"text_config": 3}, "text_config=3 must be an object"),
        ("qwen2_vl", {"image_token_id": 40}, "image_token_id=40 must be a token below vocab_si"),
        (
            "qwen2_vl",
            {"head_dim": 16, "rope_scaling": {"type": "mrope", "mrope_section": [4, 2, 2]}},
            "head_dim=16 must be hidden_size / num_attention_heads",
        ),
        ("qwen2_vl", {"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
        ("qwen2_vl", {"hidden_act": "relu"}, "hidden_act=relu is not supported"),
        (
            "qwen2_5_vl",
            {"rope_scaling": {"type": "yarn", "mrope_section": [2, 1, 1], "factor": 4.0}},
            "rope_scaling of type yarn is not supported beside pictures; mrope and default are",
        ),
        (
            "qwen2_5_vl",
            {"rope_scaling": {"rope_type": "linear", "mrope_section": [2, 1, 1], "factor": 4.0}},
            "rope_scaling of type linear is not supported beside pictures",
        ),
        (
            "qwen2_5_vl",
            {"rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 2]}},
            r"mrope_section=\[2, 1, 2\] must be three numbers whose sum is head_dim / 2, 4",
        ),
        (
            "qwen2_5_vl",
            {"rope_scaling": {"type": "mrope"}},
            r"mrope_section=\[16, 24, 24\] must be three numbers",
        ),
        (
            "qwen2_5_vl",
            {
                "rope_scaling": {
                    "type": "mrope",
                    "mrope_section": [2, 1, 1],
                    "partial_rotary_factor": 0.5,
                }
            },
            "partial_rotary_factor is not supported",
        ),
        ("qwen3_vl", {"text_config.rope_theta": None}, "rope_theta is missing; transformers 4 tak"),
        ("qwen3_vl", {"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
    ],
)
def test_what_cannot_be_computed_is_one_line(kind, changes, what, written):
    folder, fields = written(kind)
    for name, value in changes.items():
        *outer, name = name.split(".")
        inner = fields[outer[0]] if outer else fields
        inner[name] = value
    write(folder, fields)
    with pytest.raises(errors.UserError, match=what) as caught:
        pretrained.read_config(folder)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("qwen2_vl", {"hidden_size": 16}, "hidden_size=16 must be the decoder's hidden_size, 32"),
        ("qwen2_vl", {"mlp_ratio": 2.5}, "mlp_ratio is 2.5; must be a positive integer"),
        ("qwen2_vl", {"temporal_patch_size": 1}, "temporal_patch_size=1 is not supported; 2 is"),
        ("qwen2_vl", {"in_channels": 1}, "in_channels=1 is not supported; 3 is"),
        ("qwen2_vl", {"num_heads": 3}, "num_heads=3 must divide a quarter of the tower's width"),
        ("qwen2_vl", {"patch_size": 4}, "patch_size is 4 here and 2 in preprocessor_config.json; "),
        ("qwen2_vl", {"spatial_merge_size": 1}, "merge_size is 1 here and 2 in preprocessor_con"),
        ("qwen2_vl", {"hidden_act": "gelu"}, "hidden_act=gelu is not supported; silu, gelu_pyt"),
        ("qwen2_vl", {"rope_parameters": {"rope_theta": 5.0}}, "rope_theta=5.0 is not supported"),
        ("qwen2_5_vl", {"out_hidden_size": 64}, "out_hidden_size=64 must be the decoder's hidden"),
        ("qwen2_5_vl", {"window_size": 3}, "window_size=3 must be 4 or more"),
        ("qwen2_5_vl", {"fullatt_block_indexes": 7}, "fullatt_block_indexes=7 must be a list of"),
        ("qwen3_vl", {"num_position_embeddings": 8}, "num_position_embeddings=8 must be a square"),
        ("qwen3_vl", {"deepstack_visual_indexes": [2, 0]}, "must rise and be below 3"),
        ("qwen3_vl", {"deepstack_visual_indexes": [3]}, "must rise and be below 3"),
        ("qwen3_vl", {"deepstack_visual_indexes": [0, 1, 2]}, "are more than the decoder's layers"),
    ],
)
def test_a_tower_that_cannot_be_computed_is_one_line(kind, changes, what, written):
    folder, fields = written(kind)
    write(folder, fields | {"vision_config": fields["vision_config"] | changes})
    (line,) = lines(folder)
    assert line.startswith("config.json: vision_config: ")
    assert what in line


@each_family
def test_no_field_of_another_type_is_a_traceback(kind, written, tmp_path):
    folder, fields = written(kind)
    prepared = json.loads((folder / preparation.FILE).read_text())
    text = fields.get("text_config", fields)
    names = [*vision.FAMILIES[kind].vision_defaults, "rope_parameters"]
    tops = [*vision._TOKENS, "text_config", "vision_config", "tie_word_embeddings"]
    ropes = ["type", "rope_type", "mrope_section", "rope_theta"]
    for odd in ODD:
        cases = [fields | {"vision_config": fields["vision_config"] | {k: odd}} for k in names]
        cases += [fields | {k: odd} for k in tops]
        for name in ropes:
            other = text | {"rope_scaling": text["rope_scaling"] | {name: odd}}
            cases.append(fields | {"text_config": other})
        for case in cases:
            mistakes = []
            config = configs.from_fields(case, mistakes)
            assert config is not None or mistakes
            assert mistakes or hash(config)
        for name in prepared:
            write(tmp_path, prepared | {name: odd}, preparation.FILE)
            preparation.read(tmp_path, [])
    for odd in ("[]", "{", '"x"', "null"):
        (tmp_path / preparation.FILE).write_text(odd)
        preparation.read(tmp_path, [])


def test_a_tower_that_no_family_has_is_refused(tmp_path):
    for changes in ({"norm": "rms"}, {"mlp_dim": 40}, {"window": 4}):
        config = POLICIES["qwen2_vl"]
        config = small.replace(config, vision=small.replace(config.vision, **changes))
        with pytest.raises(errors.UserError, match=r"none of llama, .* this architecture"):
            pretrained.save(tmp_path / "a", config, small.params(config), None)


# ---- transformers, if its saved outputs are at hand ----


@each_family
def test_a_folder_of_transformers_comes_back(kind, tmp_path):
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("set MAPO_JAX_DATA to a folder with oracles/vl/*/{config.json,...}")
    folder = pathlib.Path(os.environ["MAPO_JAX_DATA"]) / "oracles" / "vl" / kind
    config, params, _ = pretrained.load(folder)
    assert (config.image_token, config.image_frame) == (505, (503, 504))
    pretrained.save(tmp_path / "a", config, params, None)
    assert pretrained.read_config(tmp_path / "a") == config
    before, after = (
        safetensors.numpy.load_file(x / "model.safetensors") for x in (folder, tmp_path / "a")
    )
    assert {*before} == {*after}
    for name, x in before.items():
        np.testing.assert_array_equal(after[name], x)
