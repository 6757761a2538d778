"""Adds request fields to the API document: options of samplers, fields of plugins, and defaults that flags set."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import jsonschema_rs

from llamafw.errors import SettingsError, SpecError
from llamafw.plugins import is_builtin, public_name
from llamafw.plugins.schema_errors import describe_schema_error
from llamafw.registry import Registry
from llamafw.sampling_settings import SAMPLER_ALIASES
from llamafw.settings import Settings, options
from llamafw.spec.operations import FILE_NAME, NO_OWNERS, PLUGIN, SAMPLER, SAMPLER_OPTIONS, Document
from llamafw.spec.schemas import as_json_schema, validator


def add_sampler_options(document: Document, samplers: Registry, owners: Mapping[str, str] = NO_OWNERS) -> None:
    """Add the options of all samplers to every schema marked with `SAMPLER_OPTIONS`, and the names of the samplers.

    Parameters
    ----------
    document : dict
        Changed in place.
    samplers : Registry
        All samplers.
    owners : mapping
        The owner of each part of the document, for error messages.

    Raises
    ------
    SpecError
        A field has two different schemas.
    """
    for place, schema in _generation_schemas(document):
        properties = schema.setdefault("properties", {})
        sources = dict.fromkeys(properties, f"{owners.get(place, FILE_NAME)} ({place})")
        unmarked = dict(properties)
        for name, sampler in samplers.items():
            for field, option in sampler.options.items():
                source = f"sampler {name!r} of plugin {samplers.owner(name)}"
                option = {"nullable": True, **deepcopy(dict(option))}  # null means the default, as in OpenAI's API
                if field not in properties:
                    unmarked[field], sources[field] = option, source
                    properties[field] = {**_marked(option, samplers.owner(name)), SAMPLER: name}
                elif unmarked[field] != option:
                    raise SpecError(f"the field {field!r} has different schemas in {sources[field]} and {source}")
        if "samplers" in properties:
            aliases = [alias for alias, name in SAMPLER_ALIASES.items() if name in samplers and alias not in samplers]
            _set_names(properties["samplers"], [*samplers, *aliases])


def add_fields(document: Document, fields: Registry, samplers: Registry, owners: Mapping[str, str] = NO_OWNERS) -> None:
    """Add the fields that plugins have registered to every schema marked with `SAMPLER_OPTIONS`.

    Parameters
    ----------
    document : dict
        Changed in place, after `add_sampler_options`.
    fields : Registry
        The fields.
    samplers : Registry
        All samplers, for error messages.
    owners : mapping
        The owner of each part of the document, for error messages.

    Raises
    ------
    SpecError
        The field exists already.
    """
    for place, schema in _generation_schemas(document):
        for field, option in fields.items():
            if field in schema["properties"]:
                users = [name for name, sampler in samplers.items() if field in sampler.options]
                other = (
                    f"sampler {users[0]!r} of plugin {samplers.owner(users[0])}"
                    if users
                    else f"{owners.get(place, FILE_NAME)} ({place})"
                )
                raise SpecError(f"the field {field!r} is defined by both {other} and plugin {fields.owner(field)}")
            option = {"nullable": True, **deepcopy(dict(option))}
            schema["properties"][field] = _marked(option, fields.owner(field))


def _marked(option: dict[str, Any], owner: str) -> dict[str, Any]:
    """Add the plugin's name to the schema of a field, for readers and for error messages of invalid requests."""
    if is_builtin(owner):
        return option
    name = public_name(owner)
    description = f"{option.get('description', '')} (Added by the plugin `{name}`.)".strip()
    return {**option, "description": description, PLUGIN: name}


def check_sampler(name: str, samplers: Registry) -> None:
    """Check a sampler's options and the name of the sampler that it precedes.

    Raises
    ------
    SpecError
        An option is not a JSON Schema with a valid default, or the sampler in ``precedes`` does not exist.
    """
    sampler, owner = samplers[name], f"sampler {name!r} of plugin {samplers.owner(name)}"
    if not isinstance(sampler.options, Mapping):
        raise SpecError(f"the options of {owner} must be JSON Schemas by field, not {sampler.options!r:.80}")
    for field, option in sampler.options.items():
        description = f"the option {field!r} of {owner}"
        schema = _option_validator(option, description)
        if "default" not in option:
            raise SpecError(f"{description} has no default")
        if option["default"] is not None and not schema.is_valid(option["default"]):
            raise SpecError(f"the default of {description} does not match its schema: {option['default']!r:.80}")

    successor = getattr(sampler, "precedes", None)
    if successor is not None and successor not in samplers:
        hint = samplers.suggest(str(successor))
        raise SpecError(f"the attribute precedes of {owner} names {successor!r}, which is not a sampler{hint}")


def check_field(name: str, fields: Registry) -> None:
    """Check that the schema of a field is a JSON Schema; raise SpecError if not."""
    _option_validator(fields[name], f"the field {name!r} of plugin {fields.owner(name)}")


def _option_validator(option: Any, description: str) -> jsonschema_rs.Draft4Validator:
    try:
        return jsonschema_rs.Draft4Validator(as_json_schema(option) if isinstance(option, Mapping) else option)
    except (jsonschema_rs.ValidationError, ValueError, TypeError) as error:
        reason = describe_schema_error(error)
        raise SpecError(f"the schema of {description} is not a valid JSON Schema: {reason}") from None


def set_defaults(document: Document, settings: Settings, samplers: Registry) -> None:
    """Set the defaults that flags change, in place.

    Raises
    ------
    SettingsError
        A request field does not allow the value of its flag, or ``--samplers`` names an unknown sampler.
    """
    flags = {option.request_field: option.flags[-1] for option in options().values() if option.request_field}
    defaults: dict[str, tuple[str, Any]] = {
        field: (flags[field], value) for field, value in settings.request_defaults().items()
    }
    names = settings.sampler_names()
    if names is not None:
        for name in names:
            if name not in samplers:
                raise SettingsError(f"--samplers: sampler {name!r} does not exist{samplers.suggest(name)}")
        defaults["samplers"] = ("--samplers", list(names))

    schemas = [schema for _, schema in _generation_schemas(document)]
    for field, (flag, value) in defaults.items():
        found = [schema["properties"] for schema in schemas if field in schema["properties"]]
        if not found and schemas:
            raise SettingsError(f"{flag}: no sampler or operation has the request field {field!r}")
        for properties in found:
            _check_default(document, properties[field], value, flag)
            properties[field] = {**properties[field], "default": value}


def set_recommended_defaults(document: Document, recommended: Mapping[str, Any], settings: Settings) -> None:
    """Set the defaults that the model recommends, in place, except those that flags set.

    Parameters
    ----------
    recommended : mapping
        Valid defaults by field, as in `LoadedModel.sampling`.
    """
    given = {*settings.request_defaults(), *(["samplers"] if settings.sampler_names() is not None else [])}
    for _, schema in _generation_schemas(document):
        for field in schema["properties"].keys() & recommended.keys() - given:
            schema["properties"][field] = {**schema["properties"][field], "default": recommended[field]}


def _generation_schemas(document: Document) -> list[tuple[str, dict[str, Any]]]:
    schemas = document.get("components", {}).get("schemas", {})
    return [
        (f"components.schemas.{name}", schema)
        for name, schema in schemas.items()
        if isinstance(schema, dict) and schema.get(SAMPLER_OPTIONS)
    ]


def _set_names(schema: Any, names: list[str]) -> None:
    """Set the ``enum`` of every array of strings within ``schema``."""
    if isinstance(schema, list):
        for part in schema:
            _set_names(part, names)
    elif isinstance(schema, dict):
        items = schema.get("items")
        if isinstance(items, dict) and items.get("type") == "string":
            items["enum"] = names
        for part in schema.values():
            _set_names(part, names)


def _check_default(document: Document, schema: Mapping[str, Any], value: Any, flag: str) -> None:
    error = next(iter(validator(schema, document).iter_errors(value)), None)
    if error is not None:
        raise SettingsError(f"{flag}: {error.message}")
