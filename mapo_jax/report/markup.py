"""Writes words, numbers and tables as HTML, and escapes everything that comes from a run."""

import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

_LONGEST = 1200  # characters of a prompt or response that are shown


def plain(value: Any) -> str:
    """Makes any text of a run acceptable to every program; control characters become visible."""
    whole = str(value).encode("utf-8", "replace").decode()
    whole = re.sub(r"[\x00-\x08\x0b-\x1f]", lambda m: chr(0x2400 + ord(m[0])), whole)
    return re.sub(r"[\x7f-\x9f]", "\ufffd", whole)


def text(value: Any) -> str:
    """Escapes any text of a run for HTML."""
    return html.escape(plain(value))


def number(value: Any, sign: str = "") -> str:
    """Writes four digits of a float, all of an integer; a dash if it is not finite or missing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "\u2013" if value is None else str(value)[:20]
    if isinstance(value, int):
        return f"{value:{sign},}"[:20]
    return f"{value:{sign}.4g}" if math.isfinite(value) else "\u2013"


def shown(value: Any) -> str:
    """Writes a value of a config."""
    return "\u2013" if value is None else repr(value) if value == "" else str(value)


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], marked: frozenset = frozenset()
) -> str:
    """Writes a table in its own scrolling box; rows whose first cell is in `marked` stand out."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in header)
    body = ""
    for row in rows:
        cells = "".join(f'<td class="n">{text(cell)}</td>' for cell in row[1:])
        first = f'<th scope="row">{text(row[0])}</th>'
        body += f"<tr{' class=mark' if row[0] in marked else ''}>{first}{cells}</tr>"
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def long(value: Any) -> str:
    """Writes a prompt or a response, cut if it is very long."""
    whole = str(value)
    left = len(whole) - _LONGEST
    rest = f'<i class="muted"> \u2026 and {left:,} more characters</i>' if left > 0 else ""
    return text(whole[:_LONGEST]) + rest
