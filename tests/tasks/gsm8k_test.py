"""GSM8K: rows from files and from TensorFlow Datasets, malformed rows, the real rows if at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mapo_jax import errors, rewards, tasks
from mapo_jax.tasks import base, gsm8k

ROW = {
    "question": "Ann has 1,000 apples and buys 34. How many has she?",
    "answer": "She has 1000+34=<<1000+34=1034>>1034 apples.\n#### 1,034",
}


def write(directory, train, test=(ROW,)):
    for name, rows in (("train", train), ("test", test)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (directory / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    return str(directory)


def test_rows_from_files(tmp_path):
    task = tasks.make("gsm8k", {}, write(tmp_path, [ROW, ROW]), 0)
    (example,) = task.evals["test"]
    assert len(task.train) == 2
    assert example["answer"] == "1034"
    assert task.prompt(example) == f"{ROW['question']}\n{base.INSTRUCTION}\n"
    assert task.demonstration(example) == (
        r"<think>She has 1000+34=1034 apples.</think> \boxed{1034}"
    )
    assert task.reward(task.demonstration(example), example)["success"]


MALFORMED = [
    ("{", "not JSON (Expecting property name"),
    ("[1]", "not a JSON object, as in {"),
    ('{"question": "q"}', 'not a row {"question": text, "answer": text}'),
    ('{"question": "q", "answer": 3}', 'not a row {"question": text, "answer": text}'),
    ('{"question": "q", "answer": "3"}', "the answer does not end in '#### number'"),
    ('{"question": "q", "answer": "#### x"}', "the answer does not end in '#### number'"),
    ("", "an empty line"),
    ("[" * 100_000, "not JSON that can be read"),
]


@pytest.mark.parametrize(("line", "what"), MALFORMED)
def test_a_malformed_row_is_named(tmp_path, line, what):
    with pytest.raises(errors.UserError) as raised:
        gsm8k.make({}, write(tmp_path, [ROW, line, ROW]), 0)
    (only,) = raised.value.lines
    assert only.startswith(f"{tmp_path}/train.jsonl:2: {what}")


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = write(tmp_path, [ROW])
    (tmp_path / "test.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(errors.UserError, match=r"test.jsonl:1: not UTF-8 at byte 15"):
        gsm8k.make({}, path, 0)


def test_many_malformed_rows_are_counted(tmp_path):
    with pytest.raises(errors.UserError) as raised:
        gsm8k.make({}, write(tmp_path, ["{"] * 30, []), 0)
    assert len(raised.value.lines) == 11
    assert raised.value.lines[-1] == f"data.path={tmp_path}: and 21 more malformed rows"


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(errors.UserError, match=r"no train.jsonl and no test.jsonl there; give the"):
        gsm8k.make({}, str(tmp_path), 0)
    with pytest.raises(errors.UserError, match=r"test.jsonl: empty"):
        gsm8k.make({}, write(tmp_path, [ROW], []), 0)


def test_there_are_no_options(tmp_path):
    with pytest.raises(errors.UserError, match=r"task.options.levels=1: no such option"):
        gsm8k.make({"levels": 1}, write(tmp_path, [ROW]), 0)


def run_without_a_path(tmp_path, script):
    return subprocess.run(
        [sys.executable, "-c", script + "from mapo_jax.tasks import gsm8k\ngsm8k.make({}, '', 0)"],
        cwd=Path(gsm8k.__file__).parents[2],
        env={**os.environ, "TFDS_DATA_DIR": str(tmp_path / "tfds")},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "script",
    [
        "import sys\nsys.modules['tensorflow_datasets'] = None\n",
        "import urllib.request\n"
        "def urlopen(*args, **kwargs): raise OSError('no network')\n"
        "urllib.request.urlopen = urlopen\n",
    ],
    ids=["no package", "no network"],
)
def test_neither_way_is_there(tmp_path, script):
    done = run_without_a_path(tmp_path, script)
    line = done.stderr.splitlines()[-1]
    assert line.startswith("mapo_jax.errors.UserError: data.path: GSM8K is missing: ")
    assert "--config.data.path=DIR" in line
    assert "tensorflow-datasets" in line
    assert not done.stdout


def test_rows_from_tensorflow_datasets(tmp_path):
    """Prepares the stock builder from rows at hand instead of its download."""
    pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    write(tmp_path, [ROW, ROW, ROW], [ROW])
    check = (
        f"task = gsm8k.make({{}}, '', 0)\n"
        f"assert [len(task.train), len(task.evals['test'])] == [3, 1]\n"
        f"assert task.train[2]['question'] == {ROW['question']!r}, task.train[2]\n"
        f"assert task.train[2]['answer'] == '1034'\n"
        f"assert not {{'jax', 'tensorflow'}} & set(sys.modules)\n"
    )
    script = (
        "import io, sys, urllib.request\n"
        "import tensorflow_datasets as tfds\n"
        "urllib.request.urlopen = lambda *args, **kwargs: io.BytesIO()\n"
        "tfds.download.DownloadManager.download_and_extract = lambda self, urls: {\n"
        f"    name: {str(tmp_path)!r} + '/' + name.split('_')[0] + '.jsonl' for name in urls}}\n"
        f"from mapo_jax.tasks import gsm8k\n{check}"
        "def urlopen(*args, **kwargs): raise OSError('no network')\n"
        f"urllib.request.urlopen = urlopen  # prepared: no network is needed\n{check}"
    )
    done = run_without_a_path(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert not done.stdout + done.stderr


def test_the_real_rows():
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with gsm8k/train.jsonl and test.jsonl)")
    task = gsm8k.make({}, str(Path(os.environ["MAPO_JAX_DATA"]) / "gsm8k"), 0)
    assert [len(task.train), len(task.evals["test"])] == [7473, 1319]
    examples = [*task.train, *task.evals["test"]]
    demonstrations = [task.demonstration(example) for example in examples]
    assert not any("<<" in text or "####" in text for text in demonstrations)
    judged = rewards.judge(task.reward, demonstrations, examples)
    assert judged.success.all()
