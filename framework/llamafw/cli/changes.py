"""Compare two API documents and find the changes that break clients.

Works for any OpenAPI 3.0 document.

A server may accept more and return more than before. It breaks clients if it accepts less, requires more or returns
less. Therefore the same change of a schema can be harmless in a request and breaking in a response, or the reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llamafw.spec import EVENT, Document, operations

Side = Literal["request", "response"]
Findings = Iterator[tuple[str, bool]]
"""The text of each change, and whether it breaks clients."""

LIMITS = {
    "minimum": 1,
    "minLength": 1,
    "minItems": 1,
    "minProperties": 1,
    "maximum": -1,
    "maxLength": -1,
    "maxItems": -1,
    "maxProperties": -1,
}
"""Keywords that limit a value → 1 if a higher limit allows fewer values, -1 if a lower limit does."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two documents."""

    place: str  # "POST /completion"
    text: str
    breaking: bool  # whether it breaks clients


def compare(old: Document, new: Document) -> list[Change]:
    """Return the changes, operation by operation; a change in a schema of several operations is listed once."""
    return list(dict.fromkeys(_DocumentComparison(old, new).run()))


class _DocumentComparison:
    def __init__(self, old: Document, new: Document) -> None:
        self._old, self._new = old, new
        self._compared: set[tuple[str, str, Side]] = set()  # pairs of references

    def run(self) -> Iterator[Change]:
        old_operations, new_operations = (
            {(path, method): operation for path, method, operation in operations(document)}
            for document in (self._old, self._new)
        )

        for path, method in old_operations | new_operations:
            place = f"{method.upper()} {path}"
            old, new = old_operations.get((path, method)), new_operations.get((path, method))
            if new is None:
                yield Change(place, "removed", True)
            elif old is None:
                yield Change(place, "added", False)
            else:
                for text, breaking in self._compare_operations(old, new):
                    yield Change(place, text, breaking)

    def _compare_operations(self, old: Document, new: Document) -> Findings:
        if old.get("operationId") != new.get("operationId"):
            yield f"operationId changed from {old.get('operationId')} to {new.get('operationId')}", True
        if _is_public(self._old, old) and not _is_public(self._new, new):
            yield "now requires an API key", True
        if new.get("deprecated") and not old.get("deprecated"):
            yield "is now deprecated", False

        yield from self._compare_parameters(old, new)
        yield from self._compare_bodies(old.get("requestBody", {}), new.get("requestBody", {}))
        yield from self._compare_responses(old["responses"], new["responses"])

    def _compare_parameters(self, old: Document, new: Document) -> Findings:
        old_parameters, new_parameters = (
            {(item["in"], item["name"]): item for item in map(resolve, operation.get("parameters", []))}
            for operation, resolve in ((old, self._in_old), (new, self._in_new))
        )

        for where, name in old_parameters | new_parameters:
            label = f"{where} parameter {name}"
            a, b = old_parameters.get((where, name)), new_parameters.get((where, name))
            if b is None:
                yield f"{label}: removed", True
            elif a is None:
                required = bool(b.get("required"))
                yield f"{label}: added{' and required' if required else ''}", required
            else:
                if b.get("required") and not a.get("required"):
                    yield f"{label}: now required", True
                yield from self._compare_schemas(a.get("schema", {}), b.get("schema", {}), label, "request")

    def _compare_bodies(self, old: Document, new: Document) -> Findings:
        old, new = self._in_old(old), self._in_new(new)
        if new.get("required") and not old.get("required"):
            yield "request body: now required", True
        yield from self._compare_contents(old, new, "request", "request")

    def _compare_responses(self, old: Document, new: Document) -> Findings:
        for status in old | new:
            if status not in new:
                yield f"response {status}: removed", status.startswith("2")
            elif status not in old:
                yield f"response {status}: added", False
            else:
                yield from self._compare_contents(
                    self._in_old(old[status]), self._in_new(new[status]), status, "response"
                )

    def _compare_contents(self, old: Document, new: Document, label: str, side: Side) -> Findings:
        old_content, new_content = old.get("content", {}), new.get("content", {})
        for media_type in old_content | new_content:
            if media_type not in new_content:
                yield f"{label}: {media_type} removed", True
            elif media_type not in old_content:
                yield f"{label}: {media_type} added", False
            else:
                for keyword in ("schema", EVENT):
                    a, b = old_content[media_type].get(keyword, {}), new_content[media_type].get(keyword, {})
                    yield from self._compare_schemas(a, b, label, side)

    def _compare_schemas(self, old: Document, new: Document, label: str, side: Side) -> Findings:
        if "$ref" in old and "$ref" in new:
            pair = old["$ref"], new["$ref"], side
            if pair in self._compared:
                return
            self._compared.add(pair)

        old, new = _flatten(old, self._in_old), _flatten(new, self._in_new)
        if old == new:  # but the schemas that they refer to may differ
            yield from self._compare_children(old, new, label, side)
            return

        yield from _type_changes(old, new, label, side)
        if {old.get("type"), new.get("type")} - {"integer", "number"} and old.get("type") != new.get("type"):
            return  # keywords of different types cannot be compared
        yield from _enum_changes(old, new, label, side)
        for text, allows_less in _limit_changes(old, new, label):
            yield text, allows_less and side == "request"
        yield from self._compare_children(old, new, label, side)

    def _compare_children(self, old: Document, new: Document, label: str, side: Side) -> Findings:
        old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
        for name in old_fields | new_fields:
            field = f"{label}.{name}"
            if name not in new_fields:
                yield f"{field}: removed", True
            elif name not in old_fields:
                required = side == "request" and name in new.get("required", ())
                yield f"{field}: added{' and required' if required else ''}", required
            else:
                was_required, is_required = name in old.get("required", ()), name in new.get("required", ())
                if is_required and not was_required and side == "request":
                    yield f"{field}: now required", True
                if was_required and not is_required and side == "response":
                    yield f"{field}: may now be missing", True
                yield from self._compare_schemas(old_fields[name], new_fields[name], field, side)

        if "items" in old and "items" in new:
            yield from self._compare_schemas(old["items"], new["items"], f"{label}[]", side)
        for keyword in ("oneOf", "anyOf"):
            yield from self._compare_alternatives(old.get(keyword, []), new.get(keyword, []), label, side)

    def _compare_alternatives(self, old: list[Any], new: list[Any], label: str, side: Side) -> Findings:
        if len(old) == len(new):
            for i, (a, b) in enumerate(zip(old, new, strict=True)):
                yield from self._compare_schemas(a, b, f"{label}({i})", side)
            return

        for schema in old:
            if schema not in new:
                yield f"{label}: alternative {_schema_name(schema)} removed", side == "request"
        for schema in new:
            if schema not in old:
                yield f"{label}: alternative {_schema_name(schema)} added", side == "response"

    def _in_old(self, part: Document) -> Document:
        return _resolve(self._old, part)

    def _in_new(self, part: Document) -> Document:
        return _resolve(self._new, part)


def _is_public(document: Document, operation: Document) -> bool:
    return not operation.get("security", document.get("security", []))


def _type_changes(old: Document, new: Document, label: str, side: Side) -> Findings:
    a, b = old.get("type"), new.get("type")
    if a != b:
        allows_more = (a, b) == ("integer", "number") or b is None
        allows_less = (b, a) == ("integer", "number") or a is None
        harmless = allows_more if side == "request" else allows_less
        yield f"{label}: type changed from {a or 'any'} to {b or 'any'}", not harmless
    if bool(old.get("nullable")) != bool(new.get("nullable")):
        may_be_null = bool(new.get("nullable"))
        yield f"{label}: may {'now' if may_be_null else 'no longer'} be null", may_be_null is (side == "response")
    if old.get("format") != new.get("format"):
        yield f"{label}: format changed from {old.get('format')} to {new.get('format')}", True
    if old.get("default") != new.get("default"):
        yield f"{label}: default changed from {old.get('default')!r:.60} to {new.get('default')!r:.60}", False


def _enum_changes(old: Document, new: Document, label: str, side: Side) -> Findings:
    a, b = old.get("enum"), new.get("enum")
    if a is None and b is not None:
        yield f"{label}: now allows only certain values", side == "request"
    elif a is not None and b is None:
        yield f"{label}: now allows any value", side == "response"
    elif a is not None and b is not None:
        for value in a:
            if value not in b:
                yield f"{label}: value {value!r} removed", side == "request"
        for value in b:
            if value not in a:
                yield f"{label}: value {value!r} added", False


def _limit_changes(old: Document, new: Document, label: str) -> Findings:
    """Yield the changes of limits; the second item says whether the new limit allows fewer values."""
    for keyword, direction in LIMITS.items():
        a, b = old.get(keyword), new.get(keyword)
        if a != b:
            allows_less = b is not None and (a is None or (b - a) * direction > 0)
            was, is_now = "none" if a is None else a, "none" if b is None else b
            yield f"{label}: {keyword} changed from {was} to {is_now}", allows_less

    for keyword in ("pattern", "multipleOf"):
        a, b = old.get(keyword), new.get(keyword)
        if a != b:
            yield f"{label}: {keyword} changed from {a} to {b}", b is not None
    if old.get("additionalProperties", True) is not False and new.get("additionalProperties") is False:
        yield f"{label}: other fields are no longer allowed", True


def _flatten(schema: Document, resolve: Callable[[Document], Document]) -> Document:
    """Return a schema with its own ``$ref`` resolved and the schemas of ``allOf`` merged into it."""
    schema = dict(resolve(schema))
    for part in schema.pop("allOf", []):
        part = _flatten(part, resolve)
        properties = {**schema.get("properties", {}), **part.pop("properties", {})}
        required = [*schema.get("required", []), *part.pop("required", [])]
        schema = {**part, **schema}
        schema |= {"properties": properties} if properties else {}
        schema |= {"required": required} if required else {}
    return schema


def _resolve(document: Document, part: Mapping[str, Any]) -> Document:
    """Follow the ``$ref`` of a part of a document; return the part itself if it has none."""
    while "$ref" in part:
        target: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name.replace("~1", "/").replace("~0", "~")]
        part = target
    return dict(part)


def _schema_name(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "").rpartition("/")[2] or schema.get("title") or schema.get("type") or schema)[:80]
