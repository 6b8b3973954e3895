"""Finds the answer in a response.

A policy's text may be hostile, so everything here is linear in its length and never raises.
"""

import re
from typing import NamedTuple

STYLES = ("boxed", "answer", "hash", "last_number")

MAX_NUMBER_CHARS = 1000  # a longer answer is compared as text only; int() refuses 4,300 digits
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"

_THINK_TAGS = re.compile(r"(</?think>)")
_BRACES = re.compile(r"(\\boxed\s*\{)|\\[{}\\]|([{}])")
_GAP = 40  # the longest text between boxes that are parts of one answer
_BETWEEN = re.compile(
    r"|\s*\\q?quad\s*|(?:[\s$.]|\\q?quad)*(?:[,;]|,?\s*\\text\s*\{,?\s*(?:and|or)\s*\}|,?\s*(?:and|or)\b)"
    r"(?:\\?\s|\\q?quad|\$|and\b|or\b)*(?:[A-Za-z]\s*=)?[\s$]*"
)
_BLANK = re.compile(r"(?:\s|\$|\\q?quad)*")
_NAME_BEFORE = re.compile(r"[A-Za-z]\s*=[\s$]*$")
_ANSWER_IS = re.compile(r"\banswer\W{0,3}(?:is\b|:)", re.IGNORECASE)
_A_NUMBER = re.compile(  # 2 in AZ2K is none
    rf"(?:(?<![\w)])-)?(?<![^\W_])(?:{DIGITS})(?:e[+-]?[0-9]+|/[0-9]+)?", re.IGNORECASE
)


def extract(response: str, styles: tuple[str, ...] = STYLES) -> str | None:
    """Returns the answer in a response, by the first of the styles that matches.

    `<think>...</think>` is removed first. A thought that is never closed holds no answer. A
    `</think>` without a `<think>` ends a thought that began in the prompt.

    Args:
        response: the policy's text.
        styles: "boxed" `\\boxed{...}`, "answer" `<answer>...</answer>` or "the answer is ...",
            "hash" `#### ...`, "last_number"; each takes the last one in the response.
            Boxes with only a comma, "and" or "or" between them are one answer. A box that never
            closes, as in a response that was cut, is as if it were not there.

    Returns:
        The answer as it was written, without white space around it; None if there is none.
    """
    text = _without_thoughts(response)
    for style in styles:
        if answer := _EXTRACTORS[style](text).strip():
            return answer
    return None


def _without_thoughts(text: str) -> str:
    kept, thinking = [], False
    for part in _THINK_TAGS.split(text):
        if part == "<think>":
            thinking = True
        elif part == "</think>":
            if not thinking:
                kept = []
            thinking = False
        elif not thinking:
            kept.append(part)
    return "".join(kept)


def boxed(text: str) -> str:
    """Returns the content of the box that opens last among the closed ones; "" if there is none.

    Boxes that only a comma, "and" or "or" stands between are parts of one answer:
    `\\boxed{1}, \\boxed{2}` is "1, 2", and `x = \\boxed{1}, y = \\boxed{2}` is "x = 1, y = 2".
    """
    found = _boxes(text)
    if not found:
        return ""
    first = last = found[-1]
    for box in reversed(found[:-1]):
        if box.end > first.start or not _BETWEEN.fullmatch(text[box.end : first.start][:_GAP]):
            break
        first = box
    if first == last:
        return text[last.inside : last.end - 1]
    name = _NAME_BEFORE.search(text[max(first.start - _GAP, 0) : first.start])
    return (name[0] if name else "") + unboxed(text[first.start : last.end])


def unboxed(text: str) -> str:
    """Returns a text with the content of each box in its place."""
    pieces, end = [], 0
    found = _boxes(text)
    starts = {box.start for box in found}
    cuts = [(box.start, box.inside) for box in found] + [(box.end - 1, box.end) for box in found]
    for start, stop in sorted(cuts):
        between = text[end:start]
        pieces.append(", " if pieces and start in starts and _BLANK.fullmatch(between) else between)
        end = stop
    return "".join(pieces) + text[end:]


class _Box(NamedTuple):
    start: int
    inside: int
    end: int


def _boxes(text: str) -> list[_Box]:
    """Returns the closed boxes by their start."""
    openings: list[re.Match[str]] = []
    found = []
    for match in _BRACES.finditer(text):
        box, brace = match.groups()
        if box or brace == "{":
            openings.append(match)
        elif brace == "}" and openings:
            opening = openings.pop()
            if opening[1]:
                found.append(_Box(opening.start(), opening.end(), match.end()))
    return sorted(found)


def _answer(text: str) -> str:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start >= 0:
        return text[start + len("<answer>") : end]
    end = max((match.end() for match in _ANSWER_IS.finditer(text)), default=None)
    if end is None:
        return ""
    sentence = text[end:].lstrip(" :*\n").partition("\n")[0].partition(". ")[0]
    return sentence.strip(" *").removesuffix(".").rstrip(" *")


def _hash(text: str) -> str:
    _, mark, rest = text.rpartition("####")
    return rest.strip().partition("\n")[0] if mark else ""


def _last_number(text: str) -> str:
    last = ""
    for match in _A_NUMBER.finditer(text.replace("\u2212", "-")):
        last = match[0]
    return last


_EXTRACTORS = {"boxed": boxed, "answer": _answer, "hash": _hash, "last_number": _last_number}
