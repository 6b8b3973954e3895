"""Defines tokenizers and the code that both kinds share, for chat templates and saved files.

In the life of a batch, prompts become tokens before sampling (`encode_prompt`) and responses become
text before they are judged (`decode`). In the warm-up, demonstrations become responses (`encode`).

Nothing in a text can become a special token. Only a tokenizer's own rules and its chat template add
special tokens.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mapo_jax import errors
from mapo_jax.text import chat


class Tokenizer(Protocol):
    """The methods of a tokenizer that the trainer needs."""

    vocab_size: int  # 1 + the largest id
    eos_ids: tuple[int, ...]  # each ends a response
    template: chat.Template | None  # writes a prompt as a user's turn; None: plain text
    has_template: bool  # its files hold a chat template, used or not
    pad_id: int  # any token will do, as padding is masked everywhere
    picture_ids: tuple[int, ...]  # of a picture in plain text; () if the policy sees none

    @property
    def image_id(self) -> int:
        """The image token, in the middle of `picture_ids`."""
        ...

    def encode_prompt(self, prompt: chat.Prompt) -> list[int]:
        """Encodes a prompt: a user's turn if there is a chat template, else plain text.

        Plain text begins with the beginning-of-sequence token, if there is one. Each picture has
        one image token.

        Raises:
            UserError: the policy or its chat template has no image tokens for the pictures.
        """
        ...

    def encode_chat(self, messages: Sequence[chat.Message]) -> list[int]:
        """Encodes a conversation by the chat template, up to the beginning of the answer."""
        ...

    def open_thought(self, prompt: chat.Prompt) -> str:
        """The end of a prompt, from the `<think>` on that begins the answer; "" for none.

        Templates of policies that always think end so, and the response has to close the thought.
        Templates of policies that shall not think close it too.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """Encodes text that follows other tokens; `decode` gives the same text back."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Turns tokens that followed a prompt into text; special tokens give no text."""
        ...

    def save(self, directory: str | Path) -> None:
        """Saves files that `load_tokenizer` and transformers read; the directory exists."""
        ...


class Stream:
    """Decodes a response token by token. All pieces together are exactly the text of `decode`."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._ids, self._shown = tokenizer, [], 0

    def push(self, id_: int) -> str:
        """Returns the text that this token completes; an incomplete character waits."""
        self._ids.append(id_)
        text = self._tokenizer.decode(self._ids).rstrip("\ufffd")
        piece, self._shown = text[self._shown :], max(self._shown, len(text))
        return piece

    def end(self) -> str:
        """Returns the text that still waits after the last token."""
        return self._tokenizer.decode(self._ids)[self._shown :]


class ChatTokenizer:
    """Encodes by a chat template, in the same way for both kinds of tokenizer."""

    template: chat.Template | None
    has_template = False
    picture_ids: tuple[int, ...] = ()
    _bos: Sequence[int]  # begins plain text

    @property
    def image_id(self) -> int:
        return self.picture_ids[len(self.picture_ids) // 2]

    def encode_prompt(self, prompt: chat.Prompt) -> list[int]:
        number = 0 if isinstance(prompt, str) else sum(part is None for part in prompt)
        if number and not self.picture_ids:
            raise errors.UserError(
                f"policy.init: sees no pictures, and a prompt has {number}; give a vision policy"
            )
        if self.template is not None:
            ids = self.encode_chat([{"role": "user", "content": chat.content(prompt)}])
        else:
            ids = list(self._bos)
            for k, part in enumerate([prompt] if isinstance(prompt, str) else prompt):
                encode = self.encode if k else self._encode_first
                ids += self.picture_ids if part is None else encode(part)
        if number and (found := ids.count(self.image_id)) != number:
            raise errors.UserError(
                f"tokenizer.template: a prompt with {number} pictures gets {found} image tokens; "
                "give the tokenizer and the chat template of a vision policy"
            )
        return ids

    def open_thought(self, prompt: chat.Prompt) -> str:
        asked = text = prompt if isinstance(prompt, str) else "".join(filter(None, prompt))
        if self.template is not None:
            messages = [{"role": "user", "content": chat.content(prompt)}]
            text = self.template.render(messages)
            asked = self.template.render(messages, begins_answer=False)
        before, tag, after = text.rpartition("<think>")
        if text == asked:  # nothing says where the answer begins
            begins = not after.strip()
        else:
            begins = not asked.startswith(before + tag)
        return tag + after if tag and begins else ""

    def encode_chat(self, messages: Sequence[chat.Message]) -> list[int]:
        if self.template is None:
            raise errors.UserError("tokenizer.template='': names no chat template; give chat")
        said = [encodable(text) for text in chat.texts(messages)]
        rendered = self.template.render(chat.with_texts(messages, said))
        ids = self._encode_template(rendered, is_first=True)
        # A conversation that says nothing shows which special tokens are the template's own.
        neutral = self.template.render(chat.with_texts(messages, ["x"] * len(said)))
        if self._specials(ids) == self._specials(self._encode_template(neutral, is_first=True)):
            return ids
        return self._encode_in_pieces(messages, said)

    def _encode_in_pieces(self, messages: Sequence[chat.Message], said: list[str]) -> list[int]:
        """Encodes the template's text with special tokens and the messages' texts without."""
        assert self.template is not None
        marks = [f"\ue000{i}\ue001" for i in range(len(said))]
        while any(mark in text for mark in marks for text in said):
            marks = [f"\ue000{mark}" for mark in marks]
        rest = self.template.render(chat.with_texts(messages, marks))
        ids: list[int] = []
        for mark, text in zip(marks, said, strict=True):
            before, found, rest = rest.partition(mark)
            ids += self._encode_template(before, is_first=not ids)
            ids += self.encode(text) if found else []
        return ids + self._encode_template(rest, is_first=not ids)

    def _specials(self, ids: Sequence[int]) -> list[int]:
        raise NotImplementedError

    def _encode_template(self, text: str, is_first: bool) -> list[int]:
        """Encodes the template's text; a special token's name in it becomes that token."""
        raise NotImplementedError

    def _encode_first(self, text: str) -> list[int]:
        """Encodes plain text that nothing precedes."""
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


def tokenizer_config(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Returns tokenizer_config.json, over the special tokens of special_tokens_map.json."""
    tokens, config = (
        json_fields(files, f"{name}.json") for name in ("special_tokens_map", "tokenizer_config")
    )
    return tokens | {name: value for name, value in config.items() if value is not None}


def own_template(files: Mapping[str, bytes], config: Mapping[str, Any]) -> str | None:
    """The chat template of a folder, if it has one.

    It stands in chat_template.jinja, tokenizer_config.json or, beside a processor of pictures,
    chat_template.json.

    Raises:
        ValueError: it is no text, and no texts by their names.
    """
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode("utf-8", "replace")
    source = config.get("chat_template")
    if source is None:
        source = json_fields(files, "chat_template.json").get("chat_template")
    try:
        if isinstance(source, list):  # several templates, each with a name
            source = {one["name"]: one["template"] for one in source}
        if isinstance(source, dict):
            source = source.get("default")
        if source is None or isinstance(source, str):
            return source
    except (LookupError, TypeError):
        pass
    raise ValueError(
        "chat_template in tokenizer_config.json or chat_template.json is neither text nor named "
        "texts"
    )


def special_token(config: Mapping[str, Any], kind: str) -> str:
    """The text of a special token of `tokenizer_config`, such as eos_token; "" for none.

    Raises:
        ValueError: it is no text.
    """
    value = config.get(kind) or ""
    text = value.get("content") if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ValueError(f"{kind}={json.dumps(value)} in tokenizer_config.json is no text")
    return text


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
