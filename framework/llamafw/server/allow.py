"""Which methods a path has, for answers that must say so (405). It knows the document's paths and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llamafw import spec


class Allow:
    """Which methods the API document has for a path."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        methods: dict[str, set[str]] = {}
        for path, method, _ in spec.operations(document):
            methods.setdefault(path, {"OPTIONS"}).add(method.upper())
        self._table = [
            (_pattern(path), allowed | ({"HEAD"} if "GET" in allowed else set())) for path, allowed in methods.items()
        ]

    def __call__(self, path: str) -> str | None:
        """Return the value of an Allow header for ``path``; None if there is no such path."""
        allowed = set().union(*(methods for pattern, methods in self._table if pattern.fullmatch(path)))
        return ", ".join(sorted(allowed)) or None


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{[^}]*\}", path)
    return re.compile("[^/]+".join(map(re.escape, parts)))
