"""Chat templates turn messages into the text that an instruction-tuned policy was trained on.

Jinja renders them in its sandbox, with the functions that Hugging Face's renderer has. In the life
of a batch this comes before a prompt becomes tokens (`protocol`). Messages are data, so nothing in
them is evaluated.
"""

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from mapo_jax import errors

Prompt = str | Sequence[str | None]  # with pictures its texts, and None in each picture's place
Message = Mapping[str, Any]  # role: system, user or assistant; content: text, or a list of parts


def content(prompt: Prompt) -> str | list[dict[str, str]]:
    """Returns the content of a message: text as it is, with pictures a list of parts.

    A part is {"type": "text", "text": ...} or {"type": "image"}, as templates expect it.
    """
    if isinstance(prompt, str):
        return prompt
    return [
        {"type": "image"} if part is None else {"type": "text", "text": part} for part in prompt
    ]


def texts(messages: Iterable[Message]) -> list[str]:
    """Returns the texts of messages in order."""
    parts: list[Any] = []
    for message in messages:
        said = message["content"]
        parts += [{"text": said}] if isinstance(said, str) else said
    return [part["text"] for part in parts if "text" in part]


def with_texts(messages: Iterable[Message], others: Iterable[str]) -> list[Message]:
    """Returns the messages with other texts in the places of theirs."""
    rest = iter(others)

    def replaced(said: Any) -> Any:
        if isinstance(said, str):
            return next(rest)
        return [{**part, "text": next(rest)} if "text" in part else part for part in said]

    return [{**message, "content": replaced(message["content"])} for message in messages]


class Template:
    """A compiled chat template."""

    def __init__(
        self,
        source: str,
        names: Mapping[str, str],
        key: str,
        now: datetime.datetime | None = None,
    ):
        """Compiles the template and tries it on one message.

        Args:
            source: the template, in Jinja.
            names: other values that it can print, such as bos_token and eos_token.
            key: the beginning of a mistake's line, such as tokenizer.template=chat.
            now: the time that it can print, so that prompts do not change while a run goes on;
                None for that of the call, in UTC.

        Raises:
            UserError: the template is broken, or refuses or drops a user's message.
        """
        self.source, self._names, self._key = source, names, key
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols, _Generation],
        )
        environment.filters["tojson"] = _to_json
        functions: dict[str, Any] = {
            "raise_exception": _raise,
            "strftime_now": (now or datetime.datetime.now(datetime.UTC)).strftime,
        }
        environment.globals |= functions
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise errors.UserError(
                f"{key}: the chat template is broken ({error}); mend it or give another"
            ) from None
        two = [self.render([{"role": "user", "content": content}]) for content in ("x", "y")]
        if two[0] == two[1]:
            raise errors.UserError(
                f"{key}: the chat template does not print a user's message that is text; give "
                "another"
            )

    def render(self, messages: Sequence[Message], begins_answer: bool = True) -> str:
        """Returns the text of a conversation, up to the beginning of the assistant's answer."""
        try:
            return self._template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=begins_answer,
                **self._names,
            )
        except Exception as error:  # a template may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise errors.UserError(
                f"{self._key}: the chat template does not take a user's message ({reason}); give "
                "another"
            ) from None


class _Generation(jinja2.ext.Extension):
    """Renders what stands between `{% generation %}` and `{% endgeneration %}` as it is.

    The tags mark an assistant's turns for training on demonstrations and are no text of a prompt.
    """

    tags = {"generation"}  # noqa: RUF012  # of the class, as in jinja2

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
