"""Saves a page and its pictures: report.html, which needs no other file, and figures/*.png."""

import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from mapo_jax import errors
from mapo_jax.report import markup
from mapo_jax.report.figures import Panel


def save(
    output: Any,
    title: str,
    links: Iterable[tuple[str, str]],
    sections: Sequence[tuple[str, str]],
    panels: Sequence[Panel],
) -> epath.Path:
    """Writes OUTPUT/report.html and OUTPUT/figures/*.png.

    Args:
        output: directory, made if it does not exist.
        title: of the page, escaped here.
        links: (id, text) of the links at the top of the page.
        sections: (id, HTML) of each section.
        panels: the pictures; the sections hold their SVG.

    Returns:
        The path of the page.

    Raises:
        UserError: OUTPUT cannot be written.
    """
    output = epath.Path(output)
    template = string.Template((Path(__file__).parent / "page.html").read_text("utf-8"))
    page = template.substitute(
        title=markup.text(title),
        links=" ".join(f'<a href="#{name}">{text}</a>' for name, text in links),
        body="\n".join(f'<section id="{name}">{content}</section>' for name, content in sections),
    )
    try:
        (output / "figures").mkdir(parents=True, exist_ok=True)
        for panel in panels:
            (output / "figures" / f"{panel.name}.png").write_bytes(panel.png)
        path = output / "report.html"
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise errors.UserError(
            f"--output={output}: cannot be written ({error.strerror or error}); choose another "
            "directory"
        ) from None
    return path
