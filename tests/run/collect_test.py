"""The rollout phase: dynamic sampling, greedy baselines, the penalty for length."""

import dataclasses
import datetime
import sys

import jax
import numpy as np
import pytest
from etils import epath

from mapo_jax import errors, report, rewards, sharding, tasks
from mapo_jax.commands import exits, launchers
from mapo_jax.rollouts import pad_prompts
from mapo_jax.run import checkpoints, collect, guard, programs, setup
from tests import runs, small
from tests.runs import command, lines, micro, timeless

# A policy that knows nothing differs in its responses, so their checksums are coin tosses.
REWARDS = """\
from zlib import crc32

def some(response, example):  # of 70% of the questions no response is right
    coin = crc32(response.encode()) % 2 == 0
    right = coin and crc32(example["question"].encode()) % 10 < 3
    return {"reward": float(right), "success": right, "parts": {}}

def none(response, example):
    return {"reward": 0.5, "success": False, "parts": {"accuracy": 0.0}}
"""


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "my.py"
    path.write_text(REWARDS)
    return f"{path}:some"


def dynamic(reward, **changes):
    settings = {
        "task__reward": reward,
        "algorithm__advantage": "grpo",
        "algorithm__overlong_penalty": 0.5,
        "algorithm__overlong_buffer": 0.5,
        "dynamic__max_tries": 30,
        "warmup__steps": 1,
    }
    return micro(**(settings | changes))


@pytest.fixture(scope="module")
def undisturbed(reward, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("dynamic")
    runs.train(dynamic(reward), workdir)
    return workdir


@pytest.mark.slow
def test_batches_are_filled_although_most_groups_are_degenerate(undisturbed):
    steps = [r for r in lines(undisturbed) if (r["kind"], r["phase"]) == ("train", "rl")]
    assert len(steps) == 5
    for row in steps:
        assert row["groups/degenerate"] == 0
        assert "success_count/0" not in row or row["success_count/0"] == 0
        assert row["success_count/4"] == 0
        assert row["groups/kept"] < 0.4  # 0.3 * (1 - 2 / 2^4) on average
        assert row["groups/tries"] >= 3
        assert row["reward/mean_sampled"] < row["reward/mean"]
        kept = row["rollout/length_mean"] * 16 * 4  # tokens
        assert kept * (row["groups/tries"] - 1) < row["throughput/tokens"]
        speed = row["throughput/tokens"] / row["time/step"]
        assert row["throughput/tokens_per_s"] == pytest.approx(speed)
    written = lines(undisturbed, "rollouts")
    first = [r for r in written if r["kind"] == "train" and r["step"] == 1]
    after = [r for r in written if r["kind"] == "after"]
    assert [r["prompt"] for r in first] == [r["prompt"] for r in after]
    for p in (0, 1):
        assert 0 < sum(r["success"] for r in first[4 * p : 4 * p + 4]) < 4


def test_long_responses_lose_reward(undisturbed):
    """The penalty by length of DAPO eq. 13; which groups are kept does not depend on it."""
    rows = lines(undisturbed, "rollouts")
    lengths = {row["tokens"] for row in rows}
    assert max(lengths) == 16
    assert min(lengths) <= 8
    for row in rows:
        expected = 0 if row["tokens"] <= 8 else -0.5 * (row["tokens"] - 8) / 8
        assert row["parts"] == {"overlong": pytest.approx(expected)}
        assert row["reward"] == pytest.approx(float(row["success"]) + expected)


@pytest.mark.slow
def test_it_continues_bit_for_bit(undisturbed, reward, tmp_path, monkeypatch):
    """Stopped by itself in step 4, it has saved step 3 and goes on from the prompt after it."""
    original = collect.collect

    def runs_dry(setup, params, key, step, start):
        if step == 4:
            raise errors.RunStopped("dry")
        return original(setup, params, key, step, start)

    with monkeypatch.context() as patch:
        patch.setattr(collect, "collect", runs_dry)
        with pytest.raises(errors.RunStopped):
            runs.train(dynamic(reward), tmp_path)
    assert (tmp_path / "checkpoints" / "4").is_dir()  # warm-up 1 + RL 3
    runs.train(dynamic(reward), tmp_path)
    assert timeless(lines(tmp_path)) == timeless(lines(undisturbed))
    assert lines(tmp_path, "rollouts") == lines(undisturbed, "rollouts")


@pytest.mark.slow
def test_data_that_cannot_fill_a_batch_ends_the_run(reward, tmp_path, monkeypatch, capsys):
    """Exit code 3, a sentence, and the work so far saved."""
    argv = command(tmp_path)[2:]
    argv += [f"--config.task.reward={reward.replace('some', 'none')}"]
    argv += ["--config.dynamic.max_tries=2", "--config.warmup.steps=3"]
    monkeypatch.setattr(sys, "argv", ["run.py", *argv])
    monkeypatch.setattr(report, "write", lambda *_: "")  # it takes longer than the run
    with runs.traced_once():
        assert exits.main(launchers.run) == 3
    said = capsys.readouterr().err
    assert said == (
        "step 1: 32 prompts, all that dynamic.max_tries=2 allows, gave 0 of the 16 groups of a "
        "batch with rewards that differ and a mean accuracy above dynamic.low=0 and below "
        "dynamic.high=1; take prompts that are neither too easy nor too hard for the policy, raise "
        "batch.group or dynamic.max_tries, or set dynamic.max_tries=0 to train on all groups\n"
    )
    assert (tmp_path / "checkpoints" / "3").is_dir()
    assert [r["step"] for r in lines(tmp_path) if r["kind"] == "train"] == [1, 2, 3]


@pytest.mark.slow
def test_remax_compares_with_the_greedy_response(tmp_path):
    """A reward whose hundredths tell the question and whose rest tells the response."""
    (tmp_path / "my.py").write_text(
        "from zlib import crc32\n"
        "def both(response, example):\n"
        "    question = crc32(example['question'].encode()) % 90\n"
        "    reward = question / 100 + len(response) / 10_000\n"
        "    return {'reward': reward, 'success': False, 'parts': {'question': question}}\n"
    )
    config = micro(
        task__reward=f"{tmp_path}/my.py:both",
        algorithm__advantage="remax",
        algorithm__truncated="mask",
        rollout__chunks=2,
        log__rollouts_prompts=16,
        warmup__steps=0,
        steps=1,
        batch__epochs=1,
    )
    runs.train(config, tmp_path / "run")
    rows = [r for r in lines(tmp_path / "run", "rollouts") if r["kind"] == "train"]
    greedy = {}
    for row in filter(lambda row: row["finished"], rows):
        baseline = row["reward"] - row["advantage"] - row["parts"]["question"] / 100
        greedy.setdefault(row["prompt"], set()).add(round(baseline * 10_000, 1))
    assert len(greedy) > 4
    assert all(len(values) == 1 for values in greedy.values())
    of_prompt = [value for values in greedy.values() for value in values]
    assert all(0 <= x <= 100 and abs(x - round(x)) < 0.05 for x in of_prompt)  # whole responses
    assert len(set(of_prompt)) > 1  # not all the same


def test_shuffled_rewards_stay_in_their_group_and_together():
    rng = np.random.default_rng(0)
    values = np.arange(24, dtype=np.float32)
    judged = rewards.Judged(values, values % 2 == 0, {"accuracy": values * 2})
    shuffled = collect._shuffle(judged, rng.random((6, 4)))
    assert not np.array_equal(shuffled.rewards, values)
    np.testing.assert_array_equal(np.sort(shuffled.rewards.reshape(6, 4)), values.reshape(6, 4))
    np.testing.assert_array_equal(shuffled.success, shuffled.rewards % 2 == 0)
    np.testing.assert_array_equal(shuffled.parts["accuracy"], shuffled.rewards * 2)


def test_each_try_takes_the_next_prompts_and_its_own_draws(reward, tmp_path, monkeypatch):
    """No prompt is sampled twice, no random number used twice; the next step goes on after them."""
    noises, shuffle = [], collect._shuffle
    lengths, judge = [], collect._judge

    def judged(setup, rollouts):
        lengths.append(int(rollouts.length.sum()))
        return judge(setup, rollouts)

    monkeypatch.setattr(collect, "_judge", judged)

    def seen(judged, noise_PG):
        noises.append(noise_PG)
        return shuffle(judged, noise_PG)

    monkeypatch.setattr(collect, "_shuffle", seen)
    config = dynamic(reward, task__shuffle_rewards=True, warmup__steps=0)
    with runs.traced_once():
        run = setup.prepare(config, print, datetime.datetime.now(datetime.UTC))
    saved = checkpoints.Checkpoints(tmp_path / "checkpoints", 1)
    order = tasks.indices(len(run.prompts), config.seed, 0, 10_000)
    examples = np.array([prompt.example for prompt in run.prompts])[order]
    params = run.programs.serve(setup.begin(run, saved, print).state.params)
    start = 0
    for step in (1, 2):
        noises.clear(), lengths.clear()
        found, draws, facts, drawn = collect.collect(run, params, jax.random.key(step), step, start)
        tries = facts["groups/tries"]
        assert tries > 1
        assert drawn == 16 * tries
        assert facts["throughput/tokens"] == sum(lengths)  # those of dropped groups too
        assert len(np.unique(draws)) == 16
        assert draws.max() >= 16  # some of a later try
        np.testing.assert_array_equal(found.draw, draws)
        np.testing.assert_array_equal(found.rollouts.example, examples[start + draws])
        assert len({noise.tobytes() for noise in noises}) == tries
        assert all(len(np.unique(noise, axis=0)) == 16 for noise in noises)
        start += drawn


def test_a_thought_that_the_prompt_opened_is_closed_by_the_response(tmp_path):
    """Such policies could never succeed, and MAPO was silently APD."""
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}<think>")
    config = micro(tokenizer__template=str(tmp_path / "t.jinja"))
    run = setup.prepare(config, print, datetime.datetime.now(datetime.UTC))
    right = run.task.demonstration(run.task.train[0]).removeprefix("<think>")
    made = [right, right.replace("</think>", ""), f"<think>{right}", right]
    tokens = [run.tokenizer.encode(text) for text in made]
    found = small.replace(
        small.rollouts(P=2, G=4, S=5, T=40),
        tokens=pad_prompts(tokens, 40).tokens[None],
        length=np.array([[len(ids) for ids in tokens]], np.int32),
        example=np.array([0]),
        finished=np.array([[True, True, True, False]]),
        valid=np.ones((1, 4), bool),
    )
    judged = collect._judge(run, jax.device_put(found))
    assert judged.success.tolist() == [True, False, False, False]
    assert judged.parts["accuracy"].tolist() == [1, 0, 1, 0]
    demonstration = run.demonstrations[0].response
    assert not run.tokenizer.decode(demonstration).startswith("<think>")


def test_only_rollouts_that_exist_are_judged():
    """Sampling a few groups anew had sent an empty response of each other group to the judge."""
    run = setup.prepare(micro(), print, datetime.datetime.now(datetime.UTC))
    asked = []

    def even(response, example):
        asked.append(response)
        return {"reward": 0.5, "success": True, "parts": {"named": 1.0}}

    run = dataclasses.replace(run, reward=even)
    valid = np.array([[False] * 4, [True] * 4, [False] * 4])
    found = small.replace(
        small.rollouts(P=3, G=4, S=5, T=6),
        example=np.zeros(3, np.int32),
        finished=np.ones((3, 4), bool),
        valid=valid,
    )
    judged = collect._judge(run, jax.device_put(found))
    assert len(asked) == 4
    np.testing.assert_array_equal(judged.rewards, 0.5 * valid.reshape(-1))
    np.testing.assert_array_equal(judged.success, valid.reshape(-1))
    nobody = small.replace(found, valid=np.zeros((3, 4), bool))
    judged = collect._judge(run, jax.device_put(nobody))
    assert len(asked) == 5
    assert list(judged.parts) == ["named"]


def test_the_run_says_that_right_answers_are_no_successes(tmp_path):
    said = []
    watching = guard.Guard(micro(steps=9), epath.Path(tmp_path), said.append, "rl", 0)
    shares = [(0.5, 0.0)] * 2 + [(0.5, 0.1)] + [(0.0, 0.0)] * 4 + [(0.25, 0.0)] * 5
    for step, (accuracy, success) in enumerate(shares, 1):
        watching.watch(step, {"reward/accuracy": accuracy, "reward/success": success})
    (line,) = said
    assert line.startswith("step 10 of rl: 3 steps in a row had right answers (reward/acc")
    watching.watch(1, {"reward/success": 0.0})  # a reward without the part


@pytest.mark.parametrize(("advantage", "base"), [("remax", ""), ("signed", "remax"), ("mapo", "")])
def test_a_greedy_response_is_sampled_for_who_asks(advantage, base):
    options = {"base": base, "pos": 1.0, "neg": 1.0} if base else {}
    config = micro(algorithm__advantage=advantage, algorithm__advantage_options=options)
    mesh = sharding.make_mesh(-1, 1, 1)
    compiled = programs.Programs(config, small.CONFIG, (2,), mesh)
    if advantage == "mapo":
        assert compiled.greedy is None
    else:
        assert (compiled.greedy.group_size, compiled.greedy.temperature) == (1, 0.0)
        assert compiled.greedy.max_new_tokens == config.rollout.max_new_tokens
