"""Makes the SentencePiece models of the generated tasks, `arithmetic.model` and so on.

Run from the repository's root; it writes the same bytes every time:

    python -m mapo_jax.tasks.make_tokenizer

Each character is a piece, and so are the four tags, the questions about diagrams, and the parts
that all answers to these share. Nothing is normalized, so that a text decodes to itself.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

TAGS = ("<think>", "</think>", "\\boxed{", "}")
PIECES = {  # of a task: its characters, and its words
    "arithmetic": ("0123456789+-*= ", ()),
    "countdown": ("0123456789+-*/=(), ", ()),
    "diagrams": (
        "0123456789+-*/=. hw",
        ("area?", "perimeter?", "w=", "\u2581h=", "</think>\u2581\\boxed{"),
    ),
}


def make_model(characters: str, words: Sequence[str] = ()) -> bytes:
    """Returns the serialized SentencePiece model."""
    symbols = [*TAGS, *words]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([characters]),
        model_writer=model,
        model_type="char",
        vocab_size=3 + len(symbols) + len(characters),
        character_coverage=1.0,
        pad_id=0,
        unk_id=1,
        eos_id=2,
        bos_id=-1,
        user_defined_symbols=symbols,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


if __name__ == "__main__":
    for name, pieces in PIECES.items():
        (Path(__file__).parent / f"{name}.model").write_bytes(make_model(*pieces))
