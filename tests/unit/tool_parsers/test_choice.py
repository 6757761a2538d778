"""The format of a model's calls is chosen by what its chat template writes for a call."""

from __future__ import annotations

import pytest

from llamafw import ChatContext
from llamafw.engine.call_probe import render_call
from llamafw_plugins.chat_formats.jinja import JinjaChatFormat
from unit.tool_parsers.transcripts import PARSERS

HEAD = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% for c in m.tool_calls or [] %}"
TAIL = "{% endfor %}{% endfor %}"
JSON_ARGUMENTS = "{{ c.function.arguments | tojson }}"
EACH_ARGUMENT = "{% for k, v in c.function.arguments.items() %}"

TEMPLATES = {
    "hermes": '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": ' + JSON_ARGUMENTS + "}\n</tool_call>",
    "llama3": '{"name": "{{ c.function.name }}", "parameters": ' + JSON_ARGUMENTS + "}",
    "mistral": '[TOOL_CALLS][{"name": "{{ c.function.name }}", "arguments": ' + JSON_ARGUMENTS + "}]",
    "mistral-args": "[TOOL_CALLS]{{ c.function.name }}[ARGS]" + JSON_ARGUMENTS,
    "harmony": "<|start|>assistant to=functions.{{ c.function.name }}<|channel|>commentary json<|message|>"
    + JSON_ARGUMENTS,
    "solar-open": "<|begin|>assistant<|tool_calls|><|tool_call:begin|>{{ c.id }}<|tool_call:name|>{{ c.function.name }}"
    "<|tool_call:args|>" + JSON_ARGUMENTS + "<|tool_call:end|><|calls|>",
    "deepseek-v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ c.type }}<｜tool▁sep｜>{{ c.function.name }}\n"
    "```json\n" + JSON_ARGUMENTS,
    "deepseek-v3.1": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ c.function.name }}<｜tool▁sep｜>" + JSON_ARGUMENTS,
    "deepseek-v3.2": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="{{ c.function.name }}">\n'
    + EACH_ARGUMENT
    + '<｜DSML｜parameter name="{{ k }}" string="true">{{ v }}</｜DSML｜parameter>\n{% endfor %}</｜DSML｜invoke>\n'
    "</｜DSML｜function_calls>",
    "deepseek-v4": '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="{{ c.function.name }}">\n'
    + EACH_ARGUMENT
    + '<｜DSML｜parameter name="{{ k }}" string="true">{{ v }}</｜DSML｜parameter>\n{% endfor %}</｜DSML｜invoke>\n'
    "</｜DSML｜tool_calls>",
    "hunyuan3": "<tool_calls:opensource>\n<tool_call:opensource>{{ c.function.name }}<tool_sep:opensource>\n"
    + EACH_ARGUMENT
    + "<arg_key:opensource>{{ k }}</arg_key:opensource>\n<arg_value:opensource>{{ v }}</arg_value:opensource>\n"
    "{% endfor %}</tool_call:opensource>\n</tool_calls:opensource>",
    "apertus": '<|tools_prefix|>[{"{{ c.function.name }}": ' + JSON_ARGUMENTS + "}]<|tools_suffix|>",
    "tool-calls": '<tool_calls>[{"name": "{{ c.function.name }}", "arguments": ' + JSON_ARGUMENTS + "}]</tool_calls>",
    "gigachat3": '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "{{ c.function.name }}", "arguments": '
    + JSON_ARGUMENTS
    + "}",
    "gigachat3.1": '<|function_call|>{"name": "{{ c.function.name }}", "arguments": ' + JSON_ARGUMENTS + "}",
    "kimi-k2": "<|tool_calls_section_begin|><|tool_call_begin|>functions.{{ c.function.name }}:0"
    "<|tool_call_argument_begin|>" + JSON_ARGUMENTS,
    "qwen3-coder": "<tool_call>\n<function={{ c.function.name }}>\n"
    + EACH_ARGUMENT
    + "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>",
    "seed-oss": "<seed:tool_call>\n<function={{ c.function.name }}>\n"
    + EACH_ARGUMENT
    + "<parameter={{ k }}>{{ v }}</parameter>\n{% endfor %}</function>\n</seed:tool_call>",
    "glm-4.5": "<tool_call>{{ c.function.name }}\n"
    + EACH_ARGUMENT
    + "<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>\n{% endfor %}</tool_call>",
    "glm-4.7": "<tool_call>{{ c.function.name }}"
    + EACH_ARGUMENT
    + "<arg_key>{{ k }}</arg_key><arg_value>{{ v }}</arg_value>{% endfor %}</tool_call>",
    "minimax-m2": '<minimax:tool_call>\n<invoke name="{{ c.function.name }}">\n'
    + EACH_ARGUMENT
    + '<parameter name="{{ k }}">{{ v }}</parameter>\n{% endfor %}</invoke>\n</minimax:tool_call>',
    "gemma4": '<|tool_call>call:{{ c.function.name }}{city:<|"|>{{ c.function.arguments.city }}<|"|>}<tool_call|>',
    "function-gemma": "<start_function_call>call:{{ c.function.name }}"
    "{city:<escape>{{ c.function.arguments.city }}<escape>}",
    "functionary-v3.1": "<function={{ c.function.name }}>" + JSON_ARGUMENTS + "</function>",
    "functionary-v3.2": ">>>{{ c.function.name }}\n" + JSON_ARGUMENTS,
    "command-r": '<|START_ACTION|>[{"tool_name": "{{ c.function.name }}", "parameters": ' + JSON_ARGUMENTS + "}]",
    "granite": '<|tool_call|>[{"name": "{{ c.function.name }}", "arguments": ' + JSON_ARGUMENTS + "}]",
    "nemotron": '<TOOLCALL>[{"name": "{{ c.function.name }}", "arguments": ' + JSON_ARGUMENTS + "}]</TOOLCALL>",
    "lfm2": "<|tool_call_start|>[{{ c.function.name }}(city='{{ c.function.arguments.city }}')]<|tool_call_end|>",
    "llama4": "[{{ c.function.name }}(city='{{ c.function.arguments.city }}')]",
}
"""What templates of each format write for one call ``c``."""


def choose(template: str) -> str | None:
    chat = JinjaChatFormat(template, ChatContext())
    call = render_call(chat)
    return next((name for name, parser in PARSERS.items() if parser.matches(chat.source, call)), None)


@pytest.mark.parametrize("format", sorted(TEMPLATES))
def test_format_of_written_calls_is_chosen(format: str) -> None:
    assert choose(HEAD + TEMPLATES[format] + TAIL) == format


@pytest.mark.parametrize(
    ("template", "format"),
    [
        ("{# <tool_call> #}{% for m in messages %}{{ m.content }}{% endfor %}", "hermes"),
        ("<|tool|>{{ tools }}<|/tool|>{% for m in messages %}{{ m.content }}{% endfor %}", "phi-4-mini"),
        ("<|tool_list_start|>{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}", "lfm2"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
    ],
)
def test_template_that_writes_no_calls_is_recognised_by_its_text(template: str, format: str | None) -> None:
    assert choose(template) == format


def test_words_of_another_format_do_not_count_if_a_call_is_written() -> None:
    """A template that mentions ``<tool_call>`` in a comment, and writes calls otherwise."""
    assert choose("{# <tool_call> [TOOL_CALLS] #}" + HEAD + TEMPLATES["llama3"] + TAIL) == "llama3"


def test_objects_of_llama_4_are_not_taken_for_python() -> None:
    assert (
        choose("{# func_name1( #}" + HEAD + "<|python_start|><|python_end|>" + TEMPLATES["llama3"] + TAIL) == "llama3"
    )


def test_probe_tries_arguments_as_text_and_calls_without_results() -> None:
    as_text = HEAD + "{{ c.function.name }}:{{ 'x' + c.function.arguments }}" + TAIL
    assert 'get_weather:x{"city": "Oslo", "days": 3}' in render_call(JinjaChatFormat(as_text, ChatContext()))

    no_results = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    written = render_call(JinjaChatFormat(no_results + HEAD + TEMPLATES["hermes"] + TAIL, ChatContext()))
    assert written.startswith("<assistant><tool_call>")

    refuses = JinjaChatFormat("{{ raise_exception('no') }}", ChatContext())
    assert not render_call(refuses)
