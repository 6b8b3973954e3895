"""Reports on a study: methods x seeds x settings in one table, with differences seed by seed.

`begun` reads the runs, `numbers` compares them, and `write` saves study.json, which holds every
number, and a page. No JAX.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib import ticker
from scipy import special

from mapo_jax.report import figures, markup, paired, saving
from mapo_jax.report.figures import Line, Panel
from mapo_jax.report.runs import Arm, Run, read

_NO_METRIC = ("time/", "throughput/", "memory/")
_SHOWN = (  # training metrics of the page, with the words for them
    ("reward/mean", "reward"),
    ("advantage/certainty", "certainty"),
    ("groups/degenerate", "degenerate groups"),
    ("policy/entropy", "entropy"),
    ("policy/grad_norm", "gradient norm"),
    ("rollout/length_mean", "response length"),
)


class Method(Arm):
    """The runs of one method in one setting; a curve is their mean with its 95% t-interval."""

    def band(
        self, index: np.ndarray, values: np.ndarray, mean: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        n = np.bincount(index, minlength=len(mean))
        squares = np.bincount(index, (values - mean[index]) ** 2, len(mean))
        freedom = np.maximum(n - 1, 1)
        half = special.stdtrit(freedom, 0.975) * np.sqrt(squares / freedom / np.maximum(n, 1))
        half = np.where(n > 1, half, np.nan)
        return mean - half, mean + half


def numbers(runs: Mapping[str, Run], study: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every number of a study.

    Args:
        runs: as `begun` returns them.
        study: its description: "methods", "seeds", "settings" and "baseline", and "runs", each a
            mapping with "setting", "method", "seed", "workdir" (below the study's directory),
            "status" and "reason".

    Returns:
        The description and

        - in each of "runs" that has begun, "evaluations": for each key of an evaluation its value
          "before" RL, "after" it and the "area" under its curve (the mean over the steps); and
          "training": for each metric its mean over all steps;
        - "table": for each setting, method and key of an evaluation, the mean over the seeds of
          those three (`paired.Mean`) and "minus": the same as differences to the baseline
          (`paired.Difference`), which the baseline itself lacks;
        - "gradient": for each setting and method the share of all |advantage| by successes.

        A run counts in "after" and "area" only if it is done.
    """
    rows = []
    for row in study["runs"]:
        run = runs.get(row["workdir"])
        rows.append({**row, **_values(run, row["status"] == "done")} if run else dict(row))
    table = [
        _compared(rows, study, setting, method, key)
        for setting in study["settings"]
        for method in study["methods"]
        for key in _keys(rows)
    ]
    gradient = [
        {"setting": setting, "method": arm.label, "share": figures.gradient_shares(arm)}
        for setting in study["settings"]
        for arm in _arms(runs, study, setting)
    ]
    return {**study, "runs": rows, "table": table, "gradient": gradient}


def write(directory: epath.Path, study: Mapping[str, Any]) -> dict[str, Any]:
    """Writes DIRECTORY/study.json, report.html and figures/; returns `numbers`.

    Raises:
        UserError: the records of a run are malformed.
    """
    runs = begun(directory, study)
    found = numbers(runs, study)
    text = json.dumps(_plain(found), indent=2, allow_nan=False) + "\n"
    temporary = directory / "study.tmp"
    temporary.write_text(text)
    temporary.replace(directory / "study.json")
    sections, panels = _sections(found, runs)
    links = [(name, name) for name, _ in sections[1:]]
    saving.save(directory, f"{study['experiment']}, study", links, sections, panels)
    return found


def change(workdir: epath.Path) -> str:
    """Returns a run's sampled accuracies before and after RL, as in ": test 0.412 -> 0.688"."""
    if not _has_records(workdir / "metrics.jsonl"):
        return ""
    (run,) = read([workdir])
    shown = []
    for name in run.eval_sets():
        values = run.curve("eval", "rl", f"eval/{name}/accuracy_sampled").values
        if len(values):
            shown.append(f"{name} {values[0]:.3f} -> {values[-1]:.3f}")
    return f": {', '.join(shown)}" if shown else ""


def begun(directory: epath.Path, study: Mapping[str, Any]) -> dict[str, Run]:
    """Reads the runs that have begun, by their work directory."""
    names = [r["workdir"] for r in study["runs"] if r["status"] != "waiting"]
    names = [name for name in names if _has_records(directory / name / "metrics.jsonl")]
    return dict(zip(names, read([directory / name for name in names]), strict=True))


def _has_records(path: epath.Path) -> bool:
    return path.exists() and path.stat().length > 0


def _values(run: Run, is_done: bool) -> dict[str, Any]:
    evaluations = {}
    for key in run.keys("eval"):
        if not key.startswith(("eval/", "overall/")) or key.endswith(("_low", "_high")):
            continue
        curve = run.curve("eval", "rl", key)
        evaluations[key] = {
            "before": float(curve.values[0]) if curve.steps[0] == 0 else math.nan,
            "after": float(curve.values[-1]) if is_done else math.nan,
            "area": paired.area(curve.steps, curve.values) if is_done else math.nan,
        }
    training = {}
    for key in run.keys("train"):
        values = run.curve("train", "rl", key).values
        if np.isfinite(values).any() and not key.startswith(_NO_METRIC):
            training[key] = float(np.nanmean(values))
    return {"evaluations": evaluations, "training": training}


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.get("evaluations", ())))


def _of_seeds(
    rows: Sequence[Mapping[str, Any]], seeds: Sequence[int], setting: str, method: str, *path: str
) -> list[float]:
    """Returns a value of each seed's run; NaN where there is none."""

    def value(row: Any) -> float:
        for name in path:
            row = row.get(name, {})
        return row if isinstance(row, float) else math.nan

    found = {r["seed"]: value(r) for r in rows if (r["setting"], r["method"]) == (setting, method)}
    return [found.get(seed, math.nan) for seed in seeds]


def _compared(
    rows: Sequence[Mapping[str, Any]], study: Mapping[str, Any], setting: str, method: str, key: str
) -> dict[str, Any]:
    seeds, baseline = study["seeds"], study["baseline"]
    entry: dict[str, Any] = {"setting": setting, "method": method, "key": key}
    minus = {}
    for when in ("before", "after", "area"):
        values, others = (
            _of_seeds(rows, seeds, setting, name, "evaluations", key, when)
            for name in (method, baseline)
        )
        entry[when] = paired.mean(values)._asdict()
        minus[when] = paired.difference(values, others)._asdict()
    return entry if method == baseline else {**entry, "minus": minus}


def _arms(runs: Mapping[str, Run], study: Mapping[str, Any], setting: str) -> Iterator[Method]:
    """Yields the methods of a setting with the runs that are done."""
    for method in study["methods"]:
        found = [
            runs[row["workdir"]]
            for row in study["runs"]
            if (row["setting"], row["method"], row["status"]) == (setting, method, "done")
            and row["workdir"] in runs
        ]
        if found:
            yield Method(method, found)


def _plain(value: Any) -> Any:
    """Replaces numbers that are not finite by None, as JSON has none of them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# The page


def _sections(
    found: Mapping[str, Any], runs: Mapping[str, Run]
) -> tuple[list[tuple[str, str]], list[Panel]]:
    sections, panels = [("top", _headline(found))], []
    for number, setting in enumerate(found["settings"]):
        compared = list(_arms(runs, found, setting))
        if not compared:
            continue
        end = f"_{number}" * (len(found["settings"]) > 1)
        drawn = [*_differences(found, setting, end), *_panels(compared, end)]
        panels += drawn
        grid = "".join(f"<figure>{panel.svg}</figure>" for panel in drawn)
        tables = "".join(_tables(found, setting))
        title = markup.text(setting or "Methods")
        name = f"setting{number}" if setting else "methods"
        sections.append((name, f'<h2>{title}</h2>{tables}<div class="panels">{grid}</div>'))
    return sections, panels


def _headline(found: Mapping[str, Any]) -> str:
    counts = {"methods": "methods", "seeds": "seeds", "settings": "settings"}
    size = " x ".join(f"{len(found[key])} {word}" for key, word in counts.items())
    header = ["method", *(f"seed {seed}" for seed in found["seeds"])]
    blocks = [
        f"<h1>{markup.text(found['experiment'])}: {size}</h1>",
        f"<pre>{markup.text(found['command'])}</pre>",
        "<p>A value is the mean over the seeds with its 95% t-interval. A difference is taken seed "
        f"by seed, the method minus <b>{markup.text(found['baseline'])}</b>: both started from the "
        "same warm-up and drew the same prompts. <i>p</i> is that of the paired t-test, one "
        "comparison at a time: of twenty comparisons between equal methods about one has p &lt; "
        ".05. <i>Could see</i> is the true difference that a study of this size finds in 80% of "
        "its repetitions; a smaller one may exist and go unseen. <i>Area</i> is the mean of the "
        "curve over all steps.</p>",
    ]
    for setting in found["settings"]:
        statuses = {(r["method"], r["seed"]): r for r in found["runs"] if r["setting"] == setting}
        rows = [
            [m, *(statuses[m, seed]["status"] for seed in found["seeds"])] for m in found["methods"]
        ]
        if any(cell != "done" for row in rows for cell in row[1:]):
            blocks.append(f"<h3>{markup.text(setting)} Runs</h3>" + markup.table(header, rows))
            reasons = {r["workdir"]: r["reason"] for r in statuses.values() if r["reason"]}
            items = (f"<li>{markup.text(f'{k}: {v}')}</li>" for k, v in reasons.items())
            blocks.append(f"<ul>{''.join(items)}</ul>")
    return "".join(blocks)


def _tables(found: Mapping[str, Any], setting: str) -> Iterator[str]:
    entries = [entry for entry in found["table"] if entry["setting"] == setting]
    baseline = found["baseline"]
    header = ["method", "seeds", "before", "after", f"minus {baseline}", "p", "could see"]
    header += ["area", f"minus {baseline}"]
    for key in dict.fromkeys(entry["key"] for entry in entries):
        rows = [comparison(entry) for entry in entries if entry["key"] == key]
        block = markup.table(header, rows, frozenset({baseline}))
        name = markup.text(key.removeprefix("eval/"))
        if key.endswith("/accuracy_sampled"):
            yield f"<h3>{name}</h3>{block}"
        else:
            yield f"<details><summary>{name}</summary>{block}</details>"
    header = ["method", *(words for _, words in _SHOWN)]
    rows = []
    for method in found["methods"]:
        means = [
            paired.mean(_of_seeds(found["runs"], found["seeds"], setting, method, "training", key))
            for key, _ in _SHOWN
        ]
        rows.append([method, *map(_shown, (mean._asdict() for mean in means))])
    yield "<h3>Training, mean over all steps</h3>" + markup.table(header, rows)


def comparison(entry: Mapping[str, Any]) -> list[str]:
    """Returns the cells of a row: method, seeds, before, after, difference, p, could see, area."""
    minus = entry.get("minus")
    cells = [entry["method"], str(entry["after"]["n"]), _shown(entry["before"], False)]
    cells.append(_shown(entry["after"]))
    cells += [_shown(minus["after"], sign="+"), _p(minus["after"]["p"])] if minus else ["", ""]
    cells.append(_number(minus["after"]["detectable"]) if minus else "")
    return [*cells, _shown(entry["area"]), _shown(minus["area"], sign="+") if minus else ""]


def _shown(value: Mapping[str, float], interval: bool = True, sign: str = "") -> str:
    if not interval or not math.isfinite(value["low"]):
        return _number(value["mean"], sign)
    low, high = (_number(value[end], sign) for end in ("low", "high"))
    return f"{_number(value['mean'], sign)} [{low}, {high}]"


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if math.isfinite(value) else "\u2013"


def _p(value: float) -> str:
    if not math.isfinite(value):
        return "\u2013"
    return f"{value:.3f}" if value >= 0.001 else "< .001"


def _differences(found: Mapping[str, Any], setting: str, end: str) -> Iterator[Panel]:
    """Yields a panel for each evaluation set: differences to the baseline, with 95% intervals."""
    entries = [entry for entry in found["table"] if entry["setting"] == setting]
    for key in dict.fromkeys(entry["key"] for entry in entries):
        if key.endswith("/accuracy_sampled"):
            own = [entry for entry in entries if entry["key"] == key and "minus" in entry]
            rows = {entry["method"]: entry["minus"]["after"] for entry in own}
            name = key.split("/")[1]
            title = f"Accuracy on {name}, minus {found['baseline']}"
            yield from figures.panel(f"difference_{name}{end}", title, _draw_differences(rows))


def _draw_differences(rows: Mapping[str, Mapping[str, float]]) -> Callable[[Any], bool]:
    def draw(axes) -> bool:
        known = {name: row for name, row in rows.items() if math.isfinite(row["low"])}
        for y, row in enumerate(known.values()):
            axes.plot([row["low"], row["high"]], [y, y], color=figures.ARMS[0], linewidth=1.6)
            axes.plot(row["mean"], y, "o", color=figures.ARMS[0], ms=5)
        axes.axvline(0, color=figures.MUTED, linewidth=0.9)
        axes.set_yticks(range(len(known)), [name.split("/")[-1] for name in known])
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")
        axes.set_xlabel("accuracy, sampled: mean difference over the seeds")
        return bool(known)

    return draw


def _panels(compared: Sequence[Method], end: str) -> list[Panel]:
    keys = dict.fromkeys(key for arm in compared for key in arm.keys("eval"))
    panels = []
    for key in keys:
        if not key.endswith("/accuracy_sampled"):
            continue
        name = key.split("/")[1]
        draw = figures.curves(compared, [Line(key)], "accuracy, sampled", interval=True, share=True)
        panels += figures.panel(f"accuracy_{name}{end}", f"Accuracy on {name}", draw)
    for key, words in _SHOWN:
        draw = figures.curves(compared, [Line(key)], words, zero=True)
        panels += figures.panel(f"{key.replace('/', '_')}{end}", words.capitalize(), draw)
    draw = figures.gradient_by_successes(compared)
    return panels + figures.panel(f"gradient{end}", "Where the gradient comes from, about", draw)
