"""Choose the format of an error response by the path of the request."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from llamafw.errors import FAULTS
from llamafw.plugins import Plugins
from llamafw.server.errors import envelope
from llamafw.serving import ErrorFormat
from llamafw.types import Problem


class ErrorFormats:
    """The formats that plugins have registered for their paths, and the usual format for all others.

    Parameters
    ----------
    plugins : Plugins
        All plugins.
    """

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins
        formats = plugins.registry("error_format")
        self._formats = sorted(formats.items(), key=lambda item: -len(item[0]))

    def __call__(self, scope: Scope, problem: Problem) -> tuple[int, Any]:
        """Return the status and the body of the response to a request that failed with ``problem``."""
        error_format = self.of(scope["path"].removeprefix(scope.get("root_path", "")))
        if error_format is not None:
            try:
                return error_format(problem)
            except FAULTS as error:
                self._plugins.log_failure(self._plugins.report_failure(error, "request"), "error_format", error)
        return problem.status, envelope(problem)

    def of(self, path: str) -> ErrorFormat | None:
        """Return the format that is registered for a path, or for the longest path above it."""
        return next((each for prefix, each in self._formats if f"{path}/".startswith(f"{prefix}/")), None)
