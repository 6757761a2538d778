"""Reads the chat templates of a checkpoint, as GGUF's metadata.

Independent of what templates do.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from llamafw.checkpoints.config import read_json
from llamafw.errors import ModelError

DEFAULT = "default"
_KEY = "tokenizer.chat_template"


def chat_template_metadata(folder: Path) -> dict[str, Any]:
    """Return the chat templates: the default one, others by name, and the list of these names.

    As in transformers, ``chat_template.jinja`` and the files in ``additional_chat_templates`` take precedence over
    ``chat_template.json``, and this over ``chat_template`` in ``tokenizer_config.json``.

    Raises
    ------
    ModelError
        A file cannot be read, or a template is not a string.
    """
    templates = (
        _from_files(folder) or _from_json(folder, "chat_template.json") or _from_json(folder, "tokenizer_config.json")
    )
    metadata: dict[str, Any] = {}
    if DEFAULT in templates:
        metadata[_KEY] = templates.pop(DEFAULT)
    if templates:
        named = {re.sub("[^A-Za-z0-9]", "_", name): template for name, template in templates.items() if name}
        metadata |= {f"{_KEY}.{name}": template for name, template in named.items()}
        metadata["tokenizer.chat_templates"] = list(named)
    return metadata


def _from_files(folder: Path) -> dict[str, str]:
    files = {DEFAULT: folder / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    try:
        return {name: path.read_text("utf-8") for name, path in files.items() if path.is_file()}
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: a chat template cannot be read: {error}") from None


def _from_json(folder: Path, file: str) -> dict[str, str]:
    path = folder / file
    value = read_json(path).get("chat_template") if path.is_file() else None
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    pairs = (
        [(one.get("name"), one.get("template")) for one in value if isinstance(one, dict)]
        if isinstance(value, list)
        else []
    )
    if not pairs or not all(isinstance(name, str) and isinstance(template, str) for name, template in pairs):
        raise ModelError(f"{path}: chat_template is neither a string nor a list of names and templates")
    return {str(name): str(template) for name, template in pairs}
