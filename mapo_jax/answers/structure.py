"""Takes tidy answers apart: names and values, lists, points, sets, unions and matrices."""

import re
from typing import NamedTuple

from mapo_jax.answers import numbers, units
from mapo_jax.answers.spelling import ROW, tight

_CLOSES = {"(": ")", "[": "]", "{": "}"}
_UNION = r"\cup"
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma"
    "|tau|phi|varphi|chi|psi|omega|ell"
)
_NAME = re.compile(
    rf"(?:[A-Za-z]|\\(?:{_GREEK}))'?(?:_\{{?\w+\}}?)?(?:\^\{{?-1\}}?)?(?:\s?\(\w\))?"
    r"|[A-Z]{2}|\|[A-Z]{2}\||\\overline\s*\{[A-Z]{2}\}|m?\s?\\?angle\s?[A-Z]{1,3}"
)
_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)|\\in(?![a-z])|∈")
_AND = re.compile(r"\s*[,;]\s*(?:(?:and|or)\b)?\s*|\s+(?:and|or)\b\s*")
_PIECE = re.compile(
    r"[0-9.,]+\s*(?:hours?|hrs?|minutes?|mins?|seconds?|secs?|days?|weeks?|months?|years?"
    r"|feet|foot|ft|inch(?:es)?|in|meters?|centimeters?|cm|pounds?|lbs?|ounces?|oz|dollars?|cents?)\b"
)
# It gives nothing back: a point can end one piece or begin the next, which is 2^n ways to fail.
_COMPOUND = re.compile(rf"(?:{_PIECE.pattern}\.?(?:\s*,)?\s*(?:and\s+)?)++", re.IGNORECASE)
_BUILDER = re.compile(r"\\?\{\s*[A-Za-z]\s*(?:\\mid|\\colon|\||:)\s*(.*[^\s\\])\s*\\?\}")
_OR = re.compile(r"\s+or\s+")
_MATRIX = re.compile(
    r"(?P<before>[^\\]*)\\begin\s*\{(?P<kind>[pbB]?matrix|smallmatrix|array)\}(?:\s*\{[lcr| ]*\})?"
    r"(?P<cells>.*)\\end\s*\{(?P=kind)\}(?P<after>[^\\]*)",
    re.DOTALL,
)
_MENTION = re.compile(r"(?:.*=)?(?:\s*\b(?:[a-z]{3,}|is|be|we|of|so|by|it|as)\b[,:]?)*\s*", re.I)
_NO_MENTION = re.compile(r"\b(?:det\w*|rank|trace|inverse|transpose|not|plus|minus|times)\b", re.I)
_LESS = r"(<=|<|\\leq?(?:slant)?(?![a-z])|≤|\\lt(?![a-z]))"
_MORE = r"(>=|>|\\geq?(?:slant)?(?![a-z])|≥|\\gt(?![a-z]))"
_BETWEEN = re.compile(rf"([^<>=≤≥]+?)\s*{_LESS}\s*[A-Za-z]\s*{_LESS}\s*([^<>=≤≥]+)")
_BELOW = re.compile(rf"[A-Za-z]\s*{_LESS}\s*([^<>=≤≥]+)|([^<>=≤≥]+?)\s*{_MORE}\s*[A-Za-z]")
_ABOVE = re.compile(rf"[A-Za-z]\s*{_MORE}\s*([^<>=≤≥]+)|([^<>=≤≥]+?)\s*{_LESS}\s*[A-Za-z]")


class Many(NamedTuple):
    """An answer of several parts."""

    brackets: str  # "", "()", "[]", "(]", "[)", "{}", a union, or a matrix with its shape
    parts: list[str]
    names: list[str]  # of the parts, as in x = 1, y = 2; [] if they have none

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the parts matters."""
        return self.brackets not in ("", "{}", _UNION)


class Equation(NamedTuple):
    """An answer with an equals sign."""

    name: str  # of the one variable on one side; "" if both sides are expressions
    value: str


def many(text: str) -> Many | None:
    """Takes a list, a point, an interval, a set, a union or a matrix apart; None if it is none."""
    if matrix := _matrix(text):
        return matrix
    if compound := _compound(text):
        return compound
    text = text.replace("\\{", "{").replace("\\}", "}")
    pieces = _split(text, re.compile(r"\s*\\cup(?![a-z])\s*"))
    if len(pieces) > 1:
        return Many(_UNION, pieces, [])
    point = equation(text)
    if point and point.name[:1] == "(":
        names, values = (_split(x.strip()[1:-1], _AND) for x in point)
        if len(names) == len(values) and point.value[:1] == "(":
            return Many("", values, names)
        text = point.value
    brackets = ""
    if text[:1] in _CLOSES and text[-1:] in ")]}" and _is_balanced(text[1:-1]):
        brackets, text = text[0] + text[-1], text[1:-1].strip()
    parts = _split(text, _AND if not brackets else re.compile(r"\s*[,;]\s*"))
    if not all(parts):
        return None
    found = [equation(part) for part in parts]
    names = [one.name if one else "" for one in found]
    if names[0] and all(name or not one for name, one in zip(names, found, strict=True)):
        for i, name in enumerate(names):  # x = 5, 8
            names[i] = name or names[i - 1]
        parts = [one.value if one else part for one, part in zip(found, parts, strict=True)]
    else:
        names = []
    both = [_plus_and_minus(part) for part in parts]
    names = [name for name, one in zip(names, both, strict=False) for _ in one]
    parts = [part for one in both for part in one]
    return Many(brackets, parts, names) if len(parts) > 1 or brackets == "{}" else None


def equation(text: str) -> Equation | None:
    """Reads x = 5, 5 = x, 0.56 = 56% or an equation; None if there is no equals sign."""
    sides = [side.strip() for side in _EQUALS.split(text)]
    if len(sides) < 2 or len(_split(text, _AND)) > 1:
        return None
    first, last = sides[0], sides[-1]
    if not last or (first and re.search(r"[<>≤≥]|\\[lg]e", text)):
        return Equation("", text)
    for name, value in ((first, last), (last, first))[: 1 + (len(sides) == 2)]:
        if not name or (_is_name(name) and not _holds(value, name)):
            return Equation(tight(name), value)
    is_sum = re.fullmatch(r"[0-9.\s]+[-+*/^][-+*/^0-9.()\s]*", first)
    if is_sum or numbers.are_same(numbers.read(first), numbers.read(last)):
        return Equation("=", last)
    if len(sides) == 2 and re.fullmatch(r"[A-Z]{2,3}", first):
        return Equation(first, last)
    return Equation("", text)


def interval(text: str) -> str:
    """Writes 1 < x <= 2, or x < 1 or x > 2, as an interval or a union; other texts stay."""
    if text in ("\\mathbb{R}", "\\mathbb R"):
        return "(-\\infty, \\infty)"
    if builder := _BUILDER.fullmatch(text):
        text = builder[1]
    pieces = [_interval(piece.strip()) for piece in _OR.split(text)]
    return text if None in pieces else f" {_UNION} ".join(filter(None, pieces))


def _interval(text: str) -> str | None:
    if between := _BETWEEN.fullmatch(text):
        low, opening, closing, high = between.groups()
        return _bracket(opening, "[(") + f"{low}, {high}" + _bracket(closing, "])")
    if below := _BELOW.fullmatch(text):
        sign, bound = (below[1], below[2]) if below[1] else (below[4], below[3])
        return f"(-\\infty, {bound}" + _bracket(sign, "])")
    if above := _ABOVE.fullmatch(text):
        sign, bound = (above[1], above[2]) if above[1] else (above[4], above[3])
        return _bracket(sign, "[(") + f"{bound}, \\infty)"
    return None


def _bracket(sign: str, closed_open: str) -> str:
    return closed_open[sign in ("<", ">", "\\lt", "\\gt")]


def _matrix(text: str) -> Many | None:
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match["cells"]:
        return None
    before, after = match["before"].rstrip("([ "), match["after"].lstrip(")] ").rstrip(".")
    for words in (before, after):
        if not _MENTION.fullmatch(words) or _NO_MENTION.search(words):
            return None
    rows = [row.split("&") for row in match["cells"].strip().removesuffix(ROW).split(ROW)]
    if len({len(row) for row in rows}) > 1:
        return None
    parts = [cell.strip() for row in rows for cell in row]
    return Many(f"matrix of {len(rows)} rows", parts, [])


def _compound(text: str) -> Many | None:
    """Takes 5 hours and 30 minutes apart, one quantity in several units."""
    if not _COMPOUND.fullmatch(text):
        return None
    parts = [piece[0].strip() for piece in _PIECE.finditer(text)]
    found = [numbers.read(part).unit for part in parts]
    is_one = len(parts) > 1 and all(found) and len({*found}) == len(parts)
    return Many("compound", parts, []) if is_one else None


def _is_name(text: str) -> bool:
    is_point = re.fullmatch(r"\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)", text)
    words = text.casefold().split()
    is_noun = bool(words) and all(units.is_word(word) or word in ("the", "of") for word in words)
    return bool(is_point or _NAME.fullmatch(text) or is_noun)


def _holds(value: str, name: str) -> bool:
    """Whether a variable stands in an expression, as in x = 2x."""
    expression = numbers.read(value).text
    if name.isalpha():
        expression = re.sub(r"\\[A-Za-z]+|[A-Za-z]{4,}", " ", expression)
    return name in expression


def _plus_and_minus(text: str) -> list[str]:
    """Returns both values of an expression with one plus-minus sign."""
    halves = re.split(r"\\pm(?![a-z])\s*", text)
    if len(halves) != 2 or "\\mp" in text:
        return [text]
    return [(halves[0] + sign + halves[1]).removeprefix("+") for sign in "+-"]


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Splits a text where the separator stands outside of all brackets."""
    depths, depth = [], 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        depths.append(depth)
    parts, start = [], 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def _is_balanced(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return False
    return depth == 0
