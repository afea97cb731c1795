"""Chat templates rendered as transformers renders them, without importing it: that takes longer than a check.

    render(template, messages, add_generation_prompt=True, bos_token="<s>")      -> "<|im_start|>user\\n..."

A template is a program that came with a model: it runs in jinja2's sandbox. Blocks, filters and functions are
those of transformers' utils/chat_template_utils.py; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


def render(template: str, messages: Sequence[dict[str, str]], **variables: Any) -> str:
    """The text of a conversation. Raises jinja2's TemplateError for what a template refuses."""
    # Given as nothing, not left out: templates ask whether they `is none`.
    return _compiled(template).render(messages=messages, tools=None, documents=None, **variables)


class _Generation(Extension):
    """`{% generation %}` marks what a loss may count; its text is like any other."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 has it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """jinja2's own filter would escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
