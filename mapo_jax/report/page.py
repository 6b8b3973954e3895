"""Writes the page. Its sections follow a researcher's questions; text of a run is escaped."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from mapo_jax.report import figures, health, markup, samples, saving, tables
from mapo_jax.report.figures import Line, Panel
from mapo_jax.report.runs import Arm, Run, arms, read


def write(workdirs: Sequence[Any], output: Any) -> epath.Path:
    """Writes OUTPUT/report.html and OUTPUT/figures/*.png.

    Args:
        workdirs: work directories of the runs to compare, or of one run.
        output: directory, made if it does not exist.

    Returns:
        The path of the page.

    Raises:
        UserError: a directory is missing or empty, a line of its records is malformed, or OUTPUT
            cannot be written.
    """
    runs = read(workdirs)
    sections, panels = _sections(runs)
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} runs compared"
    links = [("healthy", "healthy?"), *((name, name) for name, _ in sections[1:])]
    return saving.save(output, title, links, sections, panels)


_DECODED = (
    ("accuracy_sampled", "sampled"),
    ("accuracy", "greedy"),
    ("accuracy_blank", "greedy, white pictures"),
)


def _sections(runs: list[Run]) -> tuple[list[tuple[str, str]], list[Panel]]:
    """Returns (id, HTML) of each section that is not empty, and all panels."""
    compared, all_panels = arms(runs), []
    keys = list(dict.fromkeys(key for arm in compared for key in arm.keys("train")))
    sections = [("top", _headline(runs, compared))]

    def section(title: str, text: str, *panels: list[Panel], table: str = "") -> None:
        panels_ = [panel for found in panels for panel in found]
        all_panels.extend(panels_)
        if panels_ or table:
            grid = "".join(f"<figure>{panel.svg}</figure>" for panel in panels_)
            name = title.split()[0].lower().strip(",")
            sections.append(
                (name, f'<h2>{title}</h2><p>{text}</p><div class="panels">{grid}</div>{table}')
            )

    def curves(name: str, title: str, ylabel: str, *lines: Line, **options) -> list[Panel]:
        return figures.panel(name, title, figures.curves(compared, lines, ylabel, **options))

    def each(name: str, title: str, draw) -> list[Panel]:
        """A panel for each arm."""
        found = []
        for i, arm in enumerate(compared):
            several = len(compared) > 1
            found += figures.panel(
                f"{name}_{i}" if several else name,
                f"{title}: {arm.label}" if several else title,
                draw(arm, figures.ARMS[i % len(figures.ARMS)]),
            )
        return found

    evaluated = [
        curves(
            f"accuracy_{_file(name)}",
            f"Accuracy on {name}",
            "accuracy",
            Line(f"eval/{name}/accuracy_sampled", "sampled"),
            Line(f"eval/{name}/accuracy", "greedy"),
            Line(f"eval/{name}/accuracy_blank", "greedy, white pictures"),
            interval=True,
            share=True,
        )
        for name in _sets(runs)
    ]
    aside = ("reward/mean", "reward/invalid", "reward/timeouts", "reward/failures")
    names = [key for key in keys if key.startswith("reward/") and key not in aside][:4]
    lines = [Line(key, key.removeprefix("reward/")) for key in names]
    if len(compared) == 1:
        parts = [curves("reward_parts", "Reward parts", "mean", *lines, share=True)]
    else:  # one panel each, as a colour is an arm
        parts = [
            curves(f"reward_{_file(line.label)}", f"Reward: {line.label}", "mean", line, share=True)
            for line in lines
        ]
    section(
        "Learning",
        "Held-out accuracy of one answer per problem, at temperature 1 (sampled) and greedy, with "
        f"its 95% interval{_seeds(compared)}; then what training saw. Faint: every step. Bold: a "
        "running mean.",
        *evaluated,
        curves("reward", "Reward", "mean reward", Line("reward/mean")),
        *parts,
        table=tables.evaluations(runs),
    )
    section(
        "Lengths and truncation",
        "Tokens of a response, the end-of-sequence token included, and the share of responses that "
        "were cut at <code>rollout.max_new_tokens</code>.",
        curves(
            "length",
            "Response length",
            "tokens",
            Line("rollout/length_mean", "mean"),
            Line("rollout/length_max", "max"),
        ),
        curves("truncated", "Truncated responses", "share", Line("rollout/truncated"), share=True),
    )
    section(
        "Groups",
        "How many of a group's rollouts succeed decides how certain it is, &lambda; = 1 &minus; "
        "4p(1 &minus; p), and so which advantage MAPO leans on. A degenerate group (all rewards "
        "equal) teaches nothing. Filled: successes, open: failures; bars span 80% of the steps.",
        each("success_counts", "Successes per group", figures.success_counts),
        figures.panel(
            "advantage_by_successes",
            "Advantage as it happened",
            figures.advantage_by_successes(compared),
        ),
        figures.panel(
            "gradient_by_successes",
            "Where the gradient comes from, about",
            figures.gradient_by_successes(compared),
        ),
        curves(
            "certainty",
            "Certainty",
            "mean \u03bb over groups",
            Line("advantage/certainty"),
            share=True,
        ),
        curves("degenerate", "Degenerate groups", "share", Line("groups/degenerate"), share=True),
        curves(
            "reward_sampled",
            "Reward of all that was sampled",
            "mean reward",
            Line("reward/mean_sampled"),
        ),
        curves("kept", "Kept by dynamic sampling", "share", Line("groups/kept"), share=True),
    )
    limit = _common(runs, "optimizer.max_grad_norm")
    section(
        "Policy",
        "The surrogate is about 0 by construction (on policy the ratio is 1 and advantages sum to "
        "0): its gradient is not. docs/healthy.md says what each of these should look like.",
        curves("entropy", "Entropy", "nats per token", Line("policy/entropy"), zero=True),
        curves("kl", "KL to the reference", "nats per token", Line("loss/kl"), zero=True),
        curves(
            "clipping",
            "Clipped tokens",
            "share",
            *(Line(f"policy/clip_fraction_{name}", name) for name in ("low", "high", "dual")),
            share=True,
        ),
        curves(
            "grad_norm",
            "Gradient norm before clipping",
            "global norm",
            Line("policy/grad_norm"),
            zero=True,
            reference=limit,
        ),
        curves("surrogate", "Surrogate loss", "loss", Line("loss/surrogate"), reference=0.0),
        curves(
            "ratio",
            "Ratio in the first minibatch",
            "mean ratio",
            Line("policy/ratio_mean"),
            reference=1.0,
        ),
        curves(
            "logp_gap",
            "Sampler against trainer",
            "nats per token",
            Line("policy/logp_gap_max", "max"),
            Line("policy/logp_gap_mean", "mean"),
            log=True,
        ),
        curves("skipped", "Skipped updates", "so far", Line("policy/skipped"))
        if any(_peak(run, "policy/skipped") for run in runs)
        else [],
        table=tables.metrics(runs),
    )
    section(
        "Warm-up",
        "Cross-entropy on the task's demonstrations, before RL.",
        curves("warmup_loss", "Warm-up loss", "nats per token", Line("loss/total"), phase="warmup"),
        curves(
            "warmup_entropy",
            "Entropy in the warm-up",
            "nats per token",
            Line("policy/entropy"),
            zero=True,
            phase="warmup",
        ),
    )
    section(
        "Time",
        "Where each step's seconds went, and tokens sampled per second of the whole step. A first "
        "step beyond the axis is compilation.",
        each("time", "Time per step", lambda arm, _: figures.time_by_phase(arm)),
        curves(
            "throughput",
            "Throughput",
            "sampled tokens per second",
            Line("throughput/tokens_per_s"),
            zero=True,
        ),
        table=tables.seconds(runs),
    )
    section(
        "Samples",
        "The same prompts before and after, one card per rollout. &#10003; success, &#10007; no "
        "success; cut: no end within the limit.",
        table="".join(samples.section(run, len(runs) > 1) for run in runs),
    )
    section(
        "Configuration",
        "What differs between the runs, and each run whole. " * (len(runs) > 1)
        + "Marked: what the command line changed.",
        table=tables.configuration(runs),
    )
    return sections, all_panels


# Headline and health


def _headline(runs: list[Run], compared: list[Arm]) -> str:
    run = runs[0]
    several = len(runs) > 1
    if several:
        chips = "".join(
            f'<span class="chip"><i style="background:var(--arm{i % len(figures.ARMS)})"></i>'
            f"{markup.text(arm.label)}{f', {len(arm.runs)} seeds' * (len(arm.runs) > 1)}</span>"
            for i, arm in enumerate(compared)
        )
        intro = f"<h1>{len(runs)} runs compared</h1><p>{chips}</p>"
    else:
        facts = [run.setting("task.name"), run.setting("algorithm.advantage")]
        intro = f"<h1>{markup.text(', '.join(filter(None, facts)) or run.label)}</h1>"
        intro += f'<p class="muted">{markup.text(run.path)}</p>'
        intro += _tiles(run)
    rows = []
    for name in _sets(runs):
        for metric, label in _DECODED:
            for run in runs:
                before, after, change = _before_after(run, f"eval/{name}/{metric}")
                if after:
                    rows.append([run.label] * several + [name, label, before, after, change])
    header = ["run"] * several + ["set", "decoding", "before RL", "after", "change"]
    accuracy = markup.table(header, rows) if rows else "<p>No evaluation so far.</p>"
    overview = ""
    if several:
        header = ["run", "task", "advantage", "seed", "RL steps", "in steps and evaluation"]
        names = ("task.name", "algorithm.advantage", "seed")
        overview = markup.table(
            header,
            [
                [run.label, *(run.setting(name) for name in names), _steps(run), _duration(run)]
                for run in runs
            ],
        )
    return intro + overview + "<h3>Accuracy, with its 95% interval</h3>" + accuracy + _health(runs)


def _tiles(run: Run) -> str:
    tiles = []
    for name in run.eval_sets()[:1]:
        curve = run.curve("eval", "rl", f"eval/{name}/accuracy_sampled")
        values = curve.values[np.isfinite(curve.values)]
        if len(values):
            text = (
                f"{values[0]:.3f} \u2192 {values[-1]:.3f}"
                if len(values) > 1
                else f"{values[0]:.3f}"
            )
            tiles.append((text, f"accuracy on {name}, sampled"))
    reward = run.curve("train", "rl", "reward/mean").values
    reward = reward[np.isfinite(reward)]
    if len(reward):
        tiles.append(
            (f"{reward[0]:.3f} \u2192 {reward[-1]:.3f}", "mean reward, first and last step")
        )
    warmup = run.curve("train", "warmup", "time/step").steps
    steps = f"{warmup[-1]} + {_steps(run)}" if len(warmup) else _steps(run)
    tiles.append((steps, "warm-up + RL steps" if len(warmup) else "RL steps"))
    tiles.append((_duration(run), "in steps and evaluation"))
    cards = "".join(
        f"<div><b>{markup.text(x)}</b><span>{markup.text(y)}</span></div>" for x, y in tiles
    )
    return f'<div class="tiles">{cards}</div>'


def _before_after(run: Run, key: str) -> tuple[str, str, str]:
    curve = run.curve("eval", "rl", key)
    low, high = (run.curve("eval", "rl", f"{key}_{end}").values for end in ("low", "high"))
    finite = np.flatnonzero(np.isfinite(curve.values))
    if not len(finite):
        return "", "", ""

    def show(i: int) -> str:
        whole = len(low) == len(high) == len(curve.values)
        return f"{curve.values[i]:.3f}" + (f" [{low[i]:.3f}, {high[i]:.3f}]" if whole else "")

    first, last = finite[0], finite[-1]
    if first == last:
        return show(first), "\u2013", "\u2013"
    return show(first), show(last), f"{curve.values[last] - curve.values[first]:+.3f}"


def _health(runs: list[Run]) -> str:
    blocks = []
    for run in runs:
        findings = health.examine(run)
        wrong = [finding for finding in findings if not finding.ok]
        names = ", ".join(finding.check.name for finding in wrong)
        verdict = f"{len(findings) - len(wrong)} of {len(findings)} checks are fine"
        verdict += f'; look at: <b class="look">{markup.text(names)}</b>' if wrong else ""
        advice = "".join(
            f"<li><b>{markup.text(check.name)}</b> {markup.number(value)} (healthy: "
            f"{check.healthy}): {markup.text(check.otherwise)}</li>"
            for check, value, _ in wrong
        )
        rows = "".join(
            f'<tr class="{"" if ok else "look"}"><td>{"ok" if ok else "look at"}</td>'
            f'<th scope="row">{markup.text(check.name)}</th>'
            f'<td class="n">{markup.number(value)}</td>'
            f"<td>{check.healthy}</td><td>{markup.text(check.measured)}</td></tr>"
            for check, value, ok in sorted(findings, key=lambda finding: finding.ok)
        )
        label = f"<b>{markup.text(run.label)}</b>: " if len(runs) > 1 else ""
        blocks.append(
            f"<details{' open' if len(runs) == 1 else ''}><summary>{label}{verdict}</summary>"
            f'<ul>{advice}</ul><div class="scroll"><table><thead><tr><th></th><th>check</th>'
            "<th>value</th><th>healthy</th><th>measured</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></div></details>"
        )
    return (
        '<h3 id="healthy">Is my run healthy?</h3>'
        + "".join(blocks)
        + '<p class="muted">Start and end are the means of the first and the last tenth of the RL '
        "steps. Each check stands under its name in docs/healthy.md.</p>"
    )


def _common(runs: list[Run], key: str) -> float | None:
    """The number that all runs have for `key`; None if they differ."""
    values = {run.setting(key) for run in runs}
    return None if len(values) > 1 or "" in values else float(values.pop())


def _steps(run: Run) -> str:
    done = max(run.curve("train", "rl", "time/step").steps, default=0)
    return f"{done} of {run.config['steps']}" if "steps" in run.config else str(done)


def _duration(run: Run) -> str:
    curves = [run.curve("train", phase, "time/step") for phase in ("warmup", "rl")]
    curves.append(run.curve("eval", "rl", "time/eval"))
    seconds = round(sum(float(np.nansum(curve.values)) for curve in curves))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds % 60} s"


def _seeds(compared: list[Arm]) -> str:
    several = any(len(arm.runs) > 1 for arm in compared)
    return " (of several seeds: their mean, and a band from the lowest to the highest)" * several


def _sets(runs: list[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.eval_sets()))


def _file(name: str) -> str:
    return re.sub(r"\W+", "_", name, flags=re.ASCII)[:60]


def _peak(run: Run, key: str) -> float:
    return float(np.nan_to_num(run.curve("train", "rl", key).values).max(initial=0))
