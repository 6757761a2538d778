"""Jinja templates are rendered by the conventions of models' templates, and limits do not change their output."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from llamafw import ChatContext, ModelError, RequestError
from llamafw_plugins.chat_formats import TEMPLATES
from llamafw_plugins.chat_formats.jinja import JinjaChatFormat, raise_exception, strftime_now, to_json

HI = [{"role": "user", "content": "Hi"}]


def render(template: str, messages: Any = HI, **variables: Any) -> str:
    return JinjaChatFormat(template, ChatContext("<s>", "</s>")).render(messages, **variables)


def test_templates_get_the_usual_variables() -> None:
    template = "{{ bos_token }}{{ messages|length }}{{ eos_token }}{{ tools is none }}{{ documents is none }}{{ x }}"
    assert render(template, x=7) == "<s>1</s>TrueTrue7"


def test_variables_of_a_request_do_not_replace_the_servers() -> None:
    assert render("{{ bos_token }}", bos_token="no") == "<s>"


def test_blocks_are_trimmed() -> None:
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"


def test_break_and_continue_end_loops_and_passes() -> None:
    template = (
        "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
        "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    assert render(template) == "02"


def test_generation_blocks_write_their_body() -> None:
    assert render("a{% generation %}b{{ 1 }}{% endgeneration %}c") == "ab1c"


def test_tojson_does_not_escape_text() -> None:
    value = {"b": "é <&'>", "a": [1, None]}
    assert render("{{ x|tojson }}", x=value) == '{"b": "é <&\'>", "a": [1, null]}'
    assert render("{{ x|tojson(indent=2) }}", x=value) == json.dumps(value, indent=2, ensure_ascii=False)


def test_strftime_now_is_the_local_time() -> None:
    before, found, after = datetime.now(), render("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}"), datetime.now()
    assert before.replace(microsecond=0) <= datetime.fromisoformat(found) <= after


def test_html_is_not_escaped() -> None:
    assert render("{{ messages[0].content }}", [{"role": "user", "content": "<b>&\"'"}]) == "<b>&\"'"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "the chat template refused: roles must alternate"),
        ("{{ nothing.at.all }}", "the chat template failed: 'nothing' is undefined"),
        ("{{ 1 + 'a' }}", "the chat template failed: unsupported operand"),
        ("{{ ''.__class__.__mro__ }}", "the chat template failed: access to attribute '__class__'"),
        ("{{ messages.clear() }}", "the chat template failed: access to attribute 'clear'"),
        ("{{ {}.update(a=1) }}", "the chat template failed: access to attribute 'update'"),
        ("{% include 'other' %}", "the chat template failed: "),
        ("{{ x|tojson }}", "the chat template failed: Object of type Undefined is not JSON serializable"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "the chat template failed: maximum recursion"),
    ],
)
def test_failing_templates_are_400(template: str, message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        render(template)
    assert caught.value.status == 400
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{% if %}", "line 2: "),
        ("{{ x|nofilter }}", "line 1: No filter named 'nofilter'"),
        ("{% for %}", "line 1: "),
        ("x" * (2**17 + 1), "more than 131072"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "the chat template is not valid: "),
    ],
)
def test_invalid_templates_are_refused_when_compiled(template: str, message: str) -> None:
    with pytest.raises(ModelError, match=re.escape(message)):
        JinjaChatFormat(template, ChatContext())


# --- output with and without limits -----------------------------------------------------------------

TALK = [
    {"role": "system", "content": "  Be brief. "},
    {"role": "user", "content": "Hi {{ x }} é\n"},
    {"role": "assistant", "content": "Hello", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2]}}}]},
    {"role": "user", "content": ""},
]
CONSTRUCTS = [
    "{% for m in messages %}{{ loop.index, loop.length, loop.last }}{{ loop.previtem is defined }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ m.content|trim }}{% else %}none{% endfor %}",
    "{% for k, v in messages[2].tool_calls[0].function.arguments.items() %}{{ k }}={{ v }}{% endfor %}",
    "{% for m in messages recursive %}{{ m.role if m.role }}{{ loop([{'role': 'x'}]) if loop.depth < 3 }}{% endfor %}",
    "{% macro f(x, y=2) %}[{{ x }}{{ y }}{{ caller() if caller }}]{% endmacro %}{{ f(1) }}{{ f('a', y=[3]) }}"
    "{% call f(0) %}body{% endcall %}",
    "{% set a %}x{{ messages|length }}{% endset %}{% set b | upper %}y{% endset %}{{ a ~ b ~ 1 ~ none }}",
    "{% set ns = namespace(n=0, l=[]) %}{% for m in messages %}{% set ns.n = ns.n + m.content|length %}"
    "{% set ns.l = ns.l + [m.role] %}{% endfor %}{{ ns.n }}{{ ns.l }}{{ ns.l|join(', ') }}",
    "{% filter upper %}abc{{ 'd' }}{% endfilter %}{% with a=1, b=(2, 3) %}{{ a }}{{ b }}{% endwith %}",
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ messages|map(attribute='role')|unique|join }}",
    "{{ 'a-b'.split('-') }}{{ '{}-{:>3}'.format(1, 2) }}{{ '%s|%d' % ('a', 5) }}{{ 'abc'[::-1] }}{{ 'x' * 3 }}",
    "{{ {'a': 1}.get('b', (1, 2)) }}{{ [1, 'a', none, true] }}{{ 7 // 2 }}{{ 2 ** 5 }}{{ 7 % 3 }}{{ -1.5 }}{{ 1 / 4 }}",
    "{{ nothing }}{{ nothing is defined }}{{ messages[9] }}{{ messages[0].missing }}{{ 'a' in ('a', 'b') }}",
    "{{ 'a\nb'|indent(2) }}{{ 'aXa'|replace('X', 'yy') }}{{ 'ab'|center(6) }}{{ [3, 1]|sort }}{{ 'ab'|list|tojson }}",
    "{% if messages %}{% set x = 1 %}{% elif 2 %}{% else %}{% endif %}{{ x }}{{ 1 if false }}"
    "{# comment #}{% raw %}{{{% endraw %}",
    "{% block a %}{{ bos_token }}{% endblock %}{{ self.a() }}{{ dict(a=1) }}{{ range(3)|list }}"
    "{{ cycler('a').next() }}",
    # of Gemma 4, gpt-oss, DeepSeek-V3 and Ministral 3
    "{%- macro show(value, quote=True) -%}{%- if value is mapping -%}{%- for k, v in value|dictsort -%}"
    "{{ k }}:{{ show(v, quote) }}{{ ',' if not loop.last }}{%- endfor -%}"
    "{%- elif value is sequence and value is not string -%}[{%- for v in value -%}{{ show(v, false) }}{%- endfor -%}]"
    "{%- else -%}{{ value|upper if value is string else value }}{%- endif -%}{%- endmacro -%}"
    "{{ show(messages[2].tool_calls[0].function) }}{{ [value, 'x']|map('upper')|list }}{{ value|default([]) }}",
    "{%- for later in messages[1:] %}{%- if later.role == 'assistant' and 'tool_calls' in later %}{{ loop.index0 }}"
    "{%- set found = later.tool_calls[0].function.name %}{%- endif %}{%- endfor %}{{ found is defined }}"
    "{{ 'Type: ' + ('a' or 'b') + (' | null' if is_nullable|default(false) else '') }}"
    "{{ strftime_now('%Y')|length }}{{ (['low', 'high']|first)|title }}",
    "{% set ns = namespace(is_first=false, system='', is_tool=false) %}{%- for m in messages %}"
    "{%- if m['role'] == 'system' %}{% if ns.system %}{% set ns.system = ns.system + '\n\n' %}{% endif %}"
    "{% set ns.system = ns.system + m['content'] %}{%- endif %}{%- endfor -%}{{ bos_token }}{{ ns.system }}"
    "{%- if messages[-1]['role'] == 'user' and not ns.is_tool and thinking is not defined %}</think>{%- endif %}",
    "{%- for block in [{'type': 'text', 'text': 'a'}, {'type': 'x'}] %}{%- if block['type'] in ['text'] %}"
    "{{- '[A]' + block['text'] + '[/A]' }}{%- else %}{{- block['type'] }}{%- endif %}{%- endfor %}"
    "{{ messages|rejectattr('role', 'equalto', 'system')|list|length }}{{ messages[2].tool_calls[0].id|string }}",
    # of Gemma 3, Qwen3 and Phi-4-mini
    "{%- if messages[0]['content'] is string -%} {%- set first = messages[0]['content'] + '\n\n' -%} {%- endif -%}"
    "{%- for m in messages[1:] -%} {{ (m['role'] == 'user') != (loop.index0 % 2 == 0) }}"
    "{%- if m['content'] is iterable and m['content'] is not string -%} list {%- endif -%} {{- first if loop.first -}}"
    "{% endfor %}",
    "{%- set ns = namespace(multi=true, last=messages|length - 1) %}{%- for m in messages[::-1] %}"
    "{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if ns.multi and m.role == 'user' and not (m.content.startswith('<x>') and m.content.endswith('</x>')) %}"
    "{%- set ns.multi = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}{{ ns.last }}"
    "{{ enable_thinking is defined and enable_thinking is false }}",
    "{%- if bos_token is defined -%}{{- '<|' + messages[0]['role'] + '|>' -}}{%- endif -%}"
    "{{ '<|tool|>' not in messages[0]['content'] }}{{ (messages[2].tool_calls[0]['function'] | tojson) + '<|end|>' }}",
    # of Qwen3.5, LFM2 and Nemotron
    "{% for m in messages[::-1] %}{{ messages|length - 1 - loop.index0 }}"
    "{{ 'a' if loop.previtem and loop.previtem.role != m.role }}"
    "{{ 'b' if not loop.last and loop.nextitem.role == 'user' }}{% endfor %}",
    "{% for k, v in messages[2].tool_calls[0].function.arguments|items %}{{ k }}: "
    "{{ v|tojson|safe if v is mapping or (v is sequence and v is not string) else v|string }}{% endfor %}",
    "{% set text = '<think>\\n one \\n</think>\\n\\ntwo' %}"
    "{{ text.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') }}"
    "{{ text.split('</think>')[-1]|trim }}{{ text.startswith('<t') and not text.endswith('x') }}"
    "{{ (text|default('', true)).replace('one', '').strip()[:-3] }}",
    "{{ messages|groupby('role') }}{{ messages|batch(3)|list|length }}"
    "{{ 'x'|string }}{{ 3.7|round|int }}{{ 'a b'|title }}",
]


def render_without_limits(template: str, messages: Any) -> str:
    """Return the output of jinja's own sandbox, which has no limits."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(template).render(
        messages=messages, bos_token="<s>", eos_token="</s>", add_generation_prompt=True, tools=None, documents=None
    )


@pytest.mark.parametrize("template", [*CONSTRUCTS, *TEMPLATES.values()])
def test_limits_do_not_change_the_output(template: str) -> None:
    assert render(template, TALK) == render_without_limits(template, TALK)


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()})))
def test_chatml_renders_any_conversation(messages: list[dict[str, str]]) -> None:
    turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
    assert render(TEMPLATES["chatml"], messages) == "".join(turns) + "<|im_start|>assistant\n"
