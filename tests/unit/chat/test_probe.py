"""What is found out about chat templates by rendering conversations."""

from __future__ import annotations

from typing import Any

import pytest

from llamafw import ChatCapabilities, ChatContext, ReasoningTags, RequestError
from llamafw.engine import chat_probe
from llamafw.engine.chat_probe import probe_chat
from llamafw_plugins.chat_formats.jinja import JinjaChatFormat
from support.chats import NAMES, chat_format
from support.toy_model import ToyTokenizer

THINK = ReasoningTags("<think>", "</think>")
TOOLS = {"tools": True, "tool_calls": True, "tool_results": True}
OBJECTS_ONLY = {"object_arguments": True, "text_arguments": False}
ALTERNATES = {"repeated_roles": False, "assistant_first": False, "late_system": False}


def probe(source: str, tokenizer: Any = None) -> ChatCapabilities:
    return probe_chat(JinjaChatFormat(source, ChatContext("<s>", "</s>")), tokenizer)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2.5", {**TOOLS, **OBJECTS_ONLY, "reasoning": None, "thinking_switch": None}),
        ("qwen3", {**TOOLS, "reasoning": THINK, "reasoning_field": "reasoning_content", "opens_reasoning": False}),
        ("qwen3", {"thinking_switch": "enable_thinking", "preserves_reasoning": False, "developer": False}),
        ("qwen3.5", {**TOOLS, "typed_content": True, "late_system": False, "opens_reasoning": True}),
        ("qwen3-coder", {**TOOLS, **OBJECTS_ONLY, "parallel_calls": True}),
        ("qwq", {**TOOLS, "reasoning": THINK, "reasoning_field": None}),
        ("deepseek-r1-distill-qwen", {"tools": False, "tool_calls": True, "reasoning": THINK}),
        ("deepseek-v3.1", {"tools": False, "tool_calls": True, "reasoning": THINK}),
        ("glm-4.6", {**TOOLS, **OBJECTS_ONLY, "reasoning": THINK, "thinking_switch": "enable_thinking"}),
        ("glm-4.7-flash", {"opens_reasoning": True}),
        ("minimax-m2", {**TOOLS, "reasoning": THINK, "opens_reasoning": True}),
        ("seed-oss", {"reasoning": ReasoningTags("<seed:think>", "</seed:think>"), "preserves_reasoning": True}),
        ("gemma-4", {"reasoning": ReasoningTags("<|channel>thought", "<channel|>"), "developer": True}),
        ("ministral-3-reasoning", {"reasoning": ReasoningTags("[THINK]", "[/THINK]"), "reasoning_field": "parts"}),
        ("ministral-3-reasoning", {**TOOLS, **ALTERNATES, "user_after_result": False}),
        ("mistral-nemo", {**TOOLS, **ALTERNATES, "short_ids": True, "text_with_calls": False}),
        ("gpt-oss", {**TOOLS, "developer": True, "reasoning_effort": True, "parallel_calls": False}),
        ("gpt-oss", {"reasoning_field": "thinking", "reasoning_with_text": False, "bare_tools": False}),
        ("granite-3.3", {"tools": True, "tool_calls": False, "reasoning": THINK, "thinking_switch": "thinking"}),
        ("granite-4.0", {**TOOLS, "reasoning": None}),
        ("smollm3", {"tools": False, "reasoning": THINK, "thinking_switch": "enable_thinking"}),
        ("phi-3.5", {"tools": False, "tool_calls": False, "tool_results": False, "system": True}),
        ("apertus", {**TOOLS, "late_system": False}),
        ("like-llama-3.1", {**TOOLS, **OBJECTS_ONLY, "parallel_calls": False, "text_with_calls": False}),
        ("like-gemma-2", {**ALTERNATES, "system": False, "tools": False}),
        ("like-gemma-3", {**ALTERNATES, "system": True, "typed_content": True, "string_content": True}),
        ("like-command-r7b", {"reasoning": ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>"), **TOOLS}),
        ("like-nemotron-nano", {"reasoning": THINK, "reasoning_field": None, "opens_reasoning": True}),
        ("like-lfm2", {"tools": True, "tool_calls": False, "tool_results": True}),
        ("typed-content-only", {"string_content": False, "parts_only": frozenset({"user", "assistant", "system"})}),
        ("mentions-developer", {"developer": False, "system": True}),
        ("adds-arguments", {"object_arguments": False, "bare_tools": False, "tools": True}),
    ],
)
def test_capabilities_of_templates_are_found(name: str, expected: dict[str, Any]) -> None:
    found = probe_chat(chat_format(name))
    assert {field: getattr(found, field) for field in expected} == expected


def test_harmony_has_an_introduction_of_the_answer() -> None:
    assert probe_chat(chat_format("gpt-oss")).reasoning == ReasoningTags(
        "<|channel|>analysis<|message|>", "<|end|>", "<|start|>assistant<|channel|>final<|message|>"
    )


@pytest.mark.parametrize("name", NAMES)
def test_probing_a_known_template_does_not_run_out_of_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe_chat(chat_format(name))
    monkeypatch.setattr(chat_probe, "MAX_SECONDS", 60.0)
    assert probe_chat(chat_format(name)) == found


def test_words_in_comments_mean_nothing() -> None:
    words = "{# developer tools tool_calls enable_thinking reasoning_content <think> </think> #}"
    plain = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}"
    assert probe(words + plain) == probe(plain)


def test_unknown_tags_are_found_around_the_reasoning_of_earlier_answers() -> None:
    source = (
        "{% for m in messages %}{% if m.reasoning_content %}<my:thoughts>{{ m.reasoning_content }}</my:thoughts>"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    assert probe(source).reasoning == ReasoningTags("<my:thoughts>", "</my:thoughts>")


@pytest.mark.parametrize(("has_tokens", "expected"), [(True, THINK), (False, None)])
def test_tags_in_the_vocabulary_are_found(has_tokens: bool, expected: ReasoningTags | None) -> None:
    class Tokenizer(ToyTokenizer):
        def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
            return [1] if has_tokens and text in ("<think>", "</think>") else list(text.encode())

    assert probe("{% for m in messages %}{{ m.content }}{% endfor %}", Tokenizer()).reasoning == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ undefined_function() }}",
        "{% for m in messages %}{{ m.content + 1 }}{% endfor %}",
        "{{ messages[5].content.nothing.at_all }}",
        "",
    ],
)
def test_templates_that_fail_can_do_nothing(source: str) -> None:
    found = probe(source)
    assert not any((found.turns, found.system, found.tools, found.tool_calls, found.developer))
    assert found.reasoning is None


def test_probing_ends_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_probe, "MAX_SECONDS", 0.0)
    endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}"
    assert probe(endless) == ChatCapabilities()


def test_templates_of_plugins_may_raise_anything() -> None:
    class Broken:
        source = ""

        def render(self, messages: Any, *, add_generation_prompt: bool = True, **variables: Any) -> str:
            raise ZeroDivisionError if len(messages) > 1 else RequestError("no")

    assert not probe_chat(Broken()).turns


def test_templates_cannot_change_what_later_probes_see() -> None:
    contents = "{{ messages | map(attribute='content') | join }}"
    assert probe("{% for t in tools or [] %}{% set _ = tools.pop() %}{% endfor %}" + contents) == probe(contents)
