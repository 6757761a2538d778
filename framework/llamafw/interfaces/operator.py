"""An operator that a plugin adds to graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from llamafw.graph import Value


@dataclass(frozen=True, slots=True)
class Operator:
    """What `register_operators` registers: an operator for graphs, and what runs it in each backend.

    Created at start-up. A backend that evaluates graphs with numpy needs nothing but the class.
    """

    value: type[Value]  # the class of the operator: its fields, its shape rule, its evaluation
    backends: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # by the names of backends
    plugin: str = ""  # the plugin that has registered it, as ``distribution:entry``; set by the registry
