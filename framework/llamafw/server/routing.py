"""What connexion's routing is given, and what it has found. It knows nothing of what operations do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from connexion.middleware.routing import RoutingMiddleware

from llamafw import spec


class Routing(RoutingMiddleware):  # type: ignore[misc]  # connexion has no types
    """Connexion's, but a path with a slash too many is unknown: its redirects lead to any host that a request names."""

    def add_api(self, *args: Any, **kwargs: Any) -> None:
        """Add the operations of a document."""
        super().add_api(*args, **kwargs)
        for router in (self.router, *(route.app for route in self.router.routes)):
            router.redirect_slashes = False


def for_routing(document: spec.Document) -> spec.Document:
    """Return the document with all parameters as text in the path: `validation` types them, and survives any number."""
    document = deepcopy(document)
    for path, item in document["paths"].items():
        item.pop("parameters", None)
        for method in spec.METHODS:
            if method in item:
                item[method]["parameters"] = [
                    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                    for name in re.findall(r"{([^}]*)}", path)
                ]
    return document


def operation_of(scope: Mapping[str, Any]) -> str | None:
    """Return the operationId of a request; None if it is none of an operation, or has not been routed."""
    name: str | None = scope.get("extensions", {}).get("connexion_routing", {}).get("operation_id")
    return name
