"""Draws the pictures of the report in one style; each is a small panel, readable on a phone.

Each panel is drawn once and saved twice: as SVG whose colours are the page's CSS variables, so that
it follows the page into dark mode, and as PNG on white. A colour means an arm (runs that differ by
the seed only), except for the phases of a step's time. Dashes and markers show other differences.
"""

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import colors, ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from mapo_jax.report import markup
from mapo_jax.report.runs import Arm, Curve

# Colours of the light page; VARIABLES has the page's CSS variable of each.
INK, MUTED, GRID = "#1f2328", "#656d76", "#e3e6ea"
ARMS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
ARMS += ("#882255", "#808000")  # two more, for studies of eight methods
PHASES = ("#332288", "#88ccee", "#44aa99", "#ddcc77", "#b7bcc2")  # Tol, muted
VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    **{color: f"--arm{i}" for i, color in enumerate(ARMS)},
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text, which is small and has the page's own font
    "svg.hashsalt": "mapo_jax",  # the same picture is the same file
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a $ in the name of a run is a $
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "ytick.left": False,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
}
_DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)))
_LABEL = 22  # characters of a label, at most
_MOST = 600  # points of a curve; a longer one is drawn in that many bins


class Panel(NamedTuple):
    """A picture."""

    name: str  # of its file
    title: str
    svg: str
    png: bytes


class Line(NamedTuple):
    """A metric in a panel of curves."""

    key: str
    label: str = ""


def panel(name: str, title: str, draw: Callable[[Any], bool]) -> list[Panel]:
    """Returns the panel that `draw` draws on its axes, or [] if it found nothing to draw."""
    title = _text(title, 44)
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a run named in any script
        figure = Figure(figsize=(4.8, 2.9))
        axes = figure.add_subplot()
        if not draw(axes):
            return []
        axes.set_title(title)
        svg, png = io.StringIO(), io.BytesIO()
        FigureCanvasSVG(figure).print_svg(svg)  # savefig would draw twice
        figure.set_layout_engine("none")  # keeps the layout of the SVG
        figure.set_facecolor("white")
        figure.set_dpi(200)
        FigureCanvasAgg(figure).print_png(png)
    return [Panel(name, title, _inline(svg.getvalue(), name, title), png.getvalue())]


def _inline(svg: str, name: str, title: str) -> str:
    """Fits an SVG into a page with others: gives it own ids, the page's colours and its width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", svg, count=1)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    label = html.escape(title)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def curves(
    arms: Sequence[Arm],
    lines: Sequence[Line],
    ylabel: str,
    *,
    phase: str = "rl",
    interval: bool = False,
    share: bool = False,
    zero: bool = False,
    log: bool = False,
    reference: float | None = None,
) -> Callable[[Any], bool]:
    """Draws metrics over steps.

    Args:
        arms: each gets a colour.
        lines: each gets a dash pattern and its name at its end.
        ylabel: the quantity and its unit.
        phase: the phase whose steps are drawn.
        interval: the metrics are evaluations, drawn with their 95% intervals.
        share: the values are usually between 0 and 1.
        zero: the axis starts at 0.
        log: the axis is logarithmic.
        reference: draws a thin line at this value, which is a limit or the expected value.
    """

    def draw(axes) -> bool:
        ends = []
        for i, arm in enumerate(arms):
            for dash, line in zip(_DASHES, lines, strict=False):
                curve = arm.interval(line.key) if interval else arm.curve("train", phase, line.key)
                drawn = np.isfinite(curve.values) & ((curve.values > 0) | (not log))
                curve = curve.where(drawn)
                if not len(curve.steps):
                    continue
                end = _curve(axes, curve, ARMS[i % len(ARMS)], dash, smooth=not interval)
                ends.append((end, arm, _text(line.label), ARMS[i % len(ARMS)]))
        if not ends:
            return False
        several = len({label for _, _, label, _ in ends}) > 1
        axes.set_xlabel("RL step" if phase == "rl" else "warm-up step")
        axes.set_ylabel(ylabel)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:.0e}"))
            axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        elif share and axes.dataLim.y0 >= 0 and axes.dataLim.y1 <= 1:  # a part may be anything
            axes.set_ylim(bottom=0)
            if axes.get_ylim()[1] > 0.6:
                axes.set_ylim(0, 1.02)
        elif zero:
            axes.set_ylim(bottom=0)
        if reference is not None:
            axes.axhline(reference, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        named = [
            (end, " ".join([_text(arm.label)] * (len(arms) > 1) + [label] * several), color)
            for end, arm, label, color in ends
        ]
        _name_ends(axes, named)
        return True

    return draw


def _curve(axes, curve: Curve, color: str, dash: Any, smooth: bool) -> float:
    """Draws one curve with its band or its raw points behind it; returns its last value."""
    steps, values, low, high = curve
    if len(steps) > _MOST:
        bins = np.arange(len(steps)) * _MOST // len(steps)
        starts = np.flatnonzero(np.diff(bins, prepend=-1))
        counts = np.diff(np.append(starts, len(steps)))
        low = np.minimum.reduceat(values if low is None else low, starts)
        high = np.maximum.reduceat(values if high is None else high, starts)
        steps, values = steps[starts], np.add.reduceat(values, starts) / counts
    elif low is not None and high is not None and smooth and len(steps) >= 30:
        low, high = _running_mean(low), _running_mean(high)
    if low is not None and high is not None:
        axes.fill_between(steps, low, high, color=color, alpha=0.16, linewidth=0)
    elif smooth and len(steps) >= 30:
        axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.35)
    if smooth and len(steps) >= 30:
        values = _running_mean(values)
    marker = "o" if len(steps) <= 20 else None
    axes.plot(steps, values, color=color, linestyle=dash, linewidth=1.8, marker=marker, ms=3.5)
    return float(values[-1])


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Means of windows centred on each value, narrower towards the ends."""
    index = np.arange(len(values))
    half = np.minimum(np.minimum(index, index[::-1]), max(2, len(values) // 40))
    sums = np.append(0.0, np.cumsum(values))
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)


def _name_ends(axes, ends: list[tuple[float, str, str]]) -> None:
    """Writes the name of each line to the right of its end, so that no two names overlap."""
    ends = sorted((end for end in ends if end[1]), key=lambda end: end[0])
    if not ends:
        return
    places = axes.transAxes.inverted().transform(
        axes.transData.transform([(axes.get_xlim()[1], end[0]) for end in ends])
    )[:, 1]
    places = np.clip(places, 0, 1)
    gap = 0.075
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    places -= max(0, places[-1] - 1)
    for i in range(len(places) - 2, -1, -1):
        places[i] = min(places[i], places[i + 1] - gap)
    for place, (_, label, color) in zip(places, ends, strict=True):
        axes.text(1.02, place, label, color=color, va="center", transform=axes.transAxes)


def success_counts(arm: Arm, color: str) -> Callable[[Any], bool]:
    """Draws the share of groups with K successes over the steps (arXiv 2509.18849 fig. 1)."""

    def draw(axes) -> bool:
        counts = _by_count(arm, "success_count")
        if not counts:
            return False
        steps = np.unique(np.concatenate([curve.steps for curve in counts.values()]))
        shares = np.zeros((max(counts) + 1, len(steps)))
        for count, curve in counts.items():
            shares[count, np.searchsorted(steps, curve.steps)] = np.nan_to_num(curve.values)
        if not shares.any():
            return False
        if len(steps) > 240:
            bins = np.arange(len(steps)) * 240 // len(steps)
            shares = np.stack([shares[:, bins == b].mean(1) for b in range(240)], 1)
        # One colour, which is more opaque for more groups, is readable on a light and a dark page.
        red, green, blue = colors.to_rgb(color)
        shades = colors.ListedColormap([(red, green, blue, a) for a in np.linspace(0, 1, 256)])
        image = axes.imshow(
            shares,
            cmap=shades,
            norm=colors.PowerNorm(0.5, 0, max(shares.max(), 1e-9)),
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            extent=(steps[0] - 0.5, steps[-1] + 0.5, -0.5, len(shares) - 0.5),
        )
        axes.grid(False)
        axes.set_xlabel("RL step")
        axes.set_ylabel("successes in the group")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        bar = axes.figure.colorbar(image, ax=axes, label="share of groups", pad=0.02)
        bar.outline.set_visible(False)  # pyrefly: ignore
        bar.locator = ticker.MaxNLocator(4)
        bar.update_ticks()
        return True

    return draw


def advantage_by_successes(arms: Sequence[Arm]) -> Callable[[Any], bool]:
    """Draws the mean advantage of successes (filled) and failures (open) by the group's count."""

    def draw(axes) -> bool:
        found = False
        for i, arm in enumerate(arms):
            color, shift = ARMS[i % len(ARMS)], (i - (len(arms) - 1) / 2) * 0.14
            shares = _by_count(arm, "success_count")
            for kind, fill in (("success", color), ("failure", "none")):
                rows = [
                    (count + shift, *_weighted(curve, shares[count]))
                    for count, curve in _by_count(arm, f"advantage_of_{kind}").items()
                    if count in shares and np.isfinite(curve.values).any()
                ]
                if not rows:
                    continue
                found = True
                x, mean, low, high = np.array(rows).T
                axes.plot(x, mean, color=color, linewidth=0.8, alpha=0.5)
                axes.vlines(x, low, high, color=color, linewidth=1.2, alpha=0.5)
                axes.plot(x, mean, "o", color=color, mfc=fill, ms=5)
                label = f"{_text(arm.label)} {kind}" if len(arms) > 1 else kind
                axes.plot([], [], "o", color=color, mfc=fill, ms=5, label=label)
        if not found:
            return False
        axes.axhline(0, color=MUTED, linewidth=0.9)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
        axes.set_xlabel("successes in the group")
        axes.set_ylabel("mean advantage")
        axes.legend(
            frameon=False,
            fontsize=8,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            borderaxespad=0.2,
            handletextpad=0.3,
        )
        return True

    return draw


def gradient_by_successes(arms: Sequence[Arm]) -> Callable[[Any], bool]:
    """Draws the share of all |advantage| that groups with K successes held, over the whole run."""

    def draw(axes) -> bool:
        found = False
        for i, arm in enumerate(arms):
            held = gradient_shares(arm)
            if not held:
                continue
            found = True
            color = ARMS[i % len(ARMS)]
            label = _text(arm.label) if len(arms) > 1 else None
            axes.plot(
                list(held), list(held.values()), "o-", color=color, ms=5, linewidth=1.2, label=label
            )
        if not found:
            return False
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
        axes.set_xlabel("successes in the group")
        axes.set_ylabel("share of all |advantage|")
        if len(arms) > 1:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        return True

    return draw


def gradient_shares(arm: Arm) -> dict[int, float]:
    """Returns the share of all |advantage| that groups with K successes held, by K; {} if none."""
    shares, magnitudes = (_by_count(arm, name) for name in ("success_count", "advantage_magnitude"))
    held = {
        count: np.nansum(
            curve.values * np.interp(curve.steps, shares[count].steps, shares[count].values)
        )
        for count, curve in magnitudes.items()
        if count in shares
    }
    total = sum(held.values())
    return {count: float(part / total) for count, part in held.items()} if total > 0 else {}


def _weighted(curve: Curve, shares: Curve) -> tuple[float, float, float]:
    """Returns the mean over steps, weighted by their groups, and the range of 80% of the steps."""
    weights = np.interp(curve.steps, shares.steps, np.nan_to_num(shares.values))
    weights = np.where(np.isfinite(curve.values), weights, 0)
    values = np.nan_to_num(curve.values)
    mean = (weights * values).sum() / weights.sum() if weights.any() else values.mean()
    return (mean, *np.nanquantile(curve.values, (0.1, 0.9)))


def _by_count(arm: Arm, family: str) -> dict[int, Curve]:
    """Returns the curves of the keys FAMILY/K, by K."""
    keys = [key for key in arm.keys("train") if re.fullmatch(rf"{family}/\d{{1,4}}", key)]
    keys.sort(key=lambda key: int(key.split("/")[1]))
    return {int(key.split("/")[1]): arm.curve("train", "rl", key) for key in keys}


def phases(arm: Arm) -> dict[str, Curve]:
    """Returns the seconds of each step, split into sample, reward, score, update and the rest."""
    whole = arm.curve("train", "rl", "time/step")
    parts = {}
    for name in ("sample", "reward", "score", "update"):
        curve = arm.curve("train", "rl", f"time/{name}")
        if len(curve.steps):
            values = np.zeros(len(whole.steps))
            at = np.isin(whole.steps, curve.steps)
            values[at] = np.nan_to_num(curve.values[np.isin(curve.steps, whole.steps)])
            parts[name] = Curve(whole.steps, values)
    rest = np.nan_to_num(whole.values) - sum(curve.values for curve in parts.values())
    return {**parts, "rest": Curve(whole.steps, np.maximum(rest, 0))} if len(whole.steps) else {}


def time_by_phase(arm: Arm) -> Callable[[Any], bool]:
    """Draws the seconds of each step, stacked by phase."""

    def draw(axes) -> bool:
        parts = phases(arm)
        if not parts:
            return False
        steps = parts["rest"].steps
        values = np.stack([curve.values for curve in parts.values()])
        if not values.any():
            return False
        if len(steps) > _MOST:
            starts = np.arange(_MOST) * len(steps) // _MOST
            counts = np.diff(np.append(starts, len(steps)))
            values, steps = np.add.reduceat(values, starts, 1) / counts, steps[starts]
        names = ("sample", "reward", "score", "update", "rest")
        shades = [PHASES[names.index(name)] for name in parts]
        step = "mid" if len(steps) > 1 else None
        if step is None:  # a single step is a bar
            steps, values = np.array([steps[0] - 0.5, steps[0] + 0.5]), np.repeat(values, 2, 1)
        axes.stackplot(steps, values, colors=shades, linewidth=0, step=step)
        total = values.sum(0)
        top = 1.6 * float(np.quantile(total, 0.9))
        if total.max() > top > 0:  # the first step compiles
            at = int(total.argmax())
            axes.set_ylim(0, top)
            axes.annotate(
                f"step {steps[at]}: {total[at]:.1f} s",
                (steps[at], top),
                xytext=(8, -9),
                textcoords="offset points",
                color=MUTED,
                fontsize=8,
            )
        axes.set_xlabel("RL step")
        axes.set_ylabel("seconds per step")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        for shade, name in zip(shades, parts, strict=True):
            axes.plot([], [], "s", color=shade, label=name)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1],
            labels[::-1],
            frameon=False,
            fontsize=8.5,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            borderaxespad=0.2,
            handletextpad=0.2,
        )
        return True

    return draw


def _text(label: str, longest: int = _LABEL) -> str:
    """Cuts a label so that it fits into the margin of a panel."""
    label = markup.plain(label)
    return label if len(label) <= longest else label[: longest - 1] + "\u2026"
