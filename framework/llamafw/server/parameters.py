"""Path and query parameters: text to typed values, held against the document. It knows nothing of bodies."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from llamafw import spec
from llamafw.errors import RequestError, SpecError
from llamafw.server.faults import find_fault, refusal
from llamafw.server.schema import Schema, Schemas

_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


class Parameters:
    """The parameters that one operation has in one place, "path" or "query"."""

    def __init__(self, operation: Mapping[str, Any], place: str, schemas: Schemas) -> None:
        found = [schemas.raw(parameter) for parameter in operation.get("parameters", ())]
        for parameter in found:
            if parameter["in"] not in ("path", "query"):
                raise SpecError(f"{operation['operationId']}: parameters in {parameter['in']} are not supported")
        mine = {parameter["name"]: parameter for parameter in found if parameter["in"] == place}
        self._place, self._schemas, self._plugin = place, schemas, operation.get(spec.PLUGIN)
        self._types = {name: schemas.raw(parameter["schema"]) for name, parameter in mine.items()}
        self._defaults = {name: schema["default"] for name, schema in self._types.items() if "default" in schema}
        self._schema: Schema = {
            "type": "object",
            "properties": {name: schemas.convert(schema) for name, schema in self._types.items()},
        }
        if required := [name for name, parameter in mine.items() if parameter.get("required")]:
            self._schema = {**self._schema, "required": required}
        self._validator = schemas.validator(self._schema)

    @property
    def names(self) -> frozenset[str]:
        """The parameters the document knows."""
        return frozenset(self._types)

    def read_query(self, query: bytes) -> dict[str, Any]:
        """Return the parameters of a query string, typed and validated; unknown ones stay text."""
        if not query and not self._types:
            return {}
        found: dict[str, Any] = {}
        for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            schema = self._types.get(name, {})
            if schema.get("type") == "array":
                found.setdefault(name, []).append(typed(text, self._schemas.raw(schema.get("items", {}))))
            elif name in found and schema:
                raise RequestError(f"{name} is given more than once", param=name)
            else:
                found[name] = typed(text, schema)
        return self._check(found)

    def read_path(self, values: Mapping[str, str]) -> dict[str, Any]:
        """Return path parameters, typed and validated."""
        if not values:
            return {}
        return self._check({name: typed(text, self._types.get(name, {})) for name, text in values.items()})

    def _check(self, found: dict[str, Any]) -> dict[str, Any]:
        if not self._validator.is_valid(found):
            fault = find_fault(self._schema, found, self._schemas)
            raise refusal(f"{self._place} parameter {fault.message}", fault.param, self._plugin)
        return {**self._defaults, **found}


def typed(text: str, schema: Schema) -> Any:
    """Return ``text`` as what the schema wants, if it is that, or as it is."""
    kind = schema.get("type")
    if kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "number" and _NUMBER.fullmatch(text):
        return float(text)
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    return text
