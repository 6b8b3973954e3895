"""Extraction and equality of answers: cases by hand, GSM8K's own answers, and hostile text."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import answers


@pytest.mark.parametrize(
    ("response", "styles", "expected"),
    [
        (r"<think>\boxed{3}</think> \boxed{\frac{1}{2}}", ("boxed",), r"\frac{1}{2}"),
        (r"first \boxed{1}, then \boxed{2}.", ("boxed",), "2"),
        (r"\boxed{\boxed{5}}", ("boxed",), "5"),
        (r"a } \boxed{5} { b", ("boxed",), "5"),
        (r"\boxed{\{1, 2\}}", ("boxed",), r"\{1, 2\}"),
        (r"\boxed {7}", ("boxed",), "7"),
        (r"\boxed{5", ("boxed",), None),
        (r"\boxed{ }", ("boxed",), None),
        (r"it is 19", ("boxed",), None),
        (r"thought that began in the prompt \boxed{8}</think> \boxed{9}", ("boxed",), "9"),
        (r"\boxed{8}</think> 9", ("boxed",), None),
        (r"<think>never closed \boxed{9}", ("boxed",), None),
        (r"\boxed{4} <think>or \boxed{5}?</think>", ("boxed",), "4"),
        ("<answer> 7 </answer>", ("answer",), "7"),
        ("<answer>6</answer> <answer>7</answer>", ("answer",), "7"),
        ("The answer is 42. Yes, 42.", ("answer",), "42"),
        ("**Answer:** $5.50.\nBye", ("answer",), "$5.50"),
        ("So 6 * 7 = 42\n#### 1,042\n", ("hash",), "1,042"),
        ("from 5-3 to 1,234.50.", ("last_number",), "1,234.50"),
        ("17-3", ("last_number",), "3"),
        ("it is -7", ("last_number",), "-7"),
        ("3/4 of it", ("last_number",), "3/4"),
        ("none", ("last_number",), None),
        (r"#### 3 or \boxed{4}", answers.STYLES, "4"),
        (r"#### 3 or 4", ("hash", "last_number"), "3 or 4"),
        ("<think>3</think> 4", answers.STYLES, "4"),
        ("", answers.STYLES, None),
    ],
)
def test_extract(response, styles, expected):
    assert answers.extract(response, styles) == expected


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("1,000", "1000"),
        ("1{,}000.0", "1000"),
        (r"10,\!000", "10000"),
        ("$18", "18"),
        (r"\$1,234.50", "1234.5"),
        ("18 dollars", "18"),
        (r"18\text{ cm}", "18"),
        ("5 km/h", "5 km/h"),
        (r"50\%", "50"),
        (r"90^\circ", "90"),
        ("\u22123", "-3"),
        ("-$5", "-5"),
        ("**5**.", "5"),
        ("+5", "5"),
        ("007", "7"),
        (".5", "1/2"),
        (r"\frac{1}{2}", "0.5"),
        (r"-\dfrac{2}{4}", "-1/2"),
        ("x = 5", "5"),
        ("1/0", "1/0"),
        ("Joy ", "joy"),
        ("(1,  2)", "(1, 2)"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_equal(prediction, gold):
    assert answers.is_equal(prediction, gold)
    assert answers.is_equal(gold, prediction)


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        (None, "5"),
        ("", "5"),
        ("3", "-3"),
        ("5 and 6", "5"),
        ("5 pi", "5"),
        ("5 million", "5"),
        ("5x", "5"),
        ("2*3", "23"),
        ("12 13", "12"),
        ("1,00", "100"),
        ("5 cm", "5 km"),
        ("3:30", "3"),
        ("1/0", "2/0"),
        ("joyful", "joy"),
        ("9" * 5000, "8"),
    ],
)
def test_not_equal(prediction, gold):
    assert not answers.is_equal(prediction, gold)
    assert prediction is None or not answers.is_equal(gold, prediction)


@given(st.fractions(max_denominator=1000), st.fractions(max_denominator=1000))
def test_fractions_are_equal_as_numbers_are(a, b):
    latex = rf"\frac{{{a.numerator}}}{{{a.denominator}}}".replace(r"\frac{-", r"-\frac{")
    assert answers.is_equal(latex, str(a))
    assert answers.is_equal(str(a), str(b)) == (a == b)


@given(st.integers(), st.integers(0, 99))
def test_numbers_in_a_response_come_back(whole, cents):
    text = f"{whole:,}.{cents:02d}"
    value = Fraction(text.replace(",", ""))
    for response in (rf"so \boxed{{{text}}}", f"so <answer>{text}</answer>", f"#### {text}", text):
        prediction = answers.extract(response)
        assert answers.is_equal(prediction, text.replace(",", ""))
        assert answers.is_equal(prediction, str(value))


@given(st.text(st.sampled_from(list("\\boxed{}<think>/aswr#0,.-$% \n\0\ud800"))), st.text())
def test_nothing_raises(response, gold):
    for style in answers.STYLES:
        answers.extract(response, (style,))
    assert answers.is_equal(response, response)
    assert answers.is_equal(response, gold) == answers.is_equal(gold, response)


@pytest.mark.parametrize(
    "unit",
    ["{", "}", r"\boxed{", r"\boxed ", "9", "1,", "123,", ".1", "1/", "-", "\\", " ", "\0",
     "\ud800", "<think>", "</think>", "<answer>", "answer is ", "answer*", "#",
     r"\frac{", r"\text{", "a "],
)  # fmt: skip
def test_a_megabyte_of_anything_is_survived(unit):
    # What takes the square of the length would take hours: these tests would not end.
    text = unit * (10**6 // len(unit))
    for style in answers.STYLES:
        answers.extract(text, (style,))
    assert answers.is_equal(text, text)
    assert not answers.is_equal(text, "5")
    assert not answers.is_equal("x = 1 " + text, "5")


def test_a_box_around_many_braces_is_found():
    inside = "{" * 10**5 + "}" * 10**5
    assert answers.extract(rf"\boxed{{{inside}}}", ("boxed",)) == inside
