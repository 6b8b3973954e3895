"""Turns an experiment file into a tree of settings and applies those of the command line.

Every mistake becomes a line of a list.
"""

import ast
import importlib.util
import re
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mapo_jax import config, errors

_SHIPPED = Path(__file__).resolve().parents[2] / "experiments"  # in a clone and installed
KNOBS = _SHIPPED / "common.py"


def find(name: str) -> Path:
    """Returns an experiment's file; `arithmetic` ships with the package, `my.py` is a path."""
    shipped = _SHIPPED / f"{name}.py"
    is_bare = not name.endswith(".py") and "/" not in name
    return shipped if is_bare and shipped.is_file() else Path(name)


def load(name: str, lines: list[str]) -> Any:
    """Imports an experiment by its path or its bare name; None and a line if that fails."""
    path = find(name)
    if not path.is_file():
        lines.append(f"--config={name}: no such file{_like(name)}")
        return None
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        lines.append(f"--config={name}: not a Python file; give FILE.py[:PRESET,...]")
        return None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines.append(_failure(name, error))
        return None
    if not hasattr(module, "get_config"):
        lines.append(f"--config={name}: has no get_config(presets); see experiments/arithmetic.py")
        return None
    return module


def _like(name: str) -> str:
    """Returns a hint with paths if a path was given in a clone, else with bare names."""
    known = [p.stem for p in sorted(_SHIPPED.glob("*.py")) if p.stem not in ("common", "__init__")]
    if "/" in name and Path("experiments/common.py").is_file():
        known = [f"experiments/{stem}.py" for stem in known]
    else:
        name = Path(name).stem
    return errors.did_you_mean(name, known, f"experiments that ship: {', '.join(known)}")


def get_config(name: str, presets: str, module: Any, lines: list[str]) -> ConfigDict | None:
    known = getattr(module, "PRESETS", {})  # an experiment need not have any
    names = list(filter(None, presets.split(",")))
    for preset in names:
        if preset not in known:
            hint = errors.did_you_mean(preset, known)
            lines.append(
                f"--config={name}:{presets}: no preset {preset}{hint}; presets: "
                f"{', '.join(known) or 'none'}"
            )
    try:
        tree = module.get_config(",".join(preset for preset in names if preset in known))
    except Exception as error:
        lines.append(_failure(name, error))
        return None
    if not isinstance(tree, ConfigDict):
        lines.append(
            f"--config={name}: get_config returned {type(tree).__name__}, not a ConfigDict"
        )
        return None
    return tree


def _failure(name: str, error: Exception) -> str:
    """Returns an exception of a config file as one line, with the last place in that file."""
    if isinstance(error, SyntaxError):
        place = error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        places = [f.lineno for f in frames if Path(f.filename).resolve() == find(name).resolve()]
        place = places[-1] if places else 1
    message = " ".join(str(error).split())
    return f"--config={name}: line {place} raises {type(error).__name__}: {message}"


def set_value(tree: ConfigDict, key: str, text: str, lines: list[str]) -> None:
    """Sets `key` to `text` in the type of its default; a mistake becomes a line."""
    parent, _, name = key.rpartition(".")
    if parent in config.OPEN:
        group = _node(tree, parent)
        with group.unlocked(), group.ignore_type():  # whoever takes the options checks their types
            is_text = name in group and isinstance(group[name], str)
            group[name] = text if is_text else _literal(text)
        return
    keys = _leaves(tree)
    if key not in keys:
        inside = [known for known in keys if known.startswith(key + ".")]
        if key in config.OPEN:
            lines.append(f"{key}={text}: set one of its keys, as in --config.{key}.KEY=VALUE")
        elif inside:
            lines.append(f"{key}={text}: is a group; set one of {', '.join(inside)}")
        else:
            lines.append(f"{key}={text}: no such key{_nearest(key, keys)}")
        return
    try:
        _node(tree, parent)[name] = _convert(text, keys[key])
    except ValueError as error:
        lines.append(f"{key}={config.show(text)}: {error}")


def _node(tree: ConfigDict, key: str) -> Any:
    for name in filter(None, key.split(".")):
        tree = tree[name]
    return tree


def _leaves(tree: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the values of the tree by their full names."""
    leaves = {}
    for name, value in tree.items():
        if isinstance(value, ConfigDict):
            leaves |= _leaves(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def _nearest(key: str, keys: dict[str, Any]) -> str:
    """Returns a hint: the key with the same last part or, if there is none, the nearest key."""
    last = key.rpartition(".")[2]
    same = [known for known in keys if known.rpartition(".")[2] == last]
    return f"; did you mean {same[0]}?" if same else errors.did_you_mean(key, keys)


_GROUPED = re.compile(r"^[^'\"]*\d_\d")  # 1_000 is a number in Python only


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _GROUPED.search(text):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _convert(text: str, default: Any) -> Any:
    """Reads `text` as the type of `default`; a ValueError names the expected type."""
    if isinstance(default, str):
        return text
    if default is None:  # a number that may be left out
        return None if text == "None" else _convert(text, 0.0)
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError("expected True or False")
        return text.lower() == "true"
    if _GROUPED.search(text):
        raise ValueError("write the number without _")
    if isinstance(default, tuple):
        value = _literal(text)
        kinds = [type(part) for part in default]
        if not isinstance(value, tuple | list) or [type(part) for part in value] != kinds:
            example = ",".join(map(str, default))
            raise ValueError(f"expected {len(default)} numbers like its default, as in {example}")
        return tuple(value)
    expected = "an integer, as in 8" if isinstance(default, int) else "a number, as in 0.5 or 1e-6"
    try:
        return type(default)(text)
    except ValueError:
        raise ValueError(f"expected {expected}") from None
