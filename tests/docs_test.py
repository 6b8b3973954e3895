"""Tests that every link of the pages leads somewhere and that CI can run every command on them."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location("commands", ROOT / ".ci" / "commands.py")
commands = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(commands)

PROGRAMS = ("python", "launch/tpu_pod.sh", "launch/again.sh", "sbatch", "export", "wait", ".ci/run")
FLAGS = {
    "config",
    "workdir",
    "distributed",
    "coordinator",
    "num-processes",
    "process-id",
    "output",
    "methods",
    "seeds",
    "baseline",
    "setting",
    "params",
    "prompt",
    "answer",
    "topology",
}


def _tree(path, presets=""):
    spec = importlib.util.spec_from_file_location("experiment", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(presets).to_dict() if presets else module.get_config().to_dict()


def _unknown(tree, key):
    """Returns whether `key` is no knob; options that an experiment leaves empty are open."""
    for name in key.split("."):
        if tree == {}:
            return False
        if not isinstance(tree, dict) or name not in tree:
            return True
        tree = tree[name]
    return False


def _run_lines():
    for page in commands.pages():
        if page not in commands.SKIPPED_PAGES:
            for kind, text in commands.blocks(page):
                if kind == "bash":
                    yield from ((page, line) for line in commands.lines(text))


@pytest.mark.parametrize(("page", "line"), list(_run_lines()))
def test_command_is_run_or_skipped_for_a_reason(page, line):
    if commands.skipped(line):
        return
    words = shlex.split(line.removesuffix("&"))
    assert words[0] in PROGRAMS
    script = next((word for word in words if word.startswith("launch/")), "")
    assert not script or (ROOT / script).is_file()
    if script.endswith(".py") and "--config" in words:
        path, _, presets = words[words.index("--config") + 1].partition(":")
        tree = _tree(path, presets)
        for flag in (word[2:].partition("=")[0] for word in words if word.startswith("--")):
            key = flag.removeprefix("config.")
            assert flag in FLAGS or (flag != key and not _unknown(tree, key)), flag


@pytest.mark.parametrize("page", commands.pages())
def test_knobs_that_a_page_names_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    trees = [_tree(f"experiments/{name}.py") for name in ("common", "jsonl")]
    keys = set(re.findall(r"--config\.([a-z_]\w*(?:\.\w+)*)", text)) - {"a.b"}
    assert [key for key in keys if all(_unknown(tree, key) for tree in trees)] == []


@pytest.mark.parametrize("page", commands.pages())
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s#]+)", text) + re.findall(r'src="([^"]+)"', text)
    relative = [target for target in targets if "://" not in target]
    assert [to for to in relative if not (ROOT / page).parent.joinpath(to).exists()] == []


def test_what_is_shortened_and_skipped_is_on_the_pages():
    found = [line for _, line in _run_lines()]
    for shape in commands.SHORTENED:
        assert any(re.fullmatch(shape, line) for line in found), shape
    assert all((ROOT / page).is_file() for page in commands.SKIPPED_PAGES)
