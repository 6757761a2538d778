"""Reads ``generation_config.json``: the settings of samplers that a model's authors recommend, as GGUF's metadata."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from llamafw.checkpoints.config import read_json
from llamafw.errors import ModelError

_KEYS: dict[str, tuple[type, tuple[str, ...]]] = {
    "sequence": (str, ("sequence",)),
    "top_k": (int, ("top_k",)),
    "top_p": (float, ("top_p",)),
    "min_p": (float, ("min_p",)),
    "xtc_probability": (float, ("xtc_probability",)),
    "xtc_threshold": (float, ("xtc_threshold",)),
    "temp": (float, ("temperature",)),
    "penalty_last_n": (int, ("penalty_last_n",)),
    "penalty_repeat": (float, ("penalty_repeat", "repetition_penalty")),
    "mirostat": (int, ("mirostat",)),
    "mirostat_tau": (float, ("mirostat_tau",)),
    "mirostat_eta": (float, ("mirostat_eta",)),
}
"""Key after ``general.sampling.`` → its type, and the names in the file, as in llama.cpp's files."""


def sampling_metadata(folder: Path) -> dict[str, Any]:
    """Return the recommended settings; nothing without the file.

    Raises
    ------
    ModelError
        The file is not JSON, or a setting is not a number.
    """
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    config = read_json(path)
    metadata: dict[str, Any] = {}
    for key, (kind, names) in _KEYS.items():
        name = next((name for name in names if config.get(name) is not None), None)
        if name is not None:
            metadata[f"general.sampling.{key}"] = _as(kind, config[name], f"{path}: {name}")
    return metadata


def _as(kind: type, value: Any, name: str) -> Any:
    if kind is str and isinstance(value, str):
        return value
    if kind is int and type(value) in (int, float) and math.isfinite(value) and value == int(value):
        return int(value)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    wanted = {str: "a string", int: "a whole number", float: "a number"}[kind]
    raise ModelError(f"{name} is {value!r:.80}; it must be {wanted}")
