"""Prompts are those of transformers, where the chat template needs no help."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any

import pytest

from llamafw import Settings
from llamafw_plugins.endpoints.template import render
from support.chat_prompts import CONVERSATIONS, PROMPTS, cases, undated
from support.chats import loaded_model, template

EXPECTED: dict[str, dict[str, str]] = json.loads(PROMPTS.read_text("utf-8"))


def test_prompts_are_those_of_all_cases() -> None:
    assert [(name, kind) for name, prompts in EXPECTED.items() for kind in prompts] == cases()
    assert len(cases()) > 80


@pytest.mark.parametrize(("name", "kind"), cases())
def test_prompt_is_that_of_transformers(name: str, kind: str) -> None:
    messages, tools = copy.deepcopy(CONVERSATIONS[kind])
    offered: Any = SimpleNamespace(offered=tuple(tools)) if tools else None
    prompt = render({"messages": messages}, loaded_model(template(name)), Settings(), offered).text
    assert undated(prompt) == EXPECTED[name][kind]
