"""`file.py:function` loads a function, and each mistake gets its line."""

import sys

import pytest

from mapo_jax import errors, loading


def test_loads_a_function(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Scale:\n"
        "    by: float = 2.0\n"
        "def double(x):\n"
        "    return Scale().by * x\n"
        "double.range = (0, 2)\n"
    )
    double = loading.load_function(f"{path}:double")
    assert double(3) == 6
    assert double.range == (0, 2)
    path.write_text("def double(x):\n    return 'edited'\n")
    assert loading.load_function(f"{path}:double")(3) == "edited"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("source", "name", "line"),
    [
        ("def f():\n    pass\n", "g", "mine.py has no function g; its functions: f"),
        ("def f(:\n", "f", "syntax error in .*mine.py:1: "),
        ("\nimport no_such_module\n", "f", "mine.py:2 raised ModuleNotFoundError: No module named"),
        ("f = 3\n", "f", "f is 3, not a function; its functions: none"),
        ("\0", "f", "syntax error|raised|null"),
        ("import json\njson.loads('x')\n", "f", "mine.py:2 raised JSONDecodeError"),
        ("raise SystemExit('bye')\n", "f", "mine.py:1 raised SystemExit: bye"),
        ("def flop():\n    pass\n", "flip", "did you mean flop"),
    ],
)
def test_mistakes_in_the_file(tmp_path, source, name, line):
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(errors.UserError, match=line) as raised:
        loading.load_function(f"{path}:{name}", key="task.reward")
    assert str(raised.value).startswith(f"task.reward={path}:{name}: ")
    assert len(raised.value.lines) == 1


@pytest.mark.parametrize("reference", ["mapo", "mine.py", "mine:f", "mine.py:", "mine.py:a b"])
def test_malformed_reference(reference):
    with pytest.raises(errors.UserError, match=r"must look like path/to/file.py:function"):
        loading.load_function(reference)


def test_missing_file(tmp_path):
    with pytest.raises(errors.UserError, match=r"cannot read .*none.py: No such file"):
        loading.load_function(f"{tmp_path}/none.py:f")


def test_modules_of_two_files_with_one_name_are_two(tmp_path):
    functions = []
    for directory in ("a", "b"):
        (tmp_path / directory).mkdir()
        path = tmp_path / directory / "mine.py"
        path.write_text(f"def f():\n    return {directory!r}\n")
        functions.append(loading.load_function(f"{path}:f"))
    assert [f() for f in functions] == ["a", "b"]
    assert all(f.__module__ in sys.modules for f in functions)
