"""Loads SentencePiece models as tokenizers."""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from mapo_jax.text import chat
from mapo_jax.text.protocol import ChatTokenizer, encodable, save_files, to_json

# `normalizer_spec {add_dummy_prefix: false, remove_extra_whitespaces: false}`, serialized. Append
# it to a serialized model to override these two fields, as a later field wins in protobuf.
_KEEP_WHITESPACE = b"\x1a\x04\x18\x00\x20\x00"


class SentencePieceTokenizer(ChatTokenizer):
    """A SentencePiece model. Text cannot make control tokens, as SentencePiece ignores their names.

    Most models put a space before a text when they encode and remove it when they decode. That is
    right for a prompt and wrong for a response, which continues a text. So a second processor,
    without that space, encodes and decodes responses.
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

    def encode(self, text: str) -> list[int]:
        return self._responses.encode(encodable(text))

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
        files = {"tokenizer.model": self._proto, "tokenizer_config.json": to_json(config)}
        save_files(directory, files, self.eos_ids, self.template)

    def _specials(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if self._prompts.is_control(i)]

    def _encode_first(self, text: str) -> list[int]:
        return self._prompts.encode(encodable(text))

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
