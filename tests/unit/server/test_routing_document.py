"""What connexion gets of the API document, which is enough to route requests."""

from __future__ import annotations

from typing import Any

from connexion.spec import Specification

from llamafw import Settings, spec
from llamafw.plugins import Plugins
from llamafw.server.routing import routing_document


def operation(name: str) -> dict[str, Any]:
    return {"operationId": name, "responses": {"200": {"description": "ok"}}}


def document(paths: dict[str, Any]) -> dict[str, Any]:
    return {"openapi": "3.0.3", "info": {"title": "t", "version": "1"}, "paths": paths}


def routes(document: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(path, method): one["operationId"] for path, method, one in spec.operations(document)}


def test_routing_document_has_every_operation() -> None:
    merged = spec.merged_document(Plugins(), Settings())
    routed = routing_document(merged)
    assert routes(routed) == routes(merged)
    Specification.from_dict(routed)


def test_head_comes_before_get() -> None:
    """The route of GET answers HEAD, too, and the first route of a path wins."""
    item = {"get": operation("a"), "put": operation("b"), "head": operation("c")}
    for methods in (item, dict(reversed(item.items()))):
        assert next(iter(routing_document(document({"/x": methods}))["paths"]["/x"])) == "head"


def test_path_items_may_be_references() -> None:
    paths = {"/x": {"get": operation("a")}, "/alias": {"$ref": "#/paths/~1x"}}
    assert routes(routing_document(document(paths))) == {("/x", "get"): "a", ("/alias", "get"): "a"}


def test_extensions_are_not_paths() -> None:
    paths = {"/x": {"get": operation("a")}, "x-more": "get", "x-other": {"get": operation("b")}}
    assert routes(routing_document(document(paths))) == {("/x", "get"): "a"}


def test_parameters_of_paths_are_strings() -> None:
    shared = {"name": "n", "in": "path", "required": True, "schema": {"type": "integer"}}
    file = {"name": "file", "in": "path", "required": True, "schema": {"type": "string", "format": "path"}}
    paths = {"/x/{n}/{file}": {"parameters": [shared], "get": operation("a") | {"parameters": [file]}}}
    routed = routing_document(document(paths))["paths"]["/x/{n}/{file}"]["get"]["parameters"]
    assert [(one["name"], one["schema"]) for one in routed] == [
        ("n", {"type": "string"}),
        ("file", {"type": "string", "format": "path"}),
    ]
