"""The routes of Vertex AI's predictions, if the environment says that the server runs there.

``AIP_MODE=PREDICTION`` says so; the other variables are described at
https://cloud.google.com/vertex-ai/docs/predictions/custom-container-requirements. Each instance of a prediction is a
request to another operation, which `@requestFormat` names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llamafw import App, Call, Register, hookimpl
from llamafw_plugins.fragments import read_fragment

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PREDICT, HEALTH = "predict", "vertexHealth"
FORMAT = "@requestFormat"


class Vertex:
    """The plugin and its operations `predict` and `vertexHealth`."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._paths: dict[str, str] = {}  # operationId → path
        if environ.get("AIP_MODE") == "PREDICTION":
            self._paths[PREDICT] = _with_slash(environ.get("AIP_PREDICT_ROUTE") or "/predict")
            if health := environ.get("AIP_HEALTH_ROUTE"):
                self._paths[HEALTH] = _with_slash(health)
        if self._paths.get(HEALTH) in ("/health", "/v1/health"):  # it exists already
            del self._paths[HEALTH]
        self._app: App | None = None
        self._asgi: ASGIApp | None = None

    @hookimpl
    def extend_openapi(self) -> dict[str, Any] | None:
        """Return the operations, if the environment asks for them."""
        if not self._paths:
            return None
        documents = read_fragment(__name__, "operations.yaml")
        paths: dict[str, Any] = {}
        for operation, path in self._paths.items():
            paths.setdefault(path, {}).update(documents[operation])
        return {"paths": paths}

    @hookimpl
    def register_endpoints(self, register: Register, app: App) -> None:
        """Register the operations, if the environment asks for them."""
        self._app = app
        for operation in self._paths:
            register(operation, self.predict if operation == PREDICT else self.health)

    @hookimpl(tryfirst=True)
    def wrap_asgi(self, asgi: ASGIApp, app: App) -> ASGIApp | None:
        """Keep the application, to call it; return None to leave it as it is."""
        self._asgi = asgi
        return None

    async def predict(self, call: Call) -> dict[str, Any]:
        """Answer all instances at the same time."""
        from llamafw_plugins.vertex.predictions import predict_all

        assert self._app is not None  # `register_endpoints`, which registers this endpoint, sets it
        assert self._asgi is not None  # set before the server listens
        formats = request_formats(self._app.document, self._paths[PREDICT])
        return {"predictions": await predict_all(self._asgi, call.http.scope, call.body["instances"], formats)}

    async def health(self, call: Call) -> Any:
        """Return what `GET /health` returns."""
        from llamafw_plugins.vertex.predictions import get_response

        assert self._asgi is not None  # set before the server listens
        return await get_response(self._asgi, call.http.scope, "/health")


def request_formats(document: Mapping[str, Any], without: str) -> dict[str, str]:
    """Return the path of each format that an instance may name: paths of POST operations, and their words.

    Parameters
    ----------
    document : mapping
        The API document.
    without : str
        The path of predictions, which cannot be nested.
    """
    paths = [path for path, item in document["paths"].items() if "post" in item and "{" not in path and path != without]
    words: dict[str, str] = {}
    for path in paths:
        words.setdefault(format_name(path), path)
    return words | {path: path for path in paths}


def format_name(path: str) -> str:
    """Return the words of a path: "chatCompletions" for "/v1/chat/completions"."""
    first, *others = re.split("[/_-]", path.removeprefix("/v1").strip("/"))
    return first + "".join(word[:1].upper() + word[1:] for word in others)


def _with_slash(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"
