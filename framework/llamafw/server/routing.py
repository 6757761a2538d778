"""Prepare the API document for connexion's routing, and read which operation a request was routed to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from connexion.middleware.routing import RoutingMiddleware

from llamafw import spec
from llamafw.server.schema import Schemas

PATH_PARAMETER = re.compile(r"{([^}]*)}")


class StrictRoutingMiddleware(RoutingMiddleware):  # type: ignore[misc]  # connexion has no types
    """Connexion's routing without its redirects: a path with an extra slash at its end is a 404.

    Connexion would redirect to the host in the request's Host header, which any client can set to any value.
    """

    def add_api(self, *args: Any, **kwargs: Any) -> None:
        """Add the operations of a document."""
        super().add_api(*args, **kwargs)
        for router in (self.router, *(route.app for route in self.router.routes)):
            router.redirect_slashes = False


def routing_document(document: spec.Document) -> spec.Document:
    """Return what connexion needs of a document to route requests: its paths and operationIds.

    Parameters in paths are strings: connexion's path converters fail on some numbers; `llamafw.server.parameters`
    converts parameters instead. `PrefixMiddleware` handles the prefix in ``servers``.
    """
    schemas = Schemas(document)
    items = {path: schemas.raw(item) for path, item in document["paths"].items() if path.startswith("/")}
    paths: dict[str, dict[str, Any]] = {path: {} for path in items}
    for path, method, operation in spec.operations({"paths": items}):
        with_slashes = slash_parameters(operation, schemas)
        paths[path][method] = {
            "operationId": operation["operationId"],
            "responses": {"default": {"description": ""}},  # OpenAPI requires one
            "parameters": [
                {
                    "name": name,
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "format": "path"} if name in with_slashes else {"type": "string"},
                }
                for name in PATH_PARAMETER.findall(path)
            ],
        }
    for path, item in paths.items():  # the first route wins, and one of GET also answers HEAD
        paths[path] = {method: item[method] for method in sorted(item, key=lambda method: method != "head")}
    return {"openapi": document["openapi"], "info": document["info"], "paths": paths}


def slash_parameters(operation: Mapping[str, Any], schemas: Schemas) -> set[str]:
    """Return the names of an operation's path parameters that may contain slashes: those with ``format: path``."""
    parameters = [schemas.raw(parameter) for parameter in operation.get("parameters", ())]
    return {
        parameter["name"]
        for parameter in parameters
        if parameter["in"] == "path" and schemas.raw(parameter["schema"]).get("format") == "path"
    }


def operation_id_of(scope: Mapping[str, Any]) -> str | None:
    """Return the operationId of a request, or None if it has none or has not been routed yet."""
    name: str | None = scope.get("extensions", {}).get("connexion_routing", {}).get("operation_id")
    return name
