"""A run with pictures: all are read at the start, then those of each batch again."""

import contextlib
import datetime
import functools
import json
import shutil
import socket
import subprocess
import types

import jax
import numpy as np
import pytest
from etils import epath
from PIL import Image

from experiments import jsonl
from mapo_jax import errors, images, model, rollouts, tasks
from mapo_jax.commands import evaluate, sample
from mapo_jax.config import from_config_dict
from mapo_jax.run import checks, pictures, setup, sources, trainer
from mapo_jax.run.console import Console
from tests import runs, small
from tests.run import processes_test

VISION = model.VisionConfig(num_layers=1, embed_dim=16, num_heads=2, mlp_dim=16, patch=4, merge=2)
SETTINGS = runs.MICRO | {
    "tokenizer.path": "mapo_jax/tasks/arithmetic.model",
    "task.options.images": "pictures",
    "task.options.demonstration": "\\boxed{{answer}}",
    "policy.vision.num_layers": 2,
    "policy.vision.embed_dim": 16,
    "policy.vision.num_heads": 2,
    "policy.vision.mlp_dim": 16,
    "policy.vision.patch": 4,
    "policy.vision.window": 4,
    "images.min_pixels": 64,
    "images.max_pixels": 256,
    "data.max_prompt_tokens": 16,
    "warmup.steps": 0,
    "steps": 2,
    "batch.epochs": 1,
    "batch.group": 4,
    "eval.problems": 10,
    "eval.batch": 16,
    "eval.blank": True,
    "checkpoint.every": 1,
    "log.rollouts_every": 1,
    "log.rollouts_prompts": 16,
    "optimizer.schedule_steps": 0,
    "algorithm.beta": 0.0,
    "algorithm.entropy": 0.1,  # a gradient that no reward is needed for
}
for key in ("task.options.train_size", "task.options.eval_size"):
    del SETTINGS[key]
SIZES = ((16, 16), (8, 16), (24, 8), (15, 10), (9, 17))


def draw(folder, n=40):
    """Writes train.jsonl and test.jsonl; of four rows one has two pictures, and two have none."""
    rng = np.random.default_rng(0)
    (folder / "drawn").mkdir(parents=True)
    for i, (h, w) in enumerate(SIZES):
        picture = rng.integers(0, 256, (h, w, 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / "drawn" / f"{i}.png")
    rows = []
    for i in range(n):
        a, b = i % 10, i // 10
        those = [[0, i % 5], [i % 5], [], []][i % 4]
        rows.append(
            {
                "question": f"{'<image>' * len(those)}{a}+{b}=",
                "answer": str(a + b),
                "pictures": [f"drawn/{k}.png" for k in those],
            }
        )
    for name, some in (("train", rows[: 3 * n // 4]), ("test", rows[3 * n // 4 :])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return folder


def config(folder, **changes):
    """Returns the smallest run of a policy with a tower; "a__b" for "a.b"."""
    tree = jsonl.get_config("tiny")
    settings = SETTINGS | {"data.path": str(folder)}
    settings |= {name.replace("__", "."): value for name, value in changes.items()}
    with tree.unlocked():
        for key, value in settings.items():
            *groups, name = key.split(".")
            node = tree
            for group in groups:
                node = node[group]
            node[name] = value
    return from_config_dict(tree)


def prepare(folder, say=print, **changes):
    now = datetime.datetime.now(datetime.UTC)
    with runs.traced_once():
        return setup.prepare(config(folder, **changes), say, now)


@pytest.fixture
def drawn(tmp_path):
    return draw(tmp_path / "data")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The work directory of a run to its end; its data lie in data/ beside it."""

    def make(directory):
        draw(directory / "data")
        runs.train(config(directory / "data"), directory / "run")

    return runs.once(tmp_path_factory, "pictures", make)


@pytest.mark.slow
def test_the_first_ratio_is_one_and_records_name_the_pictures(whole):
    rows = [row for row in runs.lines(whole / "run") if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["policy/ratio_mean"] == pytest.approx(1, abs=1e-4)
        assert row["policy/logp_gap_max"] < 1e-4
        assert row["policy/skipped"] == 0
        assert row["policy/grad_norm"] > 0
    for row in runs.lines(whole / "run", "rollouts"):
        number = row["prompt"].count("<image>")
        assert len(row.get("images", ())) == number
        for one in row.get("images", ()):
            size = images.read(one["source"]).shape[:2]
            assert (one["height"], one["width"]) == images.target_size(*size, 8, 64, 256)
    assert {"images" in row for row in runs.lines(whole / "run", "rollouts")} == {True, False}
    evaluated = [row for row in runs.lines(whole / "run") if row["kind"] == "eval"]
    assert all(row["eval/test/unreadable"] == 0 for row in evaluated)
    assert all(0 <= row["eval/test/accuracy_blank_sampled"] <= 1 for row in evaluated)


@pytest.mark.slow
def test_thumbnails_are_of_what_the_policy_sees(whole):
    rows = runs.lines(whole / "run", "rollouts")
    named = {one["file"]: one["source"] for row in rows for one in row.get("images", ())}
    written = [path.relative_to(whole / "run") for path in (whole / "run/pictures").iterdir()]
    assert {path.as_posix() for path in written} == named.keys()
    assert len(named) == len(SIZES)
    for file, source in named.items():
        seen = images.shrink(images.read(source), 8, 64, 256)
        assert (whole / "run" / file).read_bytes() == images.thumbnail(seen)


def test_a_thumbnail_is_of_the_picture_that_was_seen(drawn):
    reader = pictures.Reader(config(drawn).images, VISION)
    path, other = (str(drawn / "drawn" / f"{k}.png") for k in (0, 1))
    reader.seen(path)
    shutil.copy(other, path)
    with pytest.raises(errors.UserError, match=r"0.png: is not the picture that it was"):
        reader.thumbnail(path)


@pytest.mark.slow
def test_a_continued_run_repeats_itself(whole, tmp_path):
    shutil.copytree(whole / "data", tmp_path / "data")
    for steps in (1, 2):
        runs.train(config(tmp_path / "data", steps=steps), tmp_path / "run")
    one, other = (
        [row for row in runs.timeless(runs.lines(x / "run")) if row["step"] == 2]
        for x in (whole, tmp_path)
    )
    assert [row["kind"] for row in one] == ["train", "eval"]
    assert one == other


@pytest.mark.nightly
def test_a_warm_up_that_is_continued(drawn, tmp_path):
    """Its last step, the first of RL and their evaluations, also in calls of several sizes."""
    changes = {"warmup__steps": 2, "steps": 1, "eval__batch": 4}
    runs.train(config(drawn, **changes), tmp_path / "run")
    stop = types.SimpleNamespace(is_requested=lambda: True)
    with started(config(drawn, **changes), tmp_path / "again", stop) as run:
        with pytest.raises(errors.Preempted, match="step 1 of warmup"):
            run.go()
    runs.train(config(drawn, **changes), tmp_path / "again")
    one, other = (runs.timeless(runs.lines(tmp_path / name)) for name in ("run", "again"))
    assert len(one) == 5
    assert one == other


@contextlib.contextmanager
def started(config, workdir, stop=None):
    with runs.traced_once(), Console("plain") as console:
        with trainer.Trainer(config, epath.Path(workdir), console, (), stop) as run:
            yield run


def moved(run, step):
    """Takes a step; returns by how much it moves the parameters of the tower and the others."""
    before = jax.device_get(run.progress.state.params)
    run.step(step)
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, run.progress.state.params)
    tower = changes.pop("vision")
    return [max(map(float, jax.tree.leaves(tree))) for tree in (tower, changes)]


@pytest.mark.parametrize(
    ("rate", "least", "most"),
    [(0.0, 0, 0), *small.nightly((1e-4, 0.9e-4, 2.2e-4), (None, 0.9e-2, 2.2e-2))],
)
@pytest.mark.slow
def test_the_rate_of_the_tower(drawn, tmp_path, rate, least, most):
    with started(config(drawn, optimizer__vision_learning_rate=rate), tmp_path / "run") as run:
        tower, rest = moved(run, 1)
    assert least <= tower <= most
    assert 0.9e-2 < rest < 2.2e-2  # two steps of Adam at 1e-2


def test_an_album_holds_what_was_cut(drawn):
    made = prepare(drawn)
    task, album = made.task, made.album
    for i, prompt in enumerate(made.prompts):
        assert len(prompt.pictures) == [2, 1, 0, 0][prompt.example % 4]
        assert prompt.tokens.count(made.tokenizer.image_id) * 4 == album.count(i)
    assert album.rung() == rollouts.patch_rung(max(map(album.count, range(30))), merge=2)
    assert album.rung([2, 3]) == 0
    chosen = [4, None, 2, 1]
    tokens = [() if i is None else made.prompts[i].tokens for i in chosen]
    album.ahead([5])
    album.ahead([4, 8])
    added = album.add(rollouts.pad_prompts(tokens, 16), chosen, N=album.rung([4, 2, 1]))
    for k, i in enumerate(chosen):
        cut = [np.zeros((0, 48), np.uint8)]
        if i is not None:
            for path in tasks.pictures(task, task.train[i]):
                shrunk = images.shrink(images.read(path), 8, 64, 256)
                cut.append(images.patches(shrunk, 4, 2))
        cut = np.concatenate(cut)
        np.testing.assert_array_equal(added.images.patches[k, : len(cut)], cut)
        assert not added.images.patches[k, len(cut) :].any()
        cells = np.flatnonzero(added.images.cell[k] >= 0)
        image_tokens = np.asarray(tokens[k]) == made.tokenizer.image_id
        np.testing.assert_array_equal(cells, np.flatnonzero(image_tokens))
    empty = album.add(rollouts.pad_prompts([tokens[2]], 16), [2], N=16)  # others have pictures
    assert (empty.images.picture == -1).all()
    assert album.add(empty, [2], N=0) is empty
    assert [*album._waiting] == [8]


def test_white_pictures_are_as_those_of_files(drawn, tmp_path):
    made = prepare(drawn)
    assert [*made.eval_sets] == ["test", "test_blank"]
    album, blank = (one.album for one in made.eval_sets.values())
    indices = [*range(10), None]
    tokens = [() if i is None else made.eval_sets["test"].prompts[i] for i in indices]
    padded = rollouts.pad_prompts(tokens, 16)
    before, white = (x.add(padded, indices, album.rung()) for x in (album, blank))
    assert (before.images.patches != white.images.patches).any()
    for i, (h, w) in enumerate(SIZES):  # not of the sizes that the policy sees
        Image.new("RGB", (w, h), "white").save(drawn / "drawn" / f"{i}.png")
    files = prepare(drawn).eval_sets["test"].album.add(padded, indices, album.rung())
    jax.tree.map(np.testing.assert_array_equal, white, files)


def test_white_pictures_need_pictures(drawn):
    text = [json.dumps({"question": f"{i}+1=", "answer": i + 1}) + "\n" for i in range(9)]
    (drawn / "test.jsonl").write_text("".join(text))
    with pytest.raises(errors.UserError) as caught:
        prepare(drawn)
    assert caught.value.lines == (
        "eval.blank=True: no evaluation set has pictures; set it to False",
    )
    shutil.copy(drawn / "train.jsonl", drawn / "seen.jsonl")
    assert [*prepare(drawn).eval_sets] == ["test", "seen", "seen_blank"]
    shutil.copy(drawn / "test.jsonl", drawn / "seen_blank.jsonl")
    with pytest.raises(errors.UserError) as caught:
        prepare(drawn)
    assert caught.value.lines == (
        "eval.blank=True: would name a set seen_blank, and there is one; rename that, or set "
        "eval.blank to False",
    )


def test_contents_are_of_pictures_too(drawn):
    first = prepare(drawn).contents()
    assert prepare(drawn).contents() == prepare(drawn, eval__blank=False).contents() == first
    Image.new("RGB", SIZES[0]).save(drawn / "drawn" / "0.png")  # as many tokens as before
    second = prepare(drawn).contents()
    assert {key for key in first if first[key] != second[key]} == {"data.path", "eval.test"}


def test_a_picture_is_decoded_once_at_the_start(drawn, monkeypatch):
    seen = []
    read = images.read
    monkeypatch.setattr(images, "read", lambda source: seen.append(source) or read(source))
    prepare(drawn)
    assert len(seen) < 2 * len(SIZES)  # two threads may have met at one
    assert {path.rpartition("/")[2] for path in seen} == {f"{i}.png" for i in range(5)}


def test_all_bad_pictures_are_listed_together(drawn):
    (drawn / "drawn" / "0.png").write_bytes((drawn / "drawn" / "0.png").read_bytes()[:100])
    Image.new("RGB", (1, 300)).save(drawn / "drawn" / "1.png")
    with pytest.raises(errors.UserError) as caught:
        prepare(drawn)
    lines = caught.value.lines
    assert all(".jsonl:" in line for line in lines if "more malformed rows" not in line)
    assert any("train.jsonl:1:" in line and "0.png" in line for line in lines)
    assert any("1.png: 1 x 300 pixels: one side is more than 200 times" in line for line in lines)
    assert [line for line in lines if line.startswith("train: and")]
    assert any("test.jsonl:" in line for line in lines)


def test_a_prompt_must_not_end_with_a_picture(drawn):
    (drawn / "train.jsonl").write_text(
        json.dumps({"question": "1<image>", "answer": "1", "pictures": "drawn/0.png"}) + "\n"
    )
    with pytest.raises(errors.UserError, match=r"train.jsonl:1: the prompt ends with a picture"):
        prepare(drawn, task__options__template="{question}")


def test_the_first_frame_of_an_animation_is_told(drawn):
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
    frames[0].save(drawn / "drawn" / "a.png", save_all=True, append_images=frames[1:])
    row = {"question": "<image>1", "answer": "1", "pictures": ["drawn/a.png"]}
    with (drawn / "train.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    said = []
    prepare(drawn, said.append)
    assert "1 of 6 pictures have several frames or pages; the policy sees the first" in said


@pytest.mark.slow
@pytest.mark.parametrize("is_gone", [True, False])
def test_a_picture_that_changes_ends_the_run_with_its_state(drawn, tmp_path, is_gone):
    with started(config(drawn), tmp_path / "run") as run:
        if is_gone:
            (drawn / "drawn" / "0.png").unlink()
        else:
            shutil.copy(drawn / "drawn" / "1.png", drawn / "drawn" / "0.png")
        run.progress.is_open = False
        assert run.setup.album.thumbnail(0, 0) is None
        with pytest.raises(errors.UserError, match=r"0.png: is not the picture that it") as caught:
            run.go()
        assert len(caught.value.lines) == 1
        assert run.saved.latest() == 0


def test_what_a_tower_cannot_be(drawn):
    def mistakes(devices=1, **changes):
        return checks.validate(config(drawn, **changes), devices)

    assert mistakes() == []
    for changes, line in (
        ({"policy__vision__num_layers": 0}, "task.name=jsonl: has pictures, and the policy sees"),
        ({"task__options__images": ""}, "task.name=jsonl: prompts have places for pictures, <im"),
        ({"data__too_long": "truncate"}, "data.too_long=truncate: would cut the pictures"),
        (
            {"policy__vision__num_heads": 3},
            "policy.vision.num_heads=3: must divide policy.vision.embed_dim=16; try 2",
        ),
        ({"policy__vision__num_heads": 8}, "policy.vision.num_heads=8: must leave each head a m"),
        (
            {"lora__rank": 2, "optimizer__vision_learning_rate": 1e-3},
            "optimizer.vision_learning_rate=0.001: adapters leave the tower as it is; set it t",
        ),
        ({"policy__head_dim": 4}, "policy.head_dim=4: must be at least 6 with a tower"),
        ({"images__min_pixels": 512}, "images.min_pixels=512: must be at most images.max_pixel"),
        (
            {"images__min_pixels": 1, "images__max_pixels": 63},
            "images.max_pixels=63: must be at least 64, the pixels of a token",
        ),
        (
            {"policy__vision__mlp_dim": 15, "devices": 2, "mesh__tensor": 2},
            "mesh.tensor=2: must divide policy.vision.mlp_dim=15; try 1",
        ),
        (
            {"policy__vision__embed_dim": 12, "devices": 8, "mesh__fsdp": 8},
            "mesh.fsdp=8: must divide policy.vision.embed_dim=12",
        ),
    ):
        found = mistakes(**changes)
        assert any(one.startswith(line) for one in found), (line, found)
    assert mistakes(task__options__images="", task__options__placeholder="") == []
    assert len(mistakes(images__max_pixels=-1)) == 1  # what is out of its limits is not compared


def test_a_policy_of_text_gets_no_tower(drawn, tmp_path):
    text = sources.find(runs.micro())
    sources.save_description(epath.Path(tmp_path), text.architecture, text.tokenizer)
    (tmp_path / "checkpoints").mkdir()
    (line,) = checks.validate(config(drawn, policy__init=str(tmp_path)), 1)
    assert line.endswith(
        "has pictures, and the policy sees none; give a vision policy in policy.init"
    )


def test_one_that_sees_nothing_refuses_pictures(drawn):
    with pytest.raises(errors.UserError, match="sees no pictures, and a prompt has 2"):
        prepare(drawn, policy__vision__num_layers=0)


@pytest.mark.slow
def test_a_policy_answers_about_files(whole, tmp_path):
    """Those of a row are that row's, with its answer; without a place they come first."""
    run, said = shutil.copytree(whole / "run", tmp_path / "run"), []
    c = config(whole / "data")
    path = [str(whole / "data" / "drawn" / f"{i}.png") for i in range(5)]
    ask = functools.partial(sample.run, c, epath.Path(run), write=said.append)
    ask("<image><image>0+0=\n", [path[0], path[0]])
    assert "no reward" not in said[-1]
    for files in ([path[0], path[1]], [path[1], path[0]]):  # row 0 has another second picture
        ask("<image><image>0+0=\n", files)
        assert "the task does not know this question" in said[-1]
    ask("what?", path[:1], is_raw=True)
    for files, line in (
        ([], "--image: places for pictures in the prompt: 1 (<image>), pictures: 0"),
        ([str(tmp_path)], f"--image: {tmp_path}: is a directory; give a picture's path"),
    ):
        with pytest.raises(errors.UserError) as caught:
            ask("<image>?", files)
        assert str(caught.value).startswith(line)
    one = runs.lines(run)[-1]
    evaluate.run(c, epath.Path(run))
    two = json.loads((run / "evaluation.json").read_text())["metrics"]
    for name in ("eval/test/accuracy", "eval/test/length_mean"):
        assert one[name] == two[name]


@pytest.mark.nightly
def test_two_processes_train_as_one(drawn, tmp_path):
    """Each reads the pictures of its own prompts; some parts have none."""
    reward = processes_test.short(tmp_path)
    settings = {"task.reward": reward, "dynamic.max_tries": 20, "rollout.chunks": 2}
    settings |= {"warmup.steps": 2, "eval.batch": 4}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = runs.command(tmp_path / "two", "jsonl", SETTINGS | {"data.path": drawn} | settings)
    words += [f"--coordinator=localhost:{port}", "--num-processes=2"]
    started = [
        subprocess.Popen(
            [*words, f"--process-id={i}"],
            cwd=runs.ROOT,
            env=runs.one_device(),
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    outputs = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    changes = {name.replace(".", "__"): value for name, value in settings.items()}
    runs.train(config(drawn, **changes), tmp_path / "one")  # two devices in this process
    for name in ("metrics", "rollouts"):
        one, two = (runs.lines(tmp_path / x, name) for x in ("one", "two"))
        if name == "metrics":
            processes_test.assert_close(one, two)
        else:
            names = ("kind", "step", "prompt", "images", "response")
            assert [[row.get(x) for x in names] for row in one] == [
                [row.get(x) for x in names] for row in two
            ]
