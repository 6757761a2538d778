"""What has changed between two API documents, and which of it breaks clients. It knows OpenAPI 3.0, and nothing of us.

Requests and answers are looked at from opposite sides: a server may ask for less and take more, and answer more; asking
for more, taking less and answering less breaks those who relied on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llamafw.spec import EVENT, Document, operations

Side = Literal["request", "response"]

BOUNDS = {
    "minimum": 1,
    "minLength": 1,
    "minItems": 1,
    "minProperties": 1,
    "maximum": -1,
    "maxLength": -1,
    "maxItems": -1,
    "maxProperties": -1,
}
"""Keywords that narrow what is allowed, and whether by rising (1) or by falling (−1)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference."""

    place: str  # "POST /completion"
    text: str
    breaking: bool


def changes(old: Document, new: Document) -> list[Change]:
    """Return the differences, operation by operation; what several of them share is told once."""
    return list(dict.fromkeys(_Comparison(old, new).run()))


class _Comparison:
    def __init__(self, old: Document, new: Document) -> None:
        self._old, self._new = old, new
        self._seen: set[tuple[str, str, Side]] = set()  # pairs of references

    def run(self) -> Iterator[Change]:
        before, after = (
            {(path, method): one for path, method, one in operations(document)} for document in (self._old, self._new)
        )
        for path, method in before | after:
            place = f"{method.upper()} {path}"
            old, new = before.get((path, method)), after.get((path, method))
            if new is None:
                yield Change(place, "is gone", True)
            elif old is None:
                yield Change(place, "is new", False)
            else:
                for text, breaking in self._operation(old, new):
                    yield Change(place, text, breaking)

    def _operation(self, old: Document, new: Document) -> Iterator[tuple[str, bool]]:
        if old.get("operationId") != new.get("operationId"):
            yield f"the operationId {old.get('operationId')} is now {new.get('operationId')}", True
        if self._public(self._old, old) and not self._public(self._new, new):
            yield "asks for a key now", True
        if new.get("deprecated") and not old.get("deprecated"):
            yield "is deprecated now", False
        yield from self._parameters(old, new)
        yield from self._body(old.get("requestBody", {}), new.get("requestBody", {}))
        yield from self._responses(old["responses"], new["responses"])

    def _public(self, document: Document, operation: Document) -> bool:
        return not operation.get("security", document.get("security", []))

    def _parameters(self, old: Document, new: Document) -> Iterator[tuple[str, bool]]:
        before, after = (
            {(one["in"], one["name"]): one for one in map(resolve, operation.get("parameters", []))}
            for operation, resolve in ((old, self._in_old), (new, self._in_new))
        )
        for where, name in before | after:
            what = f"the {where} parameter {name}"
            a, b = before.get((where, name)), after.get((where, name))
            if b is None:
                yield f"{what} is gone", True
            elif a is None:
                needed = bool(b.get("required"))
                yield f"{what} is new{' and required' if needed else ''}", needed
            else:
                if b.get("required") and not a.get("required"):
                    yield f"{what} is required now", True
                yield from self._schema(a.get("schema", {}), b.get("schema", {}), what, "request")

    def _body(self, old: Document, new: Document) -> Iterator[tuple[str, bool]]:
        old, new = self._in_old(old), self._in_new(new)
        if new.get("required") and not old.get("required"):
            yield "a request body is required now", True
        yield from self._content(old, new, "request", "request")

    def _responses(self, old: Document, new: Document) -> Iterator[tuple[str, bool]]:
        for status in old | new:
            if status not in new:
                yield f"the answer {status} is gone", status.startswith("2")
            elif status not in old:
                yield f"the answer {status} is new", False
            else:
                yield from self._content(self._in_old(old[status]), self._in_new(new[status]), status, "response")

    def _content(self, old: Document, new: Document, what: str, side: Side) -> Iterator[tuple[str, bool]]:
        before, after = old.get("content", {}), new.get("content", {})
        for kind in before | after:
            if kind not in after:
                yield f"{what}: {kind} is gone", True
            elif kind not in before:
                yield f"{what}: {kind} is new", False
            else:
                for keyword in ("schema", EVENT):
                    a, b = before[kind].get(keyword, {}), after[kind].get(keyword, {})
                    yield from self._schema(a, b, what, side)

    def _schema(self, old: Document, new: Document, what: str, side: Side) -> Iterator[tuple[str, bool]]:
        if "$ref" in old and "$ref" in new:
            pair = old["$ref"], new["$ref"], side
            if pair in self._seen:
                return
            self._seen.add(pair)
        old, new = _flat(old, self._in_old), _flat(new, self._in_new)
        if old == new:  # what is below may yet refer to what has changed
            yield from self._below(old, new, what, side)
            return
        yield from _types(old, new, what, side)
        if {old.get("type"), new.get("type")} - {"integer", "number"} and old.get("type") != new.get("type"):
            return  # nothing below is the same
        yield from _values(old, new, what, side)
        for text, narrower in _narrowed(old, new, what):
            yield text, narrower and side == "request"
        yield from self._below(old, new, what, side)

    def _below(self, old: Document, new: Document, what: str, side: Side) -> Iterator[tuple[str, bool]]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in before | after:
            field = f"{what}.{name}"
            if name not in after:
                yield f"{field} is gone", True
            elif name not in before:
                needed = side == "request" and name in new.get("required", ())
                yield f"{field} is new{' and required' if needed else ''}", needed
            else:
                was, now = name in old.get("required", ()), name in new.get("required", ())
                if now and not was and side == "request":
                    yield f"{field} is required now", True
                if was and not now and side == "response":
                    yield f"{field} may be missing now", True
                yield from self._schema(before[name], after[name], field, side)
        if "items" in old and "items" in new:
            yield from self._schema(old["items"], new["items"], f"{what}[]", side)
        for keyword in ("oneOf", "anyOf"):
            yield from self._alternatives(old.get(keyword, []), new.get(keyword, []), what, side)

    def _alternatives(self, old: list[Any], new: list[Any], what: str, side: Side) -> Iterator[tuple[str, bool]]:
        if len(old) == len(new):
            for i, (a, b) in enumerate(zip(old, new, strict=True)):
                yield from self._schema(a, b, f"{what}({i})", side)
            return
        for a in old:
            if a not in new:
                yield f"{what}: the alternative {_named(a)} is gone", side == "request"
        for b in new:
            if b not in old:
                yield f"{what}: the alternative {_named(b)} is new", side == "response"

    def _in_old(self, part: Document) -> Document:
        return _resolved(self._old, part)

    def _in_new(self, part: Document) -> Document:
        return _resolved(self._new, part)


def _types(old: Document, new: Document, what: str, side: Side) -> Iterator[tuple[str, bool]]:
    a, b = old.get("type"), new.get("type")
    if a != b:
        wider = (a, b) == ("integer", "number") or b is None
        narrower = (b, a) == ("integer", "number") or a is None
        harmless = wider if side == "request" else narrower
        yield f"{what} is {b or 'of any type'} and was {a or 'of any type'}", not harmless
    if bool(old.get("nullable")) != bool(new.get("nullable")):
        may = bool(new.get("nullable"))
        yield f"{what} may{'' if may else ' not'} be null now", may is (side == "response")
    if old.get("format") != new.get("format"):
        yield f"{what} has the format {new.get('format')} and had {old.get('format')}", True
    if old.get("default") != new.get("default"):
        yield f"{what} is {new.get('default')!r:.60} by default and was {old.get('default')!r:.60}", False


def _values(old: Document, new: Document, what: str, side: Side) -> Iterator[tuple[str, bool]]:
    a, b = old.get("enum"), new.get("enum")
    if a is None and b is not None:
        yield f"{what} has a list of values now", side == "request"
    elif a is not None and b is None:
        yield f"{what} has no list of values any more", side == "response"
    elif a is not None and b is not None:
        for value in a:
            if value not in b:
                yield f"{what}: the value {value!r} is gone", side == "request"
        for value in b:
            if value not in a:
                yield f"{what}: the value {value!r} is new", False


def _narrowed(old: Document, new: Document, what: str) -> Iterator[tuple[str, bool]]:
    for keyword, rising in BOUNDS.items():
        a, b = old.get(keyword), new.get(keyword)
        if a != b:
            narrower = b is not None and (a is None or (b - a) * rising > 0)
            yield f"{what}: {keyword} is {'none' if b is None else b} and was {'none' if a is None else a}", narrower
    for keyword in ("pattern", "multipleOf"):
        a, b = old.get(keyword), new.get(keyword)
        if a != b:
            yield f"{what}: {keyword} is {b} and was {a}", b is not None
    if old.get("additionalProperties", True) is not False and new.get("additionalProperties") is False:
        yield f"{what} may have no other fields now", True


def _flat(schema: Document, resolve: Any) -> Document:
    """Return a schema without references at its top, the parts of ``allOf`` as one."""
    schema = dict(resolve(schema))
    for part in schema.pop("allOf", []):
        part = _flat(part, resolve)
        properties = {**schema.get("properties", {}), **part.pop("properties", {})}
        required = [*schema.get("required", []), *part.pop("required", [])]
        schema = {**part, **schema}
        schema |= {"properties": properties} if properties else {}
        schema |= {"required": required} if required else {}
    return schema


def _resolved(document: Document, part: Mapping[str, Any]) -> Document:
    while "$ref" in part:
        target: Any = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            target = target[name.replace("~1", "/").replace("~0", "~")]
        part = target
    return dict(part)


def _named(schema: Mapping[str, Any]) -> str:
    """Return what people would call a schema."""
    return str(schema.get("$ref", "").rpartition("/")[2] or schema.get("title") or schema.get("type") or schema)[:80]
