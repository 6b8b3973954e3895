"""Every mistake in a configuration is one line, and all are found at once."""

import dataclasses
import importlib.util
import json
import typing

import jax
import pytest
from ml_collections import ConfigDict

from experiments import arithmetic, common, countdown, diagrams, emoset, geometry3k, gsm8k, jsonl
from mapo_jax import errors
from mapo_jax.commands import plan
from mapo_jax.config import Config, Pair, from_config_dict, show, to_dict
from mapo_jax.run import checks
from tests.tasks import geometry3k_test


@pytest.fixture(autouse=True)
def _in_root(pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)  # experiments name paths relative to it


def make(changes: dict | None = None, device_count: int = 1) -> list[str]:
    """Returns the mistakes in arithmetic:tiny after `changes` of its keys."""
    tree = arithmetic.get_config("tiny")
    with tree.unlocked():
        tree.task.options = ConfigDict({"train_size": 9, "eval_size": 9})  # quick to make
    for key, value in (changes or {}).items():
        group, _, name = key.rpartition(".")
        node = tree[group] if group else tree
        with tree.unlocked():
            node[name] = value
    return checks.validate(from_config_dict(tree), device_count)


@pytest.mark.parametrize("device_count", [1, 2, 8])
def test_experiment_has_no_mistakes(device_count):
    assert make(device_count=device_count) == []


@pytest.mark.parametrize(
    "module", [arithmetic, countdown, diagrams, emoset, geometry3k, gsm8k, jsonl]
)
@pytest.mark.parametrize("presets", ["", "tiny"])
def test_experiments_are_whole_and_hashable(module, presets):
    config = from_config_dict(module.get_config(presets))
    assert hash(config) == hash(from_config_dict(module.get_config(presets)))
    assert module.PRESETS.keys() >= {"tiny"}


@pytest.mark.parametrize("presets", ["", "gpu_80gb", "grpo_paper,gpu_80gb", "dapo_paper,group_8"])
def test_emoset_is_the_papers_run(presets):
    config = from_config_dict(emoset.get_config(presets))
    is_its_size = "gpu_80gb" not in presets
    group = 8 if "group_8" in presets else 12
    assert (config.batch.prompts, config.batch.group) == (512 if is_its_size else 128, group)
    assert config.batch.microbatch == (1, group)
    assert config.steps * config.batch.prompts == 60 * 512
    assert config.algorithm.advantage == ("grpo" if "paper" in presets else "mapo")
    assert config.algorithm.beta == (0 if "dapo" in presets else 0.01)
    assert (config.rollout.top_p, config.eval.temperature, config.eval.top_p) == (0.99, 0.5, 0.95)
    assert config.images.min_pixels == 262_144
    assert (config.images.max_pixels == 4_194_304) is is_its_size


def test_tiny_emoset_has_no_mistakes(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / "fear").mkdir(parents=True)
        (tmp_path / part / "fear" / "1.jpg").write_bytes(b"not looked at yet")
    tree = emoset.get_config("tiny")
    tree.data.path = str(tmp_path)
    tree.tokenizer.path = "mapo_jax/tasks/arithmetic.model"
    assert checks.validate(from_config_dict(tree), 2) == []


def test_geometry3k_tiny_has_no_mistakes(tmp_path):
    geometry3k_test.five(tmp_path)
    tree = geometry3k.get_config("tiny")
    tree.data.path = str(tmp_path)
    tree.tokenizer.path = arithmetic.get_config().tokenizer.path
    assert checks.validate(from_config_dict(tree), 1) == []
    tree.task.options.answers = "letters"
    (line,) = checks.validate(from_config_dict(tree), 1)
    assert line == "task.options.answers=letters: must be free or choices"


def test_rows_of_the_paper_fit_each_machine():
    assert geometry3k.get_config().to_dict() == geometry3k.get_config("mapo_paper").to_dict()
    for rows, group in (("grpo_paper", 12), ("dapo_paper,group_8", 8)):
        for machine, microbatch in (
            ("", (1, group)),
            ("gpu_80gb", (2, group)),
            ("v5e_64", (1, group // 2)),
        ):
            batch = geometry3k.get_config(f"{rows},{machine}").batch
            assert (batch.group, batch.microbatch) == (group, microbatch)


def test_dataclasses_mirror_the_tree():
    """Dataclasses and tree have the same knobs."""
    tree = json.loads(common.get_config().to_json())

    def keys(cls):
        return {
            f.name: keys(f.type) if dataclasses.is_dataclass(f.type) else None
            for f in dataclasses.fields(cls)
        }

    def names(node):
        return {k: names(v) if v and isinstance(v, dict) else None for k, v in node.items()}

    assert keys(Config) == names(tree)


def test_every_number_has_limits():
    def unlimited(cls, prefix=""):
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            plain = hint.__origin__ if hasattr(hint, "__metadata__") else hint
            if dataclasses.is_dataclass(plain):
                yield from unlimited(plain, f"{prefix}{name}.")
            elif plain in (int, float, Pair) and plain is hint:
                yield prefix + name

    assert list(unlimited(Config)) == []


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("seed", -1, ">= 0 and < 2**32"),
        ("steps", -1, ">= 0"),
        ("data.max_prompt_tokens", 0, ">= 1"),
        ("policy.head_dim", 15, "even"),
        ("policy.rope_theta", 0.0, "> 0"),
        ("policy.norm_eps", float("nan"), "finite"),
        ("warmup.learning_rate", float("inf"), "finite"),
        ("batch.prompts", 0, ">= 1"),
        ("batch.group", 1, "advantage would be 0"),
        ("batch.microbatch", (0, 4), "p >= 1"),
        ("batch.epochs", 0, ">= 1"),
        ("rollout.temperature", 0.0, "> 0"),
        ("rollout.top_p", 0.0, "> 0 and <= 1"),
        ("rollout.top_p", 1.1, "> 0 and <= 1"),
        ("rollout.top_k", -1, "0: all"),
        ("algorithm.beta", -0.1, ">= 0"),
        ("algorithm.clip_low", 1.1, "<= 1"),
        ("algorithm.clip_low", -0.1, ">= 0"),
        ("algorithm.clip_high", -0.1, ">= 0"),
        ("algorithm.clip_dual", 1.0, "> 1"),
        ("optimizer.b2", 1.0, "< 1"),
        ("mesh.fsdp", 0, "-1 for the rest"),
        ("eval.every", 0, ">= 1"),
        ("checkpoint.keep", 0, ">= 1"),
        ("compute.dtype", "float23", "did you mean float32?"),
        ("compute.matmul_precision", "hihgest", "did you mean highest?"),
        ("algorithm.aggregation", "token_maen", "did you mean token_mean?"),
        ("algorithm.old_logps", "rescore", "did you mean rescored?"),
        ("algorithm.advantage", "maop", "did you mean mapo?"),
        ("algorithm.truncated", "maks", "did you mean mask?"),
        ("algorithm.surrogate", "cliped", "did you mean clipped?"),
        ("algorithm.kl", "k4", "one of k1, k2, k3"),
        ("algorithm.entropy", -0.1, ">= 0"),
        ("algorithm.overlong_penalty", -1.0, ">= 0"),
        ("algorithm.overlong_buffer", 0.0, "> 0 and <= 1"),
        ("dynamic.max_tries", -1, "0: off"),
        ("dynamic.low", 1.0, "< 1"),
        ("dynamic.high", 0.0, "> 0 and <= 1"),
        ("log.console", "richer", "did you mean rich?"),
        ("profile.steps", "10", "must be A:B"),
        ("profile.steps", "0:2", "1 <= A < B"),
        ("profile.steps", "2:2", "1 <= A < B"),
        ("profile.steps", "-1:2", "1 <= A < B"),
        ("task.name", "arithmetics", "did you mean arithmetic?"),
        ("batch.minibatch_prompts", 5, "must divide batch.prompts=16; try 4"),
        ("rollout.chunks", 3, "must divide batch.prompts=16; try 2"),
        ("rollout.width", 9, "at most batch.group=8"),
        ("task.reward", "missing.py:reward", "cannot read missing.py"),
        ("algorithm.advantage", "missing.py:fn", "cannot read missing.py"),
        ("algorithm.surrogate", "missing.py:fn", "cannot read missing.py"),
        ("tokenizer.path", "missing.model", "cannot be read"),
        ("tokenizer.path", "", "SentencePiece model"),
        ("tokenizer.path", "pyproject.toml", "not a SentencePiece model"),
        ("policy.init", "Qwen/Qwen2.5-0.5B-Instruct", "hub cannot give it"),
        ("data.too_long", "cut", "must be one of drop, truncate"),
        ("data.solve_rate", "0.2", "LOW:HIGH"),
        ("data.solve_rate", "0.8:0.2", "LOW <= HIGH"),
        ("data.solve_rate", "0.2:1.5", "HIGH <= 1"),
        ("data.solve_prompts", 0, ">= 1"),
        ("lora.rank", -1, ">= 0"),
        ("eval.samples", 0, ">= 1"),
        ("eval.temperature", 0.0, "> 0"),
    ],
)
def test_one_mistake_is_one_line(key, value, says):
    lines = make({key: value})
    about = [line for line in lines if line.startswith(f"{key}={show(value)}: ")]
    assert len(about) == 1
    assert says in about[0]
    assert "\n" not in about[0]
    assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize("rate", ["", ".2:.8", "0.2:0.8", "0:1", "0.5:0.5"])
def test_rates_are_two_shares(rate):
    assert make({"data.solve_rate": rate}) == []


def test_float16_is_not_for_tpus():
    tree = arithmetic.get_config("tiny")
    tree.compute.dtype = "float16"
    tree.task.options.update(train_size=9, eval_size=9)
    config = from_config_dict(tree)
    assert checks.validate(config, 1, platform="gpu") == []
    (line,) = checks.validate(config, 1, platform="tpu")
    assert line == ("compute.dtype=float16: TPUs multiply in bfloat16; take bfloat16 or float32")


def test_all_mistakes_come_at_once():
    lines = make({"steps": -1, "rollout.top_p": 2.0, "task.name": "x", "tokenizer.path": "y"})
    assert [line.partition("=")[0] for line in lines] == [
        "steps",
        "rollout.top_p",
        "task.name",
        "tokenizer.path",
    ]


def test_microbatch_divides_both_axes():
    lines = make({"batch.microbatch": (3, 5)})
    assert len(lines) == 2
    assert "batch.microbatch=(3, 5): must divide batch.minibatch_prompts=8" in lines[0]
    assert "batch.group=8" in lines[1]


def test_options_are_checked_where_they_are_used():
    lines = make(
        {
            "algorithm.advantage_options": ConfigDict({"dof": 1}),
            "task.options": ConfigDict({"level": (2,)}),
        }
    )
    assert any(line.startswith("algorithm.advantage_options.dof=1: ") for line in lines)
    assert any(line.startswith("task.options.level=(2,): ") for line in lines)
    assert len(lines) == 2


def test_mapo_refuses_a_reward_below_zero(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def fn(response, example):\n"
        "    return {'reward': -1.0, 'success': False, 'parts': {}}\n"
        "fn.range = (-1.0, 1.0)\n",
        encoding="utf-8",
    )
    (line,) = make({"task.reward": f"{file}:fn"})
    assert line.startswith("algorithm.advantage=mapo: ")
    assert make({"task.reward": f"{file}:fn", "algorithm.advantage": "grpo"}) == []


def test_a_reward_is_tried_only_on_a_task_that_could_be_made(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def fn(response, example):\n    return response[0]\n", encoding="utf-8")
    (line,) = make({"task.reward": f"{file}:fn"})
    assert line.startswith("task.reward: fn raised IndexError: ")
    (line,) = make({"task.reward": f"{file}:fn", "data.path": "x"})
    assert line.startswith("data.path=x: ")


def test_a_profile_wandb_and_trackio_are_taken(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert make({"profile.steps": "10:12", "log.wandb": "p", "log.trackio": "p"}) == []


@pytest.mark.parametrize(
    ("changes", "device_count", "says"),
    [
        ({"mesh.data": 2}, 8, "must multiply to the 8 devices"),
        ({"mesh.fsdp": -1}, 8, "at most one may be -1"),
        ({"mesh.tensor": 3}, 3, "must divide policy.num_kv_heads=2; try 1"),
        ({"mesh.fsdp": 3}, 3, "must divide policy.embed_dim=64; try 1"),
        ({}, 3, "batch.prompts=16: must be a multiple of the 3 batch shards"),
        (
            {"batch.minibatch_prompts": 4, "batch.microbatch": (4, 8)},
            8,
            "batch.minibatch_prompts=4: must be a multiple of the 8 batch shards",
        ),
        (
            {"batch.prompts": 48, "batch.minibatch_prompts": 48, "batch.microbatch": (8, 8)},
            4,
            "batch.microbatch=(8, 8): must divide the 12 prompts of a minibatch on each of the 4 "
            "batch shards (mesh.data=4 x mesh.fsdp=1) with its first number; try 6",
        ),
        ({"warmup.batch": 12}, 8, "warmup.batch=12: must be a multiple of the 8 batch shards"),
        ({"eval.batch": 12}, 8, "eval.batch=12: must be a multiple of the 8 batch shards"),
        ({"rollout.chunks": 4}, 8, "rollout.chunks=4: must leave each chunk a multiple of the 8"),
    ],
)
def test_mesh_mistakes(changes, device_count, says):
    assert any(says in line for line in make(changes, device_count))


def test_a_microbatch_is_of_one_shard():
    """The same experiment fits one device and sixty-four."""
    changes = {"batch.prompts": 128, "batch.minibatch_prompts": 64, "batch.microbatch": (8, 8)}
    changes |= {"warmup.batch": 64, "eval.batch": 64}
    for shards in (1, 8, 16, 64):
        assert make(changes, shards) == []


def test_warmup_batch_is_free_without_a_warmup():
    assert make({"warmup.batch": 12, "warmup.steps": 0}, 8) == []


def test_wrong_trees_are_refused_whole():
    tree = arithmetic.get_config("tiny").unlock()
    tree.bach = ConfigDict({"prompts": 3})
    del tree.eval.every
    tree.batch.update(ConfigDict({"microbatch": (1, 2, 3)}))
    with tree.ignore_type():
        tree.steps = 2.5
        tree.mesh = 3
    with pytest.raises(errors.UserError) as caught:
        from_config_dict(tree)
    assert caught.value.lines == (
        "bach: no such key; did you mean batch?",
        "steps=2.5: must be of type int",
        "batch.microbatch=(1, 2, 3): must be of type tuple of two ints",
        "mesh=3: must be a group of keys",
        "eval.every: missing; start from experiments.common.get_config()",
    )


def test_ints_become_floats_and_lists_tuples():
    tree = to_dict(from_config_dict(arithmetic.get_config("tiny")))
    tree["algorithm"]["beta"] = 0
    tree["batch"]["microbatch"] = [8, 4]
    tree["task"]["options"] = {"levels": [2, 3]}
    config = from_config_dict(tree)
    assert isinstance(config.algorithm.beta, float)
    assert config.batch.microbatch == (8, 4)
    assert config.task.options == (("levels", (2, 3)),)
    assert to_dict(config) == tree  # lists, as in JSON
    hash(config)


def test_validate_compiles_nothing():
    events = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
    assert make() == []
    assert not [name for name in events if "compile" in name]


def quick(presets: str) -> Config:
    """Returns arithmetic with presets and few examples: to make 20,000 takes a second."""
    tree = arithmetic.get_config(presets)
    tree.task.options.update(train_size=9, eval_size=9)
    return from_config_dict(tree)


METHODS = [name for name in common.METHODS if name != "paper_eval"]  # which sets no method


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_valid_configuration(name):
    """Applies each method alone, over any other setting, and with tiny."""
    alone = quick(name)
    assert checks.validate(alone, 1) == []
    tree = arithmetic.get_config()
    with tree.unlocked():
        for group in (
            tree.algorithm,
            tree.dynamic,
            *([tree.optimizer] if "_paper" in name else []),
        ):
            for key, value in group.items():
                other = {str: "other", float: 0.125, int: 7, bool: True, type(None): 0.125}
                group[key] = other[type(value)] if type(value) in other else ConfigDict({"x": 1})
        if "_paper" in name:
            tree.rollout.temperature, tree.rollout.top_p, tree.rollout.top_k = 0.5, 0.5, 9
            tree.batch.epochs = 3
        common.METHODS[name](tree)
    after = from_config_dict(tree)
    assert (after.algorithm, after.dynamic) == (alone.algorithm, alone.dynamic)
    if "_paper" in name:
        assert (after.optimizer, after.rollout) == (alone.optimizer, alone.rollout)
        assert (after.batch, after.data) == (alone.batch, alone.data)
    if "_paper" in name:
        assert (
            alone.algorithm
            == from_config_dict(arithmetic.get_config(name.replace("_paper", ""))).algorithm
        )
    else:
        small = quick(f"tiny,{name}")
        assert small == quick(f"{name},tiny")
        assert checks.validate(small, 8) == []


def test_methods_are_those_of_their_papers():
    """Compares the numbers that define a method with numbers typed again from the papers."""
    get = {name: from_config_dict(arithmetic.get_config(name)) for name in METHODS}
    assert get["mapo"].algorithm.advantage == "mapo"
    assert (get["mapo"].algorithm.beta, get["mapo"].algorithm.kl) == (0.01, "k3")
    sizes = {  # prompts, group, updates per batch, tokens of a response
        name.removesuffix("_paper"): (
            c.batch.prompts,
            c.batch.group,
            c.batch.prompts // c.batch.minibatch_prompts,
            c.rollout.max_new_tokens,
        )
        for name, c in get.items()
        if "_paper" in name
    }
    assert sizes == {
        "mapo": (512, 12, 4, 2048),
        "grpo": (16, 64, 1, 1024),
        "dapo": (512, 16, 16, 20_480),
        "gspo": (512, 16, 4, 8192),
        "cispo": (512, 16, 16, 20_480),
        "dr_grpo": (128, 8, 8, 3000),
        "maxrl": (256, 16, 1, 4096),
    }
    optimizers = {name: c.optimizer for name, c in get.items() if "_paper" in name}
    assert {o.learning_rate for o in optimizers.values()} == {1e-6}
    assert {name: o.schedule_steps for name, o in optimizers.items() if o.schedule_steps} == {
        "dapo_paper": 20 * 16,
        "cispo_paper": 20 * 16,
        "gspo_paper": 25 * 4,
    }
    assert (optimizers["dr_grpo_paper"].b2, optimizers["dr_grpo_paper"].weight_decay) == (0.95, 0)
    assert (get["dapo"].algorithm.clip_dual, get["mapo"].algorithm.clip_dual) == (10, 3)
    assert get["grpo"].algorithm.beta == 0.04
    clips = {name: (c.algorithm.clip_low, c.algorithm.clip_high) for name, c in get.items()}
    assert clips["dapo"] == (0.2, 0.28)
    assert clips["gspo"] == (3e-4, 4e-4)
    assert clips["mapo"] == (0.2, 0.3)
    assert clips["dr_grpo"] == (0.2, 0.2)
    assert clips["cispo"][0] == 1  # no lower bound
    assert {name for name, c in get.items() if c.dynamic.max_tries} == {
        "dapo",
        "cispo",
        "dapo_paper",
        "cispo_paper",
    }
    assert get["dapo"].algorithm.overlong_buffer * 20_480 == 4096
    assert {name: c.algorithm.aggregation for name, c in get.items() if "_" not in name} == {
        "mapo": "token_mean",
        "grpo": "sequence_mean",
        "dapo": "token_mean",
        "gspo": "sequence_mean",
        "cispo": "token_mean",
        "maxrl": "token_mean",
    }
    assert get["dr_grpo"].algorithm.aggregation == "constant"


@pytest.mark.parametrize("module", [arithmetic, countdown, diagrams, gsm8k, jsonl])
def test_the_papers_evaluation_is_a_preset_of_every_experiment(module):
    """It changes how answers are sampled and no more, whatever stands before or after it."""
    for presets in ("", "tiny", "mapo_paper"):
        plain, alone = (
            from_config_dict(module.get_config(f"{presets}{more}")) for more in ("", ",paper_eval")
        )
        sampled = {"samples": 1, "temperature": 0.5, "top_p": 0.95}
        assert alone.eval == dataclasses.replace(plain.eval, **sampled) != plain.eval
        assert alone == dataclasses.replace(plain, eval=alone.eval)
        assert alone == from_config_dict(module.get_config(f"paper_eval,{presets}"))


@pytest.mark.parametrize(
    ("module", "preset", "devices", "advantage", "numbers"),
    [  # steps, prompts, group, updates of a step, rate, tokens of a response, beta: typed again
        (gsm8k, "tenstorrent", 1, "grpo", (100, 2, 16, 1, 1e-5, 512, 0)),
        (gsm8k, "verl_05b", 2, "grpo", (116, 64, 5, 1, 3e-5, 1024, 1e-3)),
        (gsm8k, "verl_15b", 2, "grpo", (116, 64, 5, 1, 3e-5, 1024, 1e-3)),
        (gsm8k, "marin", 1, "rloo", (100, 16, 16, 1, 1e-7, 1024, 0)),
        (countdown, "lmpo", 16, "grpo", (60, 256, 8, 32, 1e-6, 1024, 0)),
    ],
)
def test_recipes_of_others_fit_their_machines(module, preset, devices, advantage, numbers):
    c = from_config_dict(module.get_config(preset))
    updates = c.batch.prompts // c.batch.minibatch_prompts
    sizes = (c.steps, c.batch.prompts, c.batch.group, updates)
    limits = (c.optimizer.learning_rate, c.rollout.max_new_tokens, c.algorithm.beta)
    assert (*sizes, *limits) == numbers
    assert c.algorithm.advantage == advantage
    assert c.algorithm.clip_low == c.algorithm.clip_high == 0.2
    architecture = plan.find_architecture(c)
    assert checks.validate(c, devices, architecture=architecture, platform="") == []


@pytest.mark.parametrize("presets", ["", *(name for name in diagrams.PRESETS if "_" in name)])
def test_diagrams_have_no_mistakes(presets):
    tree = diagrams.get_config(presets)
    tree.task.options.update(train_size=9, eval_size=9)
    assert checks.validate(from_config_dict(tree), 1) == []
