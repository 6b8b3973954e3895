"""Prompts are the same at every start of a run, and a template that is not used is named."""

import datetime
import json
import shutil
from pathlib import Path

import pytest
from etils import epath

from mapo_jax import model, tasks, training
from mapo_jax.run import setup, trainer
from mapo_jax.run.console import Console
from tests.runs import micro, traced_once


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
