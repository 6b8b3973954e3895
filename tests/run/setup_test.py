"""Prompts are the same at every start of a run."""

import json

from etils import epath

from mapo_jax.run import trainer
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
