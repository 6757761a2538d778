"""The operations of an API document: which there are, and whether each has its endpoint. It knows no plugin by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from llamafw.errors import SpecError
from llamafw.registry import Registry

Document = dict[str, Any]
NOBODY: Mapping[str, str] = MappingProxyType({})

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SAMPLER_OPTIONS = "x-llamafw-sampler-options"  # on schemas that take the options of every sampler
WHILE_LOADING = "x-llamafw-while-loading"  # on operations that answer before the model is there
EVENT = "x-llamafw-event"  # on text/event-stream content: the schema of one event
PLUGIN = "x-llamafw-plugin"  # on operations and fields that a plugin which is not our own has added: its name
HOME = "openapi.yaml"
REFUSALS = {
    "401": "Nobody knows the sender.",
    "403": "The sender may not do that.",
    "429": "The sender has asked too often.",
}


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield ``(path, method, operation)`` of every operation; parameters of the path item are included."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                shared = item.get("parameters", [])
                operation = item[method]
                if shared:
                    operation = {**operation, "parameters": [*shared, *operation.get("parameters", [])]}
                yield path, method, operation


def operation_ids(document: Mapping[str, Any]) -> list[str]:
    """Return the operationId of every operation; SpecError if one has none or two share one."""
    places: dict[str, str] = {}
    for path, method, operation in operations(document):
        place = f"{method.upper()} {path}"
        name = operation.get("operationId")
        if not name:
            raise SpecError(f"{place} has no operationId")
        if name in places:
            raise SpecError(f"the operationId {name!r} belongs to both {places[name]} and {place}")
        places[name] = place
    return list(places)


def check(document: Mapping[str, Any], endpoints: Registry) -> None:
    """Raise SpecError unless every operation has its endpoint, every endpoint its operation, and each is async."""
    wanted = operation_ids(document)
    owners = {one["operationId"]: f" of plugin {one[PLUGIN]}" for _, _, one in operations(document) if PLUGIN in one}
    problems = [
        f"operation {name!r}{owners.get(name, '')} has no endpoint{_near(endpoints, name)}"
        for name in wanted
        if name not in endpoints
    ]
    problems += [
        f"endpoint {name!r} of plugin {endpoints.owner(name)} has no operation in the API document"
        for name in endpoints
        if name not in wanted
    ]
    problems += [
        f"endpoint {name!r} of plugin {endpoints.owner(name)} is no coroutine function"
        for name, function in endpoints.items()
        if not _is_async(function)
    ]
    if problems:
        raise SpecError("the API document and the endpoints disagree: " + "; ".join(problems))


def _near(endpoints: Registry, name: str) -> str:
    near = get_close_matches(name, endpoints, n=1)
    return f" (there is {near[0]!r})" if near else ""


def _is_async(function: Any) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  # not whether it can be called, but how
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def add_refusals(document: Document) -> None:
    """Say of every operation that is not public how plugins that know users may refuse a request."""
    schema = {"$ref": "#/components/schemas/Error"}
    for _, _, operation in operations(document):
        if operation.get("security", document.get("security")):
            for status, text in REFUSALS.items():
                content = {"application/json": {"schema": schema}}
                operation["responses"].setdefault(status, {"description": text, "content": content})
