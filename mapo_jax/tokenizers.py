"""Text to tokens and back: SentencePiece behind a small protocol.

In the life of a batch: prompts become tokens before sampling (`encode_prompt`), responses become
text before they are judged (`decode`); in the warm-up, demonstrations become responses (`encode`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

from mapo_jax import errors

# `normalizer_spec {add_dummy_prefix: false, remove_extra_whitespaces: false}`, serialized. Appended
# to a serialized model it overrides these two fields, as protobuf merges what comes later.
_KEEP_WHITESPACE = b"\x1a\x04\x18\x00\x20\x00"


class Tokenizer(Protocol):
    """What the trainer needs of a tokenizer."""

    vocab_size: int
    eos_ids: tuple[int, ...]  # each of them ends a response
    pad_id: int  # any token will do: padding is masked everywhere

    def encode_prompt(self, text: str) -> list[int]:
        """Encodes the beginning of a sequence, with a token for that if there is one."""
        ...

    def encode(self, text: str) -> list[int]:
        """Encodes text that goes on after other tokens; `decode` gives the same text back."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Turns tokens that followed a prompt into text; control tokens have none."""
        ...


class SentencePieceTokenizer:
    """A SentencePiece model. Text cannot make control tokens: SentencePiece never reads them there.

    Most models put a space before whatever they encode and take it off again when they decode. That
    is right for a prompt and wrong for a response, which goes on in the middle of a text, so
    responses are encoded and decoded by a second processor, without it.
    """

    def __init__(self, model_proto: bytes):
        self._prompts = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
        self._responses = sentencepiece.SentencePieceProcessor(
            model_proto=model_proto + _KEEP_WHITESPACE
        )
        self.vocab_size: int = self._prompts.vocab_size()
        self.eos_ids: tuple[int, ...] = (self._prompts.eos_id(),)
        self.pad_id = max(self._prompts.pad_id(), 0)
        self._bos = [self._prompts.bos_id()] if self._prompts.bos_id() >= 0 else []

    def encode_prompt(self, text: str) -> list[int]:
        return self._bos + self._prompts.encode(_encodable(text))

    def encode(self, text: str) -> list[int]:
        return self._responses.encode(_encodable(text))

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]  # others would raise
        return self._responses.decode(known)


_FILES = ("tokenizer.json", "tokenizer.model")


def is_in(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in _FILES)


def load(path: str) -> Tokenizer:
    """Loads a tokenizer from a SentencePiece model file.

    Raises:
        UserError: there is no such file, or it is no SentencePiece model with an end of sequence.
    """
    try:
        model_proto = Path(path).read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror}); give the path of a SentencePiece model file"
        raise errors.UserError(f"tokenizer.path={path}: {what}") from None
    try:
        tokenizer = SentencePieceTokenizer(model_proto)
    except RuntimeError:
        raise errors.UserError(
            f"tokenizer.path={path}: not a SentencePiece model; give a file such as tokenizer.model"
        ) from None
    if tokenizer.eos_ids[0] < 0:
        raise errors.UserError(
            f"tokenizer.path={path}: the model has no end-of-sequence piece, so no response could "
            "end; train it with eos_id >= 0"
        )
    return tokenizer


def _encodable(text: str) -> str:
    """Replaces lone surrogates, which no UTF-8 text can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
