"""Units of answers: a closed list, nouns by rule, and amounts of money.

Letters after a number are a unit only if they stand on the list or are words. Everything else is
algebra: 3R^2, 7uv and 2 sec x are not 3, 7 and 2.
"""

import collections
import functools
import itertools
import re
from collections.abc import Iterable
from fractions import Fraction

# Each unit with its other spellings and, after =, what it is in smaller or simpler ones.
_MEASURES = """
meter m metre; inch in = 0.0254 meter; foot ft feet = 12 inch; yard yd = 3 foot;
mile mi = 1760 yard; acre = 4840 yard^2; hectare = 10000 meter^2; gram g; ton tonne;
ounce oz; pound lb = 16 ounce; liter l litre = 0.001 meter^3; teaspoon tsp;
tablespoon tbsp = 3 teaspoon; cup = 16 tablespoon; pint = 2 cup; quart qt = 2 pint;
gallon gal = 4 quart; second s sec; minute min = 60 second; hour h hr = 60 minute;
day = 24 hour; week wk = 7 day; month; year yr = 12 month; mph = 1 mile/hour;
kph kmh = 1 kilometer/hour; cent; dollar usd $ buck = 100 cent; euro eur €; gbp £; yen ¥;
newton = 1 kilogram meter second^-2; joule = 1 newton meter; watt = 1 joule/second;
pascal = 1 newton meter^-2; ampere amp; coulomb = 1 ampere second; volt = 1 joule/coulomb;
ohm = 1 volt/ampere; farad = 1 coulomb/volt; weber = 1 volt second; tesla = 1 weber meter^-2;
henry = 1 weber/ampere; watthour = 3600 joule; hertz; kelvin; mole; electronvolt;
kilogram kg kilo; milligram mg; centimeter cm; millimeter mm; kilometer km; milliliter ml
"""
_NOUNS = """
penny pennies; percent percentage pct; degree deg; celsius; fahrenheit; radian rad; unit; way; egg;
dog; cat; boy; man men; pen; box; car; bus; cow; pig; bee; kid; pie; bag; jar; toy; pet; person
people; child children; step; byte; bit; pixel; chip
"""
# Symbols that also stand for variables: units only in \text, or if the other answer names one.
_SYMBOLS_OF = """
m meter g gram s second l liter L liter Hz hertz J joule W watt V volt A ampere Ω ohm N newton
Pa pascal C coulomb F farad T tesla K kelvin mol mole eV electronvolt Wb weber H henry Wh watthour
"""
_PREFIXES = {"nano": "n", "micro": "μ", "milli": "m", "centi": "c", "kilo": "k", "mega": "M"}
_PREFIXES |= {"giga": "G", "": ""}
_SIZES = {"nano": -9, "micro": -6, "milli": -3, "centi": -2, "kilo": 3, "mega": 6, "giga": 9}


def _spellings(table: str) -> dict[str, tuple[str, str]]:
    """Returns (unit, definition) by the unit's spelling."""
    found = {}
    for line in table.replace("\n", " ").split(";"):
        names, _, definition = line.partition("=")
        found |= dict.fromkeys(names.split(), (names.split()[0], definition))
    return found


_TABLE = _spellings(_MEASURES)
_UNITS = {spelling: unit for spelling, (unit, _) in (_TABLE | _spellings(_NOUNS)).items()}
_SYMBOLS = {
    sign + symbol: prefix + unit
    for symbol, unit in zip(_SYMBOLS_OF.split()[::2], _SYMBOLS_OF.split()[1::2], strict=True)
    for prefix, sign in _PREFIXES.items()
}
_MEASURED = {unit for unit, _ in _TABLE.values()} | {*_SYMBOLS.values()}
_UNITS |= {unit: unit for unit in _MEASURED}
_UNITS |= {unit.replace("er", "re"): unit for unit in _UNITS if unit.endswith(("meter", "liter"))}
_PLURALS = {"lbs", "hrs", "yrs", "kgs", "cms", "mms", "kms", "fts"}
# Other abbreviations look like products of variables: a unit only after a space, or in \text.
_UNSPACED = {"cm", "mm", "km", "kg", "mg", "ml", "ft", "lb", "oz", "hr", "mph", "kph", "min"}
# Only these have powers: 6 sec^2 and 16 s^2 are algebra.
_LENGTHS = set("meter centimeter millimeter kilometer inch foot yard mile unit".split())
_BARE = set("Hz kHz MHz GHz kJ kW kWh kPa eV".split())  # are no variables

# Words that change a number's value, or that are no noun.
_NOT_UNITS = set(
    """
    and or to from than then over under below above more less fewer between plus minus times by not
    least most almost nearly about until before after negative divided squared cubed
    half halves third thirds fourth fourths quarter quarters fifth fifths sixth sixths
    seventh sevenths eighth eighths ninth ninths tenth tenths eleventh elevenths twelfth twelfths
    twentieth twentieths hundredth hundredths thousandth thousandths millionth millionths zero one
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety once twice
    thrice double triple pair pairs couple score gross dozens hundreds thousands millions billions
    factorial mod modulo choose power root sqrt remainder base prime infinity emptyset undefined
    sine cosine tangent sinh cosh tanh coth arcsin arccos arctan asin acos atan exp log
    alpha beta gamma delta epsilon varepsilon zeta theta iota kappa lambda sigma upsilon omega
    no without until every remaining sin cos tan cot sec csc ln
    binom frac overline january february march april june july august september october november
    december monday tuesday wednesday thursday friday saturday sunday
    """.split()
)
_FILLERS = set("a an the of in on at are is was were for all each".split())
_MAGNITUDES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6}
_MAGNITUDES |= {"billion": 10**9, "trillion": 10**12}
_SCALES = {"c": "celsius", "f": "fahrenheit"}
_POWERS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}

_TAIL = re.compile(
    r"(.*[0-9)}\]!%]|.*\\pi)(\s*)([A-Za-z$€£¥Ωμ](?:[A-Za-zΩμ.'/ ]|\^\{?-?[123]\}?)*)", re.DOTALL
)
_WORD = re.compile(r"([A-Za-zΩμ'-]+|[$€£¥])\.?(?:\^\{?(-?[123])\}?)?")
_SIGN = re.compile(r"([+-]?)\s*(?:US\s?)?([$€£¥])\s*(?=[-+]?[0-9.\\])")
_NUMBER = re.compile(r"[-+]?\s*(?:[0-9.][0-9.,/ ]*|\\frac\s*\{[0-9]+\}\s*\{[0-9]+\})+%?")
_SENTENCE = re.compile(r"(?:(?:[a-z']{2,}|a|i),? )+(?=[$-]?[0-9\\])", re.IGNORECASE)
_DECIMAL = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_BELOW_BAR = re.compile(r"/\s*\(([^()]*)\)")
_PRODUCT = re.compile(r"\\[,;:! ]|\\cdot(?![a-z])|\\(?=Ω)|~")


def spelt_out(text: str, is_tail: bool = False) -> str:
    """Writes the abbreviated unit in a `\\text{...}` out; symbols only if it follows a number."""
    shown = _FRACTION.sub(r"\1/\2", _PRODUCT.sub(" ", text.replace("\\Omega", "Ω")))
    shown = _BELOW_BAR.sub(lambda m: "/" + "/".join(m[1].split()), shown)
    words = re.split(r"([ /.*]+|\^\{?-?[0-9]\}?)", shown)
    units = [(_SYMBOLS.get(x) if is_tail else None) or _UNITS.get(x) for x in words[::2]]
    if any(words) and all(unit or not word for unit, word in zip(units, words[::2], strict=True)):
        words[::2] = (unit or "" for unit in units)
        return "".join(words).replace("*", " ")
    return text


def split(text: str, loose: bool = False) -> tuple[str, int, set[str]]:
    """Returns (quantity, factor, unit) of a tidy answer: "3 million days" is 3, 10**6, {"day"}.

    The unit is a set of words, with one spelling for all spellings of a unit; {} if there is none.

    Args:
        text: the answer.
        loose: whether letters that may be variables are a unit.
    """
    money = set()
    if sign := _SIGN.match(text):
        text, money = sign[1] + text[sign.end() :], {_UNITS[sign[2]]}
    factor, unit = 1, set()
    match = _TAIL.fullmatch(text)
    if match and (read := _read(match[1], match[2], match[3], loose)):
        text, (factor, unit) = match[1], read
    if text.endswith("%"):
        text, unit = text[:-1], unit | {"percent"}
    return text.strip(), factor, unit | money


def ratio(a: Iterable[str], b: Iterable[str]) -> Fraction | None:
    """Returns how many of unit `b` one of unit `a` is; None if they measure different things.

    A unit may be left out, or have a remark.
    """
    a, b = frozenset(a), frozenset(b)
    (size, base, remarks), (other_size, other_base, other_remarks) = _measure(a), _measure(b)
    if base and other_base:
        a, b = remarks, other_remarks
    is_alike = (a <= b or b <= a) and (base == other_base or not (base and other_base))
    return (size / other_size if base and other_base else Fraction(1)) if is_alike else None


@functools.cache
def _measure(unit: frozenset[str]) -> tuple[Fraction, dict[str, int], frozenset[str]]:
    """Takes a unit apart: its size, the powers of its basic units, and words that measure nothing.

    A dollar is 100, {"cent": 1}.
    """
    size, base, remarks = Fraction(1), collections.Counter(), set()
    for word in unit:
        parts = [part.partition("^") for part in word.split("/")]
        if not {name for name, _, _ in parts} <= _MEASURED:
            remarks.add(word)
            continue
        for i, (name, _, exponent) in enumerate(parts):
            power = int(exponent or 1) * (-1 if i else 1)
            number, _, words = _TABLE.get(name, ("", ""))[1].strip().partition(" ")
            prefix = next((x for x in _SIZES if name.startswith(x) and name != x), None)
            if words:
                one, inner, _ = _measure(frozenset(words.split()))
                one *= Fraction(number)
            elif prefix and name.removeprefix(prefix) in _MEASURED:
                one, inner, _ = _measure(frozenset([name.removeprefix(prefix)]))
                one *= Fraction(10) ** _SIZES[prefix]
            else:
                one, inner = Fraction(1), {name: 1}
            size *= one**power
            for basic, exponent in inner.items():
                base[basic] += exponent * power
    return size, {basic: power for basic, power in base.items() if power}, frozenset(remarks)


def is_word(text: str) -> bool:
    """Says whether letters are a plain word and no product of variables, which stand in order."""
    return (
        len(text) > 3
        and text.replace("'", "").isalpha()
        and text not in _NOT_UNITS
        and any(vowel in text for vowel in "aeiou")
        and any(x >= y for x, y in itertools.pairwise(text))
    )


def spoken(text: str) -> str:
    """Returns the quantity with its unit at the end of a sentence: "Tom ate 3 apples"."""
    match = _SENTENCE.match(text)
    words = match[0].casefold().replace(",", "").split() if match else []
    if len(words) < 2 or any(word in _NOT_UNITS for word in words):
        return text
    return text[match.end() :] if match and split(text[match.end() :])[2] else text


def _read(quantity: str, space: str, tail: str, loose: bool) -> tuple[int, set[str]] | None:
    """Returns the factor and the unit of the letters after a quantity; None if it is algebra."""
    tail = re.sub(r"(?i)\bdegrees? ([cf])\b", lambda m: _SCALES[m[1].casefold()], tail)
    words = re.sub(r"(?i)\s+per\s+|\s*/\s*", "/", tail.rstrip(". ")).split()
    first = re.split(r"[/^.]", words[0].casefold())[0]
    if not (loose or space or first in _UNSPACED or len(first) > 3 or not first.isascii()):
        return None
    is_short = len(first) < 4 and first not in _UNSPACED and _UNITS.get(first, first) != first
    if is_short and "\\" in quantity and not loose:  # spelt_out() has written what stood in \text
        return None
    if words[0] == "of" and words[1:2] in (["a"], ["an"], ["the"]):  # 2/3 of the cake
        words = words[2:]
    factor, unit, power = 1, set(), ""
    while words and words[0].casefold() in _MAGNITUDES:
        factor *= _MAGNITUDES[words.pop(0).casefold()]
    for word in words:
        if unit and word.casefold() in _FILLERS:
            continue
        if word.rstrip(".").casefold() in _POWERS:
            power = _POWERS[word.rstrip(".").casefold()]
            continue
        is_later = bool(unit)
        parts = [_one(part, is_later or i > 0, loose) for i, part in enumerate(word.split("/"))]
        names = {part.partition("^")[0] for part in parts}
        if "" in parts or not (_NUMBER.fullmatch(quantity) or names <= {*_UNITS.values()}):
            return None
        unit.add("/".join(parts) + power)
        power = ""
    is_letter = len(first) == 1 and first.isascii() and first.isalpha() and not loose
    if power or (is_letter and not _DECIMAL.fullmatch(quantity)):
        return None
    return (factor, unit) if unit or factor > 1 else None


def _one(word: str, is_later: bool, loose: bool) -> str:
    """Returns the spelling of one word of a unit, with its power; "" if it is none."""
    match = _WORD.fullmatch(word)
    if match is None:
        return ""
    name, power = match[1].casefold(), f"^{match[2]}" if match[2] else ""
    if match[1] in _SYMBOLS and (loose or match[1] in _BARE or not match[1].isascii()):
        return _SYMBOLS[match[1]] + power
    if len(name) == 1 and match[1].isupper() and name != "l":  # 5 M is no meter
        return ""
    for singular in (name, name.removesuffix("s"), name.removesuffix("es")):
        if singular in _UNITS and (singular == name or len(singular) > 2 or name in _PLURALS):
            unit = _UNITS[singular]
            is_below = is_later or (power[:2] == "^-" and singular == unit)
            return unit + power if is_below or unit in _LENGTHS or not power else ""
    singular = name.removesuffix("s")
    return singular + power if is_word(name) and singular not in _NOT_UNITS else ""
