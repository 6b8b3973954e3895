"""Runs evaluate, sample and export on a run, as a user calls them."""

import dataclasses
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from mapo_jax import errors, model, pretrained, sampling, sharding
from mapo_jax.commands import evaluate, exits, launchers, sample
from mapo_jax.rewards import remote
from mapo_jax.rollouts import pad_prompts
from tests import runs, small

ROOT = Path(__file__).resolve().parents[2]
CONFIG = runs.micro(
    warmup__steps=0,
    steps=1,
    algorithm__beta=0.0,
    eval__samples=2,
    eval__problems=6,
    eval__batch=8,
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
    tiny = dataclasses.replace(CONFIG.data, max_prompt_tokens=120)
    sets = dataclasses.replace(CONFIG.eval, sets=f"multiarith={path}/m.jsonl")
    return dataclasses.replace(CONFIG, eval=sets, data=tiny)


@pytest.fixture
def config(workdir, monkeypatch):
    monkeypatch.chdir(ROOT)
    return with_sets(workdir.parent)


def rows(workdir, name):
    lines = (workdir / "evaluation" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_evaluation_of_a_run(config, workdir, capsys):
    evaluate.run(config, epath.Path(workdir))
    shown = capsys.readouterr().out
    for word in ("multiarith (out of domain)", "A_T, out of domain", "pass@2", "maj@2", "greedy"):
        assert word in shown
    result = json.loads((workdir / "evaluation.json").read_text())
    assert result["policy"] == f"step 1 of {workdir}"
    assert result["sets"] == {"test": 6, "easy": 6, "hard": 6, "multiarith": 4}
    assert result["samples"] == 2
    assert "jax" in result["environment"]
    # The run itself measured the same policy after its last step, with the same draws.
    during = [row for row in runs.lines(workdir) if row["kind"] == "eval"][-1]
    for key, value in result["metrics"].items():
        if not key.startswith("time/"):
            assert value == pytest.approx(during[key], abs=1e-6), key
    about, *answers = rows(workdir, "multiarith")
    assert about["policy"] == result["policy"]
    assert len(answers) == 4 + 4 * 2
    assert {"question", "answer", "response", "extracted", "reward", "parts", "success", "tokens",
            "finished", "mode", "problem", "sample"} <= answers[0].keys()  # fmt: skip
    assert (answers[0]["question"], answers[0]["answer"]) == ("1+1=", "2")


def test_an_evaluation_goes_on(config, workdir, capsys, monkeypatch):
    evaluate.run(config, epath.Path(workdir))
    path = workdir / "evaluation" / "test.jsonl"
    whole, result = path.read_bytes(), json.loads((workdir / "evaluation.json").read_text())
    path.write_bytes(whole[: len(whole) * 2 // 3])  # killed in the middle of a line
    calls = []
    sample = sampling.sample
    monkeypatch.setattr(sampling, "sample", lambda *a, **k: calls.append(1) or sample(*a, **k))
    capsys.readouterr()
    evaluate.run(config, epath.Path(workdir))
    assert "answers are there already" in capsys.readouterr().out
    assert len(calls) == 1
    assert path.read_bytes() == whole
    again = json.loads((workdir / "evaluation.json").read_text())
    del again["metrics"]["time/eval"], result["metrics"]["time/eval"]
    assert again == result


def test_other_settings_begin_anew(config, workdir, capsys):
    evaluate.run(config, epath.Path(workdir))
    other = dataclasses.replace(config, eval=dataclasses.replace(config.eval, samples=1))
    capsys.readouterr()
    evaluate.run(other, epath.Path(workdir))
    assert "is of another evaluation, and begun anew" in " ".join(capsys.readouterr().out.split())
    assert len(rows(workdir, "multiarith")) == 1 + 4 * 2


def test_a_pretrained_policy(config, workdir, tmp_path):
    from mapo_jax.commands import export
    from mapo_jax.run import sources

    export.run(str(workdir), str(tmp_path / "out"), "float32")
    tokenless = dataclasses.replace(config, eval=dataclasses.replace(config.eval, problems=2))
    evaluate.run(tokenless, epath.Path(tmp_path / "results"), str(tmp_path / "out"))
    evaluate.run(tokenless, epath.Path(workdir))
    ours, theirs = (
        [json.loads(line) for line in (path / "evaluation/test.jsonl").read_text().splitlines()[1:]]
        for path in (workdir, tmp_path / "results")
    )
    assert [row["response"] for row in ours] == [row["response"] for row in theirs]
    tokens = small.rollouts(vocab_size=22).tokens[0]
    read = sources.read_run(
        epath.Path(workdir), sharding.make_mesh(devices=jax.devices()[:1]), "float32", "", ""
    )
    exported = pretrained.load(tmp_path / "out")
    np.testing.assert_array_equal(
        model.apply(exported[1], exported[0], tokens),
        model.apply(read.params, read.architecture, tokens),
    )


def test_what_ones_own_reward_prints_is_kept(config, workdir, tmp_path):
    (tmp_path / "my.py").write_text(
        "def mine(response, example):\n"
        "    print('judged')\n"
        "    return {'reward': 0.0, 'success': False, 'parts': {}}\n"
    )
    task = dataclasses.replace(config.task, reward=f"{tmp_path}/my.py:mine")
    own = dataclasses.replace(config, task=task)
    evaluate.run(own, epath.Path(tmp_path / "evaluated"), params=str(workdir))
    sample.run(own, epath.Path(tmp_path), "1+1=", params=str(workdir), answer="2", write=print)
    remote.close()  # writes the rest
    assert (tmp_path / "evaluated" / "rewards.log").read_text().count("judged") > 1
    assert (tmp_path / "rewards.log").read_text().count("judged") == 1


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


def test_text_comes_as_it_is_sampled(config, workdir):
    pieces = sampled(config, workdir, "1+1=", answer="2")
    *_, verdict = "".join(pieces).rstrip("\n").split("\n")
    assert verdict.startswith("[")
    assert "reward 0" in verdict
    assert len(pieces) >= int(verdict[1:].split()[0]) + 2  # one per token, end, verdict
    again = "".join(sampled(config, workdir, "1+1=", n=3, answer="2"))
    assert again.count("reward") == 3
    assert "--- 3 of 3" in again


def test_the_task_knows_its_own_answers(config, workdir):
    from mapo_jax import tasks

    options = dict(config.task.options)
    task = tasks.make("arithmetic", options, "", config.seed)
    known = "".join(sampled(config, workdir, task.train[0]["question"]))
    assert "reward" in known
    assert "no reward" not in known
    assert "no reward: the task does not know this" in "".join(sampled(config, workdir, "11111="))


def test_raw_prompts_and_the_end_of_positions(config, workdir, tmp_path):
    from mapo_jax.commands import export

    assert "".join(sampled(config, workdir, "1+1=", is_raw=True))
    export.run(str(workdir), str(tmp_path / "out"), "float32")
    fields = json.loads((tmp_path / "out/config.json").read_text())
    fields["max_position_embeddings"] = 12
    (tmp_path / "out/config.json").write_text(json.dumps(fields))
    with pytest.raises(errors.UserError, match=r"--prompt: its \d+ tokens and .* the policy's 12"):
        sampled(config, workdir, "1+1=", params=str(tmp_path / "out"))


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
    assert "--params PATH" in command("evaluate", "--help").stdout
    assert "--prompt TEXT" in command("sample", "--help").stdout
