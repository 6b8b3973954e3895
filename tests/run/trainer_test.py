"""The loop, end to end: through the real command line, killed and continued, and its controls."""

import contextlib
import datetime
import functools
import json
import operator
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from etils import epath

from mapo_jax import errors, report, sharding
from mapo_jax.commands import exits, launchers, train
from mapo_jax.report import health
from mapo_jax.report import runs as reported
from mapo_jax.rewards import remote
from mapo_jax.run import (
    checkpoints,
    checks,
    collect,
    evaluation,
    records,
    sources,
    trainer,
    workdirs,
)
from mapo_jax.run.console import Console
from mapo_jax.run.continuation import ADDED
from mapo_jax.sampling import loop
from mapo_jax.training import surrogates
from tests import runs, small
from tests.runs import MICRO, ROOT, command, lines, micro, readable, timeless, without


def test_records_hold_what_the_contract_names(undisturbed):
    rows = lines(undisturbed)
    places = [(row["kind"], row["phase"], row["step"]) for row in rows]
    assert len(set(places)) == len(places)
    assert [p for p in places if p[0] == "train"] == [
        ("train", phase, step) for phase in ("warmup", "rl") for step in range(1, 6)
    ]
    assert [p for p in places if p[0] == "eval"] == [("eval", "rl", s) for s in (0, 2, 4, 5)]
    last = [row for row in rows if row["kind"] == "train"][-1]
    names = """reward/mean reward/accuracy reward/format advantage/certainty loss/total loss/kl
        policy/entropy policy/clip_fraction_low policy/clip_fraction_high policy/ratio_mean
        policy/logp_gap_mean policy/logp_gap_max policy/grad_norm rollout/length_mean
        rollout/truncated groups/degenerate time/sample time/reward time/update
        throughput/tokens_per_s"""
    assert not set(names.split()) - set(last)
    evaluation = [row for row in rows if row["kind"] == "eval"][-1]
    for name in ("test", "easy", "hard"):
        for metric in ("accuracy", "accuracy_sampled", "reward_mean"):
            key = f"eval/{name}/{metric}"
            assert evaluation[f"{key}_low"] <= evaluation[key] <= evaluation[f"{key}_high"]
    written = lines(undisturbed, "rollouts")
    assert {row["step"] for row in written if row["kind"] == "train"} == {1, 2, 4, 5}
    before = [r for r in written if r["kind"] == "train" and r["step"] == 1]
    after = [r for r in written if r["kind"] == "after"]
    assert {row["step"] for row in after} == {5}
    assert [r["prompt"] for r in before] == [r["prompt"] for r in after]
    assert [r["response"] for r in before] != [r["response"] for r in after]
    assert {"prompt", "response", "reward", "parts", "advantage"} <= set(written[0])
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["batch"]["prompts"] == 16
    assert list((undisturbed / "tensorboard").rglob("events*"))
    (start,) = json.loads((undisturbed / "run.json").read_text())["starts"]
    assert start["environment"]["devices"] == "8 x cpu"
    assert start["overrides"] == ["a=1"]
    assert "</html>" in (undisturbed / "report.html").read_text()
    assert sum(last[f"success_count/{k}"] for k in range(5)) == pytest.approx(1)
    assert last["rollout/length_mean"] <= last["rollout/length_max"] <= 16
    assert 0 <= evaluation["eval/test/truncated"] <= 1


def test_the_first_ratio_of_every_step_is_one(undisturbed):
    steps = [r for r in lines(undisturbed) if r["kind"] == "train" and r["phase"] == "rl"]
    np.testing.assert_allclose([row["policy/ratio_mean"] for row in steps], 1, atol=1e-4)
    assert max(row["policy/logp_gap_max"] for row in steps) < 1e-4
    assert steps[0]["loss/kl"] != 0  # the second minibatch has moved away from the reference
    assert all(row["policy/skipped"] == 0 for row in steps)


def test_a_finished_run_has_nothing_left_to_do(undisturbed, tmp_path, capsys):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    before = (run / "metrics.jsonl").read_text()
    runs.train(micro(), run)
    assert (run / "metrics.jsonl").read_text() == before
    assert "raise steps" in capsys.readouterr().out


@pytest.fixture(scope="module")
def knobs(tmp_path_factory):
    """A run with other memory knobs and rescoring, and how many samplers it compiled."""
    workdir = tmp_path_factory.mktemp("knobs")
    config = micro(
        rollout__chunks=2,
        rollout__lanes=1,
        rollout__width=3,
        batch__microbatch=(8, 4),
        compute__remat=True,
        compute__head_chunk=64,
        compute__attention_chunk=4,
        algorithm__old_logps="rescored",
    )
    with Console("plain") as console, trainer.Trainer(config, epath.Path(workdir), console) as run:
        before = loop.program._cache_size()
        run.go()
    return workdir, run.setup.programs, loop.program._cache_size() - before


@pytest.mark.nightly
def test_memory_knobs_and_rescoring_change_no_reward(undisturbed, knobs):
    for one, other in zip(lines(undisturbed), lines(knobs[0]), strict=True):
        assert one["step"] == other["step"]
        for name in ("loss/total", "reward/mean", "policy/entropy", "eval/test/reward_mean"):
            if name in one:
                np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.nightly
def test_a_run_in_float16(undisturbed, tmp_path):
    """With a reference, and near the run in float32 as long as the draws are the same."""
    runs.train(micro(compute__dtype="float16", steps=1), tmp_path)
    rows, single = (
        [row for row in lines(x) if row["kind"] == "train"][:6] for x in (tmp_path, undisturbed)
    )
    for one, other in zip(rows[:5], single[:5], strict=True):
        for name in ("loss/total", "policy/entropy", "policy/grad_norm"):
            np.testing.assert_allclose(one[name], other[name], rtol=0.01, err_msg=name)
    assert rows[5]["policy/skipped"] == 0
    assert 0 < rows[5]["policy/grad_norm"] < 1
    assert rows[5]["policy/logp_gap_mean"] < 2e-3


@pytest.mark.slow
def test_a_run_that_has_lost_its_checkpoints_keeps_its_records(undisturbed, tmp_path, capsys):
    """They were deleted to save space; the same command begins anew."""
    run = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    runs.train(micro(), run)
    assert "its records are in before-1/ now" in " ".join(capsys.readouterr().out.split())
    assert lines(run / "before-1") == lines(undisturbed)
    assert (run / "before-1" / "report.html").exists()
    assert timeless(lines(run)) == timeless(lines(undisturbed))


def test_a_later_epoch_takes_its_minibatches_in_an_order_of_its_own():
    def order(step, epoch, seed=0):
        return trainer._order(seed, step, epoch, 16)

    assert order(1, 0) == list(range(16))
    assert sorted(order(1, 1)) == list(range(16))
    orders = [order(step, epoch) for step in (1, 2) for epoch in (0, 1, 2)] + [order(1, 1, seed=1)]
    assert len({tuple(x) for x in orders}) == 6  # the first epoch's is that of the data


def test_another_configuration_is_refused(undisturbed):
    with pytest.raises(errors.UserError, match=r"batch\.group=2: .* started with 4"):
        trainer.train(micro(batch__group=2, batch__microbatch=(8, 2)), undisturbed)


def test_a_mistake_in_the_data_leaves_the_directory_free(tmp_path):
    with pytest.raises(errors.UserError, match=r"rollout\.max_new_tokens=4: all 200 demonstra"):
        trainer.train(micro(rollout__max_new_tokens=4), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(errors.UserError, match=r"--workdir=.*file/run: cannot be written"):
        trainer.train(micro(), tmp_path / "file" / "run")


def test_policy_init_starts_from_another_run(undisturbed, tmp_path):
    config = micro(policy__init=str(undisturbed), warmup__steps=0, steps=1)
    runs.train(config, tmp_path)
    first, last = lines(tmp_path)[0], lines(undisturbed)[-1]
    assert (first["kind"], first["phase"], first["step"]) == ("eval", "rl", 0)
    # Common random numbers: the same policy gives the same evaluation.
    assert timeless(without([first], "step")) == timeless(without([last], "step"))


@pytest.mark.nightly
def test_without_learning_rate_nothing_moves(tmp_path, monkeypatch):
    (tmp_path / "my.py").write_text(  # a reward without parts: its accuracy is success
        "def short(response, example):\n"
        "    n = len(response)\n"
        "    return {'reward': 1 / (1 + n), 'success': n < 9, 'parts': {}}\n"
    )
    config = micro(
        task__reward=f"{tmp_path}/my.py:short",
        optimizer__learning_rate=0.0,
        algorithm__beta=0.0,
        warmup__steps=0,
        steps=2,
    )
    sampled, original = [], collect.roll_out

    def roll_out(*args):
        found = original(*args)
        sampled.append(int(found[0].rollouts.valid.any(1).sum()))
        return found

    monkeypatch.setattr(collect, "roll_out", roll_out)
    trainer.train(config, tmp_path)
    evaluations = timeless([row for row in lines(tmp_path) if row["kind"] == "eval"])
    assert len(evaluations) == 2
    assert without([evaluations[0]], "step") == without([evaluations[1]], "step")
    assert not (tmp_path / "checkpoints" / "reference").exists()
    assert all("loss/kl" not in row for row in lines(tmp_path))
    rows = lines(tmp_path, "rollouts")
    first = [row for row in rows if row["kind"] == "train" and row["step"] == 1]
    again = [row for row in rows if row["kind"] == "after"]
    assert len(first) == 8
    assert sampled == [16, 16, 2]  # again only the groups on record
    assert without(again, "kind", "step") == without(first, "kind", "step")


def test_own_reward_and_advantage_from_a_file(tmp_path):
    (tmp_path / "beside.py").write_text("most = 20\n")
    (tmp_path / "my.py").write_text(
        "import beside\n"
        "import jax.numpy as jnp\n"
        "def short(response, example):\n"
        "    print('short was here')\n"
        "    n = min(len(response), beside.most)\n"
        "    reward = float('nan') if n == 3 else -n\n"
        "    return {'reward': reward, 'success': n < 5, 'parts': {'n': n}}\n"
        "short.range = (-20, 0)\n"
        "def signs(rewards_G, success_G, mask_G, *, scale=1.0):\n"
        "    return scale * jnp.sign(rewards_G - rewards_G.mean())\n"
    )
    config = micro(
        task__reward=f"{tmp_path}/my.py:short",
        algorithm__advantage=f"{tmp_path}/my.py:signs",
        algorithm__advantage_options={"scale": 0.5},
        warmup__steps=0,
        steps=1,
        log__rollouts_every=1,
    )
    runs.train(config, tmp_path / "run")
    row = next(row for row in lines(tmp_path / "run") if row["kind"] == "train")
    assert -20 <= row["reward/mean"] < 0
    assert row["reward/n"] == pytest.approx(-row["reward/mean"], rel=0.2)
    written = lines(tmp_path / "run", "rollouts")
    assert {abs(r["advantage"]) for r in written} <= {0.0, 0.5}
    remote.close()  # writes the rest
    said = (tmp_path / "run" / "rewards.log").read_text()
    assert said.count("short was here") > len(written)


@pytest.mark.slow
def test_an_advantage_that_looks_back_goes_on_as_it_was(tmp_path, monkeypatch):
    """Its memory is part of the checkpoint; without it the run would learn otherwise."""
    (tmp_path / "my.py").write_text(
        "def short(response, example):\n"
        "    n = min(len(response), 20) / 20\n"
        "    return {'reward': n, 'success': n < 0.2, 'parts': {}}\n"
        "def again(rewards_G, success_G, mask_G, history):\n"
        "    return rewards_G - history.mean + 100 * (history.tries > 0)\n"
    )
    config = micro(
        task__reward=f"{tmp_path}/my.py:short",
        task__options__train_size=32,  # the first two steps see all of them
        algorithm__advantage=f"{tmp_path}/my.py:again",
        algorithm__beta=0.0,
        warmup__steps=0,
    )
    runs.train(config, tmp_path / "whole")
    step = trainer.Trainer.step

    def broken(self, number):
        if number == 4:
            raise errors.UserError("broken")
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "step", broken)
        with pytest.raises(errors.UserError, match="broken"):
            runs.train(config, tmp_path / "run")
    runs.train(config, tmp_path / "run")
    for name in ("metrics", "rollouts"):
        rows = [timeless(lines(tmp_path / run, name)) for run in ("run", "whole")]
        assert rows[0] == rows[1]
    seen = {(row["step"], row["advantage"] > 50) for row in rows[0] if row["kind"] == "train"}
    assert seen == {(1, False), (2, False), (4, True), (5, True)}


@pytest.mark.slow
def test_own_surrogate_from_a_file(tmp_path, capsys):
    """Records, console, report and checks do without the metrics of the built-in ones."""
    (tmp_path / "my.py").write_text(
        "import jax.numpy as jnp\n"
        "def fn(logps, old_logps, advantages, mask, *, scale, clip_high):\n"
        "    moved = jnp.abs(logps - old_logps)\n"
        "    metrics = {'moved': moved, 'mine/far': moved > clip_high}\n"
        "    return -scale * jnp.exp(logps - old_logps) * advantages, metrics\n"
    )
    config = micro(
        algorithm__surrogate=f"{tmp_path}/my.py:fn",
        algorithm__surrogate_options={"scale": 2.0},
        algorithm__clip_high=0.0,
        warmup__steps=0,
        steps=2,
    )
    assert checks.validate(config, 8) == []
    train.run(config, epath.Path(tmp_path / "run"))
    steps = [r for r in lines(tmp_path / "run") if r["kind"] == "train" and r["phase"] == "rl"]
    assert len(steps) == 2
    for row in steps:
        policy = {key.partition("/")[2] for key in row if key.startswith("policy/")}
        assert policy - {"moved"} == {*surrogates._OWN} - {"correction_mean", "correction_cut"}
        assert 0 < row["policy/moved"] < 1
        assert 0.5 < row["mine/far"] <= 1  # all but those whose two log-probs are equal
    assert "RL 2/2" in capsys.readouterr().out
    assert "policy/moved" in (tmp_path / "run" / "report.html").read_text()
    (run,) = reported.read([tmp_path / "run"])
    checked = {finding.check.name for finding in health.examine(run)}
    assert "Gradient norm" in checked
    assert not checked & {"Clipping", "First ratio"}


def edit_contents(workdir, begin):
    """Changes the digests whose names begin so."""
    path = workdir / "contents.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({k: "0" if k.startswith(begin) else v for k, v in found.items()}))


def spoil_records(workdir):
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write("5\n")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (spoil_records, r"metrics\.jsonl: line \d+ is no record"),
        *small.slow(
            [lambda x: edit_contents(x, "arch"), r"^policy\.init='': its architecture is not"],
            [lambda x: (x / "contents.json").write_text("{"), r"contents\.json: is broken"],
        ),
    ],
)
def test_what_cannot_go_on_is_left_as_it_was(undisturbed, tmp_path, spoil, line):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    spoil(workdir)

    def content():
        files = [path for path in workdir.rglob("*") if path.is_file() and path.name != "lock"]
        return {path: path.read_bytes() for path in files}

    before = content()
    with pytest.raises(errors.UserError, match=line):
        runs.train(micro(steps=6), workdir)
    assert content() == before


@pytest.mark.slow
def test_a_best_of_other_rows_is_not_compared(undisturbed, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    edit_contents(workdir, "eval.")
    runs.train(micro(steps=6, checkpoint__keep=9), workdir)
    assert "the best checkpoint is chosen among those to come" in capsys.readouterr().out
    saved = sorted((workdir / "checkpoints").glob("[0-9]*/manifest/metadata"))
    metrics = {int(x.parts[-3]): json.loads(x.read_text())["metric"] for x in saved}
    assert len(metrics) > 2
    assert {index for index, metric in metrics.items() if metric is not None} == {11}


@pytest.mark.slow
def test_a_work_directory_from_before_a_key_goes_on(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setitem(ADDED, "algorithm.overlong_buffer", 0.2)  # as if it were new
    runs.train(micro(steps=4), tmp_path)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    for key in ADDED:
        *groups, name = key.split(".")
        del functools.reduce(operator.getitem, groups, old)[name]
    path.write_text(json.dumps(old))
    runs.train(micro(), tmp_path)
    assert timeless(lines(tmp_path)) == timeless(lines(undisturbed))
    began, whole = (lines(workdir, "rollouts") for workdir in (tmp_path, undisturbed))
    assert [r for r in began if (r["kind"], r["step"]) != ("after", 4)] == whole
    assert json.loads(path.read_text()) == json.loads((undisturbed / "config.json").read_text())


def test_what_a_kill_leaves_in_both_phases_goes_on_to_the_same_metrics(
    undisturbed, tmp_path, monkeypatch
):
    """Copies the directory in the warm-up and in RL with a reference, and continues the copies."""
    run, write = tmp_path / "run", records.Records.write
    copies = {("train", "warmup", 3): tmp_path / "a", ("train", "rl", 3): tmp_path / "b"}

    def then_copy(self, *arguments):
        write(self, *arguments)
        if arguments[:3] in copies:
            with contextlib.suppress(shutil.Error):  # a checkpoint is being written
                shutil.copytree(run, copies[arguments[:3]])

    with monkeypatch.context() as patch:
        patch.setattr(records.Records, "write", then_copy)
        runs.train(micro(), run)
    for place, copy in copies.items():
        last = lines(copy)[-1]
        assert (last["kind"], last["phase"], last["step"]) == place
        runs.train(micro(), copy)
        assert timeless(lines(copy)) == timeless(lines(undisturbed))
        assert lines(copy, "rollouts") == lines(undisturbed, "rollouts")


@pytest.mark.slow
def test_killed_in_both_phases_it_ends_with_the_same_metrics(whole, environment, tmp_path):
    """kill -9 in the warm-up and in RL with a reference; the same command again."""
    killed = tmp_path / "killed"
    with (tmp_path / "log").open("w") as log:
        options = {"cwd": ROOT, "env": environment, "stdout": log, "stderr": log}
        for place in (("train", "warmup", 3), ("train", "rl", 3)):
            process = subprocess.Popen(command(killed), **options)
            while place not in [(r["kind"], r["phase"], r["step"]) for r in readable(killed)]:
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command(killed), check=True, **options)
    assert timeless(lines(killed)) == timeless(lines(whole))
    assert lines(killed, "rollouts") == lines(whole, "rollouts")
    index = MICRO["warmup.steps"] + MICRO["steps"]
    assert (killed / "checkpoints" / str(index)).is_dir()


@pytest.mark.slow
def test_each_program_compiles_once(knobs):
    _, programs, samplers = knobs
    for step in (programs.warmup_step, programs.update):
        assert [f._cache_size() for f in (step.begin, step.add, step.finish)] == [1, 1, 1]
    assert programs.serve._cache_size() == 1
    # The sampler, and evaluation's, whatever the number of sets.
    assert samplers <= 2


def test_the_best_checkpoint_is_kept(undisturbed):
    saved = checkpoints.Checkpoints(undisturbed / "checkpoints", keep=2)
    assert saved.latest() == 10
    saved.close()
    assert jax.device_count() == 8  # the runs of this file were sharded over them


@pytest.mark.slow
def test_the_best_so_far_is_saved_whatever_the_interval(tmp_path, monkeypatch):
    """Also where the run ended before the evaluation, and was continued."""
    accuracies = iter([0.1, 0.3, 0.2, 0.6, 0.5])  # after steps 0 to 4

    def evaluate(*_, **__):
        return {"eval/test/accuracy_sampled": next(accuracies)}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    changes = {
        "eval__every": 1,
        "checkpoint__every": 100,
        "checkpoint__keep": 1,
        "warmup__steps": 0,
    }
    runs.train(micro(steps=2, **changes), tmp_path)
    assert kept(tmp_path) == {1, 2}
    asked = []
    with runs.traced_once(), Console("plain") as console:
        config, path = micro(steps=4, **changes), epath.Path(tmp_path)
        stop = types.SimpleNamespace(is_requested=lambda: asked.append(1) or True)
        with trainer.Trainer(config, path, console, termination=stop) as run:
            with pytest.raises(errors.Preempted):
                run.go()
    assert len(asked) == 1
    assert kept(tmp_path) == {1, 3}
    runs.train(micro(steps=4, **changes), tmp_path)
    assert kept(tmp_path) == {3, 4}
    # Another run starts from the best.
    config = micro(policy__init=str(tmp_path), policy__checkpoint="best", warmup__steps=0)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    started = sources.start(sources.find(config), jax.random.key(0), mesh, "float32")
    for which, expected in (("best", 3), ("3", 3), ("newest", 4)):
        found = sources.read_run(path, mesh, "float32", "", "x", which)
        assert found.name == f"step {expected} of {tmp_path}"
        same = jax.tree.map(np.array_equal, started, found.params)
        assert all(jax.tree.leaves(same)) == (expected == 3)


def kept(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}


@pytest.mark.parametrize(
    ("truncated", "beta"), [("fail", 0.1), *small.slow(("mask", 0.1), ("mask", 0.0))]
)
def test_cut_responses_fail_or_are_left_out(tmp_path, truncated, beta):
    """All responses are right; a cut one counts nowhere, or it fails."""
    (tmp_path / "my.py").write_text(
        "def right(response, example):\n"
        "    return {'reward': 1.0, 'success': True, 'parts': {'accuracy': 1.0}}\n"
    )
    config = micro(
        task__reward=f"{tmp_path}/my.py:right",
        algorithm__truncated=truncated,
        algorithm__beta=beta,
        warmup__steps=0,
        steps=1,
    )
    runs.train(config, tmp_path / "run")
    row = next(row for row in lines(tmp_path / "run") if row["kind"] == "train")
    rows = lines(tmp_path / "run", "rollouts")
    cut = row["rollout/truncated"]
    assert 0.1 < cut < 0.9
    assert {r["tokens"] for r in rows if not r["finished"]} == {16}
    if truncated == "fail":
        for name in ("reward/mean", "reward/success", "reward/accuracy"):
            assert row[name] == pytest.approx(1 - cut)
        assert {r["success"] for r in rows if not r["finished"]} == {False}
        assert row["loss/surrogate"] != 0
    else:
        assert row["reward/mean"] == row["reward/success"] == row["reward/accuracy"] == 1
        assert {r["advantage"] for r in rows if not r["finished"]} == {0}
        assert row["loss/surrogate"] == 0  # the rest has equal rewards
        assert beta or row["policy/grad_norm"] == 0
    assert row["reward/invalid"] == 0


@pytest.mark.slow
def test_a_trace_of_the_steps_asked_for(tmp_path):
    runs.train(micro(profile__steps="1:2", warmup__steps=0, steps=2), tmp_path)
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def call(monkeypatch, name, words):
    """A command line in this process: one of its own would trace its programs again."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *words])
    with runs.traced_once():
        return exits.main(getattr(launchers, name))


@pytest.mark.slow
@pytest.mark.parametrize("opens", [True, False])
def test_a_template_may_open_the_thought(tmp_path, monkeypatch, capsys, opens):
    """Its responses only close it, and succeed. Where it opens none, the same ones do not."""
    row = json.dumps({"question": "3+4", "answer": "7"}) + "\n"
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(row)
    end = "{{ '<think>\\n' }}" if opens else ""
    (tmp_path / "chat.jinja").write_text("{{ messages[0].content }}=" + end)
    (tmp_path / "mine.py").write_text(
        "from experiments import arithmetic\n"
        "def get_config(presets):\n"
        "    config = arithmetic.get_config('tiny').unlock()\n"
        "    config.task.name, config.task.options = 'jsonl', {}\n"
        "    return config\n"
    )
    response = r"3+4=7</think> \boxed{7}"
    monkeypatch.setattr(evaluation, "decode", lambda _, __, length_PG: [response] * length_PG.size)
    run = tmp_path / "run"
    words = [
        f"--config={tmp_path}/mine.py",
        *(word for word in command(run)[3:] if ".options." not in word),
        f"--config.data.path={tmp_path}",
        f"--config.tokenizer.template={tmp_path}/chat.jinja",
        "--config.warmup.steps=0",
        "--config.steps=1",
        "--config.algorithm.truncated=mask",  # the limit cuts some that the text does not show
    ]
    assert call(monkeypatch, "run", words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ("1 steps in a row had right answers" in said) is not opens
    shown = (run / "report.html").read_text()
    assert ("right answers are no successes" in shown) is not opens
    assert call(monkeypatch, "evaluate", words) == 0
    folder = run / json.loads((run / "evaluation.json").read_text())["folder"]
    for rows in (lines(run, "rollouts"), lines(folder, "test")[1:]):
        assert {(row["response"], row["success"]) for row in rows} == {(response, opens)}
        assert {row["parts"]["accuracy"] for row in rows} == {1.0}


@pytest.mark.slow
def test_a_run_goes_on_another_day_as_if_it_were_the_same(tmp_path, monkeypatch):
    """Its template prints the date."""
    (tmp_path / "dated.jinja").write_text("{{ strftime_now('%Y') }}+{{ messages[0].content }}")
    monkeypatch.setattr(report, "write", lambda *_: "")  # it takes longer than the runs

    def run(name, year, steps):
        now = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC)
        monkeypatch.setattr(workdirs, "_now", lambda: now)
        words = command(tmp_path / name)[2:]
        words += [f"--config.tokenizer.template={tmp_path}/dated.jinja"]
        words += ["--config.warmup.steps=0", f"--config.steps={steps}", "--config.eval.every=9"]
        assert call(monkeypatch, "run", words) == 0

    run("undisturbed", 2001, 3)
    run("later", 2001, 2)
    run("later", 2023, 3)
    starts = json.loads((tmp_path / "later" / "run.json").read_text())["starts"]
    assert [start["time"][:4] for start in starts] == ["2001", "2023"]
    later, undisturbed = (
        timeless([row for row in lines(tmp_path / name) if row["kind"] == "train"])
        for name in ("later", "undisturbed")
    )
    assert later == undisturbed
