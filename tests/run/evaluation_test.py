"""Intervals, and evaluation over calls of one shape."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest

from mapo_jax import answers, errors, rewards, sharding
from mapo_jax.run import evaluation, scores
from tests import small


class Letters:
    """A tokenizer whose text is the ids themselves."""

    vocab_size, eos_ids, pad_id = small.CONFIG.vocab_size, (1, 2), 0

    def encode_prompt(self, text):
        return [int(x) for x in text.split()]

    encode = encode_prompt

    def decode(self, ids):
        return " ".join(map(str, ids))


def few_even(response, example):
    """Right where the response has an even number of tokens; a reward that varies."""
    n = len(response.split())
    return {"reward": n / 8, "success": False, "parts": {"accuracy": float(n % 2 == 0)}}


def evaluate(sets, batch, seed=0, **options):
    return evaluation.evaluate(
        small.params(),
        small.CONFIG,
        Letters(),
        few_even,
        sets,
        jax.random.key(seed),
        sharding.make_mesh(8, 1, 1),
        batch=batch,
        max_prompt_tokens=4,
        max_new_tokens=8,
        **options,
    )


@pytest.mark.slow
def test_the_size_of_a_call_changes_nothing():
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 40, rng.integers(1, 5)).tolist() for _ in range(11)]
    sets = {
        "one": evaluation.EvalSet([{}] * 11, prompts),
        "two": evaluation.EvalSet([{}] * 8, prompts[:8]),
    }
    values = evaluate(sets, batch=8)
    seconds = values.pop("time/eval")
    assert seconds > 0
    other = evaluate(sets, batch=16)
    assert values == pytest.approx({name: other[name] for name in values}, abs=1e-6)
    other = evaluate(sets, batch=8, seed=1)
    assert values != {name: other[name] for name in values}
    for name in ("one", "two"):
        for metric in ("accuracy", "accuracy_sampled", "reward_mean"):
            key = f"eval/{name}/{metric}"
            assert values[f"{key}_low"] <= values[key] <= values[f"{key}_high"]
    assert len(values) == 2 * (3 * 3 + 3)
    assert 0 < values["eval/one/length_mean"] <= 8
    # The share is the reward's "accuracy" part, not success, which is never true here.
    assert 0 < values["eval/one/accuracy_sampled"] < 1


def test_the_reward_and_the_votes_know_the_thought_that_the_prompt_opened():
    """A response that never closes it holds no answer."""

    def thoughtful(response, example):
        began = response.startswith("<think>Hm")
        return {"reward": float(began), "success": began, "parts": {}}

    thoughts, store = ["<think>Hm"] * 4 + [""] * 4, Kept()
    one = dataclasses.replace(numbered(8), reward=thoughtful, thoughts=thoughts)
    evaluate({"one": one}, batch=8, store=store)
    rows = store.kept["one", "sampled"]
    assert [row["success"] for row in rows] == [row["problem"] < 4 for row in rows]
    assert [bool(row["extracted"]) for row in rows] == [row["problem"] >= 4 for row in rows]
    assert not any("<think>" in row["response"] for row in rows)  # it was not sampled


class Kept:
    """A store in memory."""

    def __init__(self):
        self.kept, self.calls = {}, 0

    def rows(self, name, mode):
        grouped = {}
        for row in self.kept.get((name, mode), []):
            grouped.setdefault(row["problem"], []).append(row)
        return grouped

    def add(self, name, mode, rows):
        self.calls += 1
        self.kept.setdefault((name, mode), []).extend(rows)

    def judged(self, name, mode, rows):
        self.kept[name, mode] = sorted(rows, key=lambda row: row["problem"])


def numbered(n, seed=0):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(3, 40, rng.integers(1, 5)).tolist() for _ in range(n)]
    examples = [{"question": str(i), "answer": "5"} for i in range(n)]
    return evaluation.EvalSet(examples, prompts)


@pytest.fixture(scope="module")
def several():
    """Nine problems, four samples each, of a set in domain and one out of it."""
    out = dataclasses.replace(numbered(5, 1), is_in_domain=False)
    sets, store = {"in": numbered(9), "out": out}, Kept()
    return sets, evaluate(sets, batch=8, samples=4, store=store), store


def test_metrics_are_those_of_the_rows(several):
    sets, values, store = several
    for name, one in sets.items():
        rows = store.kept[name, "sampled"]
        assert [(r["problem"], r["sample"]) for r in rows] == [
            (i, j) for i in range(len(one.prompts)) for j in range(4)
        ]
        right = np.array([r["accuracy"] for r in rows]).reshape(-1, 4)
        assert 0 < right.mean() < 1
        for k in (2, 4):
            passed = [
                np.mean([max(subset) for subset in itertools.combinations(row, k)]) for row in right
            ]
            np.testing.assert_allclose(values[f"eval/{name}/pass@{k}"], np.mean(passed), atol=1e-6)
            mean = right[:, :k].mean()
            np.testing.assert_allclose(values[f"eval/{name}/mean@{k}"], mean, atol=1e-6)
            elected = []
            for i, row in enumerate(right):
                votes = [rows[4 * i + j]["response"].split()[-1:] for j in range(k)]
                most = max(votes, key=votes.count)  # the first of those with most
                elected.append(max(x for x, vote in zip(row, votes, strict=False) if vote == most))
            np.testing.assert_allclose(values[f"eval/{name}/maj@{k}"], np.mean(elected), atol=1e-6)
        np.testing.assert_allclose(values[f"eval/{name}/accuracy_sampled"], right.mean(), atol=1e-6)
        lengths = [r["tokens"] for r in rows]
        np.testing.assert_allclose(values[f"eval/{name}/length_mean"], np.mean(lengths), atol=1e-5)
        for metric in ("accuracy_sampled", "pass@4", "maj@2", "mean@4"):
            key = f"eval/{name}/{metric}"
            assert values[f"{key}_low"] <= values[key] <= values[f"{key}_high"]
    assert "eval/in/pass@3" not in values


@pytest.mark.parametrize(
    ("responses", "elected"),
    [
        (["The answer is 5", r"\boxed{5}", r"\boxed{5}", r"\boxed{7}"], 1),
        (["The answer is 7", r"\boxed{5}", r"The answer is 7", r"\boxed{7}"], 0),
        (["The answer is 5", "none", "#### 5", "-"], 0),  # nobody gave it in the right form
        ([r"\boxed{2 \sec x}", r"\boxed{2}", r"\boxed{2ab}", r"\boxed{5}"], 0),
        ([r"\boxed{5x}", r"\boxed{5}", r"\boxed{5y}", r"\boxed{5}"], 1),
        ([r"\boxed{5 cm}", r"\boxed{7 cm}", r"\boxed{7}", r"\boxed{x = 5 km}"], 0),
        ([r"\boxed{5 cm}", r"\boxed{7 cm}", r"\boxed{7 m}", r"\boxed{5}"], 1),
        ([r"\boxed{v=1, u=5}", r"\boxed{u=1, v=5}", r"\boxed{5}", r"\boxed{5}"], 1),
    ],
)
def test_the_verdict_of_a_vote_is_that_of_the_answer(responses, elected):
    rows = [
        {
            "accuracy": rewards.accuracy_and_format(response, {"answer": "5"})["parts"]["accuracy"],
            "extracted": answers.extract(response),
            "reward": 0.0,
            "parts": {},
            "finished": True,
            "tokens": 1,
        }
        for response in responses
    ]
    columns = dict(zip(scores.names(4), scores.of_problem(rows), strict=True))
    assert columns["maj@4"] == elected


def test_a_lenient_grade_stands_beside_the_strict_one():
    responses = [r"<think>1</think>\boxed{5}", "So it is 5", r"<think>5", "It is 7", ""]
    rows = [
        {"problem": i, "response": text, "tokens": 1, "finished": True}
        for i, text in enumerate(responses)
    ]
    asks = dataclasses.replace(numbered(5), reward=rewards.accuracy_and_format)
    found = evaluation._judge(asks, few_even, rows)
    assert [row["accuracy"] for row in found] == [1, 0, 0, 0, 0]
    assert [row["accuracy_lenient"] for row in found] == [1, 1, 1, 0, 0]
    assert [row["reward"] for row in found] == pytest.approx([1, 0, 0, 0, 0])
    assert evaluation._judge(asks, few_even, []) == []
    for mode, suffix in (("greedy", ""), ("sampled", "_sampled")):
        table = np.stack([*scores.columns(found).values()])
        values = scores.metrics("eval/x", mode, table, 1)
        assert values[f"eval/x/accuracy{suffix}"] == pytest.approx(0.2)
        name = f"eval/x/accuracy_lenient{suffix}"
        assert values[name] == pytest.approx(0.6)
        assert values[f"{name}_low"] < 0.6 < values[f"{name}_high"]
    plain = evaluation._judge(numbered(5), few_even, rows)  # asks for no form
    assert not any("accuracy_lenient" in row for row in plain)
    table = np.stack([*scores.columns(plain).values()])
    assert not [name for name in scores.metrics("eval/x", "sampled", table, 1) if "lenient" in name]


def test_in_and_out_of_domain(several):
    _, values, _ = several
    for suffix in ("", "_sampled"):
        a_s, a_t = (values[f"eval/{name}/accuracy{suffix}"] for name in ("in", "out"))
        assert values[f"overall/A_S{suffix}"] == pytest.approx(a_s, abs=1e-6)
        assert values[f"overall/A_T{suffix}"] == pytest.approx(a_t, abs=1e-6)
        assert values[f"overall/A{suffix}"] == pytest.approx((a_s + a_t) / 2, abs=1e-6)
        assert values[f"overall/A{suffix}_low"] <= values[f"overall/A{suffix}"]


def test_a_problem_without_an_answer_is_wrong_and_nothing_else(several):
    """The others are answered as without it."""
    sets, whole, store = several
    some, answers = dict(sets), Kept()
    some["in"] = dataclasses.replace(sets["in"], unreadable=[0, 5])
    values = evaluate(some, batch=8, samples=4, store=answers)
    for key, rows in store.kept.items():
        left = [row for row in rows if key[0] == "out" or row["problem"] not in (0, 5)]
        assert answers.kept[key] == left
    greedy, sampled = (answers.kept["in", mode] for mode in evaluation.MODES)
    right = np.array([row["accuracy"] for row in sampled]).reshape(7, 4)
    for name, mean in (
        ("accuracy", sum(row["accuracy"] for row in greedy) / 9),
        ("accuracy_sampled", right.mean(1).sum() / 9),
        ("mean@2", right[:, :2].mean(1).sum() / 9),
        ("pass@4", right.max(1).sum() / 9),
        ("reward_mean", np.mean([row["reward"] for row in sampled])),
        ("length_mean", np.mean([row["tokens"] for row in sampled])),
        ("truncated", np.mean([not row["finished"] for row in sampled])),
        ("invalid", 0),
    ):
        assert values[f"eval/in/{name}"] == pytest.approx(mean, abs=1e-6), name
    assert values["eval/in/accuracy_high"] < 1
    for key in ("eval/in/accuracy", "overall/A_S", "overall/A_S_sampled"):
        assert values[key] < whole[key]
    assert values["overall/A_S"] == pytest.approx(values["eval/in/accuracy"])
    assert values["overall/A_T"] == whole["overall/A_T"]
    middle = (values["overall/A_S"] + values["overall/A_T"]) / 2
    assert values["overall/A"] == pytest.approx(middle)


def test_white_pictures_draw_as_their_set_and_are_in_no_mean(several):
    """Here there are no pictures, so the answers are the same."""
    sets, values, store = several
    blank, answers = dataclasses.replace(sets["out"], blank_of="out"), Kept()
    more = evaluate(sets | {"out_blank": blank}, batch=8, samples=4, store=answers)
    for mode in evaluation.MODES:
        assert answers.kept.pop(("out_blank", mode)) == store.kept["out", mode]
    assert answers.kept == store.kept
    for name in ("accuracy", "accuracy_sampled"):
        for end in ("", "_low", "_high"):
            white = name.replace("accuracy", "accuracy_blank")
            assert more.pop(f"eval/out/{white}{end}") == values[f"eval/out/{name}{end}"]
    assert more | {"time/eval": 0} == values | {"time/eval": 0}


def test_what_is_kept_is_not_answered_again(several):
    sets, values, store = several
    half = Kept()
    half.kept = {key: [r for r in rows if r["problem"] < 4] for key, rows in store.kept.items()}
    again = evaluate(sets, batch=8, samples=4, store=half)
    assert half.calls == 4  # a call for what is left of each set and mode
    assert half.kept == store.kept
    names = [name for name in values if name != "time/eval"]
    assert {name: again[name] for name in names} == {name: values[name] for name in names}
    done = Kept()
    done.kept = store.kept
    evaluate(sets, batch=8, samples=4, store=done)
    assert done.calls == 0


def test_what_is_kept_is_judged_anew():
    def worth(value):
        def fn(response, example):
            return {"reward": value, "success": value == 1, "parts": {}}

        return dataclasses.replace(numbered(8), reward=fn)

    store = Kept()
    for value in (0.5, 1.0):
        values = evaluate({"one": worth(value)}, batch=8, store=store)
        assert values["eval/one/reward_mean"] == value
        assert {row["reward"] for row in store.kept["one", "greedy"]} == {value}
        assert values["eval/one/accuracy"] == (value == 1)
    assert store.calls == 2


def test_responses_without_a_reward_are_counted_in_both_modes():
    def unsure(response, example):
        seen.append(response)
        reward = math.nan if len(seen) in (2, 9, 12, 15) else 1.0
        return {"reward": reward, "success": math.isfinite(reward), "parts": {}}

    seen = []
    one = dataclasses.replace(numbered(8), reward=unsure)
    values = evaluate({"one": one}, batch=8, samples=4)
    assert len(seen) == 8 + 8 * 4
    assert values["eval/one/invalid"] == 4 / 40
    assert values["eval/one/accuracy"] == 7 / 8
    assert values["eval/one/accuracy_sampled"] == pytest.approx(29 / 32)
    assert values["eval/one/reward_mean"] == 1


def test_further_tasks(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"input": "1+1?", "target": 2}\n')
    tasks = evaluation.further_tasks(f"multiarith={tmp_path}/m.jsonl", 0)
    (task,) = tasks.values()
    assert task.evals["multiarith"] == [{"question": "1+1?", "answer": "2"}]
    assert evaluation.further_tasks("", 0) == {}
    with pytest.raises(errors.UserError) as caught:
        evaluation.further_tasks("svamp,nothing=x,multiarith=nowhere", 0)
    assert len(caught.value.lines) == 3
    assert "svamp is no NAME=PATH" in caught.value.lines[0]


def test_responses_are_decoded_up_to_their_end():
    tokens = np.array([[[5, 6, 1, 9], [7, 8, 9, 4]]])
    length = np.array([[3, 4]])
    assert evaluation.decode(Letters(), tokens, length) == ["5 6 1", "7 8 9 4"]
