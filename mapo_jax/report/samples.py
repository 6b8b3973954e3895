"""Shows groups of rollouts.jsonl as cards, for the same prompts before and after training."""

import base64
from typing import Any

from mapo_jax.report import markup
from mapo_jax.report.runs import Run

_MOST_PROMPTS, _MOST_ROLLOUTS = 4, 16  # shown of a run, before and after
_MOST_PICTURES = 8  # shown of a prompt


def section(run: Run, several: bool) -> str:
    """Writes the groups of the first step and, after training, of the same prompts."""
    trained = [row for row in run.samples if row["kind"] == "train"]
    if not trained:
        return ""
    after = [row for row in run.samples if row["kind"] == "after"]
    first = [row for row in trained if row["step"] == trained[0]["step"]]
    last = after or [row for row in trained if row["step"] != trained[0]["step"]]
    prompts = list(dict.fromkeys(map(_identity, first)))[:_MOST_PROMPTS]
    paired = any(_identity(row) in prompts for row in last)
    blocks = []
    if paired or not last:
        for prompt in prompts:
            columns = [[r for r in rows if _identity(r) == prompt] for rows in (first, last)]
            pair = "".join(map(_column, columns))
            blocks.append(f'{_prompt(run, columns[0][0])}<div class="pair">{pair}</div>')
    else:
        blocks.append(
            '<p class="muted">The first and the last groups on record: different prompts.</p>'
        )
        for rows in (first, last):
            group = [row for row in rows if _identity(row) == _identity(rows[0])]
            blocks.append(_prompt(run, group[0]) + _column(group))
    label = markup.text(run.label) if several else "Prompts and their groups"
    opened = "" if several else " open"
    return f"<details{opened}><summary>{label}</summary>{''.join(blocks)}</details>"


def _identity(row: dict) -> tuple[str, str]:
    """Returns what a row shares with its group: many pictures are asked the same question."""
    return str(row["prompt"]), str(row.get("images"))


def _prompt(run: Run, row: dict) -> str:
    prompt = f'<pre class="prompt">{markup.long(row["prompt"])}</pre>'
    images = row["images"] if isinstance(row.get("images"), list) else []
    shown = [_picture(run, one) for one in images[:_MOST_PICTURES] if isinstance(one, dict)]
    left = len(images) - _MOST_PICTURES
    shown += [f"<p>\u2026 and {left:,} more pictures</p>"] if left > 0 else []
    return f'<div class="seen">{"".join(shown)}{prompt}</div>' if shown else prompt


def _picture(run: Run, image: dict[str, Any]) -> str:
    size = f"{markup.number(image.get('width'))} \u00d7 {markup.number(image.get('height'))} pixels"
    caption = f"<bdi>{markup.long(image.get('source'))}</bdi>, {markup.text(size)}"
    if (found := run.thumbnail(image.get("file"))) is None:
        return f"<p>{caption}; {markup.long(image.get('file'))} is missing or broken</p>"
    content, width, height = found
    return (
        f'<p><img src="data:image/jpeg;base64,{base64.b64encode(content).decode()}" '
        f'width="{width}" height="{height}" alt="{markup.text(image.get("source"))}">{caption}</p>'
    )


def _column(rows: list[dict]) -> str:
    if not rows:
        return '<div class="column"><p class="muted">not on record</p></div>'
    successes = sum(_is_true(row, "success") for row in rows)
    when = "after step" if rows[0]["kind"] == "after" else "step"
    cards = "".join(map(_card, rows[:_MOST_ROLLOUTS]))
    return (
        f'<div class="column"><h4>{when} {markup.text(rows[0]["step"])}: {successes} of '
        f"{len(rows)} succeed</h4>{cards}</div>"
    )


def _card(row: dict) -> str:
    success = _is_true(row, "success")
    parts = row["parts"] if isinstance(row.get("parts"), dict) else {}
    facts = [
        f"reward {markup.number(row.get('reward'))}",
        f"advantage {markup.number(row.get('advantage'), '+')}",
    ]
    facts += [f"{name} {markup.number(value)}" for name, value in parts.items()]
    facts += [f"{markup.number(row['tokens'])} tokens"] if "tokens" in row else []
    cut = "" if _is_true(row, "finished", True) else ' <b class="look">cut</b>'
    mark = '<b class="yes">&#10003;</b>' if success else '<b class="no">&#10007;</b>'
    return (
        f'<div class="card {"yes" if success else "no"}"><p>{mark} '
        f"{markup.text(', '.join(facts))}{cut}</p><pre>{markup.long(row['response'])}</pre></div>"
    )


def _is_true(row: dict, key: str, absent: bool = False) -> bool:
    return bool(row[key]) if key in row else absent
