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


def beside(directory, what):
    """A file with a module, a package and a folder without __init__ beside it."""
    for folder in ("", "pack", "plain"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
        (directory / folder / "helper.py").write_text(f"what = {what!r}\n")
    (directory / "pack" / "__init__.py").write_text("")
    path = directory / "mine.py"
    path.write_text(
        "import helper\nimport pack.helper\nfrom plain import helper as third\n"
        "def f():\n    return [helper.what, pack.helper.what, third.what]\n"
    )
    return f"{path}:f"


def test_modules_beside_two_files_are_imported_and_not_mixed_up(tmp_path, monkeypatch):
    references = [beside(tmp_path / name, name) for name in ("a", "b")]
    monkeypatch.syspath_prepend(tmp_path / "a")  # as a file in the root of a clone
    before = [*sys.path], {*sys.modules}
    functions = [loading.load_function(reference) for reference in (*references, *references[:1])]
    assert [f() for f in functions] == [["a"] * 3, ["b"] * 3, ["a"] * 3]
    assert sys.path == before[0]
    assert {*sys.modules} - before[1] == {f"{tmp_path}/{name}/mine.py" for name in ("a", "b")}
    beside(tmp_path / "a", "edited")
    assert loading.load_function(references[0])() == ["edited"] * 3


def test_an_installed_module_is_imported_once(tmp_path, monkeypatch):
    """It stays, even one from a folder below that of the file."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "installed_below.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "site")
    path = tmp_path / "mine.py"
    path.write_text("import installed_below\ndef f():\n    return installed_below\n")
    first, again = (loading.load_function(f"{path}:f")() for _ in range(2))
    assert first is again
    del sys.modules["installed_below"]


def test_a_mistake_in_a_module_beside_the_file_is_named(tmp_path):
    reference = beside(tmp_path, "x")
    (tmp_path / "helper.py").write_text("\n\ndef (:\n")
    with pytest.raises(errors.UserError, match=r"syntax error in .*/helper.py:3: "):
        loading.load_function(reference)
    (tmp_path / "helper.py").write_text("1 / 0\n")
    with pytest.raises(errors.UserError, match=r"mine.py:1 raised ZeroDivisionError"):
        loading.load_function(reference)
    assert str(tmp_path) not in sys.path
