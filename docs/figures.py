"""Makes pictures of the pages from a finished run or study: `python docs/figures.py DIR`.

From a study come its differences on the set `test`, one picture for each of its settings, for
docs/results.md. From a run whose prompts have pictures comes docs/figures/diagrams.png, the prompts
on record with answers before and after. Of any other run docs/figures/console.svg is a screenshot
of the real console, which replays the run's records up to one moment, and the other pictures are
copied from its report.
"""

import collections
import io
import json
import re
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from rich.console import CONSOLE_SVG_FORMAT
from rich.terminal_theme import TerminalTheme

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from mapo_jax.run.console import Console  # noqa: E402

PICTURES = ("accuracy_test.png", "success_counts.png", "advantage_by_successes.png")  # of DIR
WINDOW = (0.3, 0.7)  # the screenshot shows the lines printed between these shares of RL steps
WIDTH = 100  # columns
THEME = TerminalTheme(
    (13, 17, 23),  # background
    (230, 237, 243),
    [
        (72, 79, 88),  # black, red, green, yellow, blue, magenta, cyan, white
        (255, 123, 114),
        (63, 185, 80),
        (210, 153, 34),
        (88, 166, 255),
        (188, 140, 255),
        (57, 197, 207),
        (177, 186, 196),
    ],
    [(72, 79, 88)] * 8,  # bright colors, of which the console uses only black
)


def console_svg(workdir: Path) -> str:
    """Replays the records of `workdir` through the console and returns its screen."""
    config = json.loads((workdir / "config.json").read_text())
    totals = {"warmup": config["warmup"]["steps"], "rl": config["steps"]}
    first, last = (round(share * totals["rl"]) for share in WINDOW)
    groups: dict[int, dict[str, list[dict]]] = {}
    for row in _lines(workdir / "rollouts.jsonl"):
        groups.setdefault(row["step"], {}).setdefault(row["prompt"], []).append(row)

    seconds, begun = 0.0, ""
    console = Console("rich", io.StringIO(), clock=lambda: seconds)
    console.out.width = WIDTH
    for line in _lines(workdir / "metrics.jsonl"):
        kind, phase, step = (line.pop(name) for name in ("kind", "phase", "step"))
        if phase != begun:
            console.phase(phase, totals[phase], 0)
            begun = phase
        if phase == "rl" and step > last:
            break
        console.out.record = phase == "rl" and step >= first
        seconds += sum(value for name, value in line.items() if name in ("time/step", "time/eval"))
        console.record(kind, phase, step, line)
        if (kind, phase) == ("train", "rl") and step in groups:
            console.group(phase, step, _shown(list(groups[step].values())))
    console.out.print(console.bars())
    return console.out.export_svg(
        theme=THEME,
        title=f"python launch/run.py --config experiments/{config['task']['name']}.py",
        code_format=_without_fonts(CONSOLE_SVG_FORMAT),
        unique_id="console",  # the same run gives the same bytes
    )


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _shown(groups: list[list[dict]]) -> list[dict]:
    """The first group with something to compare, as the trainer chooses it."""
    mixed = [rows for rows in groups if len({row["reward"] for row in rows}) > 1]
    return (mixed or groups)[0]


def _without_fonts(code: str) -> str:
    """rich's template with the reader's own fonts in place of a server's."""
    code = re.sub(r"@font-face \{\{.*?\}\}\s*|<!--.*?-->\s*", "", code, flags=re.DOTALL)
    return code.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono")


def diagrams(workdir: Path) -> plt.Figure:
    """Shows the first pictures on record, how many answers were right, and the commonest one."""
    rows = _lines(workdir / "rollouts.jsonl")
    moments = {
        "before": [row for row in rows if row["kind"] == "train" and row["step"] == 1],
        "after": [row for row in rows if row["kind"] == "after"],
    }
    files = list(dict.fromkeys(row["images"][0]["file"] for row in moments["before"]))
    figure, axes = plt.subplots(1, len(files), figsize=(3 * len(files), 3.2), squeeze=False)
    for ax, file in zip(axes[0], files, strict=True):
        ax.imshow(plt.imread(workdir / file))
        ax.set_axis_off()
        words = []
        for moment, found in moments.items():
            group = [row for row in found if row["images"][0]["file"] == file]
            thoughts = collections.Counter(row["response"].split("</think>")[0] for row in group)
            common = thoughts.most_common(1)[0][0].removeprefix("<think>")
            right = sum(row["success"] for row in group)
            words.append(f"{moment}: {right} of {len(group)} right\n{common}")
        ax.set_title(group[0]["prompt"], fontsize=11)
        ax.text(0.5, -0.06, "\n".join(words), va="top", ha="center", transform=ax.transAxes)
    figure.subplots_adjust(0.02, 0.36, 0.98, 0.9)
    return figure


def main(workdir: Path) -> None:
    """Writes all pictures into docs/figures."""
    figures = DOCS / "figures"
    figures.mkdir(exist_ok=True)
    if (workdir / "study.json").exists():
        experiment = json.loads((workdir / "study.json").read_text())["experiment"]
        name = f"study_{Path(experiment.partition(':')[0]).stem}"
        for path in (workdir / "figures").glob("difference_test*.png"):
            shutil.copyfile(path, figures / path.name.replace("difference_test", name))
        return
    if (workdir / "pictures").is_dir():
        diagrams(workdir).savefig(figures / "diagrams.png", dpi=100)
        return
    (figures / "console.svg").write_text(console_svg(workdir), encoding="utf-8")
    for name in PICTURES:
        shutil.copyfile(workdir / "figures" / name, figures / name)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
