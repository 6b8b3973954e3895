"""Writes the model card of an exported policy: README.md, as the Hugging Face hub shows it."""

import re
import shlex

import numpy as np
from etils import epath

from mapo_jax.report.runs import Run

_PAPER = "[MAPO: Mixed Advantage Policy Optimization](https://arxiv.org/abs/2509.18849)"
_MADE_BY = ("mapo_jax", "commit", "jax", "devices")  # of the environment of a start


def write(title: str, run: Run, step: int | None, checkpoint: str, sees: bool) -> str:
    """Returns the text of a card.

    Args:
        title: the policy's name.
        run: that trained it.
        step: of RL, after which the policy was saved; None: during the warm-up.
        checkpoint: newest, best or a number: how this one was chosen.
        sees: whether the policy takes pictures.
    """
    init = run.setting("policy.init")
    is_of_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", init) and not epath.Path(init).exists()
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {'image-text-to-text' if sees else 'text-generation'}",
        *([f"base_model: {init}"] if is_of_hub else []),
        "tags: [reinforcement-learning, mapo]",
        "---",
        f"# {title}\n",
        "Trained with reinforcement learning from verifiable rewards by mapo_jax, the JAX",
        f"implementation of {_PAPER}.\n",
        *_table(["", ""], _facts(run, step)),
        "## Evaluation\n",
        *_evaluation(run, step, checkpoint),
        *_commands(run),
        "## Licence\n",
        "The licences of the base policy and of the data may hold for these weights too. Look them",
        "up, and name one at the top of this file (`license:`). mapo_jax is under Apache-2.0.",
    ]
    return "\n".join(lines) + "\n"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Returns the lines of a table, with an empty one at the end."""
    return [*(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)), ""]


def _facts(run: Run, step: int | None) -> list[list[str]]:
    base = [run.setting("policy.init"), run.setting("policy.revision")]
    scratch = f"none; random parameters and {run.setting('warmup.steps')} steps of warm-up"
    group = f"{run.setting('batch.prompts')} prompts with {run.setting('batch.group')} responses"
    return [
        ["base policy", " at ".join(filter(None, base)) or scratch],
        ["task", run.setting("task.name")],
        ["reward", run.setting("task.reward") or "the task's own"],
        ["advantage", run.setting("algorithm.advantage")],
        ["each step", group],
        ["saved", "in the warm-up" if step is None else f"after {step} steps of RL"],
        ["seed", run.setting("seed")],
        *([name, str(run.starts[-1]["environment"][name])] for name in _MADE_BY if run.starts),
    ]


def _evaluation(run: Run, step: int | None, checkpoint: str) -> list[str]:
    """Returns the numbers that have an interval: before RL, and last until `step`."""
    curves = {key: run.curve("eval", "rl", key) for key in run.keys("eval")}
    shown = [key for key in curves if f"{key}_low" in curves]
    steps = np.unique([s for key in shown for s in curves[key].steps if s <= (step or 0)])
    if step is None or not len(steps):
        return ["There is none on record.\n"]

    def cell(key: str, at: int) -> str:
        found = [curves[name].values[curves[name].steps == at] for name in _ends(key)]
        value, low, high = (x[0] if len(x) else np.nan for x in found)
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"

    ends = sorted({int(steps[0]), int(steps[-1])})
    table = _table(
        ["metric", *(f"step {at}" for at in ends)],
        [[f"`{key}`", *(cell(key, at) for at in ends)] for key in shown],
    )
    chosen = "This checkpoint is the best of several by its held-out accuracy, which is thus a"
    return [
        f"Held-out problems, at most {run.setting('eval.problems')} of each set, with 95%",
        "intervals over problems. Accuracy is of greedy answers, `_sampled` of answers sampled at",
        f"temperature {run.setting('eval.temperature')}.",
        *([chosen, "little too high."] if checkpoint == "best" else []),
        "",
        *table,
    ]


def _ends(key: str) -> tuple[str, str, str]:
    return key, f"{key}_low", f"{key}_high"


def _commands(run: Run) -> list[str]:
    """Returns the command lines of all starts, each once."""
    lines = [shlex.join(["python", *start["argv"]]) for start in run.starts]
    return ["## Command\n", "```bash", *dict.fromkeys(lines), "```\n"] if lines else []
