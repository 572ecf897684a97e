"""Templates render as transformers renders them, character for character, and can do no harm."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest
from jinja2.exceptions import SecurityError, TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from feinschliff.lm.template import render

TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Sei kurz & gut, <b>bitte</b>."},
    {"role": "user", "content": "Wie spät\n\nist es?  "},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "uhr", "arguments": {"zone": "Europe/Berlin"}}}],
    },
    {"role": "tool", "content": "12:00", "name": "uhr"},
    {"role": "assistant", "content": "Zwölf."},
]
TOOLS = [{"type": "function", "function": {"name": "uhr", "parameters": {"type": "object", "minimum": 1}}}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "tools_as_json": "{{ bos_token }}{% if tools %}{{ tools | tojson(indent=2) }}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c | tojson }}{% endfor %}{% endfor %}{{ eos_token }}",
    "namespace_and_loop": "{% set ns = namespace(users=0) %}{% for m in messages %}{% if m.role == 'tool' %}"
    "{% continue %}{% endif %}{% if m.role == 'user' %}{% set ns.users = ns.users + 1 %}{% endif %}"
    "{{ ns.users }}{{ m.content | trim }}\n{% endfor %}",
    "generation_marks": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}!"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "blocks_are_trimmed": "  {% if true %}\n    {{ messages[0].content }}\n  {% endif %}\n  end\n",
    "missing_values": "{{ documents }}{{ unknown }}{{ messages[1].name }}{{ dict(a=1) | tojson }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_text_is_that_of_transformers(name: str, prompt: bool, tools: list[dict[str, Any]] | None) -> None:
    given: dict[str, Any] = {"tools": tools, "add_generation_prompt": prompt, **SPECIAL}
    theirs = render_jinja_template(conversations=[TURNS], chat_template=TEMPLATES[name], **given)[0]
    ours = render(TEMPLATES[name], TURNS, tools=tools, add_generation_prompt=prompt, special_tokens=SPECIAL)
    assert ours == theirs[0] if isinstance(theirs, list) else ours == theirs


def test_a_fixed_day_is_what_a_template_is_told() -> None:
    asked = {"tools": None, "add_generation_prompt": False, "special_tokens": SPECIAL}
    source = "{{ strftime_now('%d %b %Y %H:%M') }}"
    assert render(source, TURNS, day=date(2024, 7, 26), **asked) == "26 Jul 2024 00:00"
    assert render("{{ strftime_now('%Y') }}", TURNS, **asked) == str(datetime.now().year)


def test_a_template_may_refuse() -> None:
    with pytest.raises(TemplateError, match="no tools here"):
        _render("{{ raise_exception('no tools here') }}")


@pytest.mark.parametrize(
    "attack",
    [
        "{{ messages.append(1) }}",
        "{% set ns = namespace(_hidden=1) %}",
        "{% set ns = namespace() %}{% set ns.__init__ = 1 %}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.__class__.__mro__ }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    with pytest.raises((SecurityError, TemplateError)):
        _render(attack)


def _render(source: str) -> str:
    return render(source, TURNS, tools=None, add_generation_prompt=False, special_tokens={})
