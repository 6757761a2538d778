"""Choose a model's chat format: ``--chat-template``, else the model's own template, else ChatML."""

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


def choose_format(model: Model, settings: Settings, names: Collection[str]) -> ChatFormat:
    """Return a model's chat format, unless ``--chat-template`` names a registered one.

    Parameters
    ----------
    model : Model
        Its metadata may have a template.
    settings : Settings
        ``chat_template`` is a template, the path of a file with one, or None.
    names : collection of str
        The registered names, for error messages.

    Raises
    ------
    SettingsError
        ``--chat-template`` is neither a template nor a file, or its template is not valid.
    """
    context = ChatContext(
        bos_token=special_token(model.metadata, "bos"), eos_token=special_token(model.metadata, "eos")
    )

    if settings.chat_template is not None:
        try:
            return JinjaChatFormat(template_from_option(settings.chat_template, names), context)
        except ModelError as error:
            raise SettingsError(f"--chat-template: {error}") from None

    template = model_template(model.metadata)
    if template is None:
        if model.metadata.get(f"{model.metadata.get('general.architecture')}.attention.causal", True):  # not an encoder
            log.warning("the model has no chat template: ChatML is used; --chat-template sets another")
        return JinjaChatFormat(chatml.TEMPLATE, context)

    try:
        return JinjaChatFormat(template, context)
    except ModelError as error:  # a warning, since completions of plain text need no template
        log.warning("the model's chat template is ignored: %s; ChatML is used, --chat-template sets another", error)
        return JinjaChatFormat(chatml.TEMPLATE, context)


def template_from_option(value: str, names: Collection[str]) -> str:
    """Return the value of ``--chat-template`` if it is a template, otherwise the content of the file that it names."""
    if "{{" in value or "{%" in value or "\n" in value:
        return value

    path = Path(value)
    try:
        if path.is_file():
            return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--chat-template: {value} cannot be read: {error}") from None

    near = get_close_matches(value, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the formats are {', '.join(names)}"
    raise SettingsError(f"--chat-template: {value!r} is not a chat format, a template or a file; {hint}")


def model_template(metadata: Mapping[str, Any]) -> str | None:
    """Return the model's own template, the one called ``default`` if there are several."""
    template = metadata.get(KEY, metadata.get(f"{KEY}.default"))
    if isinstance(template, (list, tuple)):  # tokenizer_config.json has a list of named templates
        template = next((item["template"] for item in template if item.get("name") == "default"), None)
    return template if isinstance(template, str) and template.strip() else None


def special_token(metadata: Mapping[str, Any], name: str) -> str:
    """Return the text of ``bos`` or ``eos``; "" if the model has none."""
    token, texts = metadata.get(f"tokenizer.ggml.{name}_token_id"), metadata.get("tokenizer.ggml.tokens")
    if token is None or texts is None or not 0 <= int(token) < len(texts):
        return ""
    text = texts[int(token)]
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
