"""Renders chat templates as transformers does, character for character, and without it: only Jinja is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

__all__ = ["TemplateError", "render"]

Object = Mapping[str, Any]


def render(
    source: str,
    messages: Sequence[Object],
    *,
    tools: Sequence[Object] | None,
    add_generation_prompt: bool,
    special_tokens: Mapping[str, str],
    day: date | None = None,
) -> str:
    """The template's text.

    Args:
        source: Jinja, untrusted: it runs in a sandbox.
        special_tokens: `bos_token`, `eos_token` and so on, which templates may name.
        day: what a template that asks for the time is told, at 0 o'clock; None: now.

    Raises:
        TemplateError: the template rejects the messages, or is none.
        TypeError: it makes something of them that they are not.
    """
    return compiled(source).render(
        messages=messages,
        tools=tools,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        strftime_now=lambda form: (day or datetime.now()).strftime(form),
        **special_tokens,
    )


@lru_cache(maxsize=64)
def compiled(source: str) -> Template:
    return _environment().from_string(source)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    return environment


class _Generation(Extension):
    """`{% generation %}` marks answers for those who ask for them; nobody does here, so it only lets its body pass."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_pass"), [], [], body).set_lineno(line)

    def _pass(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` with nothing of a class about it that a template could climb."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """A namespace whose names do not begin with an underscore."""

    def __init__(*args: Any, **values: Any) -> None:  # as Jinja's, so that `namespace(self=...)` is a name as well
        self, *rest = args
        named = dict(*rest, **values)
        for name in named:
            _refuse_private(name)
        Namespace.__init__(self, named)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"A chat template may not keep {name!r} in a namespace; take a name without underscore.")


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own would escape what has a meaning in HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
