"""A run goes on with the content that it began with, and says what differs."""

import dataclasses
import json
import sys

import pytest
from etils import epath

from experiments import arithmetic
from mapo_jax import errors, model
from mapo_jax.commands import exits, launchers
from mapo_jax.config import from_config_dict
from mapo_jax.run import contents, processes, sources
from mapo_jax.text import load_tokenizer
from tests import runs, small

CONFIG = from_config_dict(arithmetic.get_config("tiny"))
FILES = sources.tokenizer_files(load_tokenizer(CONFIG.tokenizer.path))
ROWS = [[[1, 2], {"question": "1+1", "answer": "2"}], [[3], {"question": "2", "answer": "2"}]]
SETS = {"test": [[[5]], [{"question": "3", "answer": "3"}]]}


@pytest.fixture
def frozen(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "base"


def of(frozen, rows=ROWS, sets=SETS, files=FILES, config=CONFIG, architecture=small.CONFIG):
    return contents.of(config, architecture, files, rows, sets, frozen)


def test_the_same_content_goes_on(frozen, tmp_path):
    where, found = epath.Path(tmp_path), of(frozen)
    assert contents.check(found, CONFIG, where) == ([], True)  # an older version kept nothing
    for less in (found, {k: v for k, v in found.items() if k != "architecture"}):
        contents.keep(less, where)
        assert contents.check(found, CONFIG, where) == ([], True)
    (frozen / "other.safetensors").write_bytes(b"nobody reads it")
    assert of(frozen) == found
    contents.check_base(where, frozen, "x")


def test_another_architecture_is_named(frozen, tmp_path):
    contents.keep(of(frozen), epath.Path(tmp_path))
    for changes in ({"rope_theta": 500.0}, {"rope_scaling": model.RopeScaling(8.0)}):
        other = dataclasses.replace(small.CONFIG, **changes)
        with pytest.raises(errors.UserError, match=r"^policy.init='': its architecture is not"):
            contents.check(of(frozen, architecture=other), CONFIG, epath.Path(tmp_path))


def test_an_edited_template_is_named_and_not_the_tokenizer(frozen, tmp_path):
    tokenizer = dataclasses.replace(CONFIG.tokenizer, template="t.jinja")
    config = dataclasses.replace(CONFIG, tokenizer=tokenizer)
    first, second = ({"chat_template.jinja": text} for text in (b"x", b"y"))
    contents.keep(of(frozen, files=FILES | first, config=config), epath.Path(tmp_path))
    found = of(frozen, ROWS[:1], files=FILES | second, config=config)
    with pytest.raises(errors.UserError, match=r"^tokenizer.template=t.jinja: its chat") as caught:
        contents.check(found, config, epath.Path(tmp_path))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("content", [b"{", b"", b"[1]", b'"x"', b"\xff"])
def test_contents_that_were_cut_are_one_line(frozen, tmp_path, content):
    (tmp_path / "contents.json").write_bytes(content)
    with pytest.raises(
        errors.UserError, match=r"contents\.json: is broken \(.*\); delete it"
    ) as caught:
        contents.check(of(frozen), CONFIG, epath.Path(tmp_path))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    "rows",
    [
        [[[9], {"question": "0", "answer": "0"}], *ROWS],
        [*ROWS, ROWS[0]],
        ROWS[::-1],
        [[ROWS[0][0], {"question": "1+1", "answer": "3"}], ROWS[1]],
        [[[1, 2, 2], ROWS[0][1]], ROWS[1]],
    ],
    ids=["one in front", "one appended", "order", "an answer", "a template"],
)
def test_other_rows_are_named(frozen, tmp_path, rows):
    contents.keep(of(frozen), epath.Path(tmp_path))
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, path="x.jsonl"))
    with pytest.raises(errors.UserError, match=r"^data.path=x.jsonl: its training rows and prompt"):
        contents.check(of(frozen, rows), config, epath.Path(tmp_path))


def test_another_tokenizer_is_named_once(frozen, tmp_path):
    contents.keep(of(frozen), epath.Path(tmp_path))
    with pytest.raises(errors.UserError, match=r"^tokenizer.path=.*: its tokenizer") as caught:
        contents.check(
            of(frozen, ROWS[:1], files=FILES | {"more.json": b"{}"}), CONFIG, epath.Path(tmp_path)
        )
    assert len(caught.value.lines) == 1


def test_other_rows_of_a_large_set_are_named(frozen, tmp_path):
    where, found = epath.Path(tmp_path), of(frozen, rows="1")
    assert found["data.rows"] == "1"
    assert "data.path" not in found
    contents.keep(found, where)
    assert contents.check(found, CONFIG, where) == ([], True)
    with pytest.raises(errors.UserError, match=r"^data.path='': its training rows are not") as said:
        contents.check(of(frozen, rows="2"), CONFIG, where)
    assert len(said.value.lines) == 1


def test_other_weights_under_adapters_are_named(frozen, tmp_path):
    contents.keep(of(frozen), epath.Path(tmp_path))
    (frozen / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(errors.UserError, match=r"^policy.init='': its weights under the adapters"):
        contents.check(of(frozen), CONFIG, epath.Path(tmp_path))
    with pytest.raises(errors.UserError, match=r"^--workdir=x: the weights in .*base are not"):
        contents.check_base(epath.Path(tmp_path), frozen, "--workdir=x")


def test_other_evaluation_rows_are_told(frozen, tmp_path):
    contents.keep(of(frozen), epath.Path(tmp_path))
    check = lambda sets: contents.check(of(frozen, sets=sets), CONFIG, epath.Path(tmp_path))  # noqa: E731
    assert check(SETS | {"new": []}) == ([], True)
    other = {"test": [[[5]], [{"question": "3", "answer": "4"}]]}
    for sets, what in [
        (other, "eval.test: its rows are not what this run began with"),
        ({"dev": []}, "eval.test: is no longer evaluated"),
    ]:
        notes, compares = check(sets)
        assert notes[0].startswith(what)
        assert notes[1] == "the best checkpoint is chosen among those to come"
        assert not compares
    contents.keep(of(frozen, sets=SETS | other | {"dev": [1]}), epath.Path(tmp_path))
    (note,), compares = check(SETS | other)
    assert (note.split(":")[0], compares) == ("eval.dev", True)  # it chooses nothing


@pytest.mark.parametrize("key", ["task.reward", "algorithm.advantage", "algorithm.surrogate"])
def test_an_edited_function_is_told(frozen, tmp_path, key):
    (tmp_path / "mine.py").write_text("def fn(): return 1")
    group, name = key.split(".")
    value = f"{tmp_path}/mine.py:fn"
    changed = dataclasses.replace(getattr(CONFIG, group), **{name: value})
    config = dataclasses.replace(CONFIG, **{group: changed})
    contents.keep(of(frozen, config=config), epath.Path(tmp_path))
    assert contents.check(of(frozen, config=config), config, epath.Path(tmp_path)) == ([], True)
    (tmp_path / "mine.py").write_text("def fn(): return 2")
    (note,), _ = contents.check(of(frozen, config=config), config, epath.Path(tmp_path))
    assert note.startswith(f"{key}={value}: its code is not what this run began with")


def test_processes_that_read_other_content_are_named(frozen, monkeypatch):
    theirs = '{"tokenizer.path": "0", "data.path": "1", "policy.init": "2", "eval.test": "3"}'
    monkeypatch.setattr(processes, "everyones", lambda text: [text, text, theirs])
    with pytest.raises(errors.UserError, match=r"^process 2 reads other content .* of tokenizer"):
        of(frozen)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["an answer", *small.nightly(["one in front"], ["one appended"])]
)
def test_the_command_does_not_go_on_with_other_rows(tmp_path, monkeypatch, capsys, change):
    """Exit code 2 and one line; with the rows put back, in another place, it goes on."""
    rows = [json.dumps({"question": f"{n}+1=", "answer": str(n + 1)}) + "\n" for n in range(40)]
    more = json.dumps({"question": "5+5=", "answer": "10"}) + "\n"
    changed = {
        "an answer": [*rows[:-1], rows[-1].replace("40", "41")],
        "one in front": [more, *rows],
        "one appended": [*rows, more],
    }[change]

    def start(name, train, steps):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_text("".join(train))
        (tmp_path / name / "test.jsonl").write_text(more)
        kept = [word for word in runs.command(tmp_path / "run")[4:] if "task.options" not in word]
        argv = ["run.py", "--config=experiments/jsonl.py:tiny", f"--workdir={tmp_path / 'run'}"]
        argv += [*kept, f"--config.data.path={tmp_path / name}", f"--config.steps={steps}"]
        argv += ["--config.tokenizer.path=mapo_jax/tasks/arithmetic.model"]
        monkeypatch.setattr(sys, "argv", [*argv, "--config.warmup.steps=0"])
        with runs.traced_once():
            return exits.main(launchers.run), capsys.readouterr().err

    monkeypatch.chdir(runs.ROOT)
    assert start("data", rows, 1) == (0, "")
    code, err = start("other", changed, 2)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"data.path={tmp_path}/other: its training rows and prompts are not what")
    assert start("moved", rows, 2) == (0, "")
    assert [row["step"] for row in runs.lines(tmp_path / "run") if row["kind"] == "train"] == [1, 2]
