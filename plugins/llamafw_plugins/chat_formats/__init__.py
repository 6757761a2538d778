"""Chat formats: named ones, each in a file of its own, and any Jinja template."""

from __future__ import annotations

from functools import partial

from llamafw import ChatContext, ChatFormat, Model, Register, Settings, hookimpl
from llamafw_plugins.chat_formats import (
    alpaca,
    chatml,
    command_r,
    deepseek,
    deepseek2,
    deepseek3,
    gemma,
    llama2,
    llama3,
    mistral_v1,
    mistral_v3,
    mistral_v3_tekken,
    mistral_v7,
    phi3,
    phi4,
    vicuna,
    zephyr,
)

TEMPLATES = {
    format.NAME: format.TEMPLATE
    for format in (
        chatml,
        llama2,
        llama3,
        mistral_v1,
        mistral_v3,
        mistral_v3_tekken,
        mistral_v7,
        zephyr,
        gemma,
        phi3,
        phi4,
        deepseek,
        deepseek2,
        deepseek3,
        command_r,
        vicuna,
        alpaca,
    )
}
"""Jinja templates by the name that ``--chat-template`` takes."""


@hookimpl
def register_chat_formats(register: Register) -> None:
    """Register every named format."""
    for name, template in TEMPLATES.items():
        register(name, partial(_create, template))


@hookimpl(trylast=True)
def choose_chat_format(model: Model, settings: Settings) -> ChatFormat:
    """Return the format of ``--chat-template``, of the model file, or ChatML."""
    from llamafw_plugins.chat_formats.choose_format import choose_format

    return choose_format(model, settings, TEMPLATES)


def _create(template: str, context: ChatContext) -> ChatFormat:
    from llamafw_plugins.chat_formats.jinja import JinjaChatFormat

    return JinjaChatFormat(template, context)
