"""Look up which methods the API document has for a path, for the Allow header of a 405."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from llamafw import spec
from llamafw.server.routing import PATH_PARAMETER, slash_parameters
from llamafw.server.schema import Schemas


class AllowedMethods:
    """The methods of every path of the API document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        schemas = Schemas(document)
        methods: dict[re.Pattern[str], set[str]] = {}
        for path, method, operation in spec.operations(document):
            pattern = _path_pattern(path, slash_parameters(operation, schemas))
            allowed = methods.setdefault(pattern, {"OPTIONS"})
            allowed.update({"GET", "HEAD"} if method == "get" else {method.upper()})
        self._methods = methods

    def __call__(self, path: str) -> str | None:
        """Return the value of the Allow header for ``path``, or None if no operation has this path.

        A path without parameters takes precedence over those whose parameters match it, as OpenAPI says.
        """
        exact = self._methods.get(_path_pattern(path, ()))
        found = [methods for pattern, methods in self._methods.items() if pattern.fullmatch(path)]
        allowed = set().union(*found) if exact is None else exact
        return ", ".join(sorted(allowed)) or None


def _path_pattern(path: str, with_slashes: Container[str]) -> re.Pattern[str]:
    """Return a pattern for the paths of an operation; the parameters in ``with_slashes`` may contain slashes."""
    fixed, *parts = PATH_PARAMETER.split(path)  # parameter names alternate with the text after them
    pattern = re.escape(fixed)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        pattern += (".+" if name in with_slashes else "[^/]+") + re.escape(text)
    return re.compile(pattern)
