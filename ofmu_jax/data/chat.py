"""Chats as text, by the template of a tokenizer."""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from ofmu_jax.data.tokenizer import Tokenizer
from ofmu_jax.errors import InputError

_TODAY = datetime.datetime(2024, 7, 26)

# `role`, such as "system", "user" or "assistant", and `content`.
Message: TypeAlias = Mapping[str, str]


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False
) -> str:
    """Renders messages as transformers' `apply_chat_template` does, but for what day it is.

    A template comes with the model and thus from anywhere, so it runs in Jinja's sandbox. One that
    asks for the date is told the one that Llama's take where there is no clock: with today's, a
    model would be asked other questions each day, and no two evaluations could be compared.

    Args:
      tokenizer: has the template.
      messages: each with `role` and `content`.
      add_generation_prompt: whether to end with what the assistant's answer follows.

    Returns:
      The text, with the names of the special tokens that the template writes.

    Raises:
      InputError: the tokenizer has no template, or the template is damaged or refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise InputError("the tokenizer has no chat template; expected one that chats")
    try:
        return _compile(tokenizer.chat_template).render(
            messages=list(messages),
            # Templates tell "none" from "undefined".
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **tokenizer.special_tokens,
        )
    except Exception as error:  # a template's expressions may raise anything
        message = " ".join(str(error).split())
        raise InputError(
            f"chat template: {message}; expected one that renders these messages"
        ) from error


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` ... `{% endgeneration %}`, which marks the assistant's text.

    It renders as its content does.
    """

    tags = {"generation"}  # noqa: RUF012, an interface of Jinja

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Reads the block that starts at the current token."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


@functools.cache
def _compile(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment.from_string(template)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter of this name would escape characters for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return _TODAY.strftime(form)
