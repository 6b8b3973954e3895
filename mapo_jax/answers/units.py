"""Units of answers: a closed list, nouns by rule, and amounts of money.

Letters after a number are a unit only if they stand on the list or are words. Everything else is
algebra: 3R^2, 7uv and 2 sec x are not 3, 7 and 2.
"""

import itertools
import re

_SPELLINGS = """
meter m metre; centimeter cm centimetre; millimeter mm millimetre; kilometer km kilometre;
inch in; foot ft feet; yard yd; mile mi; acre; hectare; gram g; kilogram kg kilo; milligram mg;
pound lb; ounce oz; ton tonne; liter l litre; milliliter ml millilitre; gallon gal; quart qt; pint;
cup; teaspoon tsp; tablespoon tbsp; second s sec; minute min; hour h hr; day; week wk; month;
year yr; mile/hour mph; kilometer/hour kph kmh; dollar usd $ buck; cent; euro eur €; gbp £; yen ¥;
penny pennies; percent percentage pct; degree deg; celsius; fahrenheit; radian rad; unit; way; egg;
dog; cat; boy; man men; pen; box; car; bus; cow; pig; bee; kid; pie; bag; jar; toy; pet; person
people; child children; step; newton; joule; watt; volt; hertz; ohm; byte; bit; pixel; chip
"""
_UNITS = {
    spelling: names.split()[0]
    for names in _SPELLINGS.replace("\n", " ").split(";")
    for spelling in names.split()
}
_PLURALS = {"lbs", "hrs", "yrs", "kgs", "cms", "mms", "kms", "fts"}
# Other abbreviations look like products of variables: a unit only after a space, or in \text.
_UNSPACED = {"cm", "mm", "km", "kg", "mg", "ml", "ft", "lb", "oz", "hr", "mph", "kph", "min"}
# Only these have powers: 6 sec^2 and 16 s^2 are algebra.
_LENGTHS = set("meter centimeter millimeter kilometer inch foot yard mile unit".split())

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
    r"(.*[0-9)}\]!%]|.*\\pi)(\s*)([A-Za-z$€£¥](?:[A-Za-z.'/ ]|\^\{?-?[123]\}?)*)", re.DOTALL
)
_WORD = re.compile(r"([a-z'-]+|[$€£¥])\.?(?:\^\{?(-?[123])\}?)?")
_SIGN = re.compile(r"([+-]?)\s*([$€£¥])\s*(?=[-+]?[0-9.\\])")
_NUMBER = re.compile(r"[-+]?\s*(?:[0-9.][0-9.,/ ]*|\\frac\s*\{[0-9]+\}\s*\{[0-9]+\})+%?")
_SENTENCE = re.compile(r"(?:(?:[a-z']{2,}|a|i),? )+(?=[$-]?[0-9\\])", re.IGNORECASE)
_DECIMAL = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")


def spelt_out(text: str) -> str:
    """Writes the abbreviated unit in a `\\text{...}` out, as nothing else is meant there."""
    words = re.split(r"([ /.]+)", text)
    if all(_UNITS.get(word) for word in words[::2] if word):
        return "".join(_UNITS.get(word, word) for word in words)
    return text


def split(text: str) -> tuple[str, int, set[str]]:
    """Returns (quantity, factor, unit) of a tidy answer: "3 million days" is 3, 10**6, {"day"}.

    The unit is a set of words, with one spelling for all spellings of a unit; {} if there is none.
    """
    money = set()
    if sign := _SIGN.match(text):
        text, money = sign[1] + text[sign.end() :], {_UNITS[sign[2]]}
    factor, unit = 1, set()
    if (match := _TAIL.fullmatch(text)) and (read := _read(*match.groups())):
        text, (factor, unit) = match[1], read
    if text.endswith("%"):
        text, unit = text[:-1], unit | {"percent"}
    return text.strip(), factor, unit | money


def are_alike(a: set[str], b: set[str]) -> bool:
    """Says whether two units can be of equal answers. A unit may be left out, or have a remark."""
    return a <= b or b <= a


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


def _read(quantity: str, space: str, tail: str) -> tuple[int, set[str]] | None:
    """Returns the factor and the unit of the letters after a quantity; None if it is algebra."""
    tail = re.sub(r"\bdegrees? ([cf])\b", lambda m: _SCALES[m[1]], tail.casefold())
    words = re.sub(r"\s+per\s+|\s*/\s*", "/", tail.rstrip(". ")).split()
    first = re.split(r"[/^.]", words[0])[0]
    if not (space or first in _UNSPACED or len(first) > 3 or not first.isascii()):
        return None
    is_short = len(first) < 4 and first not in _UNSPACED and _UNITS.get(first, first) != first
    if is_short and "\\" in quantity:  # spelt_out() has written what stood in \text
        return None
    factor, unit, power = 1, set(), ""
    while words and words[0] in _MAGNITUDES:
        factor *= _MAGNITUDES[words.pop(0)]
    for word in words:
        if unit and word in _FILLERS:
            continue
        if word.rstrip(".") in _POWERS:
            power = _POWERS[word.rstrip(".")]
            continue
        parts = [_one(part, i > 0) for i, part in enumerate(word.split("/"))]
        names = {part.partition("^")[0] for part in parts}
        if "" in parts or not (_NUMBER.fullmatch(quantity) or names <= {*_UNITS.values()}):
            return None
        unit.add("/".join(parts) + power)
        power = ""
    if power or (len(first) == 1 and first.isalpha() and not _DECIMAL.fullmatch(quantity)):
        return None
    return (factor, unit) if unit or factor > 1 else None


def _one(word: str, is_below: bool) -> str:
    """Returns the spelling of one word of a unit, with its power; "" if it is none."""
    match = _WORD.fullmatch(word)
    if match is None:
        return ""
    name, power = match[1], f"^{match[2]}" if match[2] else ""
    for singular in (name, name.removesuffix("s"), name.removesuffix("es")):
        if singular in _UNITS and (singular == name or len(singular) > 2 or name in _PLURALS):
            unit = _UNITS[singular]
            return "" if power and not is_below and unit not in _LENGTHS else unit + power
    singular = name.removesuffix("s")
    return singular + power if is_word(name) and singular not in _NOT_UNITS else ""
