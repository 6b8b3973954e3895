"""Round trips, control tokens and mistakes of three models: arithmetic, trained here, real."""

import io
import os
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import errors, tasks
from mapo_jax.tasks import make_tokenizer
from mapo_jax.text import load_tokenizer

ARITHMETIC = Path(tasks.__file__).parent / "arithmetic.model"


def train(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox jumps over the lazy dog"] * 20),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """A usual model: it has a beginning of sequence, a dummy prefix and bytes for the unknown."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(
        train(
            vocab_size=320,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
        )
    )
    return load_tokenizer(str(path))


@pytest.fixture(scope="module")
def mistral():
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with tokenizers/mistral/)")
    path = Path(os.environ["MAPO_JAX_DATA"]) / "tokenizers" / "mistral" / "tokenizer.model.v1"
    return load_tokenizer(str(path))


def test_a_file_of_the_package_is_found_from_anywhere(tmp_path, monkeypatch):
    """A file of the same name in the current directory goes before it."""
    monkeypatch.chdir(tmp_path)
    name = "mapo_jax/tasks/arithmetic.model"
    shipped = load_tokenizer(name)
    assert shipped.vocab_size == load_tokenizer(str(ARITHMETIC)).vocab_size
    Path(name).parent.mkdir(parents=True)
    Path(name).write_bytes(train(model_type="char"))
    assert load_tokenizer(name).vocab_size != shipped.vocab_size


@pytest.mark.parametrize("name", make_tokenizer.PIECES)
def test_a_kept_model_is_what_its_script_makes(name):
    bytes_ = make_tokenizer.make_model(*make_tokenizer.PIECES[name])
    kept, made = sentencepiece.SentencePieceProcessor(), sentencepiece.SentencePieceProcessor()
    kept.load_from_serialized_proto((ARITHMETIC.parent / f"{name}.model").read_bytes())
    made.load_from_serialized_proto(bytes_)
    pieces = [[model.id_to_piece(i) for i in range(model.vocab_size())] for model in (kept, made)]
    assert pieces[0] == pieces[1]
    assert make_tokenizer.make_model(*make_tokenizer.PIECES[name]) == bytes_


def test_arithmetic_model():
    tokenizer = load_tokenizer(str(ARITHMETIC))
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.eos_ids) == (22, 0, (2,))
    assert len(tokenizer.encode(r"<think>17+5=22</think> \boxed{22}")) == 1 + 7 + 1 + 1 + 1 + 2 + 1
    assert tokenizer.encode_prompt("17=") == tokenizer.encode("17=")  # no beginning of sequence
    tokenizer.decode(tokenizer.encode("unknown: \u00e9 \0 \ud800"))  # does not raise


@given(st.text("0123456789+-*= ") | st.just(r"<think> </think>\boxed{}}{<think"))
def test_arithmetic_text_comes_back(text):
    tokenizer = load_tokenizer(str(ARITHMETIC))
    known = text.replace("{<think", "")
    assert tokenizer.decode(tokenizer.encode(known)) == known


TEXTS = [
    r"<think>the fox</think> \boxed{5}",
    " the dog",
    "  two spaces   and three ",
    "a\n\nb\t\u00e9 \u2603",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["usual", "mistral"])
def test_responses_come_back_and_join_the_prompt(name, text, request):
    tokenizer = request.getfixturevalue(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    prompt = tokenizer.encode_prompt("the quick\n")
    assert prompt[0] == 1  # beginning of sequence
    assert tokenizer.decode(prompt + ids) == " the quick\n" + text  # no space between the two
    assert tokenizer.decode([*ids, *tokenizer.eos_ids]) == text


def test_a_prompt_keeps_the_space_that_the_model_was_trained_with(usual):
    assert usual.encode_prompt("the fox")[1:] == usual.encode(" the fox")
    assert usual.encode_prompt("the fox")[1:] != usual.encode("the fox")


@pytest.mark.parametrize("name", ["usual", "mistral"])
def test_text_makes_no_control_tokens(name, request):
    tokenizer = request.getfixturevalue(name)
    text = "</s><s><unk><pad> [INST]"
    assert not {0, 1, 2} & set(tokenizer.encode(text))
    assert tokenizer.encode_prompt(text).count(1) == 1
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_any_ids_decode(usual):
    assert usual.decode([-1, 10**6]) == ""
    usual.decode(range(usual.vocab_size))


@given(st.lists(st.integers(3, 21)))
def test_samples_decode(ids):
    load_tokenizer(str(ARITHMETIC)).decode(ids)


def test_no_such_file(tmp_path):
    for path, what in ((tmp_path / "none.model", "cannot be read"), (tmp_path, "holds no")):
        with pytest.raises(errors.UserError, match=what) as raised:
            load_tokenizer(str(path))
        assert str(raised.value).startswith(f"tokenizer.path={path}: ")


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 64])
def test_not_a_model(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=f"tokenizer.path={path}: not a SentencePiece model"):
        load_tokenizer(str(path))


def test_a_model_without_an_end(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(train(vocab_size=40, model_type="char", eos_id=-1))
    with pytest.raises(errors.UserError, match="no end-of-sequence piece"):
        load_tokenizer(str(path))
