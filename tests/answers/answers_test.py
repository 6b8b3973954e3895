"""Extraction and equality of answers: cases by hand, GSM8K's own answers, and hostile text."""

import concurrent.futures
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import answers, errors
from mapo_jax.answers import units
from tests import small
from tests.answers import pairs


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
        (r"\boxed{3} and then \boxed{12", ("boxed",), "3"),  # a later box that never closes
        (r"\boxed{5} \boxed{12", answers.STYLES, "5"),
        (r"\boxed{\boxed{5}", ("boxed",), "5"),
        (r"so \boxed{3}, \boxed{4}.", ("boxed",), "3, 4"),
        (r"$\boxed{3}$ and $\boxed{4}$", ("boxed",), "3$ and $4"),
        (r"\boxed{3}, \boxed{4}, and \boxed{5}", ("boxed",), "3, 4, and 5"),
        (r"x = \boxed{3}, y = \boxed{4}", ("boxed",), "x = 3, y = 4"),
        (r"\boxed{3} \quad\text{or}\quad \boxed{4}", ("boxed",), r"3 \quad\text{or}\quad 4"),
        ("\\boxed{3}\n\n\\boxed{4}", ("boxed",), "4"),
        (r"\boxed{3}. It is \boxed{4}", ("boxed",), "4"),
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
        ("AZ2K", ("last_number",), None),
        ("9 of AZ2K", ("last_number",), "9"),
        ("about 1.5e3", ("last_number",), "1.5e3"),
        ("it is **73**.", ("last_number",), "73"),
        ("5kg", ("last_number",), "5"),
        ("The answer is **73**.", ("answer",), "73"),
        ("**Answer**: **73.**", ("answer",), "73"),
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


@pytest.mark.parametrize(
    ("prediction", "gold", "expected"),
    [
        ("3,1", "1,3", True),
        ("(3,1)", "1,3", False),
        ("3,1", "(1,3)", False),
        (r"(3,1)", r"\{1,3\}", True),
        (r"\{3,1\}", "(1,3)", False),
    ],
)
def test_the_gold_answer_says_whether_order_matters(prediction, gold, expected):
    assert answers.is_equal(prediction, gold) is expected


@given(
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=3),
    st.sampled_from(["{}{}", "-{}{}", r"{}\sin {}", r"{}\{}", r"\frac{{{}}}{{7}} {}", "{}{}^2"]),
)
def test_no_coefficient_is_the_answer(variables, form):
    word = variables.removesuffix("s")
    if word not in units._UNSPACED and units._UNITS.get(word) != word:
        answer, coefficient = form.format(3, variables), form.format(3, "").removesuffix("^2")
        coefficient = coefficient.replace("\\sin", "").removesuffix("\\")
        is_command = variables.startswith("pi") or variables in ("bf", "rm", "big")
        if not is_command or "\\" not in form:
            assert not answers.is_equal(coefficient, answer), (coefficient, answer)
            assert answers.canonical(coefficient) != answers.canonical(answer)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit",
    ["{", "}", r"\boxed{", r"\boxed ", "9", "1,", "123,", ".1", "1/", "-", "\\", " ", "\0",
     "\ud800", "<think>", "</think>", "<answer>", "answer is ", "answer*", "#",
     r"\frac{", r"\text{", "a "],
)  # fmt: skip
def test_a_megabyte_of_anything_is_survived(unit):
    # With time quadratic in the length these tests would take hours.
    text = unit * (10**6 // len(unit))
    for style in answers.STYLES:
        answers.extract(text, (style,))
    assert answers.is_equal(text, text)
    assert not answers.is_equal(text, "5")
    assert not answers.is_equal("x = 1 " + text, "5")


def test_a_box_around_many_braces_is_found():
    inside = "{" * 10**5 + "}" * 10**5
    assert answers.extract(rf"\boxed{{{inside}}}", ("boxed",)) == inside


# ---- labelled pairs, with and without algebra ----


@pytest.fixture(scope="module")
def verifier():
    with answers.Verifier() as made:
        yield made


@pytest.fixture(scope="module")
def impatient():
    with answers.Verifier(timeout=0.5) as made:
        yield made


def test_labelled_pairs_by_text():
    for expected, block in ((True, pairs.SAME), (False, pairs.DIFFERENT)):
        for a, b in pairs.pairs(block):
            for prediction, gold in ((a, b), (b, a)):
                assert answers.is_equal(prediction, gold) is expected, (prediction, gold)


@pytest.mark.parametrize(
    ("expected", "block", "step"),
    [
        (True, pairs.SAME_BY_ALGEBRA, 1),
        *small.slow(
            (False, pairs.DIFFERENT, 1),
            (True, pairs.SAME_BY_ALGEBRA, -1),
            (False, pairs.DIFFERENT, -1),
        ),
    ],
    ids=["same", "different", "same-reversed", "different-reversed"],
)
def test_labelled_pairs_by_algebra(expected, block, step, verifier):
    ordered = [pair[::step] for pair in pairs.pairs(block)]
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda pair: answers.is_equal(*pair, verifier), ordered))
    wrong = [pair for pair, same in zip(ordered, found, strict=True) if same != expected]
    assert wrong == []
    assert verifier.timeouts == 0


def test_text_settles_what_it_can(monkeypatch):
    """No worker is asked about a plain case."""

    class Nobody:
        def verify(self, prediction, gold):
            raise AssertionError((prediction, gold))

    for block in (pairs.SAME,):
        for a, b in pairs.pairs(block):
            assert answers.is_equal(a, b, Nobody())
    for a, b in (("5", "6"), ("1/2", "0.51"), ("(1,2)", "(2,1)"), ("x=5", "6"), ("", "5")):
        assert not answers.is_equal(a, b, Nobody())


@pytest.mark.parametrize(
    ("answer", "canonical"),
    [
        ("1,234", "1234"),
        (r"\frac{2}{4}", "1/2"),
        ("0.50", "1/2"),
        ("18 dollars", "18"),
        ("x = 5", "5"),
        ("50\\%", "50"),
        ("Blue Whale ", "blue whale"),
        ("3 and 1", "1,3"),
        ("(3, 1)", "()3,1"),
        ("v=9, u=4", "u=4,v=9"),
        ("x=1 or x=2", "1,2"),
        (r"2\sin x", "2sin x"),
        ("2ab", "2ab"),
        ("The answer is (B).", "b"),
        (r"3\sqrt {2}", "3sqrt(2)"),
        ("9" * 2000, "9" * 2000),
        ("", ""),
    ],
)
def test_canonical(answer, canonical):
    assert answers.canonical(answer) == canonical


@pytest.mark.parametrize(
    ("answer", "unit"),
    [
        (r" 5\text{ cm} ", {"centimeter"}),
        ("$5", {"dollar"}),
        ("x = 5 dollars", {"dollar"}),
        ("5", set()),
        ("3R^2", set()),
        ("5" * 1000 + " cm", set()),  # no number, and so spelt with all letters
    ],
)
def test_unit(answer, unit):
    assert answers.unit(answer) == unit


@pytest.mark.parametrize(
    "hostile",
    [
        "9^{9^{9^{9}}}",
        *small.slow(
            [r"\tan^{99999} x"],
            ["(a+b+c+d+e)^{40}"],
            ["(" * 200 + "1" + ")" * 200],
            ["99999999999!"],
        ),
    ],
)
def test_what_takes_for_ever_is_wrong(hostile, impatient):
    before = impatient.timeouts
    assert not answers.is_equal(hostile, r"\sqrt{2}", impatient)
    assert impatient.timeouts == before + 1
    assert answers.is_equal(r"\sqrt{8}", r"2\sqrt{2}", impatient)  # another worker answers


@pytest.mark.parametrize(
    "hostile",
    [
        "9" * 10**6,
        "}" * 10**5,
        "\0" * 1000,
        "\ud800\udfff",
        r"\frac{" * 10**4,
        r"\sqrt{" * 100 + "2" + "}" * 100,
        "1," * 10**5,
        "((((" * 10**4,
        "1/" * 200,
        "-" * 10**5,
        *small.slow(["{" * 10**5], ["9**9**9**9"], ["1e999999999"], ["10^" + "9" * 400]),
    ],
)
def test_hostile_answers_are_wrong(hostile, impatient):
    for gold in ("5", r"\sqrt{7}"):
        for text in (hostile, rf"\boxed{{{hostile}}}"):
            prediction = answers.extract(text)
            assert not answers.is_equal(prediction, gold, impatient)
            answers.canonical(text)


REPEATED = (
    *("5 in.", "5 cm and ", "5 ft, ", "1,000,", "1e", "10^", "1 1/2 ", "1:2:", "m^2/", "km/h/"),
    *("x = 1, ", "1 or ", "x<1 or ", "1<x<", "+-", "a'", "A B", "$", "(", "{,}", r"-\sqrt"),
    *("aa aa ", "is is ", "abc: ", "about ", "three ", "million ", "per ", "the answer is "),
    *(r"\pm 1", r"\frac{1}{2}", r"\cup (1,2)", r"\text{a}", r"\boxed{1},", r"\begin{pmatrix}"),
    *(r"0.\overline{3}", r"\{x\mid ", r"^\circ ", "degree ", "twenty ", "hundred and ", "0.33"),
    *(r"x \ne 1, ", "|x| < 1 and ", r"x \in \mathbb{R} ", r"\mathbb{R} \setminus \{", "0 < x < "),
    *(
        r"\text{m}/",
        r"\mathrm{km\,h^{-1}}",
        r"3\ \Omega ",
        "meter second^-2 ",
        "5 kW ",
        "{a",
        "√(1",
    ),
    *(r"\approx ", r"\sin 3^\circ ", r"\frac{\sin x}", r"\begin{pmatrix} 1 \\[4pt] ", "(dollars) "),
    *(r"\langle 1,", "1.3\\ldots ", "pi(", "a_{two} ", "an apple "),
)


@pytest.mark.parametrize("piece", REPEATED)
@pytest.mark.parametrize("end", ["", "!", "7"])
def test_repetitions_take_no_time(piece, end):
    """A pattern that can match a text in many ways tries them all, for ever, before it fails."""
    text = (piece * 500)[:480] + end
    for gold in ("5", "x = 3, y = 4", "(1, 2)", "5 cm"):
        assert not answers.is_equal(text, gold)
        assert not answers.is_equal(gold, text)
    answers.canonical(text)
    answers.extract(text * 100)


def test_a_worker_never_sees_a_long_answer(monkeypatch):
    with answers.Verifier(processes=1) as made:
        monkeypatch.setattr(made._pool, "ask", lambda question: pytest.fail("asked"))
        assert not made.verify("x+" * 300 + "x", "5")


def test_math_verify_is_missing(monkeypatch):
    monkeypatch.setattr("mapo_jax.answers.verifier._ALGEBRA", "mapo_jax.no_such_module")
    with pytest.raises(errors.UserError, match="worker processes cannot be used") as caught:
        answers.Verifier(processes=1).verify("a", "b")
    assert len(caught.value.lines) == 1
