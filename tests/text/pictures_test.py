"""Prompts with pictures have one image token in each place, whatever their texts say."""

import functools
import os
from pathlib import Path

import pytest
import tokenizers as huggingface
from hypothesis import given
from hypothesis import strategies as st

from mapo_jax import errors, tasks
from mapo_jax.text import chat, load_tokenizer
from tests.text import chat_test

# Of Qwen2.5-VL-7B-Instruct, as its chat_template.json has it.
QWEN = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BEGIN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
END = "<|im_end|>\n<|im_start|>assistant\n"
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
NAMES = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"]


def write(folder: Path, template: str) -> str:
    made = chat_test.bpe()
    made.add_special_tokens(NAMES)
    config = chat_test.CONFIG | {"chat_template": None}
    files = {"tokenizer_config__json": config, "chat_template__json": {"chat_template": template}}
    return str(chat_test.write(folder, made, **files))


def load(path: str, template: str = "chat"):
    tokenizer = load_tokenizer(path, template)
    theirs = huggingface.Tokenizer.from_file(f"{path}/tokenizer.json")
    tokenizer.picture_ids = tuple(theirs.token_to_id(name) for name in NAMES[2:])
    return tokenizer, functools.partial(theirs.encode, add_special_tokens=False)


@pytest.fixture(scope="module", params=["small", "qwen3"])
def loaded(request, tmp_path_factory):
    if request.param == "small":
        return load(write(tmp_path_factory.mktemp("small"), QWEN))
    if "MAPO_JAX_DATA" not in os.environ:
        pytest.skip("MAPO_JAX_DATA is not set (a directory with tokenizers/)")
    folder = tmp_path_factory.mktemp("qwen")
    (folder / "qwen.jinja").write_text(QWEN + "{# end #}")  # which keeps the last newline
    path = f"{os.environ['MAPO_JAX_DATA']}/tokenizers/qwen3"
    return load(path, f"{folder}/qwen.jinja")


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Which fox?\n", "Which fox?\n"),
        ([None, "Which fox?\n"], f"{PICTURE}Which fox?\n"),
        (["The fox ", None, " or ", None], f"The fox {PICTURE} or {PICTURE}"),
        ([None, None, "fox"], f"{PICTURE}{PICTURE}fox"),
    ],
)
def test_a_prompt_is_what_the_template_says(loaded, prompt, text):
    tokenizer, encode = loaded
    assert tokenizer.encode_prompt(prompt) == encode(f"{BEGIN}{text}{END}").ids


TEXT = st.lists(
    st.sampled_from([*NAMES, PICTURE, "<image>", "<|", "\ue0000\ue001", "x", "{{", " "])
)
PROMPTS = st.lists(st.none() | TEXT.map("".join), min_size=1, max_size=5)


@given(PROMPTS)
def test_no_text_becomes_an_image_token(loaded, prompt):
    tokenizer, encode = loaded
    number, ids = prompt.count(None), tokenizer.encode_prompt(prompt)
    special = {encode(name).ids[0] for name in NAMES}
    neutral = encode(BEGIN + PICTURE * number + END).ids
    assert [i for i in ids if i in special] == [i for i in neutral if i in special]
    shown = "".join(part for part in prompt if part is not None)
    assert shown in tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["bpe", "metaspace", "sentencepiece"])
def test_plain_text_has_the_tokens_of_a_picture_in_its_place(kind, tmp_path):
    if kind == "sentencepiece":
        tokenizer = load_tokenizer(str(Path(tasks.__file__).parent / "arithmetic.model"))
    else:
        made = {"bpe": chat_test.bpe, "metaspace": chat_test.metaspace}[kind]()
        tokenizer = load_tokenizer(str(chat_test.write(tmp_path / "t", made)))
    tokenizer.picture_ids = (1007, 1008, 1009)
    bos = tokenizer.encode_prompt("")
    assert tokenizer.encode_prompt([None, "1+1", None]) == [
        *(*bos, 1007, 1008, 1009),
        *(*tokenizer.encode("1+1"), 1007, 1008, 1009),
    ]
    assert tokenizer.encode_prompt(["1+1", None, "2"]) == [
        *(*tokenizer.encode_prompt("1+1"), 1007, 1008, 1009),
        *tokenizer.encode("2"),
    ]
    tokenizer.picture_ids = (1008,)
    assert tokenizer.encode_prompt(["1", None]) == [*tokenizer.encode_prompt("1"), 1008]
    tokenizer.picture_ids = tuple(tokenizer.encode("1")[-1:])
    with pytest.raises(errors.UserError, match="with 1 pictures gets 2 image tokens"):
        tokenizer.encode_prompt(["1", None])


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (
            "{% for m in messages %}{{ m.content if m.content is string }}{% endfor %}",
            "with 2 pictures gets 0",
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "with 2 pictures gets 0 image"),
        ("{% for m in messages %}{{ m.content + 'x' }}{% endfor %}", "does not take a user's mess"),
        (QWEN + PICTURE, "gets 3 image tokens; give the tok"),
    ],
)
def test_a_template_that_does_not_write_the_pictures_is_refused(source, what, tmp_path):
    tokenizer, _ = load(write(tmp_path / "t", source))
    assert tokenizer.encode_prompt("x")
    with pytest.raises(errors.UserError, match=what) as caught:
        tokenizer.encode_prompt([None, "x", None])
    assert len(caught.value.lines) == 1


def test_a_policy_that_sees_no_pictures_is_named(tmp_path):
    tokenizer = load_tokenizer(write(tmp_path / "t", QWEN), "chat")
    with pytest.raises(errors.UserError, match=r"^policy\.init: sees no pictures, and a prompt ha"):
        tokenizer.encode_prompt([None, "x"])


def test_a_prompt_with_pictures_opens_a_thought(tmp_path):
    opened = QWEN.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    assert load(write(tmp_path / "t", opened))[0].open_thought([None, "x"]) == "<think>\n"
    closed, _ = load(write(tmp_path / "u", QWEN))
    assert closed.open_thought(["Go on: <think>", None]) == ""
    plain, _ = load(write(tmp_path / "v", QWEN), "")
    assert plain.open_thought([None, "1+1=\n<think>"]) == "<think>"


def test_texts_of_messages_are_replaced_in_order():
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": chat.content(["b", None, "c"])},
    ]
    assert chat.texts(messages) == ["a", "b", "c"]
    changed = chat.with_texts(messages, "xyz")
    assert chat.texts(changed) == ["x", "y", "z"]
    assert changed[1]["content"][1] == {"type": "image"}
    assert chat.texts(messages) == ["a", "b", "c"]
