"""Writes answers in one spelling: LaTeX markup, white space and signs that mean nothing go."""

import re
import unicodedata

from mapo_jax.answers import units
from mapo_jax.answers.extraction import boxed, unboxed

ROW = "\x1f"  # a new row of a matrix, `\\` in LaTeX

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_VULGAR = re.compile("[¼-¾⅐-⅞]")
_SIGNS = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u00d7": "*",
        "\u00b7": "*",
        "\u00f7": "/",
        "\u2044": "/",
        "\u222a": "\\cup ",
        "\u00b1": "\\pm ",
        "\u00a2": " cents",
        "\u03c0": "\\pi ",
        "\u2248": "\\approx ",
        "\u211d": "\\mathbb{R}",
    }
)
_SEPARATOR = re.compile(r"(?<=[0-9])(?:\{,\}|,\s*\\!|')\s*(?=[0-9]{3}(?![0-9]))")
_ROW_GAP = re.compile(r"\\\\(?:\s*\[\s*-?[0-9.]+\s*(?:pt|em|ex|mm|cm)\s*\])?")
_THIN_SPACE = re.compile(r"\\[!,;:]")
_SPACE = re.compile(r"\\(?:q?quad)(?![A-Za-z])|\\[ ()\[\]]|~")
_MARKUP = re.compile(
    r"\\(?:left|right|[bB]ig{1,2}[lr]?|displaystyle|limits|checkmark|bf|rm)(?![A-Za-z])|\\color\{\w+\}"
    r"|[\u201c\u201d\"`]|''"
)
_DEGREE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\u00b0|\\degree(?![A-Za-z])")
_CELSIUS = re.compile(rf"(?:{_DEGREE.pattern})\s*(?:([CF])\b|\\text\s*\{{\s*([CF])\s*\}})")
_DEGREE_LETTER = re.compile(r"degree ([CF])$")
_LEAD = re.compile(
    r"\s*(?:=|\\approx(?![a-z])"
    r"|(?:about|approximately|approx\.?|roughly|exactly|a total of)\s+(?=\S))",
    re.I,
)
_LAST_DEGREE = re.compile(
    rf"(?<=[0-9}}])\s*(?:{_DEGREE.pattern})(?=\s*(?:[,;]|(?:and|or)\b|(?:\\?[)\]}}])?[.$]*$))"
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_ANGLE = re.compile(rf"([0-9]+(?:\.[0-9]+)?|\\?[A-Za-z]+)\s*(?:{_DEGREE.pattern})")
_TEXT = re.compile(
    r"\\(text(?:bf|it|rm|normal|sf)?|math(?:rm|bf|it|sf)|boldsymbol|underline|mbox|operatorname)"
    r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_PREFIX = re.compile(
    r"(?:\\(?:text|mathrm)\s*\{\s*([kM])\s*\}|\\mu(?![a-z]))\s*"
    r"(?:(\\Omega)(?![a-z])|\\(?:text|mathrm)\s*\{)"
)
_OHM = re.compile(r"(?<=[0-9}])((?:\s|\\[ ,;:]|~)*)([kM])?\s*\\Omega(?![a-z])")
_UNIT_FRACTION = re.compile(
    r"\\frac\s*\{\s*([a-z]{4,})\s*\}\s*\{\s*([a-z]{4,}\s*(?:\^\{?[0-9]\}?)?)\s*\}"
)
_UNIT_PRODUCT = re.compile(r"(?<=[a-z0-9}]) *(?:\\cdot(?![a-z])|\*) *(?=[a-z]{4})")
_RADICAL = re.compile(
    r"(?:\u221a|(?<![A-Za-z\\])sqrt)\s*"
    r"(?:\(([^()]*)\)|\{([^{}]*)\}|([0-9]+(?:\.[0-9]+)?|[a-z](?![a-z])|\\pi))"
)
_NAMED = re.compile(r"(?<![A-Za-z\\])(pi(?![A-Za-z])|(?:sin|cos|tan|cot|sec|csc|ln|log)(?=\())")
_ABOUT = re.compile(r"(?<=[^\s=])\s*\\approx(?![a-z]).*", re.DOTALL)
_GOES_ON = re.compile(r"(\.[0-9]+)\s*(?:\\[lc]?dots|\.{3})$")
_WHOLE = (  # what some words mean if nothing else stands beside them
    (re.compile(r"(?<=[0-9}])\s*\((?:in )?([A-Za-z]{2}[A-Za-z ]*)\)$"), r" \1"),
    (re.compile(r"^([0-9]+) to ([0-9]+)$"), r"\1:\2"),
    (re.compile(r"per cent$", re.I), "percent"),
    (re.compile(r"([A-Za-z]{3} [0-9]{1,2})(?:st|nd|rd|th)$"), r"\1"),
    (re.compile(r"^(?:(?:the )?empty set|no solutions?|\\\{\s*\\\})$", re.I), r"\\emptyset"),
    (re.compile(r"^(?:negative|minus) (?=infinity|\\infty|[0-9])", re.I), "-"),
    (re.compile(r"^positive (?=infinity|\\infty)", re.I), ""),
    (re.compile(r"\b0(?=[0-9]:[0-9]{2})|:00(?= [ap]m$)"), ""),
    (re.compile(r"^([A-Za-z]\w?)\s*\\approx(?![a-z])"), r"\1 ="),
    (re.compile(r"^all real(?:s| numbers)$", re.I), r"\\mathbb{R}"),
    (re.compile(r"_\s*\{?\s*\(([0-9]+)\)\s*\}?$"), r"_\1"),
    (re.compile(r"^\{?\s*(\w+)\s*\\choose\s*(\w+)\s*\}?$"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\log_\{?\s*e\s*\}?"), r"\\ln "),
    (re.compile(r"\\[lr]?vert(?![a-z])\s*"), "|"),
    (re.compile(r"\\langle(?![a-z])\s*"), "\u27e8"),
    (re.compile(r"\s*\\rangle(?![a-z])"), "\u27e9"),
)
# x = stays, as a variable's name counts.
_BEFORE_BOX = re.compile(r"(?!\$?[A-Za-z]\w?\s*=[\s$]*$).*(?:=|[a-z]{2}:?)[\s$]*", re.DOTALL)
_BASES = dict[str, str](
    zip("two three four five six seven eight nine".split(), "23456789", strict=True)
)
_BASE_WORD = re.compile(rf"_\s*\{{?\s*({'|'.join(_BASES)})\s*\}}?$", re.I)
_AFTER_UNIT = ("", *"^\\/.,;$)]}")
_ARTICLE = re.compile(r"(?:an?|the) ([a-z]{4,})(?: [a-z]+)*", re.I)
_DOLLAR = re.compile(r"(?<!\\)\$")
_NOON = re.compile(r"(?<=[0-9])\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)
_U = re.compile(r"(?<=[)\]}])\s*[uU]\s*(?=[(\[\\{])")
_FRAC = re.compile(r"\\[dtc]?frac(?![A-Za-z])")
_BARE_FRAC = re.compile(r"\\frac\s*(\\pi|[0-9A-Za-z])\s*")
_BARE_BELOW = re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\\pi(?![A-Za-z])|[0-9A-Za-z])")
_GROUPED = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,]|\.[0-9]*,)")
_IN_BRACKETS = re.compile(r"[(\[{][^()\[\]{}]*,")

_FRAC_PARTS = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_ONE_FACTOR = re.compile(r"-?[0-9.]+|[A-Za-z]|pi|(?:sqrt)?\([^()]*\)")
_ALONE = re.compile(r"(?:^|[-+*=<>,;(\[{|:])\s*([0-9]*)$")  # what a mixed number can begin
_NO_PRODUCT = re.compile(r"[a-z]{3}|ln|\\")  # a function or a word
_ROOT = re.compile(r"\\sqrt\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))")
_SCRIPT = re.compile(r"([\^_])\s*\{\s*(?:(-?(?:[0-9]+|[A-Za-z]))\s*\}(?![0-9])|([^{}]*)\})")
_FUNCTIONS = r"\\(sin|cos|tan|cot|sec|csc|ln|log)"
_WORDS = (
    (re.compile(r"\\(?:times|cdot|ast)(?![a-z])"), "*"),
    (re.compile(r"\\div(?![a-z])"), "/"),
    (re.compile(r"\\pi(?![a-z])|\u03c0"), " pi "),
    (re.compile(r"\\pm(?![a-z])"), "+-"),
    (re.compile(r"\\infty(?![a-z])|\u221e"), "infinity"),
    (re.compile(r"\\leq?(?:slant)?(?![a-z])|\u2264"), "<="),
    (re.compile(r"\\geq?(?:slant)?(?![a-z])|\u2265"), ">="),
    (re.compile(r"\\lt(?![a-z])"), "<"),
    (re.compile(r"\\gt(?![a-z])"), ">"),
    (re.compile(r"\\neq?(?![a-z])|\\not\s*=|\u2260"), "!="),
    (re.compile(_FUNCTIONS + r"\s*\{(\w+)\}"), r"\1 \2"),
    (re.compile(_FUNCTIONS + r"(?![a-z])"), r"\1 "),
    (re.compile(r"\\(?:emptyset|varnothing)(?![a-z])|\u2205"), "emptyset"),
)
_ALGEBRA = re.compile(r"[0-9+*/^=<>-]")
_BASE = re.compile(r"[0-9]\s*_")
_LOOSE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])|(?<=[0-9]) (?=[A-Za-z])")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{4,}")


def tidy(text: str) -> str:
    """Removes markup that means nothing. Case stays, and what is left is LaTeX still."""
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
        text = unicodedata.normalize("NFKC", _VULGAR.sub(r" \g<0>", text.translate(_SIGNS)))
        text = text.translate(_SIGNS)
    if "\\boxed" in text:
        text = _of_box(text) if text.count("\\boxed") == 1 else unboxed(text)
    if "$" in text:
        if len(_DOLLAR.findall(text)) % 2 == 0:  # pairs of them enclose mathematics
            text = _DOLLAR.sub(" ", text)
        text = text.replace("\\$", "$")  # those that are left are money
    text = _CELSIUS.sub(lambda m: f" degree {m[1] or m[2]}", text)
    if "\u221a" in text or "(" in text or "pi" in text or "sqrt" in text:
        text = _RADICAL.sub(lambda m: rf"\sqrt{{{next(filter(None, m.groups()), '')}}}", text)
        text = _NAMED.sub(r"\\\1", text)
    text = _SEPARATOR.sub("", text)
    if "\\" in text or "{" in text:
        text = _ROW_GAP.sub(ROW, text).replace("{,}", ",")
        text = _OHM.sub(r" \\text{\2Ω}", _PREFIX.sub(_prefixed, text))
        text = _TEXT.sub(_unspoken, text)
        text = text.replace("{}", "").replace("\\lbrace", "\\{").replace("\\rbrace", "\\}")
        text = _SPACE.sub(" ", _THIN_SPACE.sub("", text)).replace("\\%", "%")
        text = _UNIT_PRODUCT.sub(" ", _UNIT_FRACTION.sub(r" \1/\2", _FRAC.sub(r"\\frac", text)))
        text = _BARE_FRAC.sub(r"\\frac{\1}", text)
        text = _BARE_BELOW.sub(r"\1{\2}", text)
    text = _MARKUP.sub(" ", text)
    if _TRIGONOMETRY.search(text):
        text = _ANGLE.sub(r"\\frac{\1\\pi}{180}", text)
    text = _DEGREE.sub(" ", _LAST_DEGREE.sub(" degree", text))
    text = _NOON.sub(lambda m: f" {m[1].lower()}m", _U.sub(r"\\cup ", text))
    if "," in text and not _IN_BRACKETS.search(text):
        text = _GROUPED.sub(lambda m: m[0].replace(",", ""), text)
    # str.split() would take the mark of a row for white space.
    text = re.sub(r"[^\S\x1f]+", " ", text).replace(" ^", "^").strip("* ,;")
    text = _GOES_ON.sub(r"\1\\ldots", text).rstrip(".* ")
    for pattern, meaning in _WHOLE:
        text = pattern.sub(meaning, text)
    text = _BASE_WORD.sub(lambda m: f"_{_BASES[m[1].lower()]}", text)
    text = _ABOUT.sub("", text)
    if (article := _ARTICLE.fullmatch(text)) and units.is_word(article[1].casefold()):
        text = text[article.start(1) :]
    return text[lead.end() :].strip() if (lead := _LEAD.match(text)) else text


def _prefixed(match: re.Match[str]) -> str:
    """Joins the prefix of a unit, a kilo- or a micro-, to it."""
    return rf" \text{{{match[1] or 'μ'}" + ("Ω}" if match[2] else "")


def _unspoken(match: re.Match[str]) -> str:
    """Returns what stands in a `\\text{...}`, with a unit after a number written out."""
    before = match.string[: match.start()].rstrip(" \\,;:!~")
    after = match.string[match.end() :].lstrip()
    is_bold = "bf" in match[1] or match[1] == "boldsymbol"
    is_unit = before[-1:] in tuple("0123456789})/*") and not is_bold and after[:1] in _AFTER_UNIT
    return f" {units.spelt_out(match[2], is_unit)} "


def _of_box(text: str) -> str:
    """Returns a box's content at the end of a sentence or equation; else the text without boxes."""
    whole, inside = unboxed(text).rstrip("$. "), boxed(text).strip()
    before = whole.removesuffix(inside)
    return inside if before != whole and _BEFORE_BOX.fullmatch(before) else whole


def plain(text: str) -> str:
    """Writes a tidy text's fractions, roots and signs in one line: (1+x)/2, sqrt(3), x^2."""
    text = _DEGREE_LETTER.sub(r"\1", text)
    if _WORD.search(text) or _BASE.search(text) or not _ALGEBRA.search(text):
        text = text.casefold()  # case matters in 3R^2, and in no word
    text = re.sub(r"(?<=[0-9]) x (?=10\s*\^)", "*", text.replace(ROW, ";"))
    if not text.isascii() or "\\" in text or "{" in text:
        text = re.sub(r"(?<=[a-z])\\", r" \\", text)
        for pattern, word in _WORDS:
            text = pattern.sub(word, text)
        for _ in range(6):  # deeper nesting stays as it is
            before = text
            text = _ROOT.sub(lambda m: f"sqrt({(m[1] or m[2] or '').strip()})", text)
            text = _SCRIPT.sub(lambda m: m[1] + (m[2] or f"({m[3].strip()})"), text)
            text = _FRAC_PARTS.sub(_fraction, text)
            if text == before:
                break
    return re.sub(r"^\+ ?(?!-)", "", " ".join(text.split()))


def _fraction(match: re.Match[str]) -> str:
    """Writes a fraction in one line; a whole number before it makes a mixed number."""
    above, below = (x.strip() for x in match.groups())
    parts = [x if _is_simple(x, i) else f"({x})" for i, x in enumerate((above, below))]
    whole = _ALONE.search(match.string[: match.start()].rstrip())
    is_whole = bool(whole and whole[1])
    line = " " * is_whole + "/".join(parts)
    after = match.string[match.end() :].lstrip()
    is_open = whole is None or (is_whole and above[:1] in ("-", "+"))  # \tan\frac{x}{2}
    return (
        f"({line})"
        if is_open or after[:1].isalnum() or after[:1] in ("\\", "(", "^", "!")
        else line
    )


def _is_simple(text: str, is_below: int) -> bool:
    """Whether a text needs no parentheses above or below the bar of a fraction."""
    inside = text[1:] if not is_below else text
    if is_below and not _ONE_FACTOR.fullmatch(text):
        return False
    if not is_below and _NO_PRODUCT.search(text.replace("sqrt", "")):
        return False
    return not any(sign in inside for sign in "+-" + ("*/" if is_below else ""))


def tight(text: str) -> str:
    """Removes white space that means nothing; between two digits it means something."""
    return _LOOSE_SPACE.sub("", text)
