"""Multiple-choice answers by letter and by value, and rounded numbers: cases by hand."""

import pytest

from mapo_jax import answers

NUMBERS = ("9", "12", "18", "18")
LENGTHS = ("10 cm", "10 m", "12 cm")
ROOTS = (r"$\frac{\sqrt{2}}{2}$", r"$\sqrt{2}-1$", r"$6 \pi$", r"$90^{\circ}$")
LETTERS = ("A", "B", "D", "F", "G")
PICTURES = ("(A)", "(B)", "(C)", "(D)", "(E)")
SHUFFLED = ("C", "B", "A")
TERMS = ("$a+b$", "$b$", "$a$")
WORDS = ("Yes", "No")
UNSURE = ("A", "B", "C", "D", "C or D")
TURNED = ("False", "True")
RATIOS = ("$1: 2$", "$a: b$", "$2: 1$")
ORDERS = ("$1,2,3$", "$2,1,3$", "$3,1,2$")
POINTS = ("$(1, 2)$", "$(2, 1)$")
MIXED = ("(c)", "(a)", "(b)")


@pytest.mark.parametrize(
    ("prediction", "right", "choices", "expected"),
    [
        ("B", "B", NUMBERS, True),
        ("(B)", "B", NUMBERS, True),
        ("B.", "B", NUMBERS, True),
        (r"\text{B}", "B", NUMBERS, True),
        (r"\textbf{(B)}", "B", NUMBERS, True),
        ("b", "B", NUMBERS, True),
        ("Option B", "B", NUMBERS, True),
        ("The answer is B", "B", NUMBERS, True),
        ("C", "B", NUMBERS, False),
        ("12", "B", NUMBERS, True),
        ("12.0", "B", NUMBERS, True),
        ("9", "B", NUMBERS, False),
        ("B and C", "B", NUMBERS, False),
        ("", "B", NUMBERS, False),
        (None, "B", NUMBERS, False),
        ("E", "B", NUMBERS, False),  # a letter that no choice has
        (r"\text{(B)}\ 12", "B", NUMBERS, True),
        ("B) 9", "B", NUMBERS, True),  # the letter alone counts
        ("(A) 12", "B", NUMBERS, False),
        ("(A) or (B)", "A", NUMBERS, False),  # two letters are no choice
        ("(A), (B)", "A", NUMBERS, False),
        ("A. and B.", "A", NUMBERS, False),
        ("(A) 9 or (B) 12", "A", NUMBERS, False),
        ("(A) (B)", "A", NUMBERS, False),
        (".", "B", ("1", ""), False),  # nothing, which is how a choice in a picture is written
        ("18", "C", NUMBERS, True),  # two choices of one value: it is the right one
        ("18", "D", NUMBERS, True),
        ("D", "C", NUMBERS, False),
        ("10 cm", "A", LENGTHS, True),
        ("0.1 m", "A", LENGTHS, True),
        ("10", "A", LENGTHS, False),  # fits two choices that differ
        ("12", "C", LENGTHS, True),
        (r"\frac{\sqrt 2}{2}", "A", ROOTS, True),
        (r"6\pi", "C", ROOTS, True),
        ("90", "D", ROOTS, True),
        ("A", "A", LETTERS, True),
        ("E", "E", LETTERS, True),
        ("G", "E", LETTERS, True),  # no letter of a choice, but a choice
        ("D", "C", LETTERS, False),  # choice C, but the letter of another
        ("D", "D", LETTERS, True),
        ("D", "D", PICTURES, True),
        ("(D)", "D", PICTURES, True),
        ("A", "A", SHUFFLED, True),
        ("C", "A", SHUFFLED, False),
        ("a", "C", TERMS, True),  # itself a choice
        ("A", "C", TERMS, False),
        ("A", "A", TERMS, True),
        ("a + b", "A", TERMS, True),
        ("yes", "A", WORDS, True),
        ("No", "A", WORDS, False),
        ("n", "B", WORDS, False),
        ("C or D", "E", UNSURE, True),
        ("C", "E", UNSURE, False),
        ("C or D", "C", UNSURE, False),
        ("True", "B", TURNED, True),
        ("A. False", "A", TURNED, True),
        ("a:b", "B", RATIOS, True),
        ("a:b", "A", RATIOS, False),
        ("a: b", "B", RATIOS, True),
        ("(B) (2, 1)", "B", POINTS, True),
        ("(B) f(a)=3", "B", POINTS, True),
        ("(a)(a+1)", "A", POINTS, False),
        ("2, 1, 3", "B", ORDERS, True),  # as a list it would be all three
        ("2, 1, 3", "A", ORDERS, False),
        ("c", "A", MIXED, True),
        ("(c)", "C", MIXED, False),
        ("(C)", "C", MIXED, True),
    ],
)
def test_choices(prediction, right, choices, expected):
    assert answers.is_choice(prediction, right, choices) is expected


@pytest.mark.parametrize(
    ("prediction", "gold", "digits", "expected"),
    [
        ("1.2", "1.2", 1, True),
        ("1.16", "1.2", 1, True),
        ("1.25", "1.2", 1, True),
        ("1.25", "1.3", 1, True),
        ("1.26", "1.2", 1, False),
        ("1.2", "1.21", 2, False),
        ("-4.31", "-4.3", 1, True),
        ("4/5", "0.8", 1, True),
        (r"\$13.8", "13.8", 1, True),
        (r"51.041\text{ years}", "51.04", 2, True),
        ("131,253.5", "131253.5", 1, True),
        ("0.04", "0.0", 1, True),
        ("about a half", "0.5", 1, False),
        (None, "0.5", 1, False),
    ],
)
def test_rounded_numbers(prediction, gold, digits, expected):
    assert answers.is_rounded(prediction, gold, digits) is expected
