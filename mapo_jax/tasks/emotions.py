"""EmoSet, WEBEmo and Emotion6: which emotion does a picture evoke?

EmoSet (ICCV 2023, 118,102 pictures, 8 emotions) is for training; WEBEmo (ECCV 2018, 267,441
addresses, 25 emotions in 6 and 2 groups) and Emotion6 (CVPR 2015, 1,980 pictures, 6 emotions)
evaluate a policy out of domain, in `eval.sets`, and have no training rows here. The tasks:

emoset: 8 emotions.
webemo, webemo25, webemo2: WEBEmo's 6 groups, its 25 emotions, or positive and negative. Confusion
    belongs to none of the 6 and is left out there.
emotion6: the emotion that a picture was searched by, which is its folder.
emotion6_votes: the emotion with most votes, also neutral; ties are left out.

`data.path` is a directory or file:

emoset: train.json and test.json with rows [emotion, (id,) picture, annotation], pictures in
    image/EMOTION/. With the id as in the README and the code of JingyuanYY/EmoSet; without it as
    others read EmoSet-118K.
webemo: test25.txt with lines "ADDRESS NUMBER", as in its README; lines "PATH NUMBER ..." as in the
    authors' test-images-25-6-2-category.txt also. The number counts the emotions of category.txt
    from 0. Nothing is downloaded: save a picture under the last part of its address in images/,
    test/NUMBER/ or images/test25/NUMBER/, as scripts for that list do. Addresses without a picture
    are counted and left out.
emotion6: images/EMOTION/N.jpg and ground_truth.txt, a line of names, then lines of a picture,
    valence, arousal and the shares of votes for anger, disgust, fear, joy, sadness, surprise and
    neutral between tabs, as in the README that comes with it.

Each of the three can also be (for emoset with training rows, `train` beside `test`):

- folders of pictures by emotion, test/EMOTION/*.jpg;
- rows in test.json, .jsonl or .parquet: the picture in `image` or `images`, see `jsonl`, the
  emotion in `answer`, `label` or `emotion`, and perhaps the question in `problem` or `question`; or
  both in `conversations`, as the evaluation of WenkeHuang/MAPO reads emoset-test-2000.json,
  webemo_test_2000.json and emotion6-test.json, which are not published. Questions and answers of
  the file are taken as they are; otherwise the question lists all emotions;
- one file, or folders EMOTION/, image/EMOTION/ or images/EMOTION/. Of emoset's, every 10th picture
  of each emotion is then for evaluation.

An evaluation set stands in an order of its own in which the emotions take turns, so that a part of
it, `eval.problems`, is balanced. `val` stands in for a missing `test`.

Inferred, not published: the question of the paper's runs; that WEBEmo was in 6 groups (46.85% of an
untrained policy are too many for 25); that Emotion6's emotions were the folders (its percentages
are those of 594 pictures, which is 30% of each folder). A later work of authors of MAPO, EMO-R3,
trains on rows of the hub, fuyyy74/EmoSet2k, by its configuration with the fields problem, answer
and images; nobody has read them here.

Options: `grading`, "exact" or "inflected", see `answers.is_emotion`. The default is the paper's,
"exact", so that accuracies can be compared; sets of `eval.sets`, which take no options, have it
always. For emoset `train_size`, the number of training pictures, drawn by the seed from all
emotions alike (0: all).
"""

import collections
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapo_jax import errors, rewards
from mapo_jax.tasks import files, places
from mapo_jax.tasks.base import Task, merge_options, prompt

EMOSET = ("amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness")
EMOTION6 = ("anger", "disgust", "fear", "joy", "sadness", "surprise")
_VOTED = (*EMOTION6, "neutral")  # the order of ground_truth.txt
_GROUPS = {  # WEBEmo's, from its category.txt
    "anger": "disgust envy exasperation irritability rage",
    "fear": "horror nervousness",
    "joy": "cheerfulness contentment enthrallment optimism pride relief zest",
    "love": "affection gratitude lust",
    "sadness": "disappointment neglect sadness shame suffering sympathy",
    "surprise": "surprise",
    "": "confusion",
}
WEBEMO = (
    sorted(  # each emotion with its groups of 6 and of 2; the file numbers them by the alphabet
        (emotion, group, "positive" if group in ("joy", "love", "surprise") else "negative")
        for group, emotions in _GROUPS.items()
        for emotion in emotions.split()
    )
)
_AS_WRITTEN = {"cheerfulness": "cheerfullness", "irritability": "irritabilty"}  # in category.txt

_REWARDS = {
    "exact": rewards.emotion_and_format,
    "inflected": rewards.inflected_emotion_and_format,
}
_HELD_OUT = 10  # every n-th picture of an emotion
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
_IS_LIST_OF_LISTS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\[")  # perhaps after a byte-order mark


def make_emoset(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task; the seed draws `train_size` pictures."""
    chosen = merge_options(options, {"grading": "exact", "train_size": 0})
    if chosen["train_size"] < 0:
        size = chosen["train_size"]
        raise errors.UserError(f"task.options.train_size={size}: must be 0 (all) or more")
    data = _Data("emoset", EMOSET, {name: name for name in EMOSET}, data_path)
    train = data.read("train", ("train",))
    test = data.read("test", ("test", "emoset-test-2000", "val"))
    if train is None and test is None and (whole := data.read_whole()):
        train, test = _hold_out(whole)
    train, test = data.checked("train", train), data.checked("test", test)
    number = chosen["train_size"] or len(train)
    if number > len(train):
        fewer = f"{len(train)} pictures, fewer than task.options.train_size={number}"
        data.notes.append(f"train: {fewer}; all are taken")
    return data.task(chosen, _in_turns(train, seed)[:number], {"test": _in_turns(test, 0)})


def make_webemo(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task, for evaluation only; nothing in it depends on the seed."""
    return _webemo("webemo", 1, options, data_path)


def make_webemo25(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the same task with all 25 emotions."""
    return _webemo("webemo25", 0, options, data_path)


def make_webemo2(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the same task with positive and negative."""
    return _webemo("webemo2", 2, options, data_path)


def _webemo(name: str, level: int, options: Mapping[str, Any], data_path: str) -> Task:
    """Makes the task with the names that stand at the index `level` of WEBEMO's rows."""
    chosen = merge_options(options, {"grading": "exact"})
    labels: dict[str, str] = {}
    for number, names in enumerate(WEBEMO):
        written = _AS_WRITTEN.get(names[0], names[0])
        labels |= dict.fromkeys((str(number), names[0], written), names[level])
    for names in WEBEMO:
        for group in filter(None, names[1 : level + 1]):
            labels.setdefault(group, names[level])
    classes = tuple(sorted(filter(None, set(labels.values()))))
    data = _Data(name, classes, labels, data_path)
    names = ("test25", "test-images-25-6-2-category", "webemo_test_2000", "test", "val")
    return data.only_evaluated(chosen, names)


def make_emotion6(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the task, for evaluation only; nothing in it depends on the seed."""
    chosen = merge_options(options, {"grading": "exact"})
    data = _Data("emotion6", EMOTION6, {name: name for name in EMOTION6}, data_path)
    return data.only_evaluated(chosen, ("emotion6-test", "test", "val"))


def make_emotion6_votes(options: Mapping[str, Any], data_path: str, seed: int) -> Task:
    """Makes the same task from ground_truth.txt."""
    chosen = merge_options(options, {"grading": "exact"})
    path = files.find(data_path, "emotion6_votes", ("ground_truth.txt",))
    data = _Data("emotion6_votes", _VOTED, {name: name for name in _VOTED}, str(path))
    return data.only_evaluated(chosen, ())


def demonstration(example: dict) -> str:
    """Returns a response of the right form; its thought only names the answer."""
    return f"<think>It looks like {example['answer']}.</think> \\boxed{{{example['answer']}}}"


@dataclasses.dataclass
class _Data:
    """The files of a set while they are read; an example has question, answer and image."""

    name: str  # of the task
    classes: tuple[str, ...]
    labels: Mapping[str, str]  # from what the data call an emotion, to its class; "": none
    path: str  # data.path
    mistakes: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    store: dict[str, bytes] = dataclasses.field(default_factory=dict)
    root: Path = dataclasses.field(init=False)  # where paths of pictures begin

    def __post_init__(self) -> None:
        path = Path(self.path)
        if not self.path or not path.exists():
            raise errors.UserError(f"data.path={self.path or repr('')}: {self._missing()}")
        self.root = path if path.is_dir() else path.parent

    def read(self, name: str, names: Sequence[str]) -> list[dict] | None:
        """Returns the examples of a set from the first file or folder of these names, if any."""
        for one in names if Path(self.path).is_dir() else ():
            lines = self.root / f"{one}.txt"
            if path := lines if lines.is_file() else files.find_set(self.root, [one]):
                return self._from_file(path, name)
            if self._folders(self.root / one):
                return self._from_folders(self.root / one, name)
        return None

    def read_whole(self) -> list[dict] | None:
        """Returns the examples of data that are in one file, or in folders by emotion alone."""
        if Path(self.path).is_file():
            return self._from_file(Path(self.path), self.name)
        for folder in (self.root, self.root / "image", self.root / "images"):
            if self._folders(folder):
                return self._from_folders(folder, self.name)
        return None

    def only_evaluated(self, chosen: Mapping[str, Any], names: Sequence[str]) -> Task:
        """Returns the task with all pictures as its evaluation set."""
        found = self.read(self.name, names)
        found = self.checked(self.name, self.read_whole() if found is None else found)
        return self.task(chosen, [], {self.name: _in_turns(found, 0)})

    def checked(self, name: str, found: list[dict] | None) -> list[dict]:
        """Returns the examples of a set. Raises a UserError for mistakes, or if there are none."""
        files.check(f"data.path={self.path}", self.mistakes)
        if found is None:
            what = f"no set {name} of {self.name} there; {self._missing()}"
            raise errors.UserError(f"data.path={self.path}: {what}")
        if not found:
            what = "; ".join([f"the set {name} has no pictures", *self.notes])
            raise errors.UserError(f"data.path={self.path}: {what}")
        return found

    def task(
        self, chosen: Mapping[str, Any], train: list[dict], evals: Mapping[str, list[dict]]
    ) -> Task:
        if chosen["grading"] not in _REWARDS:
            grading = chosen["grading"]
            raise errors.UserError(f"task.options.grading={grading}: must be exact or inflected")
        return Task(
            name=self.name,
            train=train,
            evals=evals,
            prompt=prompt,
            reward=_REWARDS[chosen["grading"]],
            demonstration=demonstration,
            notes=tuple(self.notes),
            images=self._pictures,
        )

    def _pictures(self, example: dict) -> list[str | bytes]:
        return places.listed(example["image"], "image", self.root, self.store)

    def _missing(self) -> str:
        held = {
            "emoset": "train.json and test.json, or folders train/EMOTION and test/EMOTION",
            "emotion6": "images/EMOTION, or folders test/EMOTION",
        }.get(self.name, "test25.txt, or folders test/EMOTION")
        there = files.there(Path(self.path)) if self.path else ""
        known = ", ".join(self.classes[:3])
        return f"give the directory that holds {held}, as of {known}, ...{there}"

    def _question(self) -> str:
        listed = ", ".join(self.classes)
        return f"<image>Which emotion does this picture evoke? Answer with one of: {listed}."

    def _example(self, label: object, image: object) -> dict:
        """Returns an example; its answer is "" if the emotion belongs to no class.

        Raises:
            ValueError: there is no such emotion.
        """
        answer = self.labels.get(str(label).strip().lower())
        if answer is None:
            known = ", ".join(self.classes)
            raise ValueError(f"{label!r} is no emotion of {self.name}; those are {known}")
        return {"question": self._question(), "answer": answer, "image": image}

    def _folders(self, folder: Path) -> bool:
        """Whether a folder holds a folder of an emotion."""
        entries = folder.iterdir() if folder.is_dir() else ()
        return any(entry.name.lower() in self.labels and entry.is_dir() for entry in entries)

    def _from_folders(self, folder: Path, name: str) -> list[dict]:
        found = []
        for one in sorted(entry for entry in folder.iterdir() if entry.is_dir()):
            paths = sorted(path for path in one.iterdir() if path.suffix.lower() in _PICTURES)
            images = [path.relative_to(self.root).as_posix() for path in paths]
            try:
                found += [self._example(one.name, image) for image in images]
            except ValueError as error:
                self.mistakes.append(f"{one}: {error}; rename the folder or take it away")
        return self._classed(found, f"{folder}", name)

    def _from_file(self, path: Path, name: str) -> list[dict]:
        self.root = path.parent
        if path.suffix == ".txt":
            found = self._from_lines(path)
        elif path.suffix == ".json" and _IS_LIST_OF_LISTS.match(path.read_bytes()[:100]):
            found = self._from_lists(path)
        else:
            rows = files.read(path, self._from_row, self.mistakes, store=self.store)
            found = list(rows)
        return self._classed(found, f"{path}", name)

    def _classed(self, found: list[dict], where: str, name: str) -> list[dict]:
        """Leaves out examples of no class, and says so and which classes have no example."""
        kept = [example for example in found if example["answer"]]
        if len(kept) < len(found):
            less = len(found) - len(kept)
            self.notes.append(
                f"{name}: {less} of {len(found)} pictures have none of the {len(self.classes)} "
                "emotions and are left out"
            )
        answers = {example["answer"] for example in kept}
        without = [one for one in self.classes if one not in answers]
        if kept and without and answers <= {*self.classes}:
            self.notes.append(f"{name}: no picture of {', '.join(without)} in {where}")
        return kept

    def _from_lists(self, path: Path) -> list[dict]:
        """Reads EmoSet's rows [emotion, (id,) picture, annotation]."""
        try:
            rows = json.loads(path.read_bytes())
        except ValueError as error:
            self.mistakes.append(f"{path}: not a JSON list of lists ({error}); give another file")
            return []
        found = []
        for n, row in enumerate(rows, 1):
            try:
                if not isinstance(row, list) or not all(isinstance(x, str) for x in row):
                    raise ValueError("not a list of texts [emotion, picture, annotation]")
                images = [x for x in row[1:] if x.lower().endswith(_PICTURES)]
                if len(images) != 1:
                    raise ValueError(f"names {len(images)} pictures; must be one")
                found.append(self._example(row[0], images[0]))
            except ValueError as error:
                self.mistakes.append(f"{path}: row {n}: {error}")
        return found

    def _from_row(self, row: dict) -> dict:
        """Makes an example of an object; see the module's docstring for its fields."""
        image = _first(row, ("image", "images"))
        talk = row.get("conversations")
        if talk is not None:
            if not (isinstance(talk, list) and len(talk) == 2 and all(map(_is_turn, talk))):
                raise ValueError('the field conversations is not two turns {"value": text}')
            question, answer = (turn["value"] for turn in talk)
        else:
            question = _first(row, ("problem", "question"), required=False)
            answer = _first(row, ("answer", "label", "emotion"))
        if question is None:
            example = self._example(answer, image)
        else:
            for field, value in (("question", question), ("answer", answer)):
                if not isinstance(value, str) or not value.strip():
                    raise ValueError(f"no text for the {field}")
            if not re.search(Task.placeholder, question):
                question = f"<image>{question}"
            example = {"question": question, "answer": answer.strip(), "image": image}
        if not self._pictures(example):
            raise ValueError("no picture in the field image or images")
        return example

    def _from_lines(self, path: Path) -> list[dict]:
        """Reads the lines of ground_truth.txt, or those of WEBEmo's lists."""
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        make = self._voted if path.name == "ground_truth.txt" else self._listed
        found = []
        for n, line in enumerate(lines, 1):
            if not line.strip() or (n == 1 and make == self._voted):  # names of columns
                continue
            try:
                found.append(make(line))
            except ValueError as error:
                self.mistakes.append(f"{path}:{n}: {error}")
        saved = [example for example in found if example["image"]]
        if len(saved) < len(found):
            self.notes.append(
                f"{path}: {len(found) - len(saved)} of {len(found)} pictures are not in "
                f"{self.root} and are left out"
            )
        return saved

    def _listed(self, line: str) -> dict:
        """Makes an example of "ADDRESS NUMBER"; its image is "" if it has not been saved."""
        source, number, *_ = [*line.split(), "", ""]
        if not re.fullmatch(r"[0-9]+", number):
            raise ValueError("not an address or a path with the number of an emotion")
        example = self._example(int(number), source)
        name = source.rpartition("/")[2]
        saved = (f"images/{name}", f"test/{number}/{name}", f"images/test25/{number}/{name}")
        found = (x for x in (*saved, source, name) if os.path.isfile(os.path.join(self.root, x)))
        return {**example, "image": next(found, "")}

    def _voted(self, line: str) -> dict:
        """Makes an example of a line of ground_truth.txt."""
        name, *numbers = line.rstrip().split("\t")
        try:
            votes = [float(number) for number in numbers]
        except ValueError:
            votes = []
        if len(votes) != 2 + len(_VOTED) or not np.isfinite(votes).all():
            raise ValueError("not a picture and nine numbers between tabs")
        most = [
            one for one, share in zip(_VOTED, votes[2:], strict=True) if share == max(votes[2:])
        ]
        example = self._example(most[0], f"images/{name}")
        return example if len(most) == 1 else {**example, "answer": ""}


def _first(row: dict, names: Iterable[str], required: bool = True) -> Any:
    """Returns the value of the first of these fields that a row has."""
    found = [row[name] for name in names if row.get(name) not in (None, "")]
    if not found and required:
        raise ValueError(f"no field {' or '.join(names)}; the row has {', '.join(row) or 'none'}")
    return found[0] if found else None


def _is_turn(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("value"), str)


def _hold_out(examples: Sequence[dict]) -> tuple[list[dict], list[dict]]:
    """Splits off every n-th example of each class."""
    seen: collections.Counter[str] = collections.Counter()
    train, test = [], []
    for example in examples:
        seen[example["answer"]] += 1
        (train if seen[example["answer"]] % _HELD_OUT else test).append(example)
    return train, test


def _in_turns(examples: Sequence[dict], seed: int) -> list[dict]:
    """Shuffles examples so that the classes take turns, until the smaller ones are used up."""
    seen: collections.Counter[str] = collections.Counter()
    turns = []
    for i in np.random.default_rng(seed).permutation(len(examples)).tolist():
        seen[examples[i]["answer"]] += 1
        turns.append((seen[examples[i]["answer"]], i))
    return [examples[i] for _, i in sorted(turns, key=lambda turn: turn[0])]
