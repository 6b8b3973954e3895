"""Reads the pictures of prompts: all of them once at the start, then those of each batch again.

At the start every picture is decoded, so that a run never meets a broken one in its middle. Only
its size and the digest of its file are kept. A batch has the patches of its own prompts, which a
few threads make while the devices still work on the batch before.
"""

import collections
import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from mapo_jax import errors, images, model, rollouts, tasks
from mapo_jax.config import ImagesConfig

_THREADS = min(8, os.cpu_count() or 1)
_AHEAD = 4 * _THREADS  # rows whose pictures are read before they are asked for at the start

Source = str | bytes  # of a picture: a path, the bytes of a file, or these in base64


class Seen(NamedTuple):
    """A picture that was decoded at the start."""

    digest: str  # of its file
    height: int  # pixels that the policy sees
    width: int
    is_animated: bool


class Reader:
    """Reads pictures in the size at which a policy sees them."""

    def __init__(self, config: ImagesConfig, vision: model.VisionConfig):
        self.patch, self.merge, self._factor = vision.patch, vision.merge, vision.factor
        self._size: Any = (self._factor, *limits(config, vision), config.resize)
        self._threads = futures.ThreadPoolExecutor(_THREADS, "pictures")
        self._seen: dict[bytes, Seen] = {}

    def look(self, task: tasks.Task, examples: Sequence[dict]) -> tasks.Look:
        """Returns a function that has to be called with each of the examples in their order.

        It returns (height, width, number of image tokens) of each picture. Meanwhile the pictures
        of the next examples are being read.
        """
        rows = iter(range(len(examples)))
        waiting: collections.deque[futures.Future] = collections.deque()

        def next_sizes(example: dict) -> list[tuple[int, int, int]]:
            while len(waiting) < _AHEAD and (i := next(rows, None)) is not None:
                waiting.append(self._threads.submit(self.sizes, task, examples[i]))
            return waiting.popleft().result()

        return next_sizes

    def sizes(self, task: tasks.Task, example: dict) -> list[tuple[int, int, int]]:
        """Returns (height, width, number of image tokens) of each picture of an example.

        Raises:
            ValueError: the example's prompt has not one place for each picture.
            UserError: a picture cannot be read or has a shape that no policy sees.
        """
        found = [self.seen(source) for source in tasks.pictures(task, example)]
        return [(x.height, x.width, x.height * x.width // self._factor**2) for x in found]

    def seen(self, source: Source) -> Seen:
        """Returns what is kept of a picture, which is read if nobody has looked at it yet."""
        key = _key(source)
        if key not in self._seen:
            height, width, _ = self._read(source).shape
            digest, is_animated = images.digest(source), images.is_animated(source)
            self._seen[key] = Seen(digest, height, width, is_animated)
        return self._seen[key]

    def notes(self) -> list[str]:
        """Returns a line about the animated pictures, if there are any."""
        number = sum(x.is_animated for x in self._seen.values())
        what = "have several frames or pages; the policy sees the first"
        return [f"{number} of {len(self._seen)} pictures {what}"] if number else []

    def submit(self, source: Source) -> futures.Future[np.ndarray]:
        """Begins to make the patches u8[N, 3 * patch * patch] of a picture that was seen.

        The future raises a UserError if the file is not as it was.
        """
        return self._threads.submit(self._patches, source)

    def white(self, height: int, width: int) -> futures.Future[np.ndarray]:
        """Begins to make the patches of a white picture, as `submit` would."""
        shape = height * width // self.patch**2, 3 * self.patch**2
        return self._threads.submit(np.full, shape, 255, np.uint8)

    def thumbnail(self, source: Source) -> bytes:
        """Returns a small JPEG of what the policy sees of a picture that was seen.

        Raises:
            UserError: the file is not as it was.
        """
        return images.thumbnail(self._again(source))

    def _patches(self, source: Source) -> np.ndarray:
        return images.patches(self._again(source), self.patch, self.merge)

    def _again(self, source: Source) -> np.ndarray:
        with contextlib.suppress(errors.UserError):  # a file that is gone
            if images.digest(source) == self.seen(source).digest:
                return self._read(source)
        raise errors.UserError(
            f"{_named(source)}: is not the picture that it was at the start; put it back and "
            "give the same command again"
        )

    def _read(self, source: Source) -> np.ndarray:
        try:
            return images.shrink(images.read(source), *self._size)
        except ValueError as error:
            raise errors.UserError(f"{_named(source)}: {error}") from None


class Album:
    """The pictures of a set of prompts; there are none without a reader."""

    def __init__(
        self,
        reader: Reader | None = None,
        task: tasks.Task | None = None,
        examples: Sequence[dict] = (),
        prompts: Sequence[tasks.Prompt] = (),
        is_blank: bool = False,
    ):
        """Takes what the pictures come from.

        Args:
            reader: has looked at all of them.
            task: of the prompts.
            examples: the rows of the task that `tasks.Prompt.example` counts.
            prompts: of the set; other methods take indices in it.
            is_blank: white pictures of the same sizes take the place of all.
        """
        self._reader = reader if task and task.images else None
        self._task: Any = task
        self._examples, self._prompts, self._is_blank = examples, prompts, is_blank
        self._waiting: dict[int, list[futures.Future[np.ndarray]]] = {}

    @property
    def has_pictures(self) -> bool:
        """Whether a prompt of the set has a picture."""
        return self._reader is not None and any(prompt.pictures for prompt in self._prompts)

    def blank(self) -> "Album":
        """Returns the album with white pictures of the same sizes."""
        return Album(self._reader, self._task, self._examples, self._prompts, is_blank=True)

    def count(self, i: int) -> int:
        """Returns the number of patches of a prompt."""
        if self._reader is None:
            return 0
        pixels = sum(one.height * one.width for one in self._prompts[i].pictures)
        return pixels // self._reader.patch**2

    def rung(self, indices: Iterable[int] | None = None) -> int:
        """Returns the number of patches to which a batch is padded; 0 if it has no pictures.

        Args:
            indices: of the prompts that all processes have in it; None for the whole set.
        """
        if self._reader is None:
            return 0
        chosen = range(len(self._prompts)) if indices is None else indices
        most = max(map(self.count, chosen), default=0)
        return rollouts.patch_rung(most, self._reader.merge) if most else 0

    def ahead(self, indices: Iterable[int | None]) -> None:
        """Begins to read the pictures of this process's next prompts, and forgets all others."""
        if self._reader is not None:
            chosen = (i for i in indices if i is not None)
            self._waiting = {i: self._waiting.get(i) or self._submit(i) for i in chosen}

    def add(
        self, padded: rollouts.Prompts, indices: Sequence[int | None], N: int
    ) -> rollouts.Prompts:
        """Adds pictures to prompts; waits until they are read.

        Args:
            padded: of `rollouts.pad_prompts`.
            indices: of these prompts; None for one that is left empty.
            N: of `rung`, for the whole batch.

        Raises:
            UserError: a file is not as it was at the start.
        """
        if self._reader is None or not N:
            return padded
        patch, merge = self._reader.patch, self._reader.merge
        reads = [
            [] if i is None else self._waiting.pop(i, None) or self._submit(i) for i in indices
        ]
        places = [() if i is None else self._prompts[i].pictures for i in indices]
        found = [
            [
                rollouts.Picture(read.result(), at.height // patch, at.width // patch, at.place)
                for at, read in zip(*row, strict=True)
            ]
            for row in zip(places, reads, strict=True)
        ]
        return rollouts.with_pictures(padded, found, N, patch, merge)

    def digests(self) -> list[list[str]]:
        """Returns the digests of the pictures of each prompt; [] if the task has no pictures."""
        if (one := self._reader) is None:
            return []
        if self._is_blank:  # whatever the files hold
            return [
                [f"white, {at.height} x {at.width}" for at in prompt.pictures]
                for prompt in self._prompts
            ]
        return [
            [one.seen(source).digest for source in self._sources(prompt.example)]
            if prompt.pictures  # else it has none, or one that cannot be read
            else []
            for prompt in self._prompts
        ]

    def described(self, example: int) -> list[dict[str, Any]]:
        """Describes the pictures of a row, for rollouts.jsonl.

        Of each: its `source`, a path or else its place in the data; `height` and `width` in pixels
        as the policy sees it; `file`, where the work directory has its thumbnail.
        """
        if (one := self._reader) is None:
            return []
        found = []
        for k, source in enumerate(self._sources(example)):
            is_path = isinstance(source, str) and os.path.exists(source)
            name = source if is_path else f"row {example + 1}, picture {k + 1}"
            seen = one.seen(source)
            size = {"height": seen.height, "width": seen.width}
            found.append({"source": name, **size, "file": f"pictures/{seen.digest}.jpg"})
        return found

    def thumbnail(self, example: int, k: int) -> bytes | None:
        """Returns a small JPEG of picture k of a row; None if its file is not as it was.

        The run ends when the picture is next in a batch, before anything is learnt from it.
        """
        if (one := self._reader) is None:
            return None
        with contextlib.suppress(errors.UserError):
            return one.thumbnail(self._sources(example)[k])

    def _submit(self, i: int) -> list[futures.Future[np.ndarray]]:
        if (one := self._reader) is None:
            return []
        prompt = self._prompts[i]
        if self._is_blank:
            return [one.white(at.height, at.width) for at in prompt.pictures]
        return [one.submit(source) for source in self._sources(prompt.example)]

    def _sources(self, example: int) -> list[Source]:
        return tasks.pictures(self._task, self._examples[example])


def reader(config: ImagesConfig, vision: model.VisionConfig | None) -> Reader | None:
    """Makes the reader of a policy; None if the policy has no tower."""
    return Reader(config, vision) if vision else None


def limits(config: ImagesConfig, vision: model.VisionConfig) -> tuple[int, int]:
    """Returns the fewest and the most pixels of a picture, those of the policy if none are set."""
    return config.min_pixels or vision.min_pixels, config.max_pixels or vision.max_pixels


def _key(source: Source) -> bytes:
    return hashlib.sha256(os.fsencode(source)).digest()  # a source may be a whole file


def _named(source: Source) -> str:
    if isinstance(source, bytes):
        return f"a picture of {len(source):,} bytes"
    return source if len(source) <= 200 else f"{source[:40]}..."
