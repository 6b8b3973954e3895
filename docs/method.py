"""Draws the figures of docs/method.md and rewrites its tables: `python docs/method.py`.

`advantages.diagnostics` computes everything from the registry, so that page and code cannot
disagree. A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import functools
import re
import sys
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from mapo_jax import advantages  # noqa: E402
from mapo_jax.advantages import bandit, diagnostics, paper  # noqa: E402
from mapo_jax.report.figures import ARMS, GRID, INK, MUTED  # noqa: E402

PAGE = DOCS / "method.md"
SOURCE = r"[.,;]? *\(?(?:arXiv )?(\d{4}\.\d{5})"  # in a docstring, with the words before it


def mapo_random_mean(rewards_G, success_G, mask_G, *, eps):
    """The mean of `mapo_random` over its draws: lambda = 1/2."""
    arguments = rewards_G, success_G, mask_G
    return (paper.grpo(*arguments, eps=eps) + paper.apd(*arguments, eps=eps)) / 2


# The measured advantages: an entry of the registry or a function, and options. `remax` is missing,
# because the greedy response's reward is not a function of the group.
CASES = {
    "mapo": ("mapo", {}),
    "grpo": ("grpo", {}),
    "dr_grpo": ("dr_grpo", {}),
    "gpg": ("gpg", {}),
    "tree_rpo": ("tree_rpo", {}),
    "apd": ("apd", {}),
    "maxrl": ("maxrl", {}),
    "mapo_random, mean": (mapo_random_mean, {}),
    "mapo_linear": ("mapo_linear", {}),
    "rloo": ("rloo", {}),
    "reinforce_plus_plus": ("reinforce_plus_plus", {}),
    "reinforce_plus_plus_baseline": ("reinforce_plus_plus_baseline", {}),
    "beta_norm(2, 1)": ("beta_norm", {"a": 2.0, "b": 1.0}),
    "pkpo(4)": ("pkpo", {"k": 4}),
    "passk(4)": ("passk", {"k": 4}),
    "gdpo": ("gdpo", {}),
    "opo": ("opo", {}),
    "quantile(0.4)": ("quantile", {"K": 0.4}),
    "ngrpo": ("ngrpo", {}),
    "dgpo": ("dgpo", {}),
    "sign_balance": ("sign_balance", {}),
    "rs_grpo(4)": ("rs_grpo", {"beta": 4.0}),
    "mgpo": ("mgpo", {}),
    "a_grae": ("a_grae", {}),
    "lite_ppo": ("lite_ppo", {}),
    "jspo": ("jspo", {}),
    "ebpo": ("ebpo", {}),
    "focal(grpo, 1)": ("focal", {"base": "grpo", "gamma": 1.0}),
    "signed(grpo, 0.1, 1)": ("signed", {"base": "grpo", "pos": 0.1, "neg": 1.0}),
}
# w(p) and F(p) for large G, with F(1/2) = 0 and F'(1/2) = 2; `dr_grpo` is doubled to have these.
LIMITS = {
    "mapo": (
        lambda p: 4 * np.sqrt(p * (1 - p)) + (1 - 2 * p) ** 2 / p,
        lambda p: diagnostics.mapo_objective(p) - diagnostics.mapo_objective(0.5),
    ),
    "grpo": (lambda p: 1 / np.sqrt(p * (1 - p)), lambda p: 2 * np.arcsin(np.sqrt(p)) - np.pi / 2),
    "apd": (lambda p: 1 / p, lambda p: np.log(2 * p)),
    "dr_grpo": (lambda p: 2 + 0 * p, lambda p: 2 * p - 1),
}
SIZES = (8, 12)  # the paper's groups
BETAS = (
    (1.0, 1.0, "dr_grpo", "1"),
    (1.5, 1.5, "grpo", "pi / 8"),
    (2.0, 1.0, "apd", "1 / 2"),
    (2.0, 2.0, "tree_rpo", "1 / 6"),
    (2.0, 2.0, "dgpo", "1 / 3"),
    (1.0, 2.0, "sign_balance", "1 / 2"),
)


@functools.cache
def binary(case, G):
    """`diagnostics.binary` of a case."""
    advantage, options = CASES[case]
    return diagnostics.binary(advantage, G, **options)


def example_group(rewards_G):
    """A group as the page writes it."""
    return "[" + ", ".join(f"{r:g}" for r in rewards_G) + "]"


# The tables: each function returns rows of cells; the first row is the head.


def family():
    """Every entry, with formula and sources from its docstrings."""
    rows, seen = [("advantage", "A_i", "rewards", "sources")], {}
    for name, entry in advantages.ADVANTAGES.items():
        texts = [part.__doc__ for part in (entry.fn, entry.stage) if part]
        formulas = [re.split(SOURCE, text.splitlines()[0])[0].rstrip(".") for text in texts]
        same = seen.setdefault((entry.fn, entry.stage), name)
        formula = ", then ".join(formulas) if same == name else f"the same as `{same}`"
        ids = dict.fromkeys(re.findall(SOURCE, " ".join(texts)))
        links = ", ".join(f"[{i}](https://arxiv.org/abs/{i})" for i in ids)
        low, high = entry.rewards
        needs = {(-np.inf, np.inf): "any", (0, np.inf): ">= 0", (0, 1): "0 to 1"}
        rows.append((f"`{name}`", formula, needs.get((low, high), f"<= {high:g}"), links))
    return rows


def examples():
    """The smallest advantage of the paper's groups."""
    rows = [("advantage", *(f"min A of {example_group(g)}" for g in diagnostics.EXAMPLES))]
    for case in ("grpo", "dr_grpo", "tree_rpo", "apd", "mapo_linear", "mapo"):
        worst = diagnostics.values(CASES[case][0], diagnostics.EXAMPLES).min(1)
        rows.append((f"`{case}`", *(f"{a:.3f}" for a in worst)))
    return rows


def _fault(measure, verdicts, numbers, head):
    rows = [(*head, *(f"{number}, G = {G}" for G in SIZES for number in numbers))]
    for case, (advantage, options) in CASES.items():
        found = [measure(advantage, G, **options) for G in SIZES]
        said = ["yes" if found[0][verdict] else "no" for verdict in verdicts]
        shares = [f"{100 * f['share']:.0f}%" for f in found]
        sizes = [f"{round(f[numbers[1]], 2) + 0:.2f}" for f in found]  # no -0.00
        pairs = [cell for pair in zip(shares, sizes, strict=True) for cell in pair]
        rows.append((f"`{case}`", *said, *pairs))
    return rows


def reversion():
    """`diagnostics.reversion` of every case."""
    head = ("advantage", "paper's example", "the introduction's", "0/1 rewards")
    return _fault(diagnostics.reversion, ("paper", "intro", "binary"), ("share", "size"), head)


def mirror():
    """`diagnostics.mirror` of every case."""
    head = ("advantage", "paper's example", "0/1 rewards")
    return _fault(diagnostics.mirror, ("paper", "binary"), ("share", "distance"), head)


def ratio():
    """MAPO against GRPO and APD at k/8."""
    rows = [("p", "lambda", "A+ of GRPO", "A+ of MAPO", "A- of GRPO", "A- of MAPO")]
    rows[0] += ("MAPO / GRPO", "MAPO / APD")
    mapo, grpo, apd = (binary(case, 8) for case in ("mapo", "grpo", "apd"))
    success_PG = np.arange(8) < np.arange(9)[:, None]
    certainty = np.asarray(advantages.trajectory_certainty(success_PG, np.ones((9, 8), bool)))
    for k in range(1, 8):
        sides = [found[side][k] for side in ("right", "wrong") for found in (grpo, mapo)]
        quotients = (mapo["w"][k] / other["w"][k] for other in (grpo, apd))
        numbers = (certainty[k], *sides, *quotients)
        rows.append((f"{k}/8", *(f"{x:.2f}" for x in numbers)))
    return rows


def identities():
    """`beta_norm` with options that make it another entry, measured over all p = k/16."""
    rows = [("a, b", "entry", "factor", "measured, smallest and largest")]
    for a, b, case, factor in BETAS:
        of_beta = diagnostics.binary("beta_norm", 16, a=a, b=b)["w"][1:-1]
        quotients = of_beta / binary(case, 16)["w"][1:-1]
        measured = f"{quotients.min():.4f}, {quotients.max():.4f}"
        rows.append((f"{a:g}, {b:g}", f"`{case}`", factor, measured))
    return rows


STEPS, RATE = 1000, 0.1  # of the bandits
STARTS = (0.01, 0.1, 0.5)
FOLLOWED = ("dr_grpo", "apd", "mapo", "grpo", "tree_rpo")


@functools.cache
def two_answers(case):
    """The chance of the right of two answers, [3 STEPS + 1, 3], from each of STARTS."""
    p = np.array(STARTS)
    logits = np.log(np.stack([p, 1 - p], 1))
    followed = bandit.follow(bandit.make(CASES[case][0], (1, 0), 8), logits, 3 * STEPS, RATE)
    return np.asarray(followed)[..., 0]


@functools.cache
def four_answers(case):
    """The chances of answers of reward 0, 0.1, 0.9 and 1, [STEPS + 1, 2000, 4]; random starts."""
    logits = np.log(np.random.default_rng(0).dirichlet(np.ones(4), 2000))
    made = bandit.make(CASES[case][0], diagnostics.LEVELS, 8)
    return np.asarray(bandit.follow(made, logits.astype(np.float32), STEPS, RATE))


def dynamics():
    """Where and how fast an advantage leads a bandit."""
    rows = [
        ("advantage", *(f"updates from p = {p:g}" for p in STARTS), "median updates, 4 answers")
    ]
    rows[0] += ("chance of 0.9 after 1,000",)
    for case in FOLLOWED:
        reached = [str(np.argmax(curve > 0.9)) for curve in two_answers(case).T]
        policies = four_answers(case)
        is_sure = policies[..., 3] > 0.9
        first = np.where(is_sure.any(0), is_sure.argmax(0), np.inf)
        slips = policies[-1, :, 2].mean()
        rows.append((f"`{case}`", *reached, f"{np.median(first):.0f}", f"{slips:.3f}"))
    return rows


TABLES = {
    f.__name__: f for f in (family, examples, reversion, mirror, ratio, identities, dynamics)
}  # by their names on the page


def markdown(rows):
    """A table of the page."""
    rows = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in row] for row in rows]
    rows.insert(1, ["---"] * len(rows[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_tables(page):
    """The page with all its tables computed anew."""

    def table(found):
        return f"{found[1]}\n{markdown(TABLES[found[2]]())}{found[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", table, page, flags=re.DOTALL)


# The figures: each function draws on an empty figure.

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
COLORS = dict(zip(("mapo", "grpo", "dr_grpo", "apd", "tree_rpo"), ARMS, strict=False))
MARKERS = dict(zip(COLORS, "osD^v", strict=True))
PS = np.linspace(0.002, 0.998, 499)
_SHARE = "p, share of successes"


def method_advantages(figure):
    """A of a success and of a failure against p."""
    figure.set_size_inches(8, 6.4)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for column, G in enumerate(SIZES):
        for row, (side, what) in enumerate(
            [("right", "A of a success"), ("wrong", "-A of a failure")]
        ):
            ax = axes[row][column]
            for case in COLORS:
                found = binary(case, G)
                size = np.abs(found[side])[1:G]
                style = {"color": COLORS[case], "marker": MARKERS[case], "markersize": 4}
                ax.plot(found["p"][1:G], size, label=case, **style)
            ax.set(yscale="log", title=f"{what}, G = {G}", ylim=(0.06, 14))
            ax.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"], minor=False)
            ax.minorticks_off()
            if row:
                ax.set_xlabel(_SHARE)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=5)


def _small_multiples(figure, curves, ylim, reference, ylabel):
    """A panel for each case; equal cases share one. `curves(case)` are (x, y, style) triples."""
    together = {}
    for case in CASES:
        key = tuple(np.round(np.nan_to_num(y), 4).tobytes() for _, y, _ in curves(case))
        together.setdefault(key, []).append(case)
    columns = 4
    rows = -(-len(together) // columns)
    figure.set_size_inches(8, 0.6 + 1.75 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True)
    for ax, cases in zip(axes.flat, together.values(), strict=False):
        title = " = ".join(cases).replace("reinforce_plus_plus", "r++")
        ax.set_title(textwrap.fill(title, 32), fontsize=8)
        for x, y, style in reference:
            ax.plot(x, y, **({"color": "#a9b1ba", "linewidth": 1.2} | style))
        for x, y, style in curves(cases[0]):
            ax.plot(x, y, **style)
        ax.set(xlim=(0, 1), ylim=ylim, xticks=[0, 0.5, 1])
    for ax in axes.flat[len(together) :]:
        ax.set_axis_off()
    for ax in axes.flat[max(len(together) - columns, 0) : len(together)]:
        ax.tick_params(labelbottom=True)
    figure.supxlabel(_SHARE, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)


def method_weights(figure):
    """w(p) of every entry."""
    inner = slice(1, 8)

    def curves(case):
        found = binary(case, 8)
        style = {"color": ARMS[1], "marker": "o", "markersize": 3}
        return [(found["p"][inner], found["w"][inner], style)]

    mapo = binary("mapo", 8)
    reference = [(mapo["p"][inner], mapo["w"][inner], {})]
    _small_multiples(figure, curves, (0, 9.6), reference, "w = A+ - A-, G = 8 (grey: mapo)")


def method_masses(figure):
    """Mass on right and on wrong answers."""

    def curves(case):
        found = binary(case, 8)
        right = {"color": ARMS[0], "marker": "o", "markersize": 3}
        wrong = {"color": ARMS[1], "linestyle": (0, (4, 2)), "marker": "x", "markersize": 4}
        return [
            (found["p"], found["mass_right"], right),
            (found["p"], found["mass_wrong"], wrong),
        ]

    label = "p A+ (blue) and -(1 - p) A- (orange, dashed), G = 8"
    _small_multiples(figure, curves, (-0.05, 1.1), [], label)


def method_objectives(figure):
    """F(p) of every entry."""

    def curves(case):
        advantage, options = CASES[case]
        F = diagnostics.objective(advantage, 8, PS, **options)
        return [(PS, F / _total(case), {"color": ARMS[1]})]

    def _total(case):
        advantage, options = CASES[case]
        return diagnostics.objective(advantage, 8, [1.0], **options)[0]

    label = "F(p) / F(1), G = 8 (grey: p itself)"
    _small_multiples(figure, curves, (-0.02, 1.05), [(PS, PS, {})], label)


def method_limits(figure):
    """w(p) and F(p) for large groups: MAPO is a damped MaxRL."""
    figure.set_size_inches(8, 3.6)
    left, right = figure.subplots(1, 2)
    dashes = {
        "mapo": "-",
        "grpo": (0, (4, 1.6)),
        "apd": (0, (1, 1.2)),
        "dr_grpo": (0, (6, 1, 1, 1)),
    }
    names = {"apd": "apd = maxrl", "dr_grpo": "2 x dr_grpo"}
    for case, (w, F) in LIMITS.items():
        style = {"color": COLORS[case], "linestyle": dashes[case], "label": names.get(case, case)}
        left.plot(PS, w(PS), **style)
        right.plot(PS, F(PS), **style)
    left.set(yscale="log", ylim=(0.7, 40), xlabel=_SHARE, title="w(p) for large G")
    left.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    left.minorticks_off()
    right.set(ylim=(-4, 1.8), xlabel=_SHARE, title="F(p) for large G, with F(1/2) = 0")
    right.legend(loc="lower right")


def method_certainty(figure):
    """lambda(p)."""
    figure.set_size_inches(8, 3.4)
    ax = figure.subplots()
    success_PG = np.arange(12) < np.arange(13)[:, None]
    certainty = advantages.trajectory_certainty(success_PG, np.ones((13, 12), bool))
    ax.axhspan(0, 1, color=ARMS[4], alpha=0.13, linewidth=0)
    ax.axhline(0.5, color=ARMS[4], linestyle=(0, (1, 1.2)))
    ax.plot(PS, 1 - 2 * np.minimum(PS, 1 - PS), color=ARMS[2], linestyle=(0, (4, 1.6)))
    ax.plot(PS, 1 - 4 * PS * (1 - PS), color=ARMS[0])
    ax.plot(np.arange(13) / 12, certainty, "o", color=ARMS[0], markersize=5)
    ax.text(0.155, 0.33, "mapo, points k/12", color=ARMS[0], ha="right")
    ax.text(0.22, 0.62, "mapo_linear", color=ARMS[2])
    ax.text(0.5, 0.53, "mapo_random: anything from 0 to 1, mean 1/2", color="#9a6b00", ha="center")
    ax.set(xlabel=_SHARE, ylabel="lambda, weight of the deviation", xlim=(-0.01, 1.01))
    ax.set_ylim(-0.02, 1.03)


def method_ratio(figure):
    """rho(p) = MAPO / GRPO with 0/1 rewards."""
    figure.set_size_inches(8, 3.4)
    ax = figure.subplots()
    certainty = 1 - 4 * PS * (1 - PS)
    ax.axvspan(0, 0.5, color=ARMS[1], alpha=0.08, linewidth=0)
    ax.axvspan(0.5, 1, color=ARMS[0], alpha=0.08, linewidth=0)
    ax.axhline(1, color=MUTED, linewidth=1)
    ax.plot(PS, 1 - certainty + certainty * np.sqrt((1 - PS) / PS), color=INK)
    inner = slice(1, 12)
    measured = binary("mapo", 12)["w"] / binary("grpo", 12)["w"]
    ax.plot(binary("mapo", 12)["p"][inner], measured[inner], "o", color=INK)
    ax.text(0.25, 2.5, "p < 1/2: amplified", ha="center", color="#a04600")
    ax.text(0.5, 1.25, "p = 1/2: equal", ha="center")
    ax.text(0.75, 1.6, "p > 1/2: damped", ha="center", color="#00507d")
    ax.text(0.985, 0.62, "to 0", ha="right", color=MUTED)
    ax.set(xlabel=_SHARE, ylabel="rho, MAPO / GRPO", xlim=(0, 1), ylim=(0, 3.5))
    ax.set_title("rho = 1 - lambda + lambda sqrt((1 - p) / p); points: the code at p = k/12")


def method_examples(figure):
    """The paper's four groups under each formulation of its fig. 3."""
    figure.set_size_inches(8, 6)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    shown = ("grpo", "dr_grpo", "gpg", "tree_rpo", "apd", "mapo")
    scale = {"gpg": 0.6}  # the value of the paper's fig. 3
    for g, (ax, group) in enumerate(zip(axes.flat, diagnostics.EXAMPLES, strict=True)):
        ax.axhline(0, color=MUTED, linewidth=0.8)
        for i, case in enumerate(shown):
            A = scale.get(case, 1) * diagnostics.values(CASES[case][0], diagnostics.EXAMPLES)[g]
            color = ARMS[0] if case == "mapo" else MUTED
            ax.bar(i + 0.2 * (np.arange(4) - 1.5), A, 0.17, color=color)
            ax.text(i - 0.3, min(A) - 0.08, f"{min(A):.2f}", ha="center", va="top", fontsize=8)
        ax.set_title(f"rewards {example_group(group)}")
        ax.set_xticks(range(6), ["grpo", "dr_grpo", "gpg\n(alpha 0.6)", "tree_rpo", "apd", "mapo"])
        ax.set_ylim(-4, 2.1)
        ax.grid(visible=False, axis="x")
    figure.supylabel("advantages; the number is the smallest", fontsize=9)


def method_edges(figure):
    """A lone small reward, a mean near 0, and constant groups."""
    figure.set_size_inches(8, 3.3)
    lone, small, constant = figure.subplots(1, 3)
    sizes, place_G = np.arange(2, 17), np.arange(16)
    there = place_G < sizes[:, None]  # a group for each size; places without a reward do not count
    for case, spot in (("mapo", (9.6, 11.3)), ("grpo", (11, 4.2)), ("dr_grpo", (10.3, 0.6))):
        A = diagnostics.values(case, np.where(there, 0.1 * (place_G == 0), np.nan))[:, 0]
        lone.plot(sizes, A, marker=MARKERS[case], markersize=3.5, color=COLORS[case])
        label = {"mapo": "mapo, apd:\nG - 1"}.get(case, case)
        lone.text(*spot, label, color=COLORS[case], ha="right" if case == "mapo" else "left")
    lone.set(title="[0.1, 0, ..., 0]: A of the 0.1", xlabel="G", ylim=(-0.5, 15.5))

    rewards = np.logspace(-9, 0, 46)
    groups = np.stack([rewards, *[0 * rewards] * 3], 1)
    for eps, dash in ((0.0, "-"), (1e-6, (0, (4, 1.6)))):
        for case in ("mapo", "grpo"):
            A = diagnostics.values(case, groups, eps=eps)[:-1, 0]  # the last is a success
            small.plot(rewards[:-1], A, color=COLORS[case], linestyle=dash)
    small.text(3e-2, 2.75, "mapo", color=COLORS["mapo"])
    small.text(3e-2, 1.48, "grpo", color=COLORS["grpo"])
    small.text(1e-9, 0.8, "solid:\neps = 0\ndashed:\neps = 1e-6", color=MUTED)
    small.set(xscale="log", xlabel="x", title="[x, 0, 0, 0]: A of the x", ylim=(-0.1, 3.3))
    small.set_xticks([1e-9, 1e-6, 1e-3, 1])

    naive = [_naive(np.full(G, 0.9, np.float32)) for G in sizes]
    ours = np.abs(diagnostics.values("grpo", np.where(there, 0.9, np.nan), eps=1e-6)).max(1)
    constant.plot(sizes, naive, color=MUTED, linestyle=(0, (4, 1.6)), marker="x")
    constant.plot(sizes, ours, color=COLORS["grpo"], marker="s", markersize=3.5)
    constant.text(2, 0.075, "(r - mean) / (std + 1e-6)\nin float32", color=MUTED)
    constant.text(8, -0.016, "here: exactly 0", color=COLORS["grpo"])
    constant.set(title="[0.9, ..., 0.9]: |A| of grpo", xlabel="G", ylim=(-0.024, 0.13))


def _naive(rewards_G):
    """|A| of GRPO as one would write it, summed in order in float32."""
    G = np.float32(len(rewards_G))
    deviations_G = rewards_G - functools.reduce(np.add, rewards_G) / G
    std = np.sqrt(functools.reduce(np.add, np.square(deviations_G)) / G)
    return np.abs(deviations_G / (std + np.float32(1e-6))).max()


def method_family(figure):
    """w(p) of MAPO for large groups over RS-GRPO's, which one option bends."""
    figure.set_size_inches(8, 3.4)
    ax = figure.subplots()
    for beta in (-16, -4, -2, 0, 2, 4, 16):
        power = np.exp(beta)
        w = (power - 1) / (beta * (1 - PS + PS * power)) if beta else 1 + 0 * PS
        w *= max(abs(beta), 1)
        at = np.searchsorted(PS, 0.5 - np.sign(beta) * (0.42 if abs(beta) < 4 else 0.45))
        ax.plot(PS, w, color="#a9b1ba", linewidth=1.1)
        label = {"color": MUTED, "ha": "center", "va": "center", "fontsize": 8}
        ax.text(PS[at], w[at], f"{beta}", bbox={"color": "white", "pad": 1}, **label)
    ax.plot(PS, LIMITS["mapo"][0](PS), color=COLORS["mapo"])
    ax.text(0.45, 2.25, "mapo", color=COLORS["mapo"])
    ax.set(yscale="log", ylim=(0.8, 40), xlabel=_SHARE, ylabel="w(p)")
    ax.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    ax.minorticks_off()
    ax.set_title("grey: rs_grpo with beta, times max(|beta|, 1)")


def method_dynamics(figure):
    """A bandit under the expected update."""
    figure.set_size_inches(8, 3.4)
    left, right = figure.subplots(1, 2)
    for case in FOLLOWED:
        style = {"color": COLORS[case], "label": "apd = maxrl" if case == "apd" else case}
        left.plot(two_answers(case)[:, 0], **style)
        slips = four_answers(case)[..., 2].mean(1)
        right.plot(np.arange(1, len(slips)), slips[1:], **style)
    left.set(xscale="log", xlim=(10, 3 * STEPS), ylim=(0, 1.02), xlabel="update")
    left.set_title("two answers, from p = 0.01: p")
    right.set(xscale="log", xlim=(1, STEPS), ylim=(0, None), xlabel="update")
    right.set_title("four answers: chance of the one with 0.9")
    right.legend(loc="lower left")


FIGURES = (
    method_dynamics,
    method_family,
    method_advantages,
    method_certainty,
    method_ratio,
    method_examples,
    method_weights,
    method_limits,
    method_objectives,
    method_masses,
    method_edges,
)


def main():
    """Writes all figures into docs/figures, and the tables into the page."""
    with matplotlib.rc_context(STYLE):
        for draw in FIGURES:
            figure = Figure(layout="constrained")
            draw(figure)
            path = DOCS / "figures" / f"{draw.__name__}.png"
            figure.savefig(path, dpi=130, metadata={"Software": None})  # the same bytes each time
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
