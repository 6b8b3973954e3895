"""Compares two answers: numbers, units, fractions, lists and plain text, in linear time.

Answers that need algebra go to a `Verifier`, if there is one.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from mapo_jax.answers.extraction import DIGITS, MAX_NUMBER_CHARS, boxed
from mapo_jax.answers.verifier import MAX_MATH_CHARS, Verifier

_MAX_EXPONENT = 1000  # of a power of ten

_THIN_SPACE = re.compile(r"\\[!,;:]")
_MARKUP = re.compile(
    r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr|displaystyle|limits)(?![A-Za-z])|\\[ ()\[\]]"
    r"|\\(?=[$%])|\$|\^\s*\{?\s*\\circ\s*\}?|\u00b0|\\degree(?![A-Za-z])|[\u201c\u201d\u20ac\u00a3\"`]|''|~"
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}"
)
_FRAC = re.compile(r"\\[dtc]?frac(?![A-Za-z])")
_FRAC_PARTS = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|([0-9a-z]))\s*(?:\{([^{}]*)\}|([0-9a-z]))")
_ROOT = re.compile(r"\\sqrt\s*(?:\{([^{}]*)\}|([0-9a-z]))")
_SCRIPT = re.compile(r"([\^_])\s*\{\s*(-?\w+)\s*\}")
_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\u00d7": "*", "\u00b7": "*", "\u00f7": "/"})
_WORDS = (
    (re.compile(r"\\(?:times|cdot|ast)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\pi(?![a-z])|\u03c0"), " pi "),
    (re.compile(r"\\pm(?![a-z])|\u00b1"), "+-"),
    (re.compile(r"\\infty(?![a-z])|\u221e"), "infinity"),
    (re.compile(r"\\leq?(?![a-z])|\u2264"), "<="),
    (re.compile(r"\\geq?(?![a-z])|\u2265"), ">="),
    (re.compile(r"\\(?:lt)(?![a-z])"), "<"),
    (re.compile(r"\\(?:gt)(?![a-z])"), ">"),
    (re.compile(r"\\neq?(?![a-z])|\u2260"), "!="),
    (re.compile(r"\\(?:q?quad|,|;)(?![a-z])"), " "),
    (re.compile(r"\\(sin|cos|tan|cot|sec|csc|ln|log)\s*\{(\w+)\}"), r"\1 \2"),
    (re.compile(r"\\(sin|cos|tan|cot|sec|csc|ln|log)(?![a-z])"), r"\1"),
    (re.compile(r"\u221a\s*\(?([0-9a-z]+)\)?"), r"sqrt(\1)"),
    (re.compile(r"\\(?:emptyset|varnothing)(?![a-z])|\u2205"), "emptyset"),
    (re.compile(r"\u00b2"), "^2"),
    (re.compile(r"\u00b3"), "^3"),
)
_LOOSE_SPACE = re.compile(r"(?<![0-9a-z]) | (?![0-9a-z])|(?<=[0-9]) (?=[a-z])")
_NAME = re.compile(r"([a-z](?:_?[0-9])?(?:\([a-z]\))?|\([a-z](?:, ?[a-z])+\))\s*=\s*(?!=)(.+)")
_NUMBER = re.compile(
    rf"([+-]?)\s*({DIGITS})(?:\s*/\s*(\(-(?:{DIGITS})\)|{DIGITS}))?"
    r"(?:(?:\s*\*\s*|\s+)10\s*\^\s*\(?\s*([+-]?[0-9]+)\s*\)?|e([+-]?[0-9]+))?"
    r"\s*(%)?\s*([a-z](?:[a-z ./']|\^\(?[23]\)?)+|(?<= )[mglsh])?"
)
_MIXED = re.compile(r"([+-]?)\s*([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)\s*([a-z]{2,})?")
_POWER_OF_TEN = re.compile(r"([+-]?)\s*10\s*\^\s*\(?([+-]?[0-9]+)\)?")
_NOT_A_UNIT = re.compile(r"\b(?:pi|dozen|hundred|thousand|[mbtr]+illion|and|or|to|sqrt|infinity)\b")
_AND = re.compile(r"\s*,\s*(?:(?:and|or)\s+)?|\s+(?:and|or)\s+")
# Numbers in another base, times and ratios: they have one spelling and need no algebra.
_LITERAL = re.compile(r"[0-9a-z]+_\(?[0-9]+\)?|[0-9]+:[0-9:]+ ?(?:[ap]\.?m\.?)?")
_GROUPS = re.compile(r"[0-9]{1,3}(?: [0-9]{3})+(?![0-9 ])")
_OPTION = re.compile(r"\(?([a-z])\)?[.:)]?")
_CHOSEN = re.compile(r"(?:\(([a-z])\)|([a-z])[.:)])\s*\S")
_NO_UNITS = {"percent", "degree", "unit"}


def is_equal(prediction: str | None, gold: str, verifier: Verifier | None = None) -> bool:
    """Says whether two answers are the same.

    Numbers may hold thousands separators, decimals, a sign, a fraction (`a/b`, `\\frac{a}{b}`,
    mixed), a power of ten, a dollar or percent sign, a full stop at the end. A unit counts only if
    both answers name one, and `x =` only if both name a variable. Lists are compared part by part,
    in any order unless they stand in ( ) or [ ]. Other answers are compared as text, without LaTeX
    markup, case and white space, and then by algebra if there is a verifier.

    Args:
        prediction: the answer found in a response; None is never right.
        gold: the right answer.
        verifier: judges answers that text alone does not settle.
    """
    if prediction is None:
        return False
    prediction, gold = str(prediction).strip(), str(gold).strip()
    if prediction == gold:
        return True
    verdict = _compare(_normalize(prediction), _normalize(gold))
    if verdict is None:
        return verifier is not None and verifier.verify(prediction, gold)
    return verdict


def canonical(answer: str) -> str:
    """Returns one spelling for all answers that are the same by text and number, to count votes.

    A number becomes its reduced fraction. Units do not count, as they may be left out.
    """
    text = _normalize(answer.strip())
    named = _NAME.fullmatch(text) if len(text) <= MAX_MATH_CHARS else None
    number = _parse_number(named[2] if named else text)
    return str(number.value) if number else _tight(text)


def _normalize(text: str) -> str:
    """Removes LaTeX markup, case, and white space at the ends; runs of it become one space."""
    if len(text) > MAX_NUMBER_CHARS:
        return " ".join(text.casefold().split())
    text = text.translate(_SIGNS)
    if text.startswith("\\boxed") and text.endswith("}"):
        text = boxed(text)
    if "\\" in text or "{" in text:
        text = text.replace("\\\\", ";")  # a new row of a matrix
        text = _THIN_SPACE.sub("", text.replace("{,}", ","))
        text = _FRAC.sub(r"\\frac", _TEXT.sub(r" \1 ", text))
    text = _MARKUP.sub(" ", text).casefold()
    if not text.isascii() or "\\" in text or "{" in text:
        text = _plain_math(text)
    return " ".join(text.split()).strip("* ,;").removesuffix(".").rstrip("* ")


def _plain_math(text: str) -> str:
    """Writes LaTeX's fractions, roots, scripts and signs in one line: (1+x)/2, sqrt(3), x^2."""
    for pattern, plain in _WORDS:
        text = pattern.sub(plain, text)
    for _ in range(6):  # deeper nesting stays as it is
        before = text
        text = _ROOT.sub(lambda m: f"sqrt({(m[1] or m[2] or '').strip()})", text)
        text = _SCRIPT.sub(r"\1\2", text)
        text = _FRAC_PARTS.sub(_fraction, text)
        if text == before:
            break
    return text


def _fraction(match: re.Match[str]) -> str:
    """Writes a fraction in one line; a whole number before it makes a mixed number."""
    above, below = (x.strip() for x in (match[1] or match[2] or "", match[3] or match[4] or ""))
    parts = [x if _is_simple(x, i) else f"({x})" for i, x in enumerate((above, below))]
    before = match.string[: match.start()].rstrip()
    return (" " if before[-1:].isdigit() else "") + "/".join(parts)


def _is_simple(text: str, is_below: int) -> bool:
    """Whether a text needs no parentheses above or below the bar of a fraction."""
    inside = text[1:] if not is_below else text
    return not any(sign in inside for sign in "+-" + ("*/" if is_below else ""))


def _tight(text: str) -> str:
    """Removes white space that means nothing; between two digits it means something."""
    return _LOOSE_SPACE.sub("", text)


_PAIRS = {"(": ")", "[": "]", "{": "}"}


def _compare(a: str, b: str) -> bool | None:
    """Compares two normalized answers; None if that takes algebra."""
    if a == b:
        return True
    if not a or not b or max(len(a), len(b)) > MAX_NUMBER_CHARS:
        return False
    number, other = _parse_number(a), _parse_number(b)
    if number and other:
        return _same_number(number, other)
    if max(len(a), len(b)) > MAX_MATH_CHARS:
        return False
    if _tight(a) == _tight(b):
        return True
    if _LITERAL.fullmatch(a) and _LITERAL.fullmatch(b):
        return False
    name, other_name = _NAME.fullmatch(a), _NAME.fullmatch(b)
    if name and other_name and name[1] != other_name[1]:
        return False
    if name or other_name:
        return _compare(name[2] if name else a, other_name[2] if other_name else b)
    for one, two in ((a, b), (b, a)):
        option = _OPTION.fullmatch(two)
        if option:
            chosen = _OPTION.fullmatch(one) or _CHOSEN.match(one)
            if chosen:
                return option[1] == next(filter(None, chosen.groups()))
    parts, other_parts = _parts(a), _parts(b)
    if parts or other_parts:
        return _compare_parts(parts, other_parts)
    if a.isalpha() and b.isalpha() and min(len(a), len(b)) > 3:  # two different words
        return False
    return None


def _compare_parts(a: tuple[str, list[str]] | None, b: tuple[str, list[str]] | None) -> bool | None:
    """Compares two lists part by part, in order if in ( ) or [ ]; None if that takes algebra."""
    if a is None or b is None:
        brackets, _ = a or b or ("", [])
        return None if brackets else False
    (brackets, parts), (other_brackets, others) = a, b
    kinds = {brackets, other_brackets} - {""}
    if len(parts) != len(others) or len(kinds) == 2:  # (1, 2) is not [1, 2]
        return False
    is_ordered = bool(kinds - {"{}"})
    if is_ordered and "" in (brackets, other_brackets):
        return None
    left, verdict = list(others), True
    for i, part in enumerate(parts):
        verdicts = [_compare(part, other) for other in ([others[i]] if is_ordered else left)]
        if True in verdicts:
            left.pop(0 if is_ordered else verdicts.index(True))
        elif None in verdicts:
            verdict = None
        else:
            return False
    return verdict


def _parts(text: str) -> tuple[str, list[str]] | None:
    """Returns (brackets, parts) of a list; None if the text is no list."""
    text = text.replace("\\{", "{").replace("\\}", "}")
    brackets = ""
    if text[:1] in _PAIRS and text[-1:] in ")]}":
        brackets, inner = text[0] + text[-1], text[1:-1]
        if _depth_stays(inner):
            text = inner
        else:
            brackets = ""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    if not brackets:
        words = [_NAME.sub(r"\2", word) for word in _AND.split(text)]
        if len(words) >= len(parts) and all(map(_parse_number, words)):
            parts = words
    return (brackets, parts) if len(parts) > 1 and all(parts) else None


def _depth_stays(text: str) -> bool:
    depth = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return False
    return depth == 0


class _Number(NamedTuple):
    value: Fraction
    unit: str = ""
    is_percent: bool = False


def _same_number(a: _Number, b: _Number) -> bool:
    """A unit counts if both numbers name one; 50% equals 50 and 0.5, as in other graders."""
    if a.unit and b.unit and a.unit != b.unit:
        return False
    if a.is_percent != b.is_percent:
        percent, other = (a, b) if a.is_percent else (b, a)
        return other.value in (percent.value, percent.value / 100)
    return a.value == b.value


def _parse_number(text: str) -> _Number | None:
    """Reads a normalized answer as one number; None if it is not one number."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    if text.isdecimal() and text.isascii():
        return _Number(Fraction(int(text)))
    if text[:2] != "(-" and text[:1] == "(" and text[-1:] == ")" and "," not in text:
        text = text[1:-1]
    if " " in text and (grouped := _GROUPS.match(text)):
        text = grouped[0].replace(" ", "") + text[grouped.end() :]
    mixed = _MIXED.fullmatch(text)
    if mixed and int(mixed[4]):
        value = int(mixed[2]) + Fraction(int(mixed[3]), int(mixed[4]))
        return _Number(-value if mixed[1] == "-" else value, mixed[5] or "")
    power = _POWER_OF_TEN.fullmatch(text)
    if power:
        return _scaled(_Number(Fraction(-1 if power[1] == "-" else 1)), power[2])
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, numerator, denominator, power_of_ten, exponent, percent, unit = match.groups(default="")
    if _NOT_A_UNIT.search(unit):
        return None
    value = Fraction(numerator.replace(",", ""))
    if denominator:
        divisor = Fraction(denominator.replace(",", "").strip("()"))
        if divisor == 0:
            return None
        value /= divisor
    unit = unit.strip()
    unit = unit.removesuffix("s") if len(unit) > 2 else unit  # 1 hour, 2 hours
    number = _Number(
        -value if sign == "-" else value,
        "" if unit in _NO_UNITS else unit,
        bool(percent) or unit == "percent",
    )
    return _scaled(number, power_of_ten or exponent or "0")


def _scaled(number: _Number, exponent: str) -> _Number | None:
    if len(exponent) > 5 or abs(int(exponent)) > _MAX_EXPONENT:
        return None
    return number._replace(value=number.value * Fraction(10) ** int(exponent))
