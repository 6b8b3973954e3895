"""Expressions of Countdown: cases by hand, and agreement with Python's arithmetic."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import answers

NUMBERS = [3, 5, 8]


@pytest.mark.parametrize(
    ("expression", "target", "expected"),
    [
        ("(8-5)*3", 9, True),
        ("3*(8-5)", 9, True),
        (" 3 * ( 8 - 5 ) ", 9, True),
        ("((((3*((8-5)))))) ", 9, True),
        ("3*8-5", 19, True),  # products first
        ("3\u00d7(8\u22125)", 9, True),
        (r"3 \times (8 - 5)", 9, True),
        ("(8+5)\u00f73", Fraction(13, 3), True),
        (r"8 \cdot 5 \div 3", Fraction(40, 3), True),
        (r"$\left(8-5\right)\cdot 3$", 9, True),
        (r"\frac{8}{3-5}", -4, True),
        ("8/(3-5)", -4, True),
        ("-3+8+5", 10, True),  # a sign is no operation too many
        ("8-(-5)+3", 16, True),
        ("(8-5)*3", 10, False),
        ("8-5", 3, False),  # 3 is unused
        ("(8-5)*3+3-3", 9, False),  # used too often
        ("8+5+3+0", 16, False),
        ("85-3", 82, False),  # 8 and 5 are no 85
        ("8 5-3", 82, False),
        ("(8-5)*3=9", 9, False),  # an equation
        ("8/(5-5)+3", 3, False),
        ("8/(3+5-8)", 0, False),  # division by zero, and a number twice
        ("3**5+8", 251, False),
        ("8//5*3", 3, False),
        ("8.0+5+3", 16, False),
        ("3(8-5)", 9, False),
        ("(3)(8)(5)", 120, False),
        ("8+5+3)", 16, False),
        ("(8+5+3", 16, False),
        ("8+5+03", 16, False),
        ("8+5+\u0663", 16, False),  # another alphabet's 3
        ("8+5;3", 16, False),
        ("x+8+5", 16, False),
        ("__import__('os')", 16, False),
        ("8,5,3", 16, False),
        ("()", 16, False),
        ("", 16, False),
        (None, 16, False),
        ("(" * 5000 + "8+5+3" + ")" * 5000, 16, False),
        ("-" * 5000 + "8+5+3", 16, False),
        ("-" * 150 + "8+5+3", 16, True),
        ("8+5+3" + "+9" * 5000, 16, False),
    ],
)
def test_cases_by_hand(expression, target, expected):
    assert answers.reaches(expression, NUMBERS, target) is expected


def test_equal_numbers_are_used_as_often_as_they_are_there():
    assert answers.reaches("3+3", [3, 3], 6)
    assert not answers.reaches("3+0", [3, 0, 0], 3)
    assert not answers.reaches("3+3", [3], 6)


@given(st.lists(st.integers(0, 12), min_size=2, max_size=5), st.data())
def test_values_are_pythons(numbers, data):
    text = str(numbers[0])
    for number in numbers[1:]:
        sign = data.draw(st.sampled_from("+-*/"))
        text = f"({text}){sign}{number}" if data.draw(st.booleans()) else f"{number}{sign}({text})"
    try:
        value = Fraction(eval(text)).limit_denominator(10**7)
    except ZeroDivisionError:
        value = Fraction(0)
        assert not answers.reaches(text, numbers, value)
        return
    assert answers.reaches(text, numbers, value)
    assert not answers.reaches(text, numbers, value + 1)
    assert not answers.reaches(text, [*numbers, 1], value)


@given(st.text("0123456789+-*/() =.,x", max_size=250))
def test_no_text_raises(text):
    assert answers.reaches(text, NUMBERS, 9) in (True, False)
