"""Arrange the operations of an API document for the page: in groups, with samples, fields and responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

from llamafw_plugins.api_page.fields import Field, Fields
from llamafw_plugins.api_page.samples import LANGUAGES, Answer, SampleRequest

BASE_URL = "http://127.0.0.1:8080"
"""The server's address in samples; the page's script replaces it by the real one."""

SAMPLE_KEY = "YOUR_KEY"
"""The API key in samples."""

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
JSON, EVENTS, LINES = "application/json", "text/event-stream", "application/x-ndjson"
_EVENT = "x-llamafw-event"  # on content of a stream: the schema of one event or line
_PLUGIN = "x-llamafw-plugin"  # on operations of plugins that are not built in: the plugin's name


@dataclass(frozen=True, slots=True)
class Example:
    """One request body, and the request as source code.

    Attributes
    ----------
    name : str
        Its name in the document.
    body : str or None
        The body as JSON text; None if the operation has no body.
    samples : dict
        The language's name → the source code.
    request : SampleRequest
        The request.
    """

    name: str
    body: str | None
    samples: dict[str, str]
    request: SampleRequest


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of the path or the query.

    Attributes
    ----------
    place : str
        ``path`` or ``query``.
    field : Field
        Its name, type and description.
    value : str
        Its value in samples; empty if it is not in them.
    choices : tuple of str
        The values that it can have, if they are few.
    """

    place: str
    field: Field
    value: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Response:
    """A response of one status.

    Attributes
    ----------
    status : str
        The status code, or ``default``.
    description : str
        Markdown.
    content : tuple of tuple
        For each content type: the type, what a stream consists of, and the fields.
    """

    status: str
    description: str
    content: tuple[tuple[str, str, tuple[Field, ...]], ...]

    @property
    def is_error(self) -> bool:
        """Whether the request failed."""
        return not self.status.startswith("2")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes
    ----------
    id : str
        Its operationId.
    method, path : str
        The method in upper case, and the path.
    aliases : list of str
        Other paths of the same operation.
    summary, description : str
        Plain text, and Markdown.
    plugin : str or None
        The plugin that adds it, if it is not built in.
    is_public : bool
        Whether it never needs a key.
    parameters : list of Parameter
        Parameters of the path and the query.
    fields : tuple of Field
        The fields of the body.
    has_shared : bool
        Whether the body also has the fields of every generating operation.
    examples : list of Example
        At least one.
    responses : list of Response
        All responses.
    """

    id: str
    method: str
    path: str
    summary: str
    description: str
    plugin: str | None
    is_public: bool
    parameters: list[Parameter]
    fields: tuple[Field, ...]
    has_shared: bool
    examples: list[Example]
    responses: list[Response]
    aliases: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Group:
    """The operations with one tag.

    Attributes
    ----------
    name, description : str
        Those of the tag; Markdown.
    operations : list of Operation
        The operations, in the document's order.
    """

    name: str
    description: str
    operations: list[Operation]


def groups_of(document: Mapping[str, Any], fields: Fields, *, with_key: bool) -> list[Group]:
    """Return all operations of a document, in the order of its tags.

    Parameters
    ----------
    document : mapping
        The API document.
    fields : Fields
        Reads its schemas.
    with_key : bool
        Show an API key in the samples of operations that are not public.
    """
    tags = {tag["name"]: tag.get("description", "") for tag in document.get("tags", ())}
    members: dict[str, list[Operation]] = {name: [] for name in tags}
    seen: list[tuple[str, Any, Operation]] = []
    for path, method, part in _operations(document):
        same = {key: value for key, value in part.items() if key != "operationId"}
        original = next((known for verb, other, known in seen if verb == method and other == same), None)
        if original is not None:
            original.aliases.append(path)
            continue
        operation = _operation(document, fields, path, method, part, with_key=with_key)
        seen.append((method, same, operation))
        members.setdefault((part.get("tags") or ["other"])[0], []).append(operation)
    return [Group(name, tags.get(name, ""), found) for name, found in members.items() if found]


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the path, the method and the document of each operation, with the parameters of its path."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                parameters = [*item.get("parameters", ()), *item[method].get("parameters", ())]
                yield path, method, {**item[method], "parameters": parameters}


def _operation(
    document: Mapping[str, Any], fields: Fields, path: str, method: str, part: dict[str, Any], *, with_key: bool
) -> Operation:
    parameters = [_parameter(fields, fields.resolve(each)) for each in part["parameters"]]
    media = fields.resolve(part.get("requestBody", {})).get("content", {}).get(JSON, {})
    body_fields, has_shared = fields.of(media.get("schema", {}))
    is_public = not part.get("security", document.get("security"))
    request = SampleRequest(
        method=method.upper(),
        url=BASE_URL + _url(document, path, parameters),
        key=SAMPLE_KEY if with_key and not is_public else None,
    )
    return Operation(
        id=part["operationId"],
        method=method.upper(),
        path=path,
        summary=part.get("summary", path),
        description=part.get("description", ""),
        plugin=part.get(_PLUGIN),
        is_public=is_public,
        parameters=parameters,
        fields=body_fields,
        has_shared=has_shared,
        examples=[
            _example(name, replace(request, body=body, answer=_answer(fields, part, media, body)))
            for name, body in _bodies(media)
        ],
        responses=[_response(fields, status, each) for status, each in part.get("responses", {}).items()],
    )


def _parameter(fields: Fields, part: Mapping[str, Any]) -> Parameter:
    schema = fields.resolve(part.get("schema", {}))
    is_required = bool(part.get("required"))
    (described,), _ = fields.of(
        {
            "properties": {part["name"]: {**schema, "description": part.get("description", "")}},
            "required": [part["name"]] if is_required else [],
        }
    )
    choices = schema.get("enum") or ([True, False] if schema.get("type") == "boolean" else [])
    known = [part.get("example"), schema.get("example"), schema.get("default"), *choices, schema.get("minimum")]
    value = next((each for each in known if each is not None), part["name"].upper())
    words = tuple(_word(choice) for choice in choices)
    return Parameter(part["in"], described, _word(value) if is_required else "", words)


def _word(value: Any) -> str:
    """Return a value as it is written in a path or a query."""
    return value if isinstance(value, str) else json.dumps(value)


def _url(document: Mapping[str, Any], path: str, parameters: list[Parameter]) -> str:
    """Return the URL of a sample, below the server's prefix."""
    for each in parameters:
        if each.place == "path":
            path = path.replace(f"{{{each.field.name}}}", quote(each.value, safe=""))
    query = urlencode({each.field.name: each.value for each in parameters if each.place == "query" and each.value})
    return prefix_of(document) + path + (f"?{query}" if query else "")


def prefix_of(document: Mapping[str, Any]) -> str:
    """Return the path below which the server is, such as ``/llm``; empty if it has none."""
    servers = document.get("servers") or [{"url": "/"}]
    return str(servers[0]["url"]).rstrip("/")


def _bodies(media: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the names and values of a body's examples; an empty object if it has none."""
    if "examples" in media:
        return [(name, example.get("value")) for name, example in media["examples"].items()]
    return [("example", media.get("example", {} if media else None))]


def _example(name: str, request: SampleRequest) -> Example:
    body = json.dumps(request.body, indent=2, ensure_ascii=False) if request.body is not None else None
    return Example(name, body, {language: write(request) for language, write in LANGUAGES.items()}, request)


def _answer(fields: Fields, part: Mapping[str, Any], media: Mapping[str, Any], body: Any) -> Answer:
    """Return what the response to a body is."""
    responses: Mapping[str, Any] = part.get("responses", {})
    success: Mapping[str, Any] = next((responses[status] for status in responses if status.startswith("2")), {})
    content = fields.resolve(success).get("content", {})
    schema = fields.resolve(media.get("schema", {}))
    default = fields.resolve(schema.get("properties", {}).get("stream", {})).get("default", False)
    streams = body.get("stream", default) if isinstance(body, Mapping) else False
    if EVENTS in content and (streams or JSON not in content):
        return "events"
    if LINES in content and (streams or JSON not in content):
        return "lines"
    return "json" if JSON in content else "text"


def _response(fields: Fields, status: str, part: Any) -> Response:
    response = fields.resolve(part)
    content = []
    for kind, media in response.get("content", {}).items():
        schema = media.get(_EVENT, media.get("schema", {}))
        unit = {EVENTS: "the JSON of one event", LINES: "one line"}.get(kind, "") if _EVENT in media else ""
        content.append((kind, unit, fields.of(schema)[0]))
    return Response(status, response.get("description", ""), tuple(content))
