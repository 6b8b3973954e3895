"""Tests the study: one warm-up a seed, the same table however often it is stopped, its mistakes."""

import json
from pathlib import Path

import pytest

from mapo_jax import errors
from mapo_jax.commands import launchers, study
from mapo_jax.run import trainer, workdirs
from tests import runs

SETTINGS = runs.MICRO | {"algorithm.beta": 0.0}


def words(workdir: Path, *more: str, methods: str = "mapo,grpo", seeds: str = "0,1") -> list[str]:
    settings = runs.command(workdir, settings=SETTINGS)[2:]
    return [*settings, f"--methods={methods}", f"--seeds={seeds}", *more]


def start(workdir: Path, *more: str, **lists: str) -> None:
    with runs.traced_once():
        launchers.study(words(workdir, *more, **lists))


def numbers(workdir: Path) -> dict:
    """Returns study.json without what differs between two work directories."""
    found = json.loads((workdir / "study.json").read_text())
    for run in found["runs"]:
        if "training" in run:
            run["training"] = {k: v for k, v in run["training"].items() if "memory" not in k}
    return {key: value for key, value in found.items() if key != "command"}


@pytest.fixture
def undisturbed_study(tmp_path_factory):
    return runs.once(tmp_path_factory, "undisturbed_study", start)


@pytest.mark.slow
def test_all_runs_of_a_seed_start_from_one_warm_up(undisturbed_study):
    found = numbers(undisturbed_study)
    assert [row["status"] for row in found["runs"]] == ["done"] * 4
    warm = [runs.lines(undisturbed_study / "warmup" / f"seed_{seed}") for seed in (0, 1)]
    steps = [[row["step"] for row in rows if row["phase"] == "warmup"] for rows in warm]
    assert steps == [[1, 2, 3, 4, 5]] * 2
    for seed in (0, 1):
        before = []
        for method in ("mapo", "grpo"):
            rows = runs.lines(undisturbed_study / method / f"seed_{seed}")
            assert {row["phase"] for row in rows} == {"rl"}
            before += runs.timeless([row for row in rows if row["step"] == 0])
        assert before[0] == before[1]


@pytest.mark.slow
def test_a_run_of_a_study_equals_that_with_its_own_warm_up(undisturbed_study, tmp_path):
    runs.train(runs.micro(algorithm__beta=0.0, algorithm__advantage="grpo", seed=1), tmp_path)
    alone = [row for row in runs.lines(tmp_path) if row["phase"] == "rl"]
    shared = runs.lines(undisturbed_study / "grpo" / "seed_1")
    assert runs.timeless(shared) == runs.timeless(alone)


@pytest.mark.slow
def test_a_study_that_is_stopped_anywhere_ends_the_same(undisturbed_study, tmp_path, monkeypatch):
    train, calls = trainer.Trainer.step, []

    def killed(self, step):
        calls.append(step)
        if len(calls) in (3, 9, 10):
            raise errors.Preempted("SIGTERM")
        return train(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", killed)
        for _ in range(3):
            with pytest.raises(errors.Preempted):
                start(tmp_path)
        start(tmp_path)
    assert numbers(tmp_path) == numbers(undisturbed_study)


@pytest.mark.slow
def test_what_is_done_is_not_run_again(undisturbed_study, monkeypatch, capsys):
    before = numbers(undisturbed_study)
    monkeypatch.setattr(trainer, "train", pytest.fail)
    start(undisturbed_study)
    assert numbers(undisturbed_study) == before
    assert "test/accuracy_sampled" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_that_stop_or_fail_are_in_the_table(tmp_path, monkeypatch):
    def train(config, workdir, overrides=()):
        if config.algorithm.advantage == "grpo":
            raise errors.RunStopped("11 updates in a row were skipped")
        if config.seed == 1 and not config.warmup.steps:
            raise errors.UserError("a", "b")
        workdir.mkdir(parents=True)

    calls = []
    monkeypatch.setattr(trainer, "train", train)
    start(tmp_path)
    found = {
        (r["method"], r["seed"]): (r["status"], r["reason"]) for r in numbers(tmp_path)["runs"]
    }
    stopped = ("stopped", "11 updates in a row were skipped")
    assert found == {
        ("mapo", 0): ("done", ""),
        ("grpo", 0): stopped,
        ("mapo", 1): ("failed", "a; b"),
        ("grpo", 1): stopped,
    }
    monkeypatch.setattr(trainer, "train", lambda config, *_: calls.append(config))
    start(tmp_path)
    assert [(c.algorithm.advantage, c.seed) for c in calls] == [("mapo", 1)], "what failed alone"


def test_a_warm_up_that_fails_fails_its_runs(tmp_path, monkeypatch):
    def train(config, workdir, overrides=()):
        raise errors.UserError("no room")

    monkeypatch.setattr(trainer, "train", train)
    start(tmp_path, seeds="0")
    reasons = {row["reason"] for row in numbers(tmp_path)["runs"]}
    assert reasons == {"its warm-up failed: no room"}


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path, monkeypatch):
    """Another process holds the first warm-up; this one takes the second, then waits."""
    order = []

    def train(config, workdir, overrides=()):
        order.append((config.algorithm.advantage, config.seed, config.warmup.steps))

    def sleep(_):
        assert order == [("mapo", 1, 5), ("mapo", 1, 0), ("grpo", 1, 0)]
        held.__exit__(None, None, None)

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(study.time, "sleep", sleep)
    held = workdirs.lock(study.epath.Path(tmp_path) / "locks" / "warmup-seed_0", "", "")
    held.__enter__()
    start(tmp_path)
    assert order[3:] == [("mapo", 0, 5), ("mapo", 0, 0), ("grpo", 0, 0)]


@pytest.mark.slow
def test_settings_share_a_warm_up_unless_it_reads_them(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(trainer, "train", lambda config, *_: seen.append(config))
    settings = [
        "batch.group=4",
        "batch.group=8 optimizer.learning_rate=1e-3",
        "task.options.mistake_rate=0.1 batch.group=8",
    ]
    more = [f"--setting={setting}" for setting in settings]
    start(tmp_path, *more, "--baseline=grpo", seeds="0")
    warm = [c for c in seen if c.warmup.steps]
    assert [dict(c.task.options)["mistake_rate"] for c in warm] == [0.6, 0.1]
    assert [c.batch.group for c in seen if not c.warmup.steps] == [4, 4, 8, 8, 8, 8]
    starts = [Path(c.policy.init).parent.name for c in seen if not c.warmup.steps]
    assert starts == ["warmup"] * 4 + ["task.options.mistake_rate=0.1"] * 2
    found = numbers(tmp_path)
    assert (found["settings"], found["baseline"]) == (settings, "grpo")


@pytest.mark.slow
def test_methods_are_advantages_presets_and_files(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(trainer, "train", lambda config, *_: seen.append(config))
    own = tmp_path / "own.py"
    own.write_text("def mine(rewards_G, success_G, mask_G):\n    return rewards_G\n")
    start(tmp_path / "study", methods=f"grpo,dapo,{own}:mine", seeds="0")
    found = [(c.algorithm.advantage, c.algorithm.clip_high) for c in seen[1:]]
    assert found == [("grpo", 0.3), ("grpo", 0.28), (f"{own}:mine", 0.3)]


def test_mistakes_are_listed_together(tmp_path, capsys):
    with pytest.raises(errors.UserError) as caught:
        start(tmp_path, methods="mapo,grop", seeds="0")
    assert "--methods=grop: is neither an advantage nor a preset; did you mean grpo?" in str(
        caught.value
    )
    with pytest.raises(errors.UserError) as caught:
        start(tmp_path, "--baseline=dapo", methods="mapo,mapo", seeds="0,x")
    assert caught.value.lines == (
        "--seeds=x: must be an integer >= 0",
        "--methods: mapo is given twice; give it once",
        "--baseline=dapo: must be one of --methods=mapo,mapo",
    )
    with pytest.raises(errors.UserError) as caught:
        start(tmp_path, "--setting=batch.group=3 batch.epoch=2", methods="mapo", seeds="0")
    assert any(line.startswith("batch.epoch=2: no such key") for line in caught.value.lines)
    with pytest.raises(errors.UserError, match="--methods: missing; as in --methods mapo,grpo"):
        launchers.study(["--config=arithmetic:tiny", "--seeds=0"])
    assert not list(tmp_path.iterdir()), "a mistake leaves nothing behind"


def test_a_directory_of_a_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(errors.UserError, match="holds a run; choose another directory"):
        start(tmp_path)


@pytest.mark.slow
def test_other_settings_do_not_go_on_with_a_study(undisturbed_study):
    with pytest.raises(errors.UserError) as caught:
        start(undisturbed_study, "--config.batch.epochs=1")
    (line,) = caught.value.lines
    assert line.startswith("batch.epochs=1: the run in this work directory was started with 2")
