"""Runs evaluate, sample and export on a run, as a user calls them."""

import dataclasses
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
from etils import epath

from mapo_jax import errors, model, pretrained, rewards, sampling, sharding
from mapo_jax.commands import evaluate, exits, export, launchers, sample
from mapo_jax.rewards import remote
from mapo_jax.rollouts import pad_prompts
from mapo_jax.run import evaluation, sources, workdirs
from mapo_jax.text import load_tokenizer
from tests import runs, small

ROOT = Path(__file__).resolve().parents[2]
CONFIG = runs.micro(
    warmup__steps=0, steps=1, data__max_prompt_tokens=32, eval__samples=2, eval__problems=6
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Trains a run of one step with one more evaluation set."""
    path = tmp_path_factory.mktemp("run")
    (path / "m.jsonl").write_text(
        "".join(f'{{"input": "{i}+1=", "target": {i + 1}}}\n' for i in range(1, 5))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        runs.train(with_sets(path), path / "work")
    return path / "work"


def with_sets(path):
    sets = dataclasses.replace(CONFIG.eval, sets=f"multiarith={path}/m.jsonl")
    return dataclasses.replace(CONFIG, eval=sets)


@pytest.fixture
def config(workdir, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sharding, "make_mesh", runs.make_mesh)  # as the run, which is evaluated
    return with_sets(workdir.parent)


@pytest.fixture
def calls(monkeypatch):
    """A list with an item for each call of the sampler."""
    made, sample = [], sampling.sample
    monkeypatch.setattr(sampling, "sample", lambda *a, **k: made.append(1) or sample(*a, **k))
    return made


def summary(workdir):
    return json.loads((workdir / "evaluation.json").read_text())


def folder(workdir):
    return Path(workdir / summary(workdir)["folder"])


def read(workdir, name):
    """The rows of a set."""
    lines = (folder(workdir) / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines][1:]


@pytest.mark.slow
def test_evaluation_of_a_run(config, workdir, capsys):
    evaluate.run(config, epath.Path(workdir))
    shown = capsys.readouterr().out
    for word in ("multiarith (out of domain)", "A_T, out of domain", "pass@2", "maj@2", "greedy"):
        assert word in shown
    result = summary(workdir)
    assert result["policy"] == f"step 1 of {workdir}"
    assert result["sets"] == {"test": 6, "easy": 6, "hard": 6, "multiarith": 4}
    assert result["samples"] == 2
    assert "jax" in result["environment"]
    # The run itself measured the same policy after its last step, with the same draws.
    during = [row for row in runs.lines(workdir) if row["kind"] == "eval"][-1]
    for key, value in result["metrics"].items():
        if not key.startswith("time/"):
            assert value == pytest.approx(during[key], abs=1e-6), key
    answers = read(workdir, "multiarith")
    assert len(answers) == 4 + 4 * 2
    assert {"question", "answer", "response", "extracted", "reward", "parts", "success", "tokens",
            "finished", "mode", "problem", "sample"} <= answers[0].keys()  # fmt: skip
    assert (answers[0]["question"], answers[0]["answer"]) == ("1+1=", "2")


@pytest.mark.slow
def test_an_evaluation_goes_on(config, workdir, capsys, calls):
    evaluate.run(config, epath.Path(workdir))
    path, result = folder(workdir) / "test.jsonl", summary(workdir)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])  # killed in the middle of a line
    calls.clear()
    capsys.readouterr()
    evaluate.run(config, epath.Path(workdir))
    assert "6/44  test, greedy: 6 problems were answered before" in capsys.readouterr().out
    assert len(calls) == 1
    assert path.read_bytes() == whole
    again = summary(workdir)
    assert again == json.loads((path.parent / "evaluation.json").read_text())
    del again["metrics"]["time/eval"], result["metrics"]["time/eval"]
    assert again == result


def responses(path):
    keys = ("mode", "problem", "sample", "response", "tokens", "finished")
    header, *rows = map(json.loads, path.read_text().splitlines())
    return header, [[row[key] for key in keys] for row in rows]


def own(config, path, text):
    (path / "my.py").write_text(text)
    task = dataclasses.replace(config.task, reward=f"{path}/my.py:mine")
    return dataclasses.replace(config, task=task)


@pytest.mark.slow
def test_responses_are_kept_whatever_the_reward_does(config, workdir, tmp_path, capsys, calls):
    """It raises, then there is none for one half of them, then for all."""
    raises = "def mine(response, example):\n    raise ValueError\n"
    with pytest.raises(errors.UserError, match="mine raised ValueError"):
        evaluate.run(own(config, tmp_path, raises), epath.Path(tmp_path), str(workdir))
    assert len(calls) == 1
    (path,) = tmp_path.glob("evaluation/*/test.jsonl")
    assert len(path.read_text().splitlines()) == 1 + 6
    half = (
        "import pathlib\n"
        "def mine(response, example):\n"
        "    is_short = pathlib.Path(__file__).with_name('short').exists()\n"
        "    if is_short and len(example['answer']) > 1:\n"
        "        return {'reward': float('nan'), 'success': False, 'parts': {}}\n"
        "    return {'reward': 1.0, 'success': True, 'parts': {}}\n"
    )
    half = own(config, tmp_path, half)
    (tmp_path / "short").touch()
    capsys.readouterr()
    evaluate.run(half, epath.Path(tmp_path), str(workdir))
    remote.close()
    assert len(calls) == 8
    shown, rows = capsys.readouterr().out, read(tmp_path, "test")
    lost = {mode: [r["reward"] for r in rows if r["mode"] == mode].count(None) for mode in
            ("greedy", "sampled")}  # fmt: skip
    assert 0 < lost["greedy"] < 6
    line = f"test, greedy: {lost['greedy']} of 6 responses have no reward and count as wrong"
    assert line in shown
    metrics = summary(tmp_path)["metrics"]
    assert metrics["eval/test/invalid"] == pytest.approx(sum(lost.values()) / 18)
    assert metrics["eval/test/accuracy"] == pytest.approx(1 - lost["greedy"] / 6)
    (tmp_path / "short").unlink()
    before = responses(path)
    evaluate.run(half, epath.Path(tmp_path), str(workdir))
    assert len(calls) == 8
    assert responses(path) == before
    metrics = summary(tmp_path)["metrics"]
    assert (metrics["eval/test/invalid"], metrics["eval/test/accuracy"]) == (0, 1)
    assert "no reward" not in capsys.readouterr().out


@pytest.mark.slow
def test_one_evaluation_is_made_by_one_process(config, workdir):
    evaluate.run(config, epath.Path(workdir))
    line = rf"^--workdir={workdir}: process {os.getpid()} on .* is making the same evaluation; wait"
    with workdirs.lock(epath.Path(folder(workdir)), "", ""):
        with pytest.raises(errors.UserError, match=line):
            evaluate.run(config, epath.Path(workdir))
    evaluate.run(config, epath.Path(workdir))


@pytest.mark.slow
def test_rows_that_stand_twice_or_are_none(config, workdir, calls):
    evaluate.run(config, epath.Path(workdir))
    path = folder(workdir) / "test.jsonl"
    whole = path.read_text()
    header, *rows = whole.splitlines()
    odd = ["5", "{}", "[]", "null", rows[0].replace('"problem": 0', '"problem": "0"')]
    second = [row.replace('"response": "', '"response": "second ') for row in rows]
    path.write_text("".join(line + "\n" for line in [header, *odd, *rows, rows[0][:40], *second]))
    calls.clear()
    evaluate.run(config, epath.Path(workdir))
    assert not calls
    assert path.read_text() == whole


def test_a_header_is_of_contents(tmp_path):
    def tokenizer(template):
        (tmp_path / "t.jinja").write_text(template + "{{ messages[0].content }}")
        return load_tokenizer("mapo_jax/tasks/arithmetic.model", str(tmp_path / "t.jinja"))

    def headers(config=CONFIG, **changes):
        row = {"question": "1+1=", "answer": "2"}
        one = evaluation.EvalSet([row], [[3]], is_in_domain=True)
        parts = {"config": small.CONFIG, "params": small.params(), "template": "x"}
        parts |= {"sets": {"a": one, "b": dataclasses.replace(one, is_in_domain=False)}} | changes
        text = tokenizer(parts["template"])
        policy = sources.Policy(parts["config"], parts["params"], text, None, "any name")
        return evaluate._headers(config, policy, parts["sets"])

    albums = [types.SimpleNamespace(digests=lambda x=x: [[x]]) for x in "xy"]
    resized = dataclasses.replace(
        CONFIG, images=dataclasses.replace(CONFIG.images, resize="easyr1")
    )
    one, first = evaluation.EvalSet([{"question": "1+1=", "answer": "2"}], [[3]]), headers()
    assert headers() == headers(resized) == first
    other = evaluation.EvalSet([{"question": "1+1=", "answer": "3"}], [[3]])
    assert headers(sets={"a": other})["a"] == first["a"]  # no response depends on right answers
    changed = [
        first["b"],
        headers(params=jax.tree.map(lambda x: x * 2, small.params()))["a"],
        headers(template="y")["a"],
        headers(dataclasses.replace(CONFIG, seed=7))["a"],
        headers(sets={"b": one, "a": one})["a"],
        headers(sets={"a": dataclasses.replace(one, prompts=[[4]])})["a"],
        *(headers(sets={"a": dataclasses.replace(one, album=album)})["a"] for album in albums),
        headers(resized, sets={"a": dataclasses.replace(one, album=albums[0])})["a"],
    ]
    assert len({json.dumps(header) for header in [first["a"], *changed]}) == 10
    # That of the version before there were pictures, whose answers are used again.
    policy = headers(params={"a": jax.numpy.arange(3.0)})["a"]["digests"]["policy"]
    assert policy == "d38c00faebd5931c584f9f2ab7de8876f4c52db2fc9be737169c0281cfd6c165"


@pytest.mark.slow
def test_only_responses_of_the_same_contents_are_used_again(
    config, workdir, tmp_path, monkeypatch, capsys, calls
):
    """Policy, reward, right answers and template are edited in place, under the same names.

    The reward has a module that Python finds in a way of its own, and a file of data.
    """

    numbers = itertools.count()

    def write(name, text):
        (tmp_path / name).write_text(text)

    def say(word):  # chat template
        write("chat.jinja", "{% for m in messages %}" + word + "{{ m.content }}{% endfor %}")

    def answers(*golds):
        rows = [{"question": f"{i}+{i}=", "answer": gold} for i, gold in enumerate(golds)]
        write("rows/test.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def reward(score, bonus=0.0):
        (tmp_path / "lib").mkdir(exist_ok=True)
        remote.close()  # as a command of its own begins
        write("lib/scores.py", f"score = {score}\n" + "#" * next(numbers))  # of another size
        write("bonus.json", json.dumps(bonus))
        write(
            "reward.py",
            "import importlib, json, sys\n"
            "from pathlib import Path\n"
            "here = Path(__file__).parent\n"
            "sys.path.insert(0, str(here / 'lib'))\n"
            "score = importlib.import_module('scores').score\n"
            "score += json.loads((here / 'bonus.json').read_text())\n"
            "def seven(response, example):\n"
            "    right = example['answer'] == '7'\n"
            "    return {'reward': score * right, 'success': right, 'parts': {}}\n",
        )

    def policy(seed):
        shutil.rmtree(tmp_path / "policy", ignore_errors=True)
        params = model.init_params(jax.random.key(seed), found.architecture)
        pretrained.save(tmp_path / "policy", found.architecture, params, found.tokenizer)

    found = sources.read_run(
        epath.Path(workdir), sharding.make_mesh(devices=jax.devices()[:1]), "float32", "", ""
    )
    (tmp_path / "rows").mkdir()
    write("rows/train.jsonl", '{"question": "3+4=", "answer": "7"}\n')
    say("3")
    answers("7", "7", "7", "5")
    reward(1.0)
    policy(1)
    c = dataclasses.replace(
        config,
        task=dataclasses.replace(
            config.task, name="jsonl", options=(), reward=f"{tmp_path}/reward.py:seven"
        ),
        data=dataclasses.replace(config.data, path=f"{tmp_path}/rows"),
        tokenizer=dataclasses.replace(config.tokenizer, template=f"{tmp_path}/chat.jinja"),
    )
    results, kept = tmp_path / "results", {}

    def measured(config=c, params=f"{tmp_path}/policy"):
        """Evaluates; returns the accuracy and the calls for the set `test` and for the other."""
        calls.clear()
        capsys.readouterr()
        evaluate.run(config, epath.Path(results), params)
        shown, metrics = capsys.readouterr().out, summary(results)["metrics"]
        batches = 2 * len(summary(results)["sets"])
        assert shown.count("answered before") == batches - len(calls)
        for path, content in kept.items():
            assert responses(path) == content  # nothing is lost
        kept.update({path: responses(path) for path in results.rglob("*.jsonl")})
        rows = [r for r in read(results, "test") if r["mode"] == "greedy"]
        assert metrics["eval/test/accuracy"] == np.mean([r["accuracy"] for r in rows])
        return metrics["eval/test/accuracy"], metrics["eval/test/reward_mean"], len(calls)

    assert measured() == (0.75, 0.75, 4)
    first = summary(results)["folder"]
    assert first.startswith("evaluation/")
    assert measured() == (0.75, 0.75, 0)
    monkeypatch.chdir(tmp_path)  # the same, written otherwise
    same = dataclasses.replace(
        c,
        task=dataclasses.replace(c.task, reward="./reward.py:seven"),
        data=dataclasses.replace(c.data, path="rows"),
        tokenizer=dataclasses.replace(c.tokenizer, template="chat.jinja"),
    )
    assert measured(same, "policy") == (0.75, 0.75, 0)
    assert summary(results)["folder"] == first
    monkeypatch.chdir(ROOT)
    answers("7", "7", "8", "5")
    assert measured() == (0.5, 0.5, 0)
    reward(0.5)
    assert measured() == (0.5, 0.25, 0)
    reward(0.5, 0.25)
    assert measured() == (0.5, 0.375, 0)
    assert summary(results)["folder"] == first
    policy(2)
    assert measured()[2] == 4
    say("4")
    assert measured()[2] == 4
    fewer = dataclasses.replace(c, eval=dataclasses.replace(c.eval, samples=1))
    assert measured(fewer)[2] == 4
    alone = dataclasses.replace(c, eval=dataclasses.replace(c.eval, sets=""))
    assert measured(alone)[2] == 0
    for change in (lambda: answers("7", "7", "7", "5"), lambda: reward(1.0), lambda: policy(1)):
        change()
    say("3")
    assert measured() == (0.75, 0.75, 0)  # what was made first is still there
    assert summary(results)["folder"] == first
    assert len({path.parent for path in kept}) == 5


@pytest.mark.slow
def test_a_pretrained_policy(config, workdir, tmp_path):
    export.run(str(workdir), str(tmp_path / "out"), "float32")
    few = dataclasses.replace(config, eval=dataclasses.replace(config.eval, problems=2))
    evaluate.run(few, epath.Path(tmp_path / "results"), str(tmp_path / "out"))
    evaluate.run(few, epath.Path(workdir))
    ours, theirs = (read(path, "test") for path in (workdir, tmp_path / "results"))
    assert [row["response"] for row in ours] == [row["response"] for row in theirs]
    tokens = small.rollouts(vocab_size=22).tokens[0]
    found = sources.read_run(
        epath.Path(workdir), sharding.make_mesh(devices=jax.devices()[:1]), "float32", "", ""
    )
    exported = pretrained.load(tmp_path / "out")
    apply = jax.jit(model.apply, static_argnums=1)
    np.testing.assert_array_equal(
        apply(exported[1], exported[0], tokens), apply(found.params, found.architecture, tokens)
    )
    with pytest.raises(errors.UserError, match=r"--checkpoint=best: .* is no work directory"):
        evaluate.run(few, epath.Path(tmp_path / "results"), str(tmp_path / "out"), "best")


class Hub:
    """Stands for `huggingface_hub.HfApi`: the used part."""

    def __init__(self):
        self.made = self.holds = None

    def create_repo(self, repo_id, *, exist_ok):
        if repo_id.startswith("other/"):
            raise PermissionError("403 Forbidden\nmore")
        assert exist_ok
        self.made = repo_id
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path):
        assert repo_id == self.made
        self.holds = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}


@pytest.mark.slow
def test_an_export_has_a_card_and_goes_to_the_hub(workdir, tmp_path, monkeypatch):
    hub, token = Hub(), ["secret"]
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token[0])
    out = tmp_path / "out"
    said = export.run(str(workdir), str(out), "float32", push="me/policy")
    assert said.splitlines()[1:] == ["https://hub/me/policy"]
    assert {"README.md", "config.json", "model.safetensors"} <= hub.holds.keys()
    assert hub.holds == {path.name: path.read_bytes() for path in out.iterdir()}
    card = (out / "README.md").read_text()
    assert "\n# me/policy\n" in card
    assert "| step 0 | step 1 |" in card
    assert "secret" not in card

    def refused(name):
        with pytest.raises(errors.UserError) as caught:
            export.run(str(workdir), str(tmp_path / "second"), "float32", push=name)
        (line,) = caught.value.lines
        return line

    assert refused("policy") == (
        "--push=policy: is no name on the Hugging Face hub; give OWNER/NAME, as in me/policy"
    )
    token[0] = None
    assert refused("me/policy") == (
        "--push=me/policy: no token of the Hugging Face hub is found; log in with `hf auth login`, "
        "or set HF_TOKEN"
    )
    token[0] = "secret"
    assert not (tmp_path / "second").exists()
    assert refused("other/policy") == (
        "--push=other/policy: the hub does not take it (PermissionError: 403 Forbidden); "
        f"{tmp_path}/second is written, and `hf upload other/policy {tmp_path}/second` tries again"
    )
    assert (tmp_path / "second" / "README.md").exists()


@pytest.mark.slow
def test_each_command_takes_a_checkpoint(config, workdir, tmp_path):
    few = dataclasses.replace(config, eval=dataclasses.replace(config.eval, problems=2))
    before = [x["eval/test/accuracy_sampled"] for x in runs.lines(workdir) if x["kind"] == "eval"]
    assert before[0] == before[1]  # of equal ones the newest is the best
    for which, step in (("0", 0), ("best", 1)):
        evaluate.run(few, epath.Path(workdir), checkpoint=which)
        assert summary(workdir)["policy"] == f"step {step} of {workdir}"
        said = export.run(str(workdir), str(tmp_path / which), "float32", which)
        assert f"step {step} of" in said
    first, best = ((tmp_path / x / "model.safetensors").read_bytes() for x in ("0", "best"))
    assert first != best
    text = sampled(config, workdir, "1+1=", checkpoint="0")
    assert text == sampled(config, workdir, "1+1=", params=str(tmp_path / "0"))
    with pytest.raises(errors.UserError, match=r"has no checkpoint 2; give newest, best or one of"):
        sampled(config, workdir, "1+1=", checkpoint="2")


@pytest.mark.slow
def test_the_verdict_of_a_vote_does_not_depend_on_its_first_form(
    config, workdir, tmp_path, monkeypatch, capsys
):
    """The first of three responses with the majority's answer, the right one, has no box."""
    (tmp_path / "m.jsonl").write_text('{"input": "2+3=", "target": 5}\n')
    said = ["The answer is 5", r"\boxed{5}", r"\boxed{5}", r"\boxed{7}"]
    monkeypatch.setattr(
        evaluation, "decode", lambda _, __, length_PG: said[: length_PG.shape[1]] * len(length_PG)
    )
    sets = f"multiarith={tmp_path}/m.jsonl"
    voted = dataclasses.replace(config.eval, samples=4, problems=1, sets=sets)
    c = dataclasses.replace(config, eval=voted)
    evaluate.run(c, epath.Path(tmp_path), params=str(workdir))
    metrics = summary(tmp_path)["metrics"]
    assert metrics["eval/multiarith/maj@4"] == 1
    assert metrics["eval/multiarith/accuracy_sampled"] == 0.5
    (row,) = [x for x in capsys.readouterr().out.splitlines() if "multiarith (out" in x]
    assert "50.0 [50.0, 50.0]" in row  # mean@4
    assert row.count("100.0 [100.0, 100.0]") == 2  # pass@4 and maj@4


@pytest.mark.slow
def test_what_ones_own_reward_prints_is_kept(config, workdir, tmp_path):
    text = (
        "def mine(response, example):\n"
        "    print('judged')\n"
        "    return {'reward': 0.0, 'success': False, 'parts': {}}\n"
    )
    c = own(config, tmp_path, text)
    evaluate.run(c, epath.Path(tmp_path / "evaluated"), params=str(workdir))
    sample.run(c, epath.Path(tmp_path), "1+1=", params=str(workdir), answer="2", write=print)
    remote.close()  # writes the rest
    assert (tmp_path / "evaluated" / "rewards.log").read_text().count("judged") > 1
    assert (tmp_path / "rewards.log").read_text().count("judged") == 1


@pytest.mark.slow
def test_nothing_to_evaluate(config, tmp_path):
    with pytest.raises(errors.UserError, match=r"--workdir=.*: holds no checkpoint"):
        evaluate.run(config, epath.Path(tmp_path))
    with pytest.raises(errors.UserError, match="must be a local directory"):
        evaluate.run(config, epath.Path("gs://bucket/run"))


# ---- sampling by hand ----


def sampled(config, workdir, prompt, **options):
    pieces = []
    sample.run(config, epath.Path(workdir), prompt, write=pieces.append, **options)
    return pieces


@pytest.mark.slow
def test_text_comes_as_it_is_sampled(config, workdir):
    pieces = sampled(config, workdir, "1+1=", answer="2")
    *_, verdict = "".join(pieces).rstrip("\n").split("\n")
    assert verdict.startswith("[")
    assert "reward 0" in verdict
    assert len(pieces) >= int(verdict[1:].split()[0]) + 2  # one per token, end, verdict
    again = "".join(sampled(config, workdir, "1+1=", n=3, answer="2"))
    assert again.count("reward") == 3
    assert "--- 3 of 3" in again


@pytest.mark.slow
def test_the_task_knows_its_own_answers(config, workdir):
    from mapo_jax import tasks

    options = dict(config.task.options)
    task = tasks.make("arithmetic", options, "", config.seed)
    known = "".join(sampled(config, workdir, task.train[0]["question"]))
    assert "reward" in known
    assert "no reward" not in known
    assert "no reward: the task does not know this" in "".join(sampled(config, workdir, "11111="))


@pytest.mark.slow
def test_a_thought_that_the_prompt_opens_is_judged_too(config, workdir, monkeypatch):
    texts, judge = [], rewards.judge
    monkeypatch.setattr(
        rewards, "judge", lambda fn, *rest: texts.extend(rest[0]) or judge(fn, *rest)
    )
    for prompt in ("1+1=<think>", "1+1="):
        sampled(config, workdir, prompt, answer="2", is_raw=True)
    opened, plain = texts
    assert opened.startswith("<think>")
    assert not plain.startswith("<think>")


@pytest.mark.slow
def test_raw_prompts_and_the_end_of_positions(config, workdir, tmp_path):
    assert "".join(sampled(config, workdir, "1+1=", is_raw=True))
    export.run(str(workdir), str(tmp_path / "out"), "float32")
    fields = json.loads((tmp_path / "out/config.json").read_text())
    fields["max_position_embeddings"] = 12
    (tmp_path / "out/config.json").write_text(json.dumps(fields))
    with pytest.raises(errors.UserError, match=r"--prompt: its \d+ tokens and .* the policy's 12"):
        sampled(config, workdir, "1+1=", params=str(tmp_path / "out"))


@pytest.mark.slow
def test_streamed_tokens_are_those_of_the_sampler(workdir, config):
    params = small.params()
    seen = []
    settings = sampling.SamplingConfig(group_size=1, max_new_tokens=9)
    streaming = dataclasses.replace(settings, on_token=lambda token: seen.append(int(token[0, 0])))
    prompt = pad_prompts([[3, 4, 5]], 3)
    key = jax.random.key(7)
    plain = sampling.sample(params, small.CONFIG, prompt, key, settings)
    sampling.sample(params, small.CONFIG, prompt, key, streaming)
    jax.effects_barrier()
    assert seen == plain.tokens[0, 0].tolist()


def command(name, *arguments, **options):
    line = [sys.executable, f"launch/{name}.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, **options)


@pytest.mark.slow
def test_the_policy_of_the_experiment_need_not_be_there(tmp_path):
    row = {"question": "1+1?", "answer": "It is 2.\n#### 2"}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    gsm8k = ("--config", "experiments/gsm8k.py:smollm2", f"--config.data.path={tmp_path}")
    one_device = {**os.environ, "XLA_FLAGS": ""}
    done = command("evaluate", *gsm8k, "--params", tmp_path, env=one_device)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"--params={tmp_path}: config.json cannot be read")
    assert done.stderr.count("\n") == 1


def test_the_commands(tmp_path, monkeypatch, capsys):
    def called(name, *arguments, answer=""):
        """As by the command line, in this process: to start one of its own takes seconds."""
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        code = exits.main(getattr(launchers, name))
        return code, *capsys.readouterr()

    tiny = ("--config", "experiments/arithmetic.py:tiny")
    where = ("--workdir", tmp_path / "none")
    for name in ("evaluate", "sample"):
        prompt = ("--prompt", "1+1=") if name == "sample" else ()
        code, out, err = called(name, *tiny, *where, *prompt)
        assert (code, out) == (2, "")
        assert err.startswith(f"--workdir={tmp_path}/none: holds no checkpoint")
    code, out, err = called("sample", *tiny, *where, "-n", "0", "--prompt", "x")
    assert (code, err) == (2, "-n=0: must be an integer >= 1\n")
    code, out, err = called("sample", *tiny, *where)
    assert (code, err.partition(":")[0]) == (2, "--prompt")
    code, out, err = called("export", "--workdir", tmp_path / "none", "--output", tmp_path / "out")
    assert code == 2
    assert err.count("\n") == 1
    assert "No such file or directory); give the work directory of a run" in err
    done = command("export", "--workdir", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--output" in command("export", "--help").stdout
    for flag in ("--params PATH", "--checkpoint WHICH"):
        assert flag in command("evaluate", "--help").stdout
    assert "--prompt TEXT" in command("sample", "--help").stdout
