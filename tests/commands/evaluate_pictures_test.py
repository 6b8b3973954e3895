"""Evaluates a policy that sees: on white pictures too, and where some cannot be read."""

import json
import shutil

import pytest
from etils import epath
from PIL import Image

from mapo_jax import errors, sampling, sharding
from mapo_jax.commands import evaluate, sample
from mapo_jax.run import evaluation, sources
from tests import runs, small
from tests.run import pictures_test


@pytest.fixture
def drawn(tmp_path, monkeypatch, pytestconfig):
    """Data with pictures, where `evaluate.run` finds a policy that reads them."""
    monkeypatch.chdir(pytestconfig.rootpath)
    data = pictures_test.draw(tmp_path / "data")
    found = sources.find(pictures_test.config(data))
    params = small.params(found.architecture)
    policy = sources.Policy(
        found.architecture, params, found.tokenizer, runs.make_mesh(), "the policy"
    )
    monkeypatch.setattr(sources, "open", lambda *_, **__: policy)
    monkeypatch.setattr(sharding, "make_mesh", runs.make_mesh)
    return data


@pytest.fixture
def calls(monkeypatch):
    """For each call of the sampler, whether all its pictures are white."""
    made, sample = [], sampling.sample

    def counted(params, config, prompts, *rest, **options):
        patches, at = prompts.images.patches, prompts.images.picture
        made.append(bool((patches[at >= 0] == 255).all()))
        return sample(params, config, prompts, *rest, **options)

    monkeypatch.setattr(sampling, "sample", counted)
    return made


def run(data, workdir, **changes):
    """Evaluates; returns evaluation.json, and the header and the rows of each set."""
    config = pictures_test.config(data, **{"eval__blank": False} | changes)
    evaluate.run(config, epath.Path(workdir))
    result = json.loads((workdir / "evaluation.json").read_text())
    files = {}
    for name in result["sets"]:
        lines = (workdir / result["folder"] / f"{name}.jsonl").read_text().splitlines()
        files[name] = list(map(json.loads, lines))
    return result, files


@pytest.mark.slow
def test_the_same_prompts_with_white_pictures(drawn, tmp_path, capsys, calls):
    plain, alone = run(drawn, tmp_path / "plain")
    capsys.readouterr()
    calls.clear()
    result, files = run(drawn, tmp_path / "white", eval__blank=True)
    assert calls == [False, False, True, True]
    shown = capsys.readouterr().out
    assert "the policy: 40 problems to answer" in shown
    assert "greedy, white" in shown
    assert "sampled, white" in shown
    # The set itself does not know of them.
    assert alone["test"] == files["test"]
    added = {key: result["metrics"].pop(key) for key in [*result["metrics"]] if "_blank" in key}
    del plain["metrics"]["time/eval"], result["metrics"]["time/eval"]
    assert plain["metrics"] == result["metrics"]
    names = ("eval/test/accuracy_blank", "eval/test/accuracy_blank_sampled")
    assert added.keys() == {name + end for name in names for end in ("", "_low", "_high")}
    assert result["sets"] == {"test": 10, "test_blank": 10}
    (header, *rows), (white, *others) = files["test"], files["test_blank"]
    assert header["digests"]["prompts"] != white["digests"]["prompts"]
    assert (header["set"], white["set"]) == ("test", "test_blank")
    header["digests"] = white["digests"]
    header["set"] = white["set"]
    assert header == white
    # Draws are paired: a problem without pictures has the same answers, one with some others.
    same = {True: [], False: []}
    for one, other in zip(rows, others, strict=True):
        assert (one["question"], one["mode"]) == (other["question"], other["mode"])
        same["<image>" in one["question"]].append(one["response"] == other["response"])
    assert all(same[False])
    assert same[True].count(False) > len(same[True]) / 2


def test_white_pictures_do_not_depend_on_files(drawn, tmp_path, calls):
    run(drawn, tmp_path / "work", eval__blank=True)
    for i, (h, w) in enumerate(pictures_test.SIZES):
        Image.new("RGB", (w, h), "red").save(drawn / "drawn" / f"{i}.png")
    calls.clear()
    run(drawn, tmp_path / "work", eval__blank=True)
    assert calls == [False, False]
    Image.new("RGB", (4, 64), "red").save(drawn / "drawn" / "0.png")  # as many tokens as before
    calls.clear()
    run(drawn, tmp_path / "work", eval__blank=True)
    assert calls == [False, False, True, True]


def test_a_picture_that_cannot_be_read(drawn, tmp_path, capsys, monkeypatch, calls):
    """Its problem is wrong, also where all answers are right, until the file is there."""
    monkeypatch.setattr(
        evaluation,
        "decode",
        lambda _, __, length_PG: [r"<think>x</think>\boxed{1}"] * length_PG.size,
    )
    names = ["0.png", "none.png", "1.png", "cut.png", "1.png", "../none/2.png"]
    rows = [{"question": "<image>0+1=", "answer": "1", "pictures": [f"drawn/{n}"]} for n in names]
    rows.append({"question": "0+1=", "answer": "1"})
    rows[0] |= {"question": "<image><image>0+1=", "pictures": ["drawn/0.png", "drawn/2.png"]}
    (drawn / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    picture = (drawn / "drawn" / "2.png").read_bytes()
    (drawn / "drawn" / "cut.png").write_bytes(picture[: len(picture) // 2])

    first, _ = run(drawn, tmp_path / "work", eval__blank=True)
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if "cannot be read" in line]
    assert line.startswith(
        "test: 3 of 7 problems have a picture that cannot be read and count as wrong: "
        f"{drawn}/test.jsonl:2: {drawn}/drawn/none.png: no such file"
    )
    assert "cut.png: cannot be decoded" in line
    assert "16 problems to answer" in shown
    assert first["unreadable"] == {"test": 3, "test_blank": 3}
    assert first["sets"] == {"test": 7, "test_blank": 7}
    for name in ("accuracy", "accuracy_sampled", "accuracy_blank", "accuracy_blank_sampled"):
        assert first["metrics"][f"eval/test/{name}"] == pytest.approx(4 / 7)
    assert first["metrics"]["eval/test/unreadable"] == pytest.approx(3 / 7)
    assert first["metrics"]["eval/test/format"] == 1
    assert first["metrics"]["eval/test/reward_mean"] == pytest.approx(1)
    assert first["metrics"]["eval/test/invalid"] == 0

    calls.clear()
    again, _ = run(drawn, tmp_path / "work", eval__blank=True)
    assert not calls
    del again["metrics"]["time/eval"], first["metrics"]["time/eval"]
    assert again == first

    with pytest.raises(errors.UserError) as caught:  # a run begins with whole data
        pictures_test.prepare(drawn)
    assert len(caught.value.lines) == 3

    for path in ("drawn/none.png", "drawn/cut.png", "none/2.png"):
        (drawn / path).parent.mkdir(exist_ok=True)
        shutil.copy(drawn / "drawn" / "2.png", drawn / path)
    whole, files = run(drawn, tmp_path / "work")
    assert len(calls) == 2
    assert len(files["test"]) == 1 + 7 * 2
    assert (whole["metrics"]["eval/test/accuracy"], whole["unreadable"]) == (1, {"test": 0})
    assert whole["metrics"]["eval/test/unreadable"] == 0
    assert whole["folder"] != first["folder"]


def test_where_no_picture_can_be_read_the_folder_is_wrong(drawn, tmp_path):
    rows = [{"question": "<image>?", "answer": "1", "pictures": f"x/{i}.png"} for i in range(9)]
    rows.append({"question": "?", "answer": "1"})
    (drawn / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(errors.UserError) as caught:
        run(drawn, tmp_path / "work")
    (line,) = caught.value.lines
    assert line.startswith(
        "test: no picture of its 9 problems with pictures can be read; the first: "
        f"{drawn}/test.jsonl:1: {drawn}/x/0.png: no such file"
    )
    assert not (tmp_path / "work" / "evaluation").exists()


@pytest.mark.slow
def test_a_question_is_known_though_another_row_cannot_be_read(drawn, tmp_path):
    rows = [
        {"question": "<image>0+1=", "answer": "1", "pictures": f"drawn/{name}.png"}
        for name in ("none", "0")
    ]
    (drawn / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = []
    config, picture = pictures_test.config(drawn), str(drawn / "drawn" / "0.png")
    sample.run(config, epath.Path(tmp_path), "<image>0+1=\n", [picture], write=said.append)
    assert "reward" in said[-1]
    assert "no reward" not in said[-1]
