"""Lists the operations of an API document and checks that each has its endpoint."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from llamafw.errors import SpecError, did_you_mean
from llamafw.registry import Registry

Document = dict[str, Any]
NO_OWNERS: Mapping[str, str] = MappingProxyType({})

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SAMPLER_OPTIONS = "x-llamafw-sampler-options"  # on schemas that get the options of every sampler
WHILE_LOADING = "x-llamafw-while-loading"  # on operations that are available before the model is loaded
EVENT = "x-llamafw-event"  # on content of a stream: the schema of one event or line
SAMPLER = "x-llamafw-sampler"  # on the options of samplers: the name of the first sampler that has the option
PLUGIN = "x-llamafw-plugin"  # on operations and fields of plugins that are not built in: the plugin's name
FILE_NAME = "openapi.yaml"
REFUSALS = {
    "401": "No valid credentials.",
    "403": "The client may not do this.",
    "429": "The client has sent too many requests.",
}
"""Statuses with which authenticators refuse requests, with their descriptions."""


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the path, the method and the document of each operation, including the parameters of its path."""
    for path, item in document["paths"].items():
        if not path.startswith("/"):
            continue  # an extension
        for method in METHODS:
            if method in item:
                shared = item.get("parameters", [])
                operation = item[method]
                if shared:
                    operation = {**operation, "parameters": [*shared, *operation.get("parameters", [])]}
                yield path, method, operation


def operation_ids(document: Mapping[str, Any]) -> list[str]:
    """Return the operationIds of all operations.

    Raises
    ------
    SpecError
        An operation has no operationId, or two operations have the same.
    """
    places: dict[str, str] = {}
    for path, method, operation in operations(document):
        place = f"{method.upper()} {path}"
        id = operation.get("operationId")
        if not id:
            raise SpecError(f"{place} has no operationId")
        if id in places:
            raise SpecError(f"the operationId {id!r} belongs to both {places[id]} and {place}")
        places[id] = place
    return list(places)


def check_endpoints(document: Mapping[str, Any], endpoints: Registry) -> None:
    """Check that operations and endpoints match, and that endpoints are async functions.

    Raises
    ------
    SpecError
        The message lists all differences.
    """
    ids = operation_ids(document)
    owners = {
        operation["operationId"]: f" of plugin {operation[PLUGIN]}"
        for _, _, operation in operations(document)
        if PLUGIN in operation
    }
    problems = [
        f"operation {id!r}{owners.get(id, '')} has no endpoint{did_you_mean(id, endpoints)}"
        for id in ids
        if id not in endpoints
    ]
    for name, function in endpoints.items():
        endpoint = f"endpoint {name!r} of plugin {endpoints.owner(name)}"
        if name not in ids:
            problems.append(f"{endpoint} has no operation in the API document")
        if not _is_async(function):
            problems.append(f"{endpoint} is not an async function")
    if problems:
        raise SpecError("the API document and the endpoints do not match: " + "; ".join(problems))


def _is_async(function: Any) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  # the method is needed, not only whether it exists
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def add_unsupported_coding(document: Document) -> None:
    """Add the 415 of an unknown ``Content-Encoding`` to every operation that has a body."""
    for _, _, operation in operations(document):
        if "requestBody" in operation:
            content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            refusal = {"description": "The server does not know the Content-Encoding of the body.", "content": content}
            operation["responses"].setdefault("415", refusal)


def add_refusals(document: Document) -> None:
    """Add the responses in `REFUSALS` to every operation that is not public."""
    schema = {"$ref": "#/components/schemas/Error"}
    for _, _, operation in operations(document):
        if operation.get("security", document.get("security")):
            for status, description in REFUSALS.items():
                content = {"application/json": {"schema": schema}}
                operation["responses"].setdefault(status, {"description": description, "content": content})
