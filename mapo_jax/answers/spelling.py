"""Writes answers in one spelling: LaTeX markup, white space and signs that mean nothing go."""

import re
import unicodedata

from mapo_jax.answers import units
from mapo_jax.answers.extraction import unboxed

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
    }
)
_SEPARATOR = re.compile(r"(?<=[0-9])(?:\{,\}|,\s*\\!)\s*(?=[0-9]{3}(?![0-9]))")
_THIN_SPACE = re.compile(r"\\[!,;:]")
_SPACE = re.compile(r"\\(?:q?quad)(?![A-Za-z])|\\[ ()\[\]]|~")
_MARKUP = re.compile(
    r"\\(?:left|right|[bB]ig{1,2}[lr]?|displaystyle|limits|approx)(?![A-Za-z])|\u2248"
    r"|[\u201c\u201d\"`]|''"
)
_DEGREE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\u00b0|\\degree(?![A-Za-z])")
_CELSIUS = re.compile(rf"(?:{_DEGREE.pattern})\s*(?:([CF])\b|\\text\s*\{{\s*([CF])\s*\}})")
_DEGREE_LETTER = re.compile(r"degree ([CF])$")
_LEAD = re.compile(
    r"\s*(?:=|(?:about|approximately|approx\.?|roughly|exactly|a total of)\s+(?=\S))", re.I
)
_LAST_DEGREE = re.compile(rf"(?<=[0-9}}])\s*(?:{_DEGREE.pattern})\s*(?=[.$]*$)")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{([^{}]*)\}"
)
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
    (re.compile(r"\\leq?(?![a-z])|\u2264"), "<="),
    (re.compile(r"\\geq?(?![a-z])|\u2265"), ">="),
    (re.compile(r"\\lt(?![a-z])"), "<"),
    (re.compile(r"\\gt(?![a-z])"), ">"),
    (re.compile(r"\\neq?(?![a-z])|\u2260"), "!="),
    (re.compile(_FUNCTIONS + r"\s*\{(\w+)\}"), r"\1 \2"),
    (re.compile(_FUNCTIONS + r"(?![a-z])"), r"\1 "),
    (re.compile(r"\u221a\s*\(?([0-9A-Za-z]+)\)?"), r"sqrt(\1)"),
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
        text = unboxed(text)
    if "$" in text:
        if len(_DOLLAR.findall(text)) % 2 == 0:  # pairs of them enclose mathematics
            text = _DOLLAR.sub(" ", text)
        text = text.replace("\\$", "$")  # those that are left are money
    text = _CELSIUS.sub(lambda m: f" degree {m[1] or m[2]}", text)
    if "\\" in text or "{" in text:
        text = _SEPARATOR.sub("", text.replace("\\\\", ROW)).replace("{,}", ",")
        text = text.replace("{}", "").replace("\\lbrace", "\\{").replace("\\rbrace", "\\}")
        text = _SPACE.sub(" ", _THIN_SPACE.sub("", text)).replace("\\%", "%")
        text = _FRAC.sub(r"\\frac", _TEXT.sub(lambda m: f" {units.spelt_out(m[1])} ", text))
        text = _BARE_FRAC.sub(r"\\frac{\1}", text)
        text = _BARE_BELOW.sub(r"\1{\2}", text)
    text = _DEGREE.sub(" ", _LAST_DEGREE.sub(" degree", _MARKUP.sub(" ", text)))
    text = _NOON.sub(lambda m: f" {m[1].lower()}m", _U.sub(r"\\cup ", text))
    if "," in text and not _IN_BRACKETS.search(text):
        text = _GROUPED.sub(lambda m: m[0].replace(",", ""), text)
    # str.split() would take the mark of a row for white space.
    text = re.sub(r"[^\S\x1f]+", " ", text).replace(" ^", "^").strip("* ,;").rstrip(".* ")
    return text[lead.end() :].strip() if (lead := _LEAD.match(text)) else text


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
