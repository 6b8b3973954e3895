"""Compares two answers: numbers, units, fractions, lists, matrices and plain text.

Answers that need algebra go to a `Verifier`, if there is one, part by part.
"""

import re
from fractions import Fraction

from mapo_jax.answers import numbers, structure, units
from mapo_jax.answers.extraction import MAX_NUMBER_CHARS
from mapo_jax.answers.numbers import Quantity
from mapo_jax.answers.spelling import ROW, plain, tidy, tight
from mapo_jax.answers.structure import Many
from mapo_jax.answers.verifier import MAX_MATH_CHARS, Verifier

_MOST_PARTS = 6  # parts of a list that algebra compares each with each

# Numbers in another base, times and ratios: they have one spelling and need no algebra.
_LITERAL = re.compile(r"[0-9a-z]+_\(?[0-9]+\)?|[^=]*[0-9]\s*:.*")
_OPTION = re.compile(r"(?:(?:option|choice|answer)\s+)?\(?([a-z])\)?[.:)]?", re.IGNORECASE)
_CHOSEN = re.compile(  # but not of two, as in (A) or (B)
    r"(?:(?:option|choice|answer)\s+)?(?:\(([a-z])\)|([a-z])[.:)])\s*"
    r"(?![,;/&\s]|(?:or|and)\b)\S",
    re.IGNORECASE,
)
_DECIMAL_COMMA = re.compile(r"(-?(?:[0-9]{4,}|[0-9]{1,3}(?:[. ][0-9]{3})+)),([0-9]+)")
_WITH_UNIT = re.compile(r"(-?[0-9]+),([0-9]{1,2})")  # 1,25 alone may be a list
_SAID = re.compile(
    r"(?:the )?(?:final )?answer ?: ?|(?:[a-z']{2,} )*[a-z']{3,} ?: +(?=\S)"
    r"|(?:[a-z',]+ )*(?:is|are|was|were|be|equals?|has|have|had|needs?|costs?|takes?|makes?|gets?"
    r"|earns?|pays?|travels?|weighs?|measures?|contains?)"
    r"(?: (?:at|therefore|thus|then|about|approximately|exactly|only|equal to|a total of))?"
    r"(?:\s*:)?\s+(?=\S)",
    re.IGNORECASE,
)
# Bases, primes, BA that is not AB, and two numbers side by side.
_NO_ALGEBRA = re.compile(r"[0-9]\s*_|'|^[A-Za-z ]{2,}$|(?<![_^0-9])[0-9]+ +[0-9]++(?!\s*/)")
_MATRIX = re.compile(r"\\(?:begin|end)\s*\{[a-z]*\}")
_LETTERS = re.compile(r"(?<!\\)\b[a-z']{4,}\b", re.IGNORECASE)
_LETTER = re.compile(r"[A-Za-z]")
_NAMES = re.compile(r"\b(?!or\b|and\b)[A-Za-z]+")


def is_equal(prediction: str | None, gold: str, verifier: Verifier | None = None) -> bool:
    """Says whether two answers are the same.

    Numbers may hold thousands separators, decimals, a sign, a fraction (`a/b`, `\\frac{a}{b}`,
    mixed), a power of ten, a dollar or percent sign, a full stop at the end. A unit counts only if
    both answers name one (90 minutes are 1.5 hours), and `x =` only if both name a variable.
    Letters after a number are a unit if `units` knows them, and algebra otherwise. x != 3 is a
    union of intervals, and 60 degrees are \\pi/3. Lists are compared part by part, in any order
    unless one stands in ( ) or [ ] and the gold answer is no set; x = 1, y = 2 is compared name by
    name, a matrix entry by entry, whatever encloses it. Other answers are compared as text, without
    LaTeX markup and white space, and then by algebra if there is a verifier. Case matters in
    formulas only.

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
    if max(len(prediction), len(gold)) > MAX_NUMBER_CHARS:
        return " ".join(prediction.casefold().split()) == " ".join(gold.casefold().split())
    return _compare(tidy(prediction), tidy(gold), verifier)


def canonical(answer: str) -> str:
    """Returns one spelling for all answers that are the same by text and number, to count votes.

    A number becomes its reduced fraction. A unit is left out, as `unit` has it. The parts of a list
    are sorted unless they are ordered.
    """
    answer = answer.strip()
    if len(answer) > MAX_NUMBER_CHARS:
        return " ".join(answer.casefold().split())
    return _spelling(tidy(answer))


def unit(answer: str) -> frozenset[str]:
    """Returns the unit that an answer names, as a set of words; empty if it names none."""
    answer = answer.strip()
    return numbers.read(tidy(answer)).unit if len(answer) <= MAX_NUMBER_CHARS else frozenset()


def _spelling(text: str) -> str:
    number = numbers.read(text)
    if number.value is not None or len(text) > MAX_MATH_CHARS:
        return tight(plain(text)) if number.value is None else str(number.value)
    if option := _OPTION.fullmatch(plain(text)):
        return option[1].lower()
    if said := _SAID.match(text):
        return _spelling(text[said.end() :])
    if (found := structure.equation(text)) and found.name[:1] not in ("", "("):
        return _spelling(found.value)
    if many := structure.many(text):
        parts = [_spelling(part) for part in many.parts]
        if len(set(many.names)) > 1:
            pairs = zip(many.names, parts, strict=True)
            parts = [f"{name}={part}" for name, part in pairs]
        return many.brackets + ",".join(parts if many.is_ordered else sorted(parts))
    return tight(plain(number.text))


def _compare(a: str, b: str, verifier: Verifier | None) -> bool:
    """Compares a tidy prediction and a tidy gold answer."""
    if a == b:
        return True
    if not a or not b:
        return False
    number, other = numbers.read(a), numbers.read(b)
    if bool(number.unit) != bool(other.unit):  # 5 N against 5 newtons
        loose = numbers.read(b, True) if number.unit else numbers.read(a, True)
        if loose.unit and units.ratio(loose.unit, number.unit or other.unit):
            number, other = (number, loose) if number.unit else (loose, other)
    if number.value is not None and other.value is not None:
        return numbers.are_same(number, other)
    if max(len(a), len(b)) > MAX_MATH_CHARS:
        return False
    text, other_text = plain(a), plain(b)
    if tight(text) == tight(other_text):
        return True
    if numbers.are_same(_with_comma(number), _with_comma(other)):
        return True
    for one, two in ((text, other_text), (other_text, text)):
        if option := _OPTION.fullmatch(two):
            if chosen := _OPTION.fullmatch(one) or _CHOSEN.match(one):
                return option[1].lower() == next(filter(None, chosen.groups())).lower()
    if said := _SAID.match(a):
        return _compare(a[said.end() :], b, verifier)
    if said := _SAID.match(b):
        return _compare(a, b[said.end() :], verifier)
    if (units.spoken(a), units.spoken(b)) != (a, b):
        return _compare(units.spoken(a), units.spoken(b), verifier)
    if _LITERAL.fullmatch(tight(text)) and _LITERAL.fullmatch(tight(other_text)):
        return False
    found, sought = structure.equation(a), structure.equation(b)
    if found and sought and found.name and sought.name:
        if found.name == sought.name:
            return _compare(found.value, sought.value, verifier)
        if "(" not in (found.name[0], sought.name[0]) and not (
            _LETTER.search(found.value) and _LETTER.search(sought.value)
        ):
            return False
    elif found and not sought:
        if found.name[:1] != "(":
            return bool(found.name) and _compare(found.value, b, verifier)
    elif sought and not found:
        if sought.name[:1] != "(":
            return bool(sought.name) and _compare(a, sought.value, verifier)
    one, two = structure.interval(a), structure.interval(b)
    is_same = {*_NAMES.findall(text)} == {*_NAMES.findall(other_text)}
    if one != a and two != b and is_same:
        return _compare(one, two, verifier)
    many, others = structure.many(a), structure.many(b)
    if "\\begin" in a and "\\begin" in b and not (many and others):
        many = others = None  # 2 times a matrix
    if many or others:
        if many and many.brackets:
            others = structure.many(structure.interval(b))
        if others and others.brackets:
            many = structure.many(structure.interval(a))
        return _compare_many(many or Many("", [a], []), others or Many("", [b], []), verifier)
    for one, two in ((number, other), (other, number)):
        is_angle = two.unit == {"radian"} or (not two.unit and "\\pi" in two.text)
        if one.unit == {"degree"} and is_angle:
            return _compare(_radians(one), two.text, verifier)
    ratio = units.ratio(number.unit, other.unit)
    if ratio is None:
        return False
    if number.unit or other.unit:
        a, b = number.text, other.text
        if ratio != 1:
            a = rf"\frac{{{ratio.numerator}}}{{{ratio.denominator}}}({a})"
        if tight(plain(a)) == tight(plain(b)):
            return True
    if verifier is None or not (_is_algebra(a) and _is_algebra(b)):
        return False
    return verifier.verify(a.replace(ROW, r"\\"), b.replace(ROW, r"\\"))


def _radians(angle: Quantity) -> str:
    """Writes an angle in degrees as a multiple of pi."""
    if angle.value is None:
        return rf"\frac{{\pi}}{{180}}({angle.text})"
    share = abs(angle.value) / 180
    above = f"{share.numerator if share.numerator != 1 else ''}\\pi"
    sign = "-" * (angle.value < 0)
    return sign + (above if share.denominator == 1 else rf"\frac{{{above}}}{{{share.denominator}}}")


def _is_algebra(text: str) -> bool:
    """Says whether algebra can read a text: no words, letters alone or number in another base."""
    has_words = any(map(units.is_word, _LETTERS.findall(_MATRIX.sub("", text.casefold()))))
    return not has_words and not _NO_ALGEBRA.search(text)


def _compare_many(a: Many, b: Many, verifier: Verifier | None) -> bool:
    """Compares a prediction's parts with those of the gold answer, which says if in order."""
    if len(a.parts) != len(b.parts) or sorted(a.names or b.names) != sorted(b.names or a.names):
        return False
    listed = {"", "()", "{}"} | ({"[]"} if len(a.parts) > 2 else set())
    both = {a.brackets, b.brackets}
    are_points = all(x.is_vector or x.brackets == "()" for x in (a, b)) and both & {"()", "⟨⟩"}
    if len(both) > 1 and not (both <= listed or are_points):
        return False  # (1, 2) is not [1, 2]
    is_ordered = b.is_ordered or (a.is_ordered and b.brackets != "{}")
    if len(a.names) != len(b.names):
        is_ordered |= len({*a.names, *b.names}) > 1  # x = 1, y = 2 against 1, 2
        a, b = (_without_names(a), _without_names(b))
    if is_ordered:
        return all(_compare(*pair, verifier) for pair in zip(a.parts, b.parts, strict=True))
    given, sought = (list(zip(x.names or x.parts, x.parts, strict=True)) for x in (a, b))
    for judge in (None, verifier):  # algebra sees only what text leaves
        for name, part in tuple(given):
            found = (x for x in sought if name == x[0] or not a.names)
            match = next((x for x in found if _compare(part, x[1], judge)), None)
            if match:
                given.remove((name, part))
                sought.remove(match)
            elif judge:
                return False
        if len(given) > _MOST_PARTS:
            return False
    return not given


def _without_names(many: Many) -> Many:
    """Drops the names; the values come in the order of their names."""
    if not many.names:
        return many
    pairs = sorted(zip(many.names, many.parts, strict=True), key=lambda pair: pair[0])
    return many._replace(parts=[part for _, part in pairs], names=[])


def _with_comma(number: Quantity) -> Quantity:
    """Reads 1000,99 or 1.000,99 or 2,5 km, which have a decimal comma; others stay."""
    text = plain(number.text)
    match = _DECIMAL_COMMA.fullmatch(text)
    if number.unit:
        match = match or _WITH_UNIT.fullmatch(text)
    if number.value is not None or match is None:
        return number
    whole = match[1].replace(".", "").replace(" ", "")
    return number._replace(value=Fraction(f"{whole}.{match[2]}"))
