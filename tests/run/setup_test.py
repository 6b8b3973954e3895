"""Prompts are the same at every start of a run, and a template that is not used is named."""

import datetime
import json
import shutil
from pathlib import Path

import pytest
from etils import epath

from mapo_jax import errors, model, tasks, training
from mapo_jax.run import contents, setup, trainer
from mapo_jax.run.console import Console
from mapo_jax.tasks import examples
from tests.runs import lines, micro, timeless, traced_once, train


def test_a_template_prints_the_date_of_the_first_start(tmp_path):
    """Llama 3's template prints today's date: another day would be another data set."""
    (tmp_path / "dated.jinja").write_text(
        "{{ strftime_now('%Y+%m+%d+%H') }}={% for m in messages %}{{ m.content }}{% endfor %}"
    )
    config = micro(
        tokenizer__template=str(tmp_path / "dated.jinja"), data__max_prompt_tokens=30, steps=0
    )
    workdir = epath.Path(tmp_path / "run")
    workdir.mkdir()

    def start() -> str:
        with (
            traced_once(),
            Console("quiet") as console,
            trainer.Trainer(config, workdir, console) as run,
        ):
            prompts = [run.setup.prompts[0].tokens, run.setup.eval_sets["test"].prompts[0]]
            (date,) = {run.setup.tokenizer.decode(ids).partition("=")[0] for ids in prompts}
            return date

    date = start()
    record = json.loads((workdir / "run.json").read_text())
    assert date == "+".join(record["starts"][0]["time"].replace("T", "-")[:13].split("-"))
    record["starts"][0]["time"] = "2001-02-03T04:05:06+00:00"
    (workdir / "run.json").write_text(json.dumps(record))
    assert start() == "2001+02+03+04"
    record = json.loads((workdir / "run.json").read_text())
    assert record["starts"][0]["time"] == "2001-02-03T04:05:06+00:00"


@pytest.mark.parametrize("template", ["", "chat"])
def test_a_chat_template_that_is_not_used_is_named(tmp_path, template):
    """Prompts of an instruct policy are plain text unless tokenizer.template says otherwise."""
    config = json.dumps({"chat_template": "{{ messages[0].content }}="})
    (tmp_path / "tokenizer_config.json").write_text(config)
    shutil.copy(Path(tasks.__file__).parent / "arithmetic.model", tmp_path / "tokenizer.model")
    run = micro(tokenizer__path=str(tmp_path), tokenizer__template=template, warmup__steps=0)
    made = setup.prepare(run, print, datetime.datetime.now(datetime.UTC))
    params = model.abstract_params(made.architecture)
    progress = setup.Progress("rl", training.TrainState(0, 0, 0, params, ()), {})
    names = [name for name, *_ in setup.start_table(made, progress, [])]
    assert ("chat template" in names) is (template == "")


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs up to a step in a directory, for a number of characters from which on a set is large.

    Returns contents.json and the numbers of the examples whose prompts were encoded.
    """

    def start(name, characters, steps):
        encoded, encode = [], examples._encode
        with monkeypatch.context() as patch:
            patch.setattr(examples, "_AT_START", characters)
            patch.setattr(examples, "_LOOKED_AT", 1)
            patch.setattr(examples, "_encode", lambda *a: encoded.append(a[3]) or encode(*a))
            config = micro(warmup__steps=2, rollout__max_new_tokens=40, eval__every=9, steps=steps)
            train(config, tmp_path / name)
        return json.loads((tmp_path / name / "contents.json").read_text()), encoded

    return start


@pytest.mark.nightly
def test_prompts_of_a_large_set_have_the_draws_of_all_encoded_at_the_start(start, tmp_path):
    evaluated = 3 * 16  # three sets of 16
    kept, encoded = start("whole", 1e9, 2)
    assert ("data.path" in kept, len(encoded)) == (True, 200 + evaluated)
    kept, encoded = start("large", 0, 2)
    drawn = 2 * 16 + (2 + 1) * 16  # in both phases, and those of step 1 again
    assert ("data.path" in kept, len(encoded)) == (False, 1 + evaluated + 1 + drawn)
    whole, large = (timeless(lines(tmp_path / name)) for name in ("whole", "large"))
    assert large == whole


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(0, 1e9), (1e9, 0)])
def test_a_run_goes_on_as_it_began_whatever_counts_as_large(start, tmp_path, first, second):
    start("whole", first, 2)
    kept, _ = start("run", first, 1)
    assert start("run", second, 2)[0] == kept
    assert timeless(lines(tmp_path / "run"))[-2:] == timeless(lines(tmp_path / "whole"))[-2:]
    (tmp_path / "run" / "contents.json").unlink()  # as of a version that did not write it
    assert contents.encodes_on_demand(epath.Path(tmp_path / "run")) is False


def test_demonstrations_of_a_large_set_give_way_too(monkeypatch, capsys):
    config = micro(task__options__levels=(1, 3), rollout__max_new_tokens=28)
    now = datetime.datetime.now(datetime.UTC)
    made = setup.prepare(config, print, now, on_demand=True)
    rows = made.task.train
    lengths = [len(tasks.encode_demonstration(made.task, made.tokenizer, row)) for row in rows]
    fits = [
        len(made.tokenizer.encode_prompt(made.task.prompt(row))) <= 12 and length <= 28
        for row, length in zip(rows, lengths, strict=True)
    ]
    assert {*fits} == {True, False}
    pairs = made.demonstrations
    assert (len(pairs), made.prompt_tokens) == (200, 12)
    drawn = [pair.prompt.example for pair in pairs]
    assert [i == j for i, j in enumerate(drawn)] == fits
    assert all(fits[i] for i in drawn)
    assert [len(pair.response) for pair in pairs] == [lengths[i] for i in drawn]
    said = " ".join(capsys.readouterr().out.split())
    assert f"warm-up: {fits.count(False)} of 200 examples have a prompt or a demonst" in said
    with pytest.raises(errors.UserError, match=r"warmup.steps=5: no example has both a prompt"):
        setup.prepare(micro(rollout__max_new_tokens=2), print, now, on_demand=True)
