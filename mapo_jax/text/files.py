"""Loads a tokenizer and the template of its prompts from files."""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mapo_jax import errors
from mapo_jax.text import chat
from mapo_jax.text.huggingface import KEPT_FILES, HuggingFaceTokenizer
from mapo_jax.text.protocol import Tokenizer, own_template, special_token, tokenizer_config
from mapo_jax.text.sentencepiece import SentencePieceTokenizer

_INSTALLED = Path(__file__).resolve().parents[2]  # the directory that holds mapo_jax/
_NAMES = tuple(f"{kind}_token" for kind in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
_FILES = ("tokenizer.json", "tokenizer.model")  # of a folder, the first that exists


def is_in(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in _FILES)


def load_tokenizer(
    path: str, template: str = "", now: datetime.datetime | None = None, key: str = ""
) -> Tokenizer:
    """Loads a tokenizer.

    Args:
        path: a SentencePiece model, a tokenizer.json, or a folder that holds one; mapo_jax/... is
            also looked for in the installed package.
        template: the template of prompts: "" for plain text, "chat" for the tokenizer's own chat
            template, or a file FILE.jinja.
        now: the time that the template can print; None for that of the call.
        key: the beginning of a mistake's line; by default tokenizer.path=...

    Raises:
        UserError: the tokenizer or the template is missing or broken, or the tokenizer has no end
            of sequence.
    """
    key, place = key or f"tokenizer.path={path}", Path(path)
    if path.startswith("mapo_jax/") and not place.exists():
        place = _INSTALLED / path
    if place.is_dir():
        found = [place / name for name in _FILES if (place / name).is_file()]
        if not found:
            raise errors.UserError(f"{key}: holds no {' and no '.join(_FILES)}; give a tokenizer")
        place = found[0]
    folder = place.parent
    files = {
        name: (folder / name).read_bytes()
        for name in (*KEPT_FILES, "generation_config.json", "config.json")
        if (folder / name).is_file() and (place.suffix == ".json" or Path(path).is_dir())
    }
    try:
        content = place.read_bytes()
    except OSError as error:
        what = f"cannot be read ({error.strerror}); give a SentencePiece model, a tokenizer.json"
        raise errors.UserError(f"{key}: {what} or a folder with one of them") from None
    try:
        config = tokenizer_config(files)
        source = own_template(files, config)
        names = {name: special_token(config, name) for name in _NAMES}
        if place.suffix == ".json":
            tokenizer: Any = HuggingFaceTokenizer(files | {"tokenizer.json": content})
        else:
            tokenizer = _load_sentencepiece(content, key)
    except ValueError as error:
        raise errors.UserError(f"{key}: {error}; give another") from None
    tokenizer.has_template = bool(source)
    if template:
        tokenizer.template = _template(template, source, names, key, now)
    return tokenizer


def _template(
    template: str,
    own: str | None,
    names: Mapping[str, str],
    key: str,
    now: datetime.datetime | None,
) -> chat.Template:
    where = f"tokenizer.template={template}"
    if template == "chat":
        if not own:
            raise errors.UserError(
                f"{where}: the tokenizer of {key} has no chat template; give a file FILE.jinja, or "
                "leave it empty for plain text"
            )
        return chat.Template(own, names, where, now)
    try:
        source = Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise errors.UserError(
            f"{where}: cannot be read ({reason}); give chat, a file FILE.jinja, or leave it empty"
        ) from None
    return chat.Template(source, names, where, now)


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
