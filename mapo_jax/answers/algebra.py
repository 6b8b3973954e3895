"""Compares answers by symbolic algebra (the package math-verify). Runs in a worker process."""

import dataclasses
import logging
import re
from typing import Any

try:
    import math_verify
    import sympy
except ImportError:
    raise ImportError(
        'math-verify is not installed; pip install "math-verify[antlr4_13_2]"'
    ) from None

logging.disable(logging.CRITICAL)  # it warns about every answer that it cannot read

# `units` has taken units away; math-verify takes variables, such as the s of 4s, for some.
_SPELLING = dataclasses.replace(
    math_verify.LatexExtractionConfig().normalization_config, units=False
)
_LATEX = [math_verify.LatexExtractionConfig(normalization_config=_SPELLING)]
_PLAIN = [math_verify.ExprExtractionConfig()]
_ARITHMETIC = re.compile(r"[0-9\s.+\-*/^()]+")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_COMMAND_OR_CAPITAL = re.compile(r"\\[A-Za-z]+|[A-Z]")
_FACTORS = re.compile(r"((?<![\w^}])[0-9.]+|\))\s*(?=\()")  # it takes 2(3) for 2 + 3
_DIGITS = 400  # up to which a difference is looked for


def answer(question: list[str]) -> bool:
    """Says whether [prediction, gold] are the same. The process limits time and memory."""
    prediction, gold = (_parse(text) for text in _with_case(question))
    if not math_verify.verify(gold, prediction, timeout_seconds=None):
        return False
    return all(_is_exact(one, two) for one in prediction[:1] for two in gold[:1])


def _with_case(texts: list[str]) -> list[str]:
    """Marks capitals that stand beside the same small letter, as math-verify takes 3R for 3r."""
    letters = {*_COMMAND.sub(" ", " ".join(texts))}
    capitals = {x for x in letters if x.isupper() and x.lower() in letters}

    def mark(match: re.Match[str]) -> str:
        return match[0] + "_{c}" * (match[0] in capitals)

    return [_COMMAND_OR_CAPITAL.sub(mark, text) for text in texts]


def _parse(text: str) -> list:
    """Reads a whole answer. A part of one that cannot be read, as its last number, is no answer."""
    no_limit: Any = None
    text = _FACTORS.sub(r"\1\\cdot ", text)
    for shown, config in ((f"${text}$", _LATEX), (text, _PLAIN)):
        if config is _LATEX or _ARITHMETIC.fullmatch(text):
            read = math_verify.parse(
                shown, config, fallback_mode="no_fallback", parsing_timeout=no_limit
            )
            if read:  # math-verify does not multiply matrices by numbers
                return [x.doit() if isinstance(x, sympy.MatrixExpr) else _complex(x) for x in read]
    return []


def _complex(expression: Any) -> Any:
    """Lets i be the imaginary unit, which math-verify often takes for some real number."""
    if not isinstance(expression, sympy.Expr):
        return expression
    return expression.subs({x: sympy.I for x in expression.free_symbols if str(x) == "i"})


def _is_exact(a: Any, b: Any) -> bool:
    """Whether what math-verify calls equal is: it rounds, and two unsolvable equations are one."""
    if isinstance(a, sympy.Rel) and isinstance(b, sympy.Rel):
        sides: Any = (a.lhs, a.rhs, b.lhs, b.rhs)
        a, b = sides[0] - sides[1], sides[2] - sides[3]
        if a.has(sympy.I) or not (a.free_symbols and b.free_symbols):
            return _difference(a, b)
        shares = [_at(a, shift) / _at(b, shift) for shift in (2, 5, 11)]
        return _is_zero(shares[0] - shares[1]) and _is_zero(shares[0] - shares[2])
    if isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr):
        return a.has(sympy.UnevaluatedExpr) or b.has(sympy.UnevaluatedExpr) or _difference(a, b)
    return True


def _difference(a: Any, b: Any) -> bool:
    return _is_zero(_at(a, 2) - _at(b, 2))


def _at(expression: Any, shift: int) -> Any:
    """Puts a number for each symbol, the same for the same name."""
    expression = sympy.nsimplify(expression.doit(), rational=True)
    values = {
        symbol: sympy.Rational(sum(map(ord, str(symbol))) * shift + 1, 7 + shift)
        for symbol in expression.free_symbols
    }
    return expression.subs(values)


def _is_zero(number: Any) -> bool:
    number = sympy.sympify(number)
    if number.is_Rational:
        return number == 0
    size: Any = sympy.Abs(number)
    value = size.evalf(15, maxn=_DIGITS)
    if not value.is_number or value.is_finite is False:  # nothing can be said
        return True
    return bool(value < sympy.Float(10) ** (-_DIGITS // 2))


# The first one is slow, so it runs before the clock does.
answer([r"x^2 - 1 + \frac12", "(x - 1)(x + 1) + 0.5"])
