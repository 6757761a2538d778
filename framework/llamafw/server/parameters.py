"""Read path and query parameters: convert their text to the types of the document, and validate them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from llamafw import spec
from llamafw.errors import RequestError, SpecError
from llamafw.server.schema import Schema, Schemas
from llamafw.server.violations import find_violation, violation_error

_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


class ParameterReader:
    """The parameters that an operation has in one place, "path" or "query"."""

    def __init__(self, operation: Mapping[str, Any], place: str, schemas: Schemas) -> None:
        parameters = [schemas.raw(parameter) for parameter in operation.get("parameters", ())]
        for parameter in parameters:
            if parameter["in"] not in ("path", "query"):
                raise SpecError(f"{operation['operationId']}: parameters in {parameter['in']} are not supported")

        mine = {parameter["name"]: parameter for parameter in parameters if parameter["in"] == place}
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
        """The names of the parameters in the document."""
        return frozenset(self._types)

    def read_query(self, query: bytes) -> dict[str, Any]:
        """Return the validated parameters of a query string.

        Parameters that the document does not know remain text.
        """
        if not query and not self._types:
            return {}

        values: dict[str, Any] = {}
        for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            schema = self._types.get(name, {})
            if schema.get("type") == "array":
                item_schema = self._schemas.raw(schema.get("items", {}))
                values.setdefault(name, []).append(parse_text(text, item_schema))
            elif name in values and schema:
                raise RequestError(f"{name} is given more than once", param=name)
            else:
                values[name] = parse_text(text, schema)
        return self._validate(values)

    def read_path(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Return the validated parameters of a path."""
        if not texts:
            return {}
        return self._validate({name: parse_text(text, self._types.get(name, {})) for name, text in texts.items()})

    def _validate(self, values: dict[str, Any]) -> dict[str, Any]:
        if not self._validator.is_valid(values):
            violation = find_violation(self._schema, values, self._schemas)
            raise violation_error(f"{self._place} parameter {violation.message}", violation.param, self._plugin)
        return {**self._defaults, **values}


def parse_text(text: str, schema: Schema) -> Any:
    """Return ``text`` converted to the schema's type, or unchanged if that is not possible."""
    kind = schema.get("type")
    if kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "number" and _NUMBER.fullmatch(text):
        return float(text)
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    return text
