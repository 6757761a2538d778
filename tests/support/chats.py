"""Chat templates of well-known models, and a model that has nothing but one of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llamafw import ChatContext
from llamafw.engine.chat_probe import probe_chat
from llamafw_plugins.chat_formats.jinja import JinjaChatFormat
from llamafw_plugins.tool_parsers.hermes import Hermes
from support.toy_model import ToyTokenizer

FOLDER = Path(__file__).parent / "chat_templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))


def template(name: str) -> str:
    """Return the text of a template."""
    return (FOLDER / f"{name}.jinja").read_text("utf-8")


def chat_format(name: str) -> JinjaChatFormat:
    """Return a template as a chat format."""
    return JinjaChatFormat(template(name), ChatContext("<s>", "</s>"))


def loaded_model(source: str, tokenizer: Any = None) -> Any:
    """Return a model with the chat template ``source``."""
    chat = JinjaChatFormat(source, ChatContext("<s>", "</s>"))
    capabilities = probe_chat(chat)
    return SimpleNamespace(
        chat=chat, tokenizer=tokenizer or ToyTokenizer(), tool_parser=Hermes(), chat_capabilities=capabilities
    )
