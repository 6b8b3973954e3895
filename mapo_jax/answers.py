"""Finds the answer in a response and compares it with the truth: what the rewards stand on.

Everything here runs in the trainer's own process on text that a policy made up, so it is linear in
the length of that text and never raises. What needs symbolic algebra is not decided here.
"""

import re
from fractions import Fraction

STYLES = ("boxed", "answer", "hash", "last_number")

_MAX_NUMBER_CHARS = 1000  # a longer answer is compared as text only; int() refuses 4,300 digits
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"

_THINK_TAGS = re.compile(r"(</?think>)")
_BRACES = re.compile(r"(\\boxed\s*\{)|\\[{}\\]|([{}])")
_ANSWER_IS = re.compile(r"\banswer\W{0,3}(?:is\b|:)", re.IGNORECASE)
_LAST_NUMBER = re.compile(rf"(?:(?<![\w)])-)?(?:{_DIGITS})(?:/[0-9]+)?")

_THIN_SPACE = re.compile(r"\\[!,;:]")
_MARKUP = re.compile(
    r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[ ()\[\]]|\\(?=[$%])|\$|\^\{?\\circ\}?|\u00b0"
)
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_NUMBER = re.compile(
    rf"(?:[a-z]\s*=\s*)?([+-]?)\s*({_DIGITS})(?:\s*/\s*({_DIGITS}))?"
    r"\s*%?\s*([a-z](?:[a-z ./]|\^[23])+)?"
)
_NOT_A_UNIT = re.compile(r"\b(?:pi|dozen|hundred|thousand|[mbtr]+illion|and|or|to)\b")


def extract(response: str, styles: tuple[str, ...] = STYLES) -> str | None:
    """Returns the answer that stands in a response, by the first of the styles that matches.

    `<think>...</think>` is removed first; a thought that is never closed holds no answer, and a
    `</think>` without its opening ends a thought that began with the prompt.

    Args:
        response: what the policy wrote.
        styles: "boxed" `\\boxed{...}`, "answer" `<answer>...</answer>` or "the answer is ...",
            "hash" `#### ...`, "last_number"; of each, the last one in the response.

    Returns:
        The answer as it was written, without white space around it; None where there is none.
    """
    text = _without_thoughts(response)
    for style in styles:
        if answer := _EXTRACTORS[style](text).strip():
            return answer
    return None


def is_equal(prediction: str | None, gold: str) -> bool:
    """Says whether two answers are the same number or, where one is no number, the same text.

    Numbers may hold thousands separators, decimals, a sign, a fraction (`a/b`, `\\frac{a}{b}`), a
    dollar or percent sign, a full stop at the end; a unit counts only where both answers name one.
    """
    if prediction is None:
        return False
    prediction, gold = _normalize(str(prediction)), _normalize(str(gold))
    if prediction == gold:
        return True
    number, gold_number = _parse_number(prediction), _parse_number(gold)
    if number is None or gold_number is None:
        return False
    (value, unit), (gold_value, gold_unit) = number, gold_number
    return value == gold_value and (unit == gold_unit or not unit or not gold_unit)


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


def _boxed(text: str) -> str:
    """The content of the box that opens last among those that are closed."""
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
    last = ""
    for match in _LAST_NUMBER.finditer(text.replace("\u2212", "-")):
        last = match[0]
    return last


_EXTRACTORS = {"boxed": _boxed, "answer": _answer, "hash": _hash, "last_number": _last_number}


def _normalize(text: str) -> str:
    """Takes off LaTeX's dress, case and white space at the ends and in runs."""
    text = _THIN_SPACE.sub("", text.replace("\u2212", "-").replace("{,}", ","))
    text = _MARKUP.sub(" ", _FRAC.sub(r"\1/\2", _TEXT.sub(r" \1 ", text)))
    return " ".join(text.casefold().split()).strip("* ").removesuffix(".").rstrip("* ")


def _parse_number(text: str) -> tuple[Fraction, str] | None:
    """The value and the unit of a normalized answer; None where it is no single number."""
    if len(text) > _MAX_NUMBER_CHARS:
        return None
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, numerator, denominator, unit = match.groups(default="")
    if _NOT_A_UNIT.search(unit):
        return None
    value = Fraction(numerator.replace(",", ""))
    if denominator:
        divisor = Fraction(denominator.replace(",", ""))
        if divisor == 0:
            return None
        value /= divisor
    return (-value if sign == "-" else value), unit.strip()
