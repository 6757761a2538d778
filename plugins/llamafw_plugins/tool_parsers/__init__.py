"""How models write calls of tools: one format per file."""

from __future__ import annotations

from llamafw import Register, hookimpl
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.llama3 import Llama3
from llamafw_plugins.tool_parsers.mistral import Mistral


@hookimpl
def register_tool_parsers(register: Register) -> None:
    """Offer the formats: the first that matches a chat template is used, else Hermes."""
    register("mistral", Mistral())
    register("llama3", Llama3())
    register("hermes", Hermes())
