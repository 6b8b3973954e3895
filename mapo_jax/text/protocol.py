"""What a tokenizer is, and what both kinds share: chat templates, and the files that are saved.

In the life of a batch: prompts become tokens before sampling (`encode_prompt`), responses become
text before they are judged (`decode`); in the warm-up, demonstrations become responses (`encode`).

Nothing in a text can become a special token: those come from a tokenizer's own rules and from its
chat template alone.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mapo_jax import errors
from mapo_jax.text import chat


class Tokenizer(Protocol):
    """What the trainer needs of a tokenizer."""

    vocab_size: int  # 1 + the largest id
    eos_ids: tuple[int, ...]  # each of them ends a response
    template: chat.Template | None  # prompts are a user's turn in it; None: plain text
    pad_id: int  # any token will do: padding is masked everywhere

    def encode_prompt(self, text: str) -> list[int]:
        """Encodes what a response answers: a user's turn in the chat template, if there is one;
        else the beginning of a sequence, with a token for that if there is one."""
        ...

    def encode_chat(self, messages: Sequence[chat.Message]) -> list[int]:
        """Encodes a conversation by the chat template, up to where the answer begins."""
        ...

    def encode(self, text: str) -> list[int]:
        """Encodes text that goes on after other tokens; `decode` gives the same text back."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Turns tokens that followed a prompt into text; special tokens have none."""
        ...

    def save(self, directory: str | Path) -> None:
        """Writes the files that `load` and transformers read into an existing directory."""
        ...


class Stream:
    """Decodes a response token by token. The pieces make up exactly what `decode` gives."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids, self._shown = tokenizer, [], 0

    def push(self, id_: int) -> str:
        """The text that a further token completes; a character that is not whole yet waits."""
        self._ids.append(id_)
        text = self._tokenizer.decode(self._ids).rstrip("\ufffd")
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return piece

    def end(self) -> str:
        """What still waited when the last token was in."""
        return self._tokenizer.decode(self._ids)[self._shown :]


class ChatTokenizer:
    """Encodes by a chat template: the same for both kinds of tokenizer."""

    template: chat.Template | None

    def encode_chat(self, messages: Sequence[chat.Message]) -> list[int]:
        if self.template is None:
            raise errors.UserError("tokenizer.template='': names no chat template; give chat")
        clean = [{**message, "content": encodable(message["content"])} for message in messages]
        ids = self._encode_template(self.template.render(clean), is_first=True)
        # A conversation that says nothing shows which special tokens are the template's own.
        neutral = self.template.render([{**message, "content": "x"} for message in clean])
        if self._specials(ids) == self._specials(self._encode_template(neutral, is_first=True)):
            return ids
        return self._encode_in_pieces(clean)

    def _encode_in_pieces(self, messages: Sequence[chat.Message]) -> list[int]:
        """The template's text with special tokens, the messages' without."""
        assert self.template is not None
        contents = [message["content"] for message in messages]
        marks = [f"\ue000{i}\ue001" for i in range(len(contents))]
        while any(mark in content for mark in marks for content in contents):
            marks = [f"\ue000{mark}" for mark in marks]
        rest = self.template.render(
            [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
        )
        ids: list[int] = []
        for mark, content in zip(marks, contents, strict=True):
            before, found, rest = rest.partition(mark)
            ids += self._encode_template(before, is_first=not ids)
            ids += self.encode(content) if found else []
        return ids + self._encode_template(rest, is_first=not ids)

    def _specials(self, ids: Sequence[int]) -> list[int]:
        raise NotImplementedError

    def _encode_template(self, text: str, is_first: bool) -> list[int]:
        """Encodes text in which special tokens are meant."""
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError


def json_fields(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(files[name]) if name in files else {}
    except ValueError as error:
        raise ValueError(f"{name} is broken ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is broken (not a JSON object)")
    return value


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def save_files(
    directory: str | Path,
    files: Mapping[str, bytes],
    eos_ids: Sequence[int],
    template: chat.Template | None,
) -> None:
    ends = {"eos_token_id": eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)}
    files = {**files, "generation_config.json": to_json(ends)}
    if template is not None:
        files["chat_template.jinja"] = template.source.encode()
    for name, content in files.items():
        (Path(directory) / name).write_bytes(content)


def encodable(text: str) -> str:
    """Replaces lone surrogates, which no UTF-8 text can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
