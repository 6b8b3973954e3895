"""Data positions, padding, and the prompts and demonstrations that are dropped."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import errors, rewards, tasks
from mapo_jax.rollouts import demonstrations, pad_prompts
from mapo_jax.tasks import Task, examples
from mapo_jax.tasks.base import merge_options


class Letters:
    vocab_size, eos_ids, pad_id = 128, (3,), 0

    def encode_prompt(self, text):
        return [1, *self.encode(text)]

    def open_thought(self, text):
        return {"<": "<think>", ">": "<think></think>"}.get(text[-1:], "")

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


EXAMPLES = [{"question": "x" * n, "answer": "y" * n} for n in (1, 5, 2)]
TASK = Task(
    name="letters",
    train=EXAMPLES,
    evals={},
    prompt=lambda example: example["question"],
    reward=rewards.accuracy_and_format,
    demonstration=lambda example: example["answer"],
)


@given(st.integers(1, 20), st.integers(0, 2**31), st.integers(0, 60), st.integers(0, 60), st.data())
def test_indices_are_a_function_of_position(n, seed, start, count, draw):
    whole = tasks.indices(n, seed, 0, start + count)
    np.testing.assert_array_equal(tasks.indices(n, seed, start, count), whole[start:])
    middle = draw.draw(st.integers(0, count))
    parts = [
        tasks.indices(n, seed, start, middle),
        tasks.indices(n, seed, start + middle, count - middle),
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole[start:])


def test_every_epoch_is_its_own_permutation():
    epochs = tasks.indices(50, 0, 0, 150).reshape(3, 50)
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert tuple(tasks.indices(50, 1, 0, 50)) != tuple(epochs[0])


def test_long_prompts_are_dropped_or_truncated():
    def encode(too_long):
        said = []
        kept = tasks.encode_prompts(TASK, Letters(), EXAMPLES, "train", 3, too_long, said.append)
        return kept, said

    shown = "train: 1 of 3 prompts are longer than data.max_prompt_tokens=3 and "
    kept, said = encode("drop")
    assert kept == [tasks.Prompt(0, [1, 120]), tasks.Prompt(2, [1, 120, 120])]
    assert said == [shown + "are left out"]
    kept, said = encode("truncate")
    assert [prompt[:2] for prompt in kept] == [(0, [1, 120]), (1, [120] * 3), (2, [1, 120, 120])]
    assert said == [shown + "lose their beginning"]


def test_encode_demonstrations_ends_them_and_drops_long_ones():
    kept, dropped = tasks.encode_demonstrations(TASK, Letters(), EXAMPLES, max_new_tokens=3)
    assert kept == [(0, [121, 3]), (2, [121, 121, 3])]
    assert dropped == 1


def test_a_demonstration_does_not_open_the_thought_again():
    def demonstrate(prompt):
        task = dataclasses.replace(
            TASK, prompt=lambda example: prompt, demonstration=lambda example: "<think>a</think>b"
        )
        ((_, ids),), _ = tasks.encode_demonstrations(task, Letters(), EXAMPLES[:1], 99)
        (kept,) = tasks.encode_prompts(task, Letters(), EXAMPLES[:1], "train", 99)
        return kept.thought, Letters().decode(ids[:-1])

    assert demonstrate("x<") == ("<think>", "a</think>b")
    assert demonstrate("x>") == ("<think></think>", "b")
    assert demonstrate("x") == ("", "<think>a</think>b")


def test_none_left():
    line = r"data.max_prompt_tokens=1: all 3 prompts of letters's set hard are longer; "
    with pytest.raises(errors.UserError, match=line):
        tasks.encode_prompts(TASK, Letters(), EXAMPLES, "hard", max_prompt_tokens=1)
    line = r"rollout.max_new_tokens=1: all 3 demonstrations of letters are longer; set it to 2 "
    with pytest.raises(errors.UserError, match=line):
        tasks.encode_demonstrations(TASK, Letters(), EXAMPLES, max_new_tokens=1)


class Counting(Letters):
    """Notes the texts that are encoded."""

    def __init__(self):
        self.seen = []

    def encode_prompt(self, text):
        self.seen.append(text)
        return super().encode_prompt(text)


LARGE = dataclasses.replace(
    TASK, train=[{"question": "x" * (1 + n // 5 % 5), "answer": "y"} for n in range(5000)]
)


def test_prompts_of_a_large_set_are_encoded_when_they_are_drawn():
    tokenizer, said = Counting(), []
    for limit, hint in ((6, ""), (7, "; a lower limit would cost less")):
        found = tasks.prompts_on_demand(LARGE, tokenizer, limit, "drop", said.append)
        assert said.pop() == (
            "train: 5000 prompts, too many to encode them all now, are encoded when they are drawn "
            f"and padded to data.max_prompt_tokens={limit}; the longest of 1000 has 6 tokens{hint}"
        )
    assert len(tokenizer.seen) == 2 * 1000
    tokenizer.seen.clear()
    rows = [found[i] for i in (4999, 10)]
    assert tokenizer.seen == ["xxxxx", "xxx"]
    assert rows == [tasks.Prompt(4999, [1] + [120] * 5), tasks.Prompt(10, [1] + [120] * 3)]
    kept = tasks.encode_prompts(LARGE, Letters(), LARGE.train, "train", 6)
    assert rows == [kept[i] for i in (4999, 10)]
    with pytest.raises(IndexError):
        found[5000]


def test_a_prompt_of_a_large_set_that_is_too_long_gives_way_to_another():
    said = []
    found = tasks.prompts_on_demand(LARGE, Letters(), 4, "drop", said.append)
    drawn = [found[i] for i in range(5000)]
    assert all(len(prompt.tokens) <= 4 for prompt in drawn)
    assert all((i // 5 % 5 > 2) == (prompt.example != i) for i, prompt in enumerate(drawn))
    assert [found[i] for i in (15, 24, 4999)] == [drawn[i] for i in (15, 24, 4999)]
    begin = "train: 400 of 1000 prompts are longer than data.max_prompt_tokens=4; such prompts "
    assert said[1] == begin + "give way to others that are not"
    found = tasks.prompts_on_demand(LARGE, Letters(), 4, "truncate", said.append)
    assert [found[i][:2] for i in (14, 24)] == [(14, [1] + [120] * 3), (24, [120] * 4)]
    assert said[3] == begin + "lose their beginning"
    line = "data.max_prompt_tokens=1: all 1000 that were looked at of 5000 prompts of letters's set"
    with pytest.raises(errors.UserError, match=line):
        tasks.prompts_on_demand(LARGE, Letters(), 1, "drop", said.append)


def test_the_rows_that_give_way_leave_their_places_to_all_others():
    """The rows at the end are too long, as in a file that is sorted by length."""
    tries = []
    encode = lambda i: tries.append(i) or (i if i < 500 else None)  # noqa: E731
    counts = np.bincount(list(tasks.OnDemand(1000, encode)), minlength=1000)
    assert counts[:500].min() >= 1
    assert counts.max() <= 7
    assert len(tries) < 2200


def test_a_set_is_large_by_the_characters_of_its_prompts(monkeypatch):
    assert not tasks.is_large(LARGE)
    for characters, is_large in ((15_500, False), (14_500, True)):  # about 15,000, from a part
        monkeypatch.setattr(examples, "_AT_START", characters)
        assert tasks.is_large(LARGE) is is_large
    assert not tasks.is_large(dataclasses.replace(LARGE, train=[]))


def test_an_evaluation_set_is_encoded_as_far_as_it_is_used():
    tokenizer, said = Counting(), []
    kept = tasks.encode_prompts(LARGE, tokenizer, LARGE.train, "dev", 4, "drop", said.append, 20)
    assert [prompt.example for prompt in kept] == [*range(15), *range(25, 30)]
    assert len(tokenizer.seen) == 30
    begin = "dev: 10 of the first 30 prompts are longer than data.max_prompt_tokens=4"
    assert said == [f"{begin} and are left out"]


def test_a_digest_of_rows_follows_their_content(tmp_path):
    rows = [{"question": f"{n}", "answer": "a"} for n in range(20)]
    digest = tasks.digest(rows)
    assert digest == tasks.digest([dict(reversed(row.items())) for row in rows])
    others = [rows[1:], [*rows[:-1], {"question": "19", "answer": "b"}], rows[::-1]]
    assert len({digest, *map(tasks.digest, others)}) == 4

    def of_file(lines):
        (tmp_path / "a.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return tasks.digest(tasks.make("jsonl", {}, str(tmp_path / "a.jsonl"), 0).train)

    lines = [json.dumps(row) for row in rows]
    found = of_file(lines)
    for n, is_same in ((8, False), (9, True)):  # the latter is held out
        changed = json.dumps({"question": f"{n}", "answer": "b"})
        assert (found == of_file([*lines[:n], changed, *lines[n + 1 :]])) is is_same


def test_pad_prompts():
    prompts = pad_prompts([[5, 6], [7], [8, 9, 10]], 3)
    tokens, lengths = prompts.tokens, prompts.lengths
    np.testing.assert_array_equal(tokens, [[5, 6, 0], [7, 0, 0], [8, 9, 10]])
    np.testing.assert_array_equal(lengths, [2, 1, 3])
    assert tokens.dtype == lengths.dtype == np.int32
    assert (prompts.images, prompts.rope) == (None, None)
    with pytest.raises(ValueError, match="could not broadcast"):
        pad_prompts([[1, 2, 3, 4]], 3)


def test_demonstrations():
    prompts = pad_prompts([[5], [8, 9]], 2)
    r = demonstrations(prompts, np.array([4, 7], np.int32), [[5, 3], [6, 7, 3]], 4)
    assert r.prompts is prompts
    assert r.example.tolist() == [4, 7]
    np.testing.assert_array_equal(r.tokens, [[[5, 3, 0, 0]], [[6, 7, 3, 0]]])
    np.testing.assert_array_equal(r.length, [[2], [3]])
    np.testing.assert_array_equal(r.trained, [[[1, 1, 0, 0]], [[1, 1, 1, 0]]])
    assert r.tokens.dtype == r.length.dtype == np.int32
    assert r.trained.dtype == bool
    assert not r.logps.any()
    assert (r.logps.shape, r.logps.dtype) == ((2, 1, 4), np.float32)
    assert r.finished.tolist() == r.valid.tolist() == [[True], [True]]


def test_options_are_checked():
    defaults = {"rate": 0.5, "size": 3, "levels": (1,), "on": False}
    assert merge_options({"rate": 1, "levels": [2]}, defaults) == {
        **defaults,
        "rate": 1,
        "levels": [2],
    }
    with pytest.raises(errors.UserError) as raised:
        merge_options({"rat": 1, "size": 2.5, "levels": 3, "rate": True, "on": 1}, defaults)
    assert raised.value.lines == (
        "task.options.rat=1: no such option; did you mean rate?",
        "task.options.size=2.5: must be of type int",
        "task.options.levels=3: must be of type tuple",
        "task.options.rate=True: must be of type float",
        "task.options.on=1: must be of type bool",
    )


def test_the_host_side_imports_no_jax():
    script = (
        "import sys\n"
        "from mapo_jax import answers, errors, loading, rewards, tasks, text\n"
        "from mapo_jax.tasks import make_tokenizer\n"
        "for name in ('arithmetic', 'countdown', 'diagrams'):\n"
        "    tasks.make(name, {'train_size': 1, 'eval_size': 1}, '', 0)\n"
        "assert 'jax' not in sys.modules\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
    )
    root = Path(tasks.__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
