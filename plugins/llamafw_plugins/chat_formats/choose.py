"""Which chat format a model gets: the one that ``--chat-template`` says, else the model's own, else ChatML."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llamafw import ChatContext, ChatFormat, Model, ModelError, Settings, SettingsError
from llamafw_plugins.chat_formats import chatml
from llamafw_plugins.chat_formats.jinja import JinjaChatFormat

log = logging.getLogger(__name__)

KEY = "tokenizer.chat_template"


def choose(model: Model, settings: Settings, names: Collection[str]) -> ChatFormat:
    """Return the chat format for a model, ``--chat-template`` being no registered name.

    Parameters
    ----------
    names : collection of str
        Registered names, to suggest one.

    Raises
    ------
    SettingsError
        ``--chat-template`` is no name, no template and no file, or it is a template that is not valid.
    """
    context = ChatContext(
        bos_token=special_token(model.metadata, "bos"), eos_token=special_token(model.metadata, "eos")
    )
    if settings.chat_template is not None:
        try:
            return JinjaChatFormat(given_template(settings.chat_template, names), context)
        except ModelError as error:
            raise SettingsError(f"--chat-template: {error}") from None
    template = model_template(model.metadata)
    if template is None:
        log.warning("the model has no chat template: ChatML is used, see --chat-template")
        return JinjaChatFormat(chatml.TEMPLATE, context)
    try:
        return JinjaChatFormat(template, context)
    except ModelError as error:  # those who only continue text need no template
        log.warning("the model's own template cannot be used: ChatML is, see --chat-template: %s", error)
        return JinjaChatFormat(chatml.TEMPLATE, context)


def given_template(given: str, names: Collection[str]) -> str:
    """Return the template in ``--chat-template``: itself, or the text of a file."""
    if "{{" in given or "{%" in given or "\n" in given:
        return given
    path = Path(given)
    try:
        if path.is_file():
            return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--chat-template: {given} cannot be read: {error}") from None
    near = get_close_matches(given, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    raise SettingsError(f"--chat-template: {given!r} is no chat format, no template and no file; {hint}")


def model_template(metadata: Mapping[str, Any]) -> str | None:
    """Return the model's own template. Of several, ``default`` is taken."""
    found = metadata.get(KEY, metadata.get(f"{KEY}.default"))
    if isinstance(found, (list, tuple)):  # as tokenizer_config.json has several
        found = next((item["template"] for item in found if item.get("name") == "default"), None)
    return found if isinstance(found, str) and found.strip() else None


def special_token(metadata: Mapping[str, Any], name: str) -> str:
    """Return the text of ``bos`` or ``eos``; "" if the model has none."""
    token, texts = metadata.get(f"tokenizer.ggml.{name}_token_id"), metadata.get("tokenizer.ggml.tokens")
    if token is None or texts is None or not 0 <= int(token) < len(texts):
        return ""
    text = texts[int(token)]
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
