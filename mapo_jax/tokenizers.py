"""Text to tokens and back: SentencePiece and Hugging Face tokenizers behind a small protocol.

In the life of a batch: prompts become tokens before sampling (`encode_prompt`), responses become
text before they are judged (`decode`); in the warm-up, demonstrations become responses (`encode`).

Nothing in a text can become a special token: those come from a tokenizer's own rules and from its
chat template alone.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import sentencepiece
import tokenizers as huggingface

from mapo_jax import chat, errors

# `normalizer_spec {add_dummy_prefix: false, remove_extra_whitespaces: false}`, serialized. Appended
# to a serialized model it overrides these two fields, as protobuf merges what comes later.
_KEEP_WHITESPACE = b"\x1a\x04\x18\x00\x20\x00"


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


class _Chat:
    """Encodes by a chat template: the same for both kinds of tokenizer."""

    template: chat.Template | None

    def encode_chat(self, messages: Sequence[chat.Message]) -> list[int]:
        if self.template is None:
            raise errors.UserError("tokenizer.template='': names no chat template; give chat")
        clean = [{**message, "content": _encodable(message["content"])} for message in messages]
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


class SentencePieceTokenizer(_Chat):
    """A SentencePiece model. Text cannot make control tokens: SentencePiece never reads them there.

    Most models put a space before whatever they encode and take it off again when they decode. That
    is right for a prompt and wrong for a response, which goes on in the middle of a text, so
    responses are encoded and decoded by a second processor, without it.
    """

    def __init__(self, model_proto: bytes, template: chat.Template | None = None):
        self.template, self._proto = template, model_proto
        self._prompts = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
        self._responses = sentencepiece.SentencePieceProcessor(
            model_proto=model_proto + _KEEP_WHITESPACE
        )
        self.vocab_size: int = self._prompts.vocab_size()
        self.eos_ids: tuple[int, ...] = (self._prompts.eos_id(),)
        self.pad_id = max(self._prompts.pad_id(), 0)
        self._bos = [self._prompts.bos_id()] if self._prompts.bos_id() >= 0 else []
        self._controls = {
            self._prompts.id_to_piece(i): i
            for i in range(self.vocab_size)
            if self._prompts.is_control(i)
        }

    def encode_prompt(self, text: str) -> list[int]:
        if self.template is not None:
            return self.encode_chat([{"role": "user", "content": text}])
        return self._bos + self._prompts.encode(_encodable(text))

    def encode(self, text: str) -> list[int]:
        return self._responses.encode(_encodable(text))

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]  # others would raise
        return self._responses.decode(known)

    def save(self, directory: str | Path) -> None:
        ends = {"bos_token": self._bos, "eos_token": self.eos_ids[:1]}
        names = {name: self._prompts.id_to_piece(ids[0]) for name, ids in ends.items() if ids}
        if self._prompts.unk_id() >= 0:
            names["unk_token"] = self._prompts.id_to_piece(self._prompts.unk_id())
        config = {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": bool(self._bos),
            "add_eos_token": False,
            **names,
        }
        files = {"tokenizer.model": self._proto, "tokenizer_config.json": _json(config)}
        _save(directory, files, self.eos_ids, self.template)

    def _specials(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if self._prompts.is_control(i)]

    def _encode_template(self, text: str, is_first: bool) -> list[int]:
        ids: list[int] = []
        while text:
            found = [(text.find(name), name) for name in self._controls if name in text]
            at, name = min(found, default=(len(text), ""))
            processor = self._prompts if is_first else self._responses
            ids += processor.encode(text[:at]) if at else []
            ids += [self._controls[name]] if name else []
            text, is_first = text[at + len(name) :], is_first and not at
        return ids


class HuggingFaceTokenizer(_Chat):
    """A tokenizer.json, with what the files beside it say of special tokens.

    As with SentencePiece, responses are encoded and decoded by a second one, which puts no space
    before what it encodes and takes none off.
    """

    def __init__(self, files: Mapping[str, bytes], eos_ids: Sequence[int] = ()):
        """Makes one of a folder's files by their names; those of `_FILES` are looked at.

        Raises:
            ValueError: tokenizer.json is broken or has no end token.
        """
        self.template: chat.Template | None = None
        self._files = {name: files[name] for name in _KEPT if name in files}
        self.config = _fields(files, "tokenizer_config.json")
        try:
            rules = json.loads(files["tokenizer.json"])
            self._prompts = huggingface.Tokenizer.from_str(json.dumps(rules))
            self._responses = huggingface.Tokenizer.from_str(json.dumps(_continuing(rules)))
        except Exception as error:  # the package raises Exception itself
            raise ValueError(f"tokenizer.json is broken ({error})") from None
        for tokenizer in (self._prompts, self._responses):
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.encode_special_tokens = True  # as ordinary text
        vocabulary = self._prompts.get_vocab(with_added_tokens=True)
        self.vocab_size: int = 1 + max(vocabulary.values())
        self._special = {
            i for i, added in self._prompts.get_added_tokens_decoder().items() if added.special
        }
        source = self.template_source()
        named = [self.name("eos_token"), *(end for end in _ENDS_OF_TURN if end in (source or ""))]
        ids = [vocabulary[name] for name in named if name in vocabulary]
        for name in ("generation_config.json", "config.json"):
            found = _fields(files, name).get("eos_token_id")
            ids += found if isinstance(found, list) else [found]
        known = [i for i in ids if isinstance(i, int) and 0 <= i < self.vocab_size]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(known))
        if not self.eos_ids:
            raise ValueError("no end token is named in tokenizer_config.json, so none could end")
        self.pad_id = vocabulary.get(self.name("pad_token"), 0)
        plain, whole = (self._prompts.encode("a", add_special_tokens=x).ids for x in (False, True))
        starts = [k for k in range(len(whole)) if whole[k : k + len(plain)] == plain]
        self._bos = whole[: starts[0]] if starts else []

    def name(self, kind: str) -> str:
        """The text of a special token, such as eos_token; "" where there is none."""
        value = self.config.get(kind)
        return (value["content"] if isinstance(value, dict) else value) or ""

    def template_source(self) -> str | None:
        """The tokenizer's own chat template."""
        if "chat_template.jinja" in self._files:
            return self._files["chat_template.jinja"].decode("utf-8", "replace")
        source = self.config.get("chat_template")
        if isinstance(source, list):  # several by name
            named = {one["name"]: one["template"] for one in source}
            source = named.get("default")
        return source

    def encode_prompt(self, text: str) -> list[int]:
        if self.template is not None:
            return self.encode_chat([{"role": "user", "content": text}])
        return self._bos + _ids(self._prompts, _encodable(text))

    def encode(self, text: str) -> list[int]:
        return _ids(self._responses, _encodable(text))

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return self._responses.decode(known, skip_special_tokens=True)

    def save(self, directory: str | Path) -> None:
        _save(directory, self._files, self.eos_ids, self.template)

    def _specials(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if i in self._special]

    def _encode_template(self, text: str, is_first: bool) -> list[int]:
        tokenizer = self._prompts if is_first else self._responses
        tokenizer.encode_special_tokens = False
        ids = _ids(tokenizer, text)
        tokenizer.encode_special_tokens = True
        return ids


_KEPT = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


def _ids(tokenizer: huggingface.Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _continuing(rules: Any) -> Any:
    """The rules of a tokenizer.json for text that goes on: without a space at its beginning."""
    if isinstance(rules, list):
        return [_continuing(rule) for rule in rules if not _is_prefix(rule)]
    if not isinstance(rules, dict):
        return rules
    kept = {
        name: None if _is_prefix(rule) else _continuing(rule) if name in _STAGES else rule
        for name, rule in rules.items()
    }
    return kept | {k: v for k, v in _UNPREFIXED.get(rules.get("type", ""), {}).items() if k in kept}


_STAGES = ("normalizer", "pre_tokenizer", "decoder", "normalizers", "pretokenizers", "decoders")
_UNPREFIXED = {
    "Metaspace": {"prepend_scheme": "never", "add_prefix_space": False},
    "ByteLevel": {"add_prefix_space": False},
    "Strip": {"start": 0},
}


def _is_prefix(rule: Any) -> bool:
    return isinstance(rule, dict) and rule.get("type") == "Prepend"


def _fields(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        value = json.loads(files[name]) if name in files else {}
    except ValueError as error:
        raise ValueError(f"{name} is broken ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is broken (not a JSON object)")
    return value


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _save(
    directory: str | Path,
    files: Mapping[str, bytes],
    eos_ids: Sequence[int],
    template: chat.Template | None,
) -> None:
    ends = {"eos_token_id": eos_ids[0] if len(eos_ids) == 1 else list(eos_ids)}
    files = {**files, "generation_config.json": _json(ends)}
    if template is not None:
        files["chat_template.jinja"] = template.source.encode()
    for name, content in files.items():
        (Path(directory) / name).write_bytes(content)


_FILES = ("tokenizer.json", "tokenizer.model")  # the first that a folder holds


def is_in(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in _FILES)


def load(path: str, template: str = "") -> Tokenizer:
    """Loads a tokenizer.

    Args:
        path: a SentencePiece model, a tokenizer.json, or a folder that holds one.
        template: of prompts: "" plain text, "chat" the tokenizer's own chat template, or a file
            FILE.jinja.

    Raises:
        UserError: there is no such file, it cannot be used, or it has no end of sequence; there is
            no such template, or it is broken.
    """
    key, place = f"tokenizer.path={path}", Path(path)
    if place.is_dir():
        found = [place / name for name in _FILES if (place / name).is_file()]
        if not found:
            raise errors.UserError(f"{key}: holds no {' and no '.join(_FILES)}; give a tokenizer")
        place = found[0]
    folder = place.parent
    files = {
        name: (folder / name).read_bytes()
        for name in (*_KEPT, "generation_config.json", "config.json")
        if (folder / name).is_file() and (place.suffix == ".json" or Path(path).is_dir())
    }
    try:
        content = place.read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror}); give a SentencePiece model, a tokenizer.json"
        raise errors.UserError(f"{key}: {what} or a folder with one of them") from None
    if place.suffix == ".json":
        try:
            tokenizer: Any = HuggingFaceTokenizer(files | {"tokenizer.json": content})
        except ValueError as error:
            raise errors.UserError(f"{key}: {error}; give another") from None
        source = tokenizer.template_source()
        names = {name: tokenizer.name(name) for name in ("bos_token", "eos_token", "pad_token")}
    else:
        tokenizer = _load_sentencepiece(content, key)
        config = _fields(files, "tokenizer_config.json")
        source = config.get("chat_template")
        if "chat_template.jinja" in files:
            source = files["chat_template.jinja"].decode("utf-8", "replace")
        names = {name: config.get(name) or "" for name in ("bos_token", "eos_token")}
    if template:
        tokenizer.template = _template(template, source, names, key)
    return tokenizer


def _template(template: str, own: str | None, names: Mapping[str, str], key: str) -> chat.Template:
    where = f"tokenizer.template={template}"
    if template == "chat":
        if not own:
            raise errors.UserError(
                f"{where}: the tokenizer of {key} has no chat template; give a file FILE.jinja, or "
                "leave it empty for plain text"
            )
        return chat.Template(own, names, where)
    try:
        source = Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise errors.UserError(
            f"{where}: cannot be read ({reason}); give chat, a file FILE.jinja, or leave it empty"
        ) from None
    return chat.Template(source, names, where)


def _load_sentencepiece(content: bytes, key: str) -> SentencePieceTokenizer:
    try:
        tokenizer = SentencePieceTokenizer(content)
    except RuntimeError:
        raise errors.UserError(
            f"{key}: not a SentencePiece model; give a file such as tokenizer.model, or a "
            "tokenizer.json"
        ) from None
    if tokenizer.eos_ids[0] < 0:
        raise errors.UserError(
            f"{key}: the model has no end-of-sequence piece, so no response could end; train it "
            "with eos_id >= 0"
        )
    return tokenizer


def _encodable(text: str) -> str:
    """Replaces lone surrogates, which no UTF-8 text can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
