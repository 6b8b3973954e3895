"""Intervals, and evaluation over calls of one shape."""

import jax
import numpy as np
import pytest
import small

from mapo_jax import evaluation, sharding


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


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 10, 0.0, 0.27754), (5, 10, 0.23659, 0.76341), (10, 10, 0.72246, 1.0)],
)
def test_wilson_interval(successes, n, low, high):  # values of statsmodels' proportion_confint
    np.testing.assert_allclose(evaluation.wilson_interval(successes, n), (low, high), atol=1e-5)


def test_mean_interval():
    low, high = evaluation.mean_interval(np.array([0.0, 1.0, 0.0, 1.0]))
    assert (low + high) / 2 == 0.5
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 2, rel=1e-3)


def evaluate(sets, batch, seed=0):
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
    )


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
    assert len(values) == 2 * (3 * 3 + 2)
    assert 0 < values["eval/one/length_mean"] <= 8
    # The share is the reward's "accuracy" part, not success, which is never true here.
    assert 0 < values["eval/one/accuracy_sampled"] < 1


def test_responses_are_decoded_up_to_their_end():
    tokens = np.array([[[5, 6, 1, 9], [7, 8, 9, 4]]])
    mask = np.array([[[True, True, True, False], [True] * 4]])
    assert evaluation.decode(Letters(), tokens, mask) == ["5 6 1", "7 8 9 4"]
