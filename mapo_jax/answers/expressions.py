"""Judges the answers of Countdown: an expression over given numbers that equals a target.

Nothing is evaluated but numbers, the four operations and parentheses, in exact fractions.
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from mapo_jax.answers.spelling import plain, tidy

_MOST_CHARS = 200  # so nothing nests deeply and no number is large
_EXPRESSION = re.compile(r"[0-9+\-*/() ]+")
_OPERATIONS: dict[type, Callable[..., Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


def reaches(expression: str | None, numbers: Sequence[int], target: int) -> bool:
    """Says whether an expression equals the target and uses each number exactly once.

    That is the rule of TinyZero (Jiayi-Pan/TinyZero, verl/utils/reward_score/countdown.py), whose
    prompt says "only be used once": its grader compares the sorted numbers, so all must be used.

    Differs from TinyZero: powers, floor divisions and decimals (2**3, 7//2, 3.5) are wrong, values
    are exact, and the signs of Unicode and LaTeX's \\times, \\div and \\frac are read. As there, an
    equation such as 2*3=6 is no expression.

    Args:
        expression: as in a response; None is never right.
        numbers: that must be used.
        target: that must be reached.
    """
    if expression is None or len(expression) > _MOST_CHARS:
        return False
    text = plain(tidy(expression)).strip()
    if not _EXPRESSION.fullmatch(text):
        return False
    used: list[int] = []
    try:
        value = _value(ast.parse(text, mode="eval").body, used)
    except (SyntaxError, ZeroDivisionError, KeyError):
        return False
    return value == target and sorted(used) == sorted(numbers)


def _value(node: ast.AST, used: list[int]) -> Fraction:
    """Returns the value of a node; adds its numbers to `used`. Raises KeyError for `**`, `//`."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        return _OPERATIONS[type(node.op)](_value(node.operand, used))
    if isinstance(node, ast.BinOp):
        return _OPERATIONS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise KeyError(node)  # a call, 2(3), or an empty tuple, ()
