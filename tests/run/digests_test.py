"""Digests of what an evaluation depends on: they follow contents, not names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mapo_jax import sharding
from mapo_jax.run import digests


def test_a_digest_of_arrays_is_of_names_types_and_values_on_any_mesh():
    tree = {"a": jnp.arange(16.0).reshape(8, 2), "b": [jnp.zeros(3, jnp.bfloat16)]}
    found = digests.of_arrays(tree)
    mesh = sharding.make_mesh(8, 1, 1)
    assert found == digests.of_arrays({"a": sharding.put(tree["a"], mesh), "b": tree["b"]})
    changed = [
        {**tree, "a": tree["a"].at[3, 1].add(1e-6)},
        {**tree, "a": tree["a"].reshape(2, 8)},
        {**tree, "b": [jnp.zeros(3)]},
        {"a": tree["a"], "c": tree["b"]},
    ]
    assert len({found, *map(digests.of_arrays, changed)}) == 5
    assert found == digests.of_arrays(jax.tree.map(np.asarray, tree))


@pytest.fixture
def reward(tmp_path, monkeypatch):
    """A file that imports modules beside it, and one from the current directory."""
    files = {
        "here/reward.py": "import json\nfrom helper import share\nfrom parts.inner import a as b\n",
        "here/helper.py": "import deeper\nimport helper\n",
        "here/deeper.py": "x = 1\n",
        "here/parts/__init__.py": "",
        "here/parts/inner.py": "a = 1\n",
        "here/other.py": "x = 1\n",
        "deeper.py": "hidden = 'by the one beside the file'\n",
        "share.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "here" / "reward.py"


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("reward.py", True),
        ("helper.py", True),
        ("deeper.py", True),
        ("parts/__init__.py", True),
        ("parts/inner.py", True),
        ("other.py", False),
        ("../deeper.py", False),
        ("../share.py", False),
    ],
)
def test_a_digest_of_source_is_of_the_modules_that_it_imports(reward, name, counts):
    before = digests.of_source(reward)
    assert before == digests.of_source(reward.relative_to(reward.parents[1]))  # as it is written
    with (reward.parent / name).open("a") as file:
        file.write("# edited\n")
    assert (digests.of_source(reward) != before) == counts


@pytest.mark.parametrize("text", ["def f(:\n", "\0"])
def test_a_module_that_cannot_be_imported_counts_by_its_bytes(reward, text):
    """The reward may do without it, as in `try: import helper`."""
    (reward.parent / "helper.py").write_text(text)
    before = digests.of_source(reward)
    (reward.parent / "deeper.py").write_text("x = 2\n")
    assert digests.of_source(reward) == before
    (reward.parent / "helper.py").write_text(text + "# edited\n")
    assert digests.of_source(reward) != before


def test_a_module_of_the_current_directory_counts(reward):
    reward.write_text("import share\n")
    before = digests.of_source(reward)
    (reward.parents[1] / "share.py").write_text("x = 1\n")
    assert digests.of_source(reward) != before


@pytest.mark.parametrize("edited", ["core.py", "deep/inner.py", "deep/beside.py", "up.py"])
def test_relative_imports_count(tmp_path, edited):
    files = {
        "reward.py": "from graders import check\n",
        "graders/__init__.py": "from .core import check\n",
        "graders/core.py": "from .deep import inner\nfrom . import deep\n",
        "graders/up.py": "x = 1\n",
        "graders/deep/__init__.py": "from .inner import y\n",
        "graders/deep/inner.py": "from ..up import x\nfrom .beside import z\ny = 1\n",
        "graders/deep/beside.py": "z = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = digests.of_source(tmp_path / "reward.py")
    (tmp_path / "graders" / edited).write_text(files[f"graders/{edited}"] + "# edited\n")
    assert digests.of_source(tmp_path / "reward.py") != before
