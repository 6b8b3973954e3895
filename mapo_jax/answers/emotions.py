"""Compares the name of an emotion with the right one, letter by letter or by its inflections.

The MAPO paper's grader (grade_answer of the package mathruler 0.1.0) compares spellings: case,
white space, dollar signs, braces and LaTeX's commands for text do not count, all else does. So
"Sad" and "sadness." are not "sadness". It differs in that it takes the last box of a response,
where `extract` joins neighbouring ones, and in that it forgets units of measure ("sadness day"),
per cent signs and LaTeX's spaces and sizes ("\\,sadness").
"""

import re

# Each emotion with its adjectives, verbs and adverbs, and its other spellings. Words of another
# root, such as "happy" for joy or "scared" for fear, are other answers, save "afraid".
INFLECTIONS = {
    "affection": "affections affectionate affectionately",
    "amusement": "amuse amuses amused amusing amusingly",
    "anger": "angers angered angering angry angrily",
    "awe": "awed awestruck awe-struck awe-inspiring in-awe",
    "cheerfulness": "cheerfullness cheerful cheerfully",
    "confusion": "confuse confuses confused confusing confusingly",
    "contentment": "content contented contentedly contentedness",
    "disappointment": "disappoint disappoints disappointed disappointing disappointingly",
    "disgust": "disgusts disgusted disgusting disgustedly disgustingly",
    "enthrallment": "enthralment enthrall enthralled enthralling",
    "envy": "envies envied envying envious enviously",
    "exasperation": "exasperate exasperates exasperated exasperating",
    "excitement": "excite excites excited exciting excitedly excitingly",
    "fear": "fears feared fearing fearful fearfully fearfulness afraid",
    "gratitude": "grateful gratefully gratefulness",
    "horror": "horrors horrify horrifies horrified horrifying horrific",
    "irritability": "irritabilty irritable irritably",
    "joy": "joys joyful joyfully joyfulness joyous joyously joyousness",
    "love": "loves loved loving lovingly",
    "lust": "lusts lusting lustful lustfully",
    "negative": "negatively negativity",
    "neglect": "neglects neglected neglecting neglectful",
    "nervousness": "nervous nervously",
    "neutral": "neutrally neutrality",
    "optimism": "optimistic optimistically",
    "positive": "positively positivity",
    "pride": "proud proudly prideful",
    "rage": "rages raged raging enraged",
    "relief": "relieve relieves relieved relieving",
    "sadness": "sad sadly sadden saddens saddened saddening",
    "shame": "shamed shameful shamefully ashamed",
    "suffering": "sufferings suffer suffers suffered",
    "surprise": "surprises surprised surprising surprisingly",
    "sympathy": "sympathies sympathetic sympathetically sympathize sympathise",
    "zest": "zestful zestfully zesty",
}

_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|normal)?|emph|mathrm|boldsymbol|operatorname|underline|boxed)(?![a-z])"
)
_NO_LETTER = re.compile(r"[\s{}$]")
_WORD = re.compile(r"[^\W_]+")


def is_emotion(prediction: str | None, gold: str, inflected: bool = False) -> bool:
    """Says whether an answer names an emotion.

    Args:
        prediction: the answer found in a response; None is never right.
        gold: the right name. One that `INFLECTIONS` lacks has no inflections.
        inflected: also takes the emotion's inflections, and any punctuation around a name. More
            words than one name are wrong, as in "not sadness" or "sadness, fear".
    """
    if prediction is None:
        return False
    prediction, gold = _COMMAND.sub("", prediction).casefold(), gold.casefold().strip()
    if _NO_LETTER.sub("", prediction) == _NO_LETTER.sub("", gold):
        return True
    forms = [gold, *INFLECTIONS.get(gold, "").split()]
    return inflected and _words(prediction) in map(_words, forms)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)
