"""Holds what the plugin manager knows about one plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(slots=True)
class PluginRecord:
    """One plugin, loaded or not."""

    name: str  # distribution:entry, or the value of --plugin
    distribution: str
    version: str
    requires_api: str | None = None  # as the plugin states it
    hooks: list[str] = field(default_factory=list)  # names of the hooks that it implements
    options: Mapping[str, Any] = field(default_factory=dict)  # key → JSON Schema
    registered: dict[str, list[str]] = field(default_factory=dict)  # kind → names
    load_ms: float = 0.0  # time to import it and to register what it provides
    state: Literal["active", "failed", "blocked"] = "active"
    error: str | None = None  # why it failed
    exception: BaseException | None = None  # the exception behind `error`, until it has been logged
