"""Reads work directories for the report: metrics as columns, the config, starts and samples.

A run may be old, may have died early or may still be going on. So a key, a file or the end of the
last line may be missing, but a malformed line in the middle is a mistake and named. No JAX.
"""

import array
import collections
import dataclasses
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from PIL import Image

from mapo_jax import errors


class Curve(NamedTuple):
    """Values over steps, in order; a null of the record is NaN."""

    steps: np.ndarray  # i64[n]
    values: np.ndarray  # f64[n]
    low: np.ndarray | None = None  # f64[n], the band around them
    high: np.ndarray | None = None

    def where(self, kept: np.ndarray) -> "Curve":
        """Returns the points for which `kept`, bool[n], is true."""
        low, high = (None if x is None else x[kept] for x in (self.low, self.high))
        return Curve(self.steps[kept], self.values[kept], low, high)


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of one work directory."""

    label: str  # short, unique in the report
    path: str
    config: dict[str, Any]  # "a.b" -> value; empty if config.json is missing
    starts: list[dict]  # from run.json, one for each start of the command
    samples: list[dict]  # from rollouts.jsonl: the first step, the last one, "after"
    columns: dict[tuple[str, str], dict[str, tuple[array.array, array.array]]]

    def curve(self, kind: str, phase: str, key: str) -> Curve:
        """Returns the values of `key` by step; if a step appears twice, the later line counts."""
        steps, values = self.columns.get((kind, phase), {}).get(key, ((), ()))
        steps, values = np.asarray(steps, np.int64), np.asarray(values, np.float64)
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
        last = np.append(steps[1:] != steps[:-1], True)[: len(steps)]
        return Curve(steps[last], values[last])

    def keys(self, kind: str, phase: str = "rl") -> list[str]:
        """Returns the keys of these lines in the order of their first appearance."""
        return list(self.columns.get((kind, phase), ()))

    def setting(self, key: str) -> str:
        """Returns a value of the config as text; "" if the config lacks it."""
        return str(self.config[key]) if key in self.config else ""

    def thumbnail(self, name: Any) -> tuple[bytes, int, int] | None:
        """Returns the JPEG of a picture of the samples, its width and its height in pixels.

        None if `name` is no name of such a file, or the file is missing or broken.
        """
        if not re.fullmatch(r"pictures/\w+\.jpg", str(name)):  # it is embedded in a page
            return None
        try:
            content = (epath.Path(self.path) / name).read_bytes()
            with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
                image.load()
                return content, image.width, image.height
        except Exception:  # readers of Pillow raise anything over broken bytes
            return None

    def eval_sets(self) -> list[str]:
        """Returns the names of the evaluation sets, the run's own first."""
        keys = [key for key in self.keys("eval") if re.fullmatch("eval/.+/.+", key, re.DOTALL)]
        return list(dict.fromkeys(key.removeprefix("eval/").rpartition("/")[0] for key in keys))


@dataclasses.dataclass(frozen=True)
class Arm:
    """Runs whose configs differ by the seed only; their mean is drawn as one curve."""

    label: str
    runs: list[Run]

    def curve(self, kind: str, phase: str, key: str) -> Curve:
        """Returns the mean over the runs with its band; one run's curve has no band."""
        curves = [run.curve(kind, phase, key) for run in self.runs]
        if len(curves) == 1:
            return curves[0]
        steps, values = (np.concatenate(x) for x in list(zip(*curves, strict=True))[:2])
        steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
        steps, index = np.unique(steps, return_inverse=True)
        mean = np.bincount(index, values, len(steps)) / np.maximum(np.bincount(index), 1)
        return Curve(steps, mean, *self.band(index, values, mean))

    def band(
        self, index: np.ndarray, values: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the range of the runs at each step, (lowest, highest).

        Args:
            index: i64[values], the step of each value.
            values: f64[values], of all runs.
            mean: f64[steps], their mean.
        """
        low, high = np.full(len(mean), np.inf), np.full(len(mean), -np.inf)
        np.minimum.at(low, index, values)
        np.maximum.at(high, index, values)
        return low, high

    def interval(self, key: str) -> Curve:
        """Returns an evaluation's values with their 95% interval, or the range over the seeds."""
        curve = self.curve("eval", "rl", key)
        if len(self.runs) > 1:
            return curve
        low, high = (self.curve("eval", "rl", f"{key}_{end}") for end in ("low", "high"))
        complete = len(low.steps) == len(high.steps) == len(curve.steps)
        return Curve(curve.steps, curve.values, low.values, high.values) if complete else curve

    def keys(self, kind: str, phase: str = "rl") -> list[str]:
        """Returns the keys that any of the runs has."""
        return list(dict.fromkeys(key for run in self.runs for key in run.keys(kind, phase)))


def read(workdirs: Sequence[Any]) -> list[Run]:
    """Reads work directories.

    Raises:
        UserError: one line for each directory that is missing or given twice, has no metrics or a
            malformed line.
    """
    paths = [epath.Path(workdir) for workdir in workdirs]
    places = [path.resolve() for path in paths]
    twice = {path for path, place in zip(paths, places, strict=True) if places.count(place) > 1}
    if twice:
        lines = [f"{path}: is given twice; give each run once" for path in sorted(twice)]
        raise errors.UserError(*lines)
    runs, mistakes = [], []
    for path, label in zip(paths, _labels(paths), strict=True):
        try:
            runs.append(_read(path, label))
        except errors.UserError as error:
            mistakes += error.lines
    if mistakes:
        raise errors.UserError(*mistakes)
    return runs


def arms(runs: Sequence[Run]) -> list[Arm]:
    """Gathers runs that differ by the seed only, in order of appearance."""
    by_config = collections.defaultdict(list)
    for run in runs:
        rest = {key: value for key, value in run.config.items() if key != "seed"}
        by_config[json.dumps(rest, sort_keys=True) if rest else run.path].append(run)
    firsts = [group[0] for group in by_config.values()]
    names = [key for key, _ in differences(firsts) if key != "seed"]
    found = []
    for group in by_config.values():
        label = group[0].label
        if len(group) > 1:
            values = [str(group[0].config.get(name, "")) for name in names[:2]]
            label = ", ".join(values) or label
        found.append(Arm(label, group))
    return found


def differences(runs: Sequence[Run]) -> list[tuple[str, list[Any]]]:
    """Returns (key, its values in the runs) of config keys that differ; None for a missing one."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = [(key, [run.config.get(key) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if any(x != values[0] for x in values)]


def _labels(paths: Sequence[epath.Path]) -> list[str]:
    """Returns the last parts of the paths, as many as distinguish them."""
    parts = [str(path).rstrip("/").split("/") for path in paths]
    for count in itertools.count(1):
        labels = ["/".join(x[-count:]) for x in parts]
        if len(set(labels)) == len(labels) or all(count >= len(x) for x in parts):
            break
    return labels


def _read(path: epath.Path, label: str) -> Run:
    if not path.is_dir():
        raise errors.UserError(f"{path}: no such directory; give the work directory of a run")
    if not (path / "metrics.jsonl").exists():
        raise errors.UserError(f"{path}: has no metrics.jsonl; give the work directory of a run")
    columns: dict = collections.defaultdict(dict)
    for line in _lines(path / "metrics.jsonl", ("kind", "phase", "step")):
        kind, phase, step = line.pop("kind"), line.pop("phase"), line.pop("step")
        keys = columns[kind, phase]
        for key, value in line.items():
            if key not in keys:
                keys[key] = (array.array("q"), array.array("d"))
            keys[key][0].append(step)
            keys[key][1].append(_number(value))
    if not columns:
        raise errors.UserError(f"{path}/metrics.jsonl: is empty; the run has not done a step yet")
    config = _object(path / "config.json")
    record = _object(path / "run.json")
    starts = record["starts"] if "starts" in record else []
    return Run(label, str(path), dict(_flat(config)), starts, _samples(path), dict(columns))


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def _lines(path: epath.Path, required: Sequence[str]) -> Iterator[dict]:
    """Yields the objects of a .jsonl; leaves out a last line that is not yet fully written."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            line = {}
            try:
                line = json.loads(text.decode("utf-8", "replace"))
                missing = [key for key in required if key not in line]
                wrong = f"has no {', '.join(missing)}" if missing else ""
                if not wrong and not isinstance(line["step"], int):
                    wrong = f"step={line['step']!r} is not an integer"
            except (ValueError, TypeError):
                wrong = "is not a JSON object"
            if wrong and not text.endswith(b"\n"):
                return
            if wrong:
                raise errors.UserError(f"{path}: line {number} {wrong}; mend or delete that line")
            yield line


def _object(path: epath.Path) -> dict:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise errors.UserError(f"{path}: is not JSON; mend or delete that file") from None
    return value if isinstance(value, dict) else {}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _samples(path: epath.Path) -> list[dict]:
    """Returns rows of the first and the last step of training, and rows after training."""
    path = path / "rollouts.jsonl"
    first, last, after = [], [], []
    if path.exists():
        for row in _lines(path, ("step", "prompt", "response")):
            row = {"kind": "train"} | row
            rows = after if row["kind"] == "after" else last
            if rows and rows[0]["step"] != row["step"]:
                if not first and rows is last:
                    first = list(last)
                rows.clear()
            rows.append(row)
    return [*first, *last, *after]
