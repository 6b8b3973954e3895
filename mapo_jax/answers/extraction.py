"""Finds the answer in a response.

A policy's text may be hostile, so everything here is linear in its length and never raises.
"""

import re

STYLES = ("boxed", "answer", "hash", "last_number")

MAX_NUMBER_CHARS = 1000  # a longer answer is compared as text only; int() refuses 4,300 digits
DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"

_THINK_TAGS = re.compile(r"(</?think>)")
_BRACES = re.compile(r"(\\boxed\s*\{)|\\[{}\\]|([{}])")
_ANSWER_IS = re.compile(r"\banswer\W{0,3}(?:is\b|:)", re.IGNORECASE)
_LAST_NUMBER = re.compile(rf"(?:(?<![\w)])-)?(?:{DIGITS})(?:/[0-9]+)?")
_LAST_DIGIT = re.compile(r"[0-9]")


def extract(response: str, styles: tuple[str, ...] = STYLES) -> str | None:
    """Returns the answer in a response, by the first of the styles that matches.

    `<think>...</think>` is removed first. A thought that is never closed holds no answer. A
    `</think>` without a `<think>` ends a thought that began in the prompt.

    Args:
        response: the policy's text.
        styles: "boxed" `\\boxed{...}`, "answer" `<answer>...</answer>` or "the answer is ...",
            "hash" `#### ...`, "last_number"; each takes the last one in the response.

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
    """Returns the content of the box that opens last among the closed ones; "" if there is none."""
    open_braces: list[re.Match[str]] = []
    last = (-1, -1)
    for match in _BRACES.finditer(text):
        box, brace = match.groups()
        if box or brace == "{":
            open_braces.append(match)
        elif brace == "}" and open_braces:
            opening = open_braces.pop()
            if opening[1]:
                last = max(last, (opening.end(), match.start()))
    return text[last[0] : last[1]] if last[0] >= 0 else ""


def _answer(text: str) -> str:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    if start >= 0:
        return text[start + len("<answer>") : end]
    end = max((match.end() for match in _ANSWER_IS.finditer(text)), default=None)
    if end is None:
        return ""
    sentence = text[end:].lstrip(" :*\n").partition("\n")[0].partition(". ")[0]
    return sentence.strip(" *").removesuffix(".")


def _hash(text: str) -> str:
    _, mark, rest = text.rpartition("####")
    return rest.strip().partition("\n")[0] if mark else ""


def _last_number(text: str) -> str:
    """Returns the last number. It stands in the last word that holds a digit."""
    backwards = _LAST_DIGIT.search(text[::-1])
    if backwards is None:
        return ""
    end = len(text) - backwards.start()
    head = text[max(0, end - MAX_NUMBER_CHARS) : end].replace("\u2212", "-").split()
    last = ""
    for match in _LAST_NUMBER.finditer(head[-1]):
        last = match[0]
    return last


_EXTRACTORS = {"boxed": boxed, "answer": _answer, "hash": _hash, "last_number": _last_number}
