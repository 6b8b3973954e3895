"""Names of emotions: what the paper's grader takes for right, and what inflections add to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import answers, rewards

# (answer, right one, right letter by letter, right by inflection). The third column was computed
# with grade_answer of mathruler 0.1.0.
TABLE = [
    ("sadness", "sadness", True, True),
    ("Sadness", "sadness", True, True),
    (" SADNESS ", "sadness", True, True),
    (r"\text{Sadness}", "sadness", True, True),
    (r"\textbf{ sadness }", "sadness", True, True),
    (r"\mathrm{sadness}", "sadness", True, True),
    ("{sadness}", "sadness", True, True),
    ("$sadness$", "sadness", True, True),
    ("sad ness", "sadness", True, True),
    ("fear", "Fear", True, True),
    ("sadness.", "sadness", False, True),
    ("'sadness'", "sadness", False, True),
    ("**sadness**", "sadness", False, True),
    ("(sadness)", "sadness", False, True),
    ("\u201csadness\u201d", "sadness", False, True),
    (r"\text{sad}", "sadness", False, True),
    ("sad", "sadness", False, True),
    ("Saddened.", "sadness", False, True),
    ("afraid", "fear", False, True),
    ("fearful", "fear", False, True),
    ("angry", "anger", False, True),
    ("disgusted", "disgust", False, True),
    ("Amused", "amusement", False, True),
    ("excited", "excitement", False, True),
    ("content", "contentment", False, True),
    ("awe-inspiring", "awe", False, True),
    ("in awe", "awe", False, True),
    ("joyful", "joy", False, True),
    ("cheerfullness", "cheerfulness", False, True),
    ("not sadness", "sadness", False, False),
    ("not sad", "sadness", False, False),
    ("sadness, fear", "sadness", False, False),
    ("sadness or fear", "sadness", False, False),
    ("sadness sadness", "sadness", False, False),
    ("sadness (grief)", "sadness", False, False),
    ("the emotion is sadness", "sadness", False, False),
    ("unsadness", "sadness", False, False),
    ("sad-ness", "sadness", False, False),
    ("fear", "sadness", False, False),
    ("afraid", "sadness", False, False),
    ("happy", "joy", False, False),
    ("scared", "fear", False, False),
    ("awesome", "awe", False, False),
    ("discontent", "contentment", False, False),
    ("s\u00e4dness", "sadness", False, False),
    ("", "sadness", False, False),
    ("?", "sadness", False, False),
    (None, "sadness", False, False),
    ("glee", "glee", True, True),
    ("gleeful", "glee", False, False),
]


@pytest.mark.parametrize(("answer", "gold", "exact", "inflected"), TABLE)
def test_names(answer, gold, exact, inflected):
    assert answers.is_emotion(answer, gold) is exact
    assert answers.is_emotion(answer, gold, inflected=True) is inflected


def test_no_form_belongs_to_two_emotions():
    forms = [
        form.replace("-", " ")
        for name, others in answers.INFLECTIONS.items()
        for form in {name, *others.split()}
    ]
    assert len(forms) == len(set(forms)) > 150
    assert all(form == form.lower() for form in forms)


@given(st.text(), st.sampled_from(sorted(answers.INFLECTIONS)))
def test_what_is_exact_is_right_by_inflection_too(text, gold):
    for answer in (text, text + gold, gold + text):
        exact, inflected = (answers.is_emotion(answer, gold, option) for option in (False, True))
        assert inflected or not exact


def test_rewards():
    for box, exact, inflected in (("Sadness", 1, 1), ("sad", 0, 1), ("fear", 0, 0)):
        response = rf"<think>Rain.</think> \boxed{{{box}}}"
        for reward, accuracy in (
            (rewards.emotion_and_format, exact),
            (rewards.inflected_emotion_and_format, inflected),
        ):
            result = reward(response, {"answer": "sadness"})
            assert result["parts"] == {"accuracy": accuracy, "format": 1}
            assert result["success"] is bool(accuracy)
            assert not reward(response, {"answer": "sadness"}, finished=False)["success"]
            assert rewards.reward_range(reward) == (0, 1)
    both = r"<think></think> \boxed{sadness} or \boxed{fear}"
    for gold in ("sadness", "fear"):
        assert not rewards.inflected_emotion_and_format(both, {"answer": gold})["success"]
