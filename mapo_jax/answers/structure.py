"""Takes tidy answers apart: names and values, lists, points, sets, unions and matrices."""

import itertools
import re
from typing import NamedTuple

from mapo_jax.answers import numbers, units
from mapo_jax.answers.spelling import ROW, plain, tight

_CLOSES = {"(": ")", "[": "]", "{": "}", "⟨": "⟩"}
_UNION = r"\cup"
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|iota|kappa|lambda|mu|nu|xi|rho|sigma"
    "|tau|phi|varphi|chi|psi|omega|ell"
)
_NAME = re.compile(
    rf"(?:[A-Za-z]|\\vec\s*\{{?\s*[A-Za-z]\s*\}}?|\\(?:{_GREEK}))'?(?:_\{{?\w+\}}?)?(?:\^\{{?-1\}}?)?(?:\s?\(\w\))?"
    r"|[A-Z]{2}|\|[A-Z]{2}\||\\overline\s*\{[A-Z]{2}\}|m?\s?\\?angle\s?[A-Z]{1,3}"
)
_EQUALS = re.compile(r"(?<![<>!:=\\])=(?!=)|\\in(?![a-z])|∈")
_AND = re.compile(r"\s*[,;]\s*(?:(?:and|or)\b)?\s*|\s+(?:and|or)\b\s*")
_REALS = r"(?:\\in\s*)?\\mathbb\s*\{?\s*R\s*\}?"
_ALL = re.compile(rf"(?:[A-Za-z]\s*)?{_REALS}")
_BUILDER = re.compile(
    rf"\\?\{{\s*[A-Za-z]\s*(?:{_REALS})?\s*(?:\\mid|\\colon|\||:)\s*(.*[^\s\\])\s*\\?\}}"
)
_WITHOUT = re.compile(rf"{_ALL.pattern}\s*(?:\\setminus|\\backslash|-)\s*\\?\{{(.*[^\\])\\?\}}")
_OR = re.compile(r"\s+or\s+")
_BOTH = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+|\s*\\(?:land|wedge)(?![a-z])\s*")
_MATRIX = re.compile(
    r"(?P<before>[^\\]*)\\begin\s*\{(?P<kind>[pbB]?matrix|smallmatrix|array)\}(?:\s*\{[lcr| ]*\})?"
    r"(?P<cells>.*)\\end\s*\{(?P=kind)\}(?P<after>[^\\]*)",
    re.DOTALL,
)
_MENTION = re.compile(r"(?:.*=)?(?:\s*\b(?:[a-z]{3,}|is|be|we|of|so|by|it|as)\b[,:]?)*\s*", re.I)
_NO_MENTION = re.compile(r"\b(?:det\w*|rank|trace|inverse|transpose|not|plus|minus|times)\b", re.I)
_SIGN = re.compile(
    r"\s*(<=|>=|!=|[<>≤≥≠]|\\not\s*=|\\(?:[lg]eq?(?:slant)?|[lg]t|neq?)(?![a-z]))\s*"
)
_FLIPPED = str.maketrans("<>", "><")
_VARIABLE = re.compile(rf"\|?(?:[A-Za-z]|\\(?:{_GREEK}))\|?")
_SUM = re.compile(r"(?=.*(?:[-+*/^!]|binom))(?:sqrt|pi|\\binom|[-+*/^0-9.(){}!\s])+")


class Many(NamedTuple):
    """An answer of several parts."""

    brackets: str  # "", "()", "[]", "(]", "[)", "{}", a union, or a matrix with its shape
    parts: list[str]
    names: list[str]  # of the parts, as in x = 1, y = 2; [] if they have none

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the parts matters."""
        return self.brackets not in ("", "{}", _UNION)

    @property
    def is_vector(self) -> bool:
        """Whether it is a vector: a matrix of one row or one column, or in angle brackets."""
        return self.brackets in ("⟨⟩", "matrix of 1 rows", f"matrix of {len(self.parts)} rows")


class Equation(NamedTuple):
    """An answer with an equals sign."""

    name: str  # of the one variable on one side; "" if both sides are expressions
    value: str


def many(text: str) -> Many | None:
    """Takes a list, a point, an interval, a set, a union or a matrix apart; None if it is none."""
    if matrix := _matrix(text):
        return matrix
    if numbers.read(text).value is not None:  # 5 hours and 30 minutes
        return None
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
    if text[:1] in _CLOSES and text[-1:] in ")]}⟩" and _is_balanced(text[1:-1]):
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
    is_set = _BUILDER.fullmatch(text) or _WITHOUT.fullmatch(text)
    if len(sides) < 2 or is_set or len(_split(text, _AND)) > 1:
        return None
    first, last = sides[0], sides[-1]
    if not last or (first and re.search(r"[<>≤≥]|\\[lg]e", text)):
        return Equation("", text)
    for name, value in ((first, last), (last, first))[: 1 + (len(sides) == 2)]:
        if not name or (_is_name(name) and not _holds(value, name)):
            return Equation(tight(name), value)
    number = numbers.read(first)
    is_sum = number.value is None and _SUM.fullmatch(plain(first))
    if is_sum or numbers.are_same(number, numbers.read(last)):
        return Equation("=", last)
    if len(sides) == 2 and re.fullmatch(r"[A-Z]{2,3}", first):
        return Equation(first, last)
    return Equation("", text)


def interval(text: str) -> str:
    """Writes 1 < x <= 2, x < 1 or x > 2, or x != 3 as an interval or a union; other texts stay."""
    if builder := _BUILDER.fullmatch(text):
        text = builder[1]
    pieces = [_intervals(piece.strip()) for piece in _OR.split(text)]
    return text if None in pieces else f" {_UNION} ".join(itertools.chain(*filter(None, pieces)))


def _intervals(text: str) -> list[str] | None:
    """Returns the intervals of all x with, say, 0 < x < 4 and x != 1; None for other texts."""
    lows, highs, holes, names = ["(-\\infty"], ["\\infty)"], [], set()
    if without := _WITHOUT.fullmatch(text):
        holes, text = _BOTH.split(without[1]), "x \\in \\mathbb{R}"
    for condition in _BOTH.split(text):
        found = _constraints(condition)
        if found is None and holes and _SIGN.search(condition) is None:  # x != 1, 2
            holes.append(condition)
        elif found is None:
            return None
        for name, sign, bound in found or ():
            names.add(name.strip("|"))
            opposite = f"-({bound})" if bound[0] in "+-" else f"-{bound}"
            if sign == "!=":
                holes += [opposite, bound] if name[0] == "|" else _plus_and_minus(bound)[::-1]
            elif name[0] == "|" and sign[0] == ">":
                outside = [f"{lows[0]}, {opposite}" + "])"[sign == ">"]]
                outside.append("[("[sign == ">"] + f"{bound}, {highs[0]}")
                return outside if text == condition else None
            if sign[0] == ">" or (sign[0] == "<" and name[0] == "|"):
                lows.append("[("[len(sign) == 1] + (opposite if sign[0] == "<" else bound))
            if sign[0] == "<":
                highs.append(bound + "])"[len(sign) == 1])
    if max(len(lows), len(highs)) > 2 or len(names) > 1:
        return None
    values = {hole: numbers.read(hole).value for hole in holes}
    known = {hole: value for hole, value in values.items() if value is not None}
    if len(known) == len(values):
        holes = sorted(known, key=known.__getitem__)
    elif len(holes) > 2:
        return None
    bounds = [lows[-1], *(edge for hole in holes for edge in (f"{hole})", f"({hole}")), highs[-1]]
    return [f"{low}, {high}" for low, high in zip(bounds[::2], bounds[1::2], strict=True)]


def _constraints(text: str) -> list[tuple[str, str, str]] | None:
    """Takes 0 < x <= 4 apart: (x, >, 0) and (x, <=, 4)."""
    if _ALL.fullmatch(text):
        return []
    terms = _SIGN.split(text)
    signs = [plain(sign).strip() for sign in terms[1::2]]
    if not all(terms) or len(terms) not in (3, 5) or (len(terms) == 5 and "!=" in signs):
        return None
    at = 0 if len(terms) == 3 and _VARIABLE.fullmatch(terms[0]) else 2
    if not _VARIABLE.fullmatch(terms[at]):
        return None
    before = [(terms[at], signs[0].translate(_FLIPPED), terms[0])] if at else []
    after = [(terms[at], signs[-1], terms[-1])] if at < len(terms) - 1 else []
    return before + after


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
        depth += (char in "([{⟨") - (char in ")]}⟩")
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
        depth += (char in "([{⟨") - (char in ")]}⟩")
        if depth < 0:
            return False
    return depth == 0
