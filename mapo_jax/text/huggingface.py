"""Loads Hugging Face's tokenizer.json as a tokenizer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers as huggingface

from mapo_jax.text import chat
from mapo_jax.text.protocol import (
    ChatTokenizer,
    encodable,
    json_fields,
    own_template,
    save_files,
    special_token,
    tokenizer_config,
)


class HuggingFaceTokenizer(ChatTokenizer):
    """A tokenizer.json, with the special tokens that the files beside it name.

    As with SentencePiece, a second tokenizer encodes and decodes responses. It neither puts a
    space before a text nor removes one; where the first does neither, it is the same.
    """

    def __init__(self, files: Mapping[str, bytes], eos_ids: Sequence[int] = ()):
        """Makes a tokenizer from the contents of a folder's files, by name.

        It reads `KEPT_FILES`, generation_config.json and config.json.

        Raises:
            ValueError: a file is broken, or none names an end token.
        """
        self.template: chat.Template | None = None
        self._files = {name: files[name] for name in KEPT_FILES if name in files}
        self.config = tokenizer_config(files)
        try:
            rules = json.loads(files["tokenizer.json"])
            continuing = _continuing(rules)
            self._prompts = self._responses = huggingface.Tokenizer.from_str(json.dumps(rules))
            if continuing != rules:
                self._responses = huggingface.Tokenizer.from_str(json.dumps(continuing))
        except Exception as error:  # the package raises Exception itself
            raise ValueError(f"tokenizer.json is broken ({error})") from None
        for tokenizer in (self._prompts, self._responses):
            tokenizer.no_truncation()
            tokenizer.no_padding()
            tokenizer.encode_special_tokens = True  # those in a text are ordinary text
        vocabulary = self._prompts.get_vocab(with_added_tokens=True)
        self.vocab_size: int = 1 + max(vocabulary.values())
        self._special = {
            i for i, added in self._prompts.get_added_tokens_decoder().items() if added.special
        }
        source = own_template(files, self.config)
        named = [
            special_token(self.config, "eos_token"),
            *(end for end in _ENDS_OF_TURN if end in (source or "")),
        ]
        ids = [vocabulary[name] for name in named if name in vocabulary]
        for name in ("generation_config.json", "config.json"):
            found = json_fields(files, name).get("eos_token_id")
            ids += found if isinstance(found, list) else [found]
        known = [i for i in ids if type(i) is int and 0 <= i < self.vocab_size]
        self.eos_ids: tuple[int, ...] = tuple(dict.fromkeys(known))
        if not self.eos_ids:
            raise ValueError("no end token is named in tokenizer_config.json, so none could end")
        self.pad_id = vocabulary.get(special_token(self.config, "pad_token"), 0)
        plain, whole = (self._prompts.encode("a", add_special_tokens=x).ids for x in (False, True))
        starts = [k for k in range(len(whole)) if whole[k : k + len(plain)] == plain]
        self._bos = whole[: starts[0]] if starts else []

    def encode(self, text: str) -> list[int]:
        return _ids(self._responses, encodable(text))

    def decode(self, ids: Sequence[int]) -> str:
        known = [int(i) for i in ids if 0 <= i < self.vocab_size]
        return self._responses.decode(known, skip_special_tokens=True)

    def save(self, directory: str | Path) -> None:
        save_files(directory, self._files, self.eos_ids, self.template)

    def _specials(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if i in self._special]

    def _encode_first(self, text: str) -> list[int]:
        return _ids(self._prompts, encodable(text))

    def _encode_template(self, text: str, is_first: bool) -> list[int]:
        tokenizer = self._prompts if is_first else self._responses
        tokenizer.encode_special_tokens = False
        ids = _ids(tokenizer, text)
        tokenizer.encode_special_tokens = True
        return ids


KEPT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "video_preprocessor_config.json",  # not read here; transformers wants it beside the others
)
_ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


def _ids(tokenizer: huggingface.Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def _continuing(rules: Any) -> Any:
    """The rules of a tokenizer.json without those that put a space before a text."""
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
