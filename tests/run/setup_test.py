"""The start of a run says what a reader of its numbers should know."""

import dataclasses

from mapo_jax.run import setup, sources
from tests.runs import micro


def test_evaluation_questions_that_are_trained_on_are_told(monkeypatch):
    config, said = micro(warmup__steps=0), []
    task, reward = sources.make_task(config)
    leaking = dataclasses.replace(task, evals=task.evals | {"test": task.train[:16]})
    for one in (task, leaking):
        monkeypatch.setattr(sources, "make_task", lambda _, one=one: (one, reward))
        setup.prepare(config, said.append)
    assert said == ["eval set test: 16 of 16 questions are trained on too"]
