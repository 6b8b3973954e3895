"""Where policies come from, adapters beside them, and what others get of them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath

from mapo_jax import errors, model, pretrained, sharding
from mapo_jax.commands import export
from mapo_jax.run import sources
from mapo_jax.text import load_tokenizer
from tests import runs, small

TOKENIZER = "mapo_jax/tasks/arithmetic.model"


@pytest.fixture(autouse=True)
def _in_root(pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)  # paths in experiments are relative to it


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pretrained policy, as others would hand it over."""
    tokenizer = load_tokenizer(TOKENIZER)
    config = small.replace(
        small.CONFIG, vocab_size=tokenizer.vocab_size, tie_embeddings=True, qk_norm=False
    )
    path = tmp_path_factory.mktemp("pretrained") / "folder"
    pretrained.save(path, config, small.params(config), tokenizer)
    (path.parent / "reward.py").write_text(
        "def digits(response, example):\n"
        "    share = sum(map(str.isdigit, response)) / max(len(response), 1)\n"
        "    return {'reward': share, 'success': share > 0.9, 'parts': {}}\n"
    )
    return path


def micro(folder, **changes):
    """The smallest run that starts from the folder."""
    settings = {
        "policy__init": str(folder),
        "tokenizer__path": "",
        "task__reward": f"{folder.parent}/reward.py:digits",
        "warmup__steps": 0,
        "steps": 2,
    }
    return runs.micro(**settings | changes)


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def test_the_tokenizer_knows_the_tokens_of_a_picture(tmp_path):
    config = runs.micro(policy__vision__num_layers=1)
    found = sources.find(config)
    image = found.architecture.image_token
    assert found.tokenizer.encode_prompt([None, "1"])[-2:] == [image, *found.tokenizer.encode("1")]
    framed = dataclasses.replace(found.architecture, image_frame=(3, 4))
    sources.save_description(epath.Path(tmp_path), framed, found.tokenizer)
    _, tokenizer = sources.describe(epath.Path(tmp_path), "x", "")
    assert tokenizer.picture_ids == (3, image, 4)
    assert sources.find(runs.micro()).tokenizer.picture_ids == ()


def test_a_description_is_read_as_it_was_written(tmp_path):
    config = small.replace(
        small.CONFIG,
        windows=(3, 0),
        rope_scaling=model.RopeScaling(8.0, 1.0, 4.0, 64),
        lora_rank=2,
        lora_alpha=4.0,
        lora_targets=("q", "down"),
        vision=model.VisionConfig(
            num_layers=2,
            embed_dim=16,
            num_heads=2,
            mlp_dim=24,
            patch=2,
            merge=2,
            full_layers=(1,),
            mean=(0.1, 0.2, 0.3),
        ),
        image_frame=(1, 2),
    )
    tokenizer = load_tokenizer(TOKENIZER)
    sources.save_description(epath.Path(tmp_path), config, tokenizer)
    read, again = sources.describe(epath.Path(tmp_path), "--workdir=x", "")
    assert read == config
    assert hash(read) == hash(config)
    assert again.encode_prompt("1+2=") == tokenizer.encode_prompt("1+2=")
    (tmp_path / "policy" / "model.json").write_text("{")
    with pytest.raises(errors.UserError, match=r"--workdir=x: does not describe its policy"):
        sources.describe(epath.Path(tmp_path), "--workdir=x", "")


def test_a_broken_tokenizer_of_a_run_is_named_where_it_lies(tmp_path):
    sources.save_description(epath.Path(tmp_path), small.CONFIG, load_tokenizer(TOKENIZER))
    (tmp_path / "policy" / "tokenizer_config.json").write_text("{")
    with pytest.raises(errors.UserError) as caught:
        sources.describe(epath.Path(tmp_path), "--workdir=x", "")
    assert caught.value.lines[0].startswith(
        f"--workdir=x: {tmp_path}/policy: tokenizer_config.json is broken"
    )


def test_a_pretrained_policy_brings_architecture_and_tokenizer(folder):
    source = sources.find(micro(folder, policy__num_layers=7))
    assert source.folder == folder
    assert source.architecture.num_layers == small.CONFIG.num_layers
    assert source.tokenizer.vocab_size == source.architecture.vocab_size
    params = sources.start(source, jax.random.key(0), one_device(), "float32")
    jax.tree.map(np.testing.assert_array_equal, params, small.params(source.architecture))


def test_a_tokenizer_that_knows_more_than_the_policy_is_refused(folder, tmp_path):
    tokenizer = load_tokenizer(TOKENIZER)
    fewer = small.replace(small.CONFIG, vocab_size=tokenizer.vocab_size - 1)
    pretrained.save(
        tmp_path / "f",
        small.replace(fewer, qk_norm=False),
        small.params(small.replace(fewer, qk_norm=False)),
        None,
    )
    with pytest.raises(errors.UserError) as caught:
        sources.find(micro(tmp_path / "f", tokenizer__path=TOKENIZER))
    size = tokenizer.vocab_size
    assert f"the tokenizer has {size} tokens, but the policy knows {size - 1}" in str(caught.value)


@pytest.fixture(scope="module")
def adapted(folder, tmp_path_factory, pytestconfig):
    """A run that trained adapters."""
    workdir = tmp_path_factory.mktemp("adapted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pytestconfig.rootpath)
        runs.train(micro(folder, lora__rank=2, lora__targets="q,down"), workdir)
    return workdir


@pytest.mark.slow
def test_only_adapters_are_trained_and_kept(adapted, folder):
    found = sources.read_run(epath.Path(adapted), one_device(), "float32", "", "--workdir=x")
    trained, frozen = model.partition(found.params)
    assert {*trained["layers"]} == {"q_lora", "down_lora"}
    base = small.params(model.without_adapters(found.architecture))
    jax.tree.map(np.testing.assert_array_equal, frozen, base)
    assert all(np.abs(b).max() > 0 for b in jax.tree.leaves(trained))  # B was 0
    rows = runs.lines(adapted)
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == [1, 2]
    np.testing.assert_allclose([row["policy/ratio_mean"] for row in steps], 1, atol=1e-4)
    assert steps[0]["loss/kl"] < steps[1]["loss/kl"]  # from the frozen base, at first 0


@pytest.mark.slow
def test_an_export_is_the_merged_policy(adapted, tmp_path):
    found = sources.read_run(epath.Path(adapted), one_device(), "float32", "", "--workdir=x")
    assert export.run(str(adapted), str(tmp_path / "out"), "float32").endswith("float32")
    config, params, tokenizer = pretrained.load(tmp_path / "out")
    assert config == model.without_adapters(found.architecture)
    assert tokenizer.vocab_size == config.vocab_size
    tokens = small.rollouts(vocab_size=config.vocab_size).tokens[0]
    apply = jax.jit(model.apply, static_argnums=1)
    expected = apply(found.params, found.architecture, tokens)
    np.testing.assert_allclose(apply(params, config, tokens), expected, atol=1e-4)


@pytest.mark.slow
def test_a_run_of_adapters_goes_on_as_if_undisturbed(adapted, folder, tmp_path):
    config = micro(folder, lora__rank=2, lora__targets="q,down", steps=1)
    runs.train(config, tmp_path)
    runs.train(dataclasses.replace(config, steps=2), tmp_path)
    again, whole = (
        runs.timeless([row for row in runs.lines(path) if row["kind"] == "train"])
        for path in (tmp_path, adapted)
    )
    assert again == whole


@pytest.mark.slow
def test_adapters_are_no_policy_to_start_from(adapted, folder):
    with pytest.raises(errors.UserError, match=r"launch/export\.py --workdir .* --output DIR"):
        sources.find(micro(adapted))


@pytest.mark.slow
def test_open_reads_a_run_or_a_folder(adapted, folder):
    config = micro(folder)
    run = sources.open(config, epath.Path(adapted))
    assert run.name == f"step 2 of {adapted}"
    assert model.partition(run.params)[1]
    base = sources.open(config, None, str(folder))
    assert base.name == str(folder)
    assert base.architecture == model.without_adapters(run.architecture)
    with pytest.raises(errors.UserError, match="holds no checkpoint"):
        sources.open(config, epath.Path("nowhere"))


def test_the_base_of_adapters_has_the_dtype_to_compute_in(folder):
    source = sources.find(micro(folder, lora__rank=2))
    params = sources.start(source, jax.random.key(0), one_device(), "bfloat16")
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"bfloat16"}
    assert "q_lora" not in params["layers"]


def test_a_pretrained_policy_is_asked_on_the_date_of_the_run_beside_it(folder, tmp_path):
    """So its answers compare with those of the run's policy."""
    (tmp_path / "t.jinja").write_text("{{ strftime_now('%Y') }}={{ messages[0].content }}")
    config = micro(folder, tokenizer__template=str(tmp_path / "t.jinja"))
    starts = [{"time": "2001-02-03T04:05:06+00:00"}]
    (tmp_path / "run.json").write_text(json.dumps({"id": "x", "starts": starts}))

    def asked(workdir):
        found = sources.open(config, workdir, str(folder), one_device())
        return found.tokenizer.decode(found.tokenizer.encode_prompt("1+1"))

    assert asked(epath.Path(tmp_path)) == "2001=1+1"
    assert asked(epath.Path(tmp_path / "new")) == asked(None) != "2001=1+1"


def test_a_config_that_was_cut_is_one_line(folder, tmp_path, monkeypatch):
    tokenizer = load_tokenizer(TOKENIZER)
    path = epath.Path(tmp_path)
    config = small.replace(small.CONFIG, vocab_size=tokenizer.vocab_size)
    sources.save_description(path, config, tokenizer)
    monkeypatch.setattr(sources, "_restore", lambda *_: (small.params(config), 3))
    for text in (None, '{"policy": {"in', "[]", '{"policy": {}}'):
        if text is not None:
            (path / "config.json").write_text(text)
        with pytest.raises(errors.UserError, match=r"--workdir=x: its config\.json is not that of"):
            sources.read_run(path, one_device(), "float32", "", "--workdir=x")
    for text in ("[]", "{}", '{"rope_scaling": 3}', "3"):
        (path / "policy" / "model.json").write_text(text)
        with pytest.raises(errors.UserError, match="--workdir=x: does not describe its policy"):
            sources.describe(path, "--workdir=x", "")
