"""The API document: one ``openapi.yaml``, with what plugins and settings add to it. It knows nothing of HTTP.

The order: read the file, merge the fragments of plugins, add the options of samplers, put in the defaults that
flags have changed. Whatever disagrees on the way is a `SpecError` that names both sides.
"""
from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jsonschema_rs
import yaml

from llamafw.errors import SettingsError, SpecError
from llamafw.hookspecs import NAME
from llamafw.plugins import Plugins
from llamafw.registry import Registry
from llamafw.settings import Settings, options

Document = dict[str, Any]
NOBODY: Mapping[str, str] = MappingProxyType({})

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SAMPLER_OPTIONS = "x-llamafw-sampler-options"  # on schemas that take the options of every sampler
WHILE_LOADING = "x-llamafw-while-loading"  # on operations that answer before the model is there
EVENT = "x-llamafw-event"  # on text/event-stream content: the schema of one event
PLUGIN = "x-llamafw-plugin"  # on operations and fields that a plugin which is not our own has added: its name
HOME = "openapi.yaml"
_PARAMETER = re.compile(r"{[^}]*}")
REFUSALS = {
    "401": "Nobody knows the sender.",
    "403": "The sender may not do that.",
    "429": "The sender has asked too often.",
}


def load_document() -> Document:
    """Return ``openapi.yaml`` of this installation: the wheel's copy, or the root of the checkout."""
    shipped = files("llamafw") / HOME
    checkout = Path(__file__).parents[2] / HOME
    return read_document(shipped if shipped.is_file() else checkout, HOME)


def read_document(file: Path | Traversable, name: str) -> Document:
    """Return an API document, YAML or JSON; SpecError, with its ``name``, if it is none."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads it ten times as fast, where it exists
    try:
        document = yaml.load(file.read_text("utf-8"), Loader=loader)
    except (OSError, ValueError) as error:
        raise SpecError(f"{name} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{name} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or not isinstance(document.get("paths"), dict) or not document["paths"]:
        raise SpecError(f"{name} has no paths")
    return _with_text_keys(document)  # type: ignore[no-any-return]  # a dict stays one


def merged_document(plugins: Plugins, settings: Settings, base: Document | None = None) -> Document:
    """Return the document that this server serves.

    Parameters
    ----------
    base : dict, optional
        The document to start from, instead of `load_document`'s. It is not changed.

    Raises
    ------
    SpecError
        A plugin's fragment clashes, or a sampler's option does.
    SettingsError
        A flag sets a default that its request field does not allow.
    """
    document = load_document() if base is None else deepcopy(base)
    owners: dict[str, str] = {}
    for owner, fragment in _fragments(plugins):
        merge(document, fragment, owner, owners)
    samplers = plugins.registry("sampler")
    add_sampler_options(document, samplers, owners)
    add_fields(document, plugins.registry("field"), samplers, owners)
    set_defaults(document, settings, samplers)
    return document


def render(document: Mapping[str, Any], form: str = "yaml") -> str:
    """Return the document as text, ``form`` being "yaml" or "json"."""
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return yaml.dump(dict(document), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)


class _Plain(yaml.SafeDumper):
    """Writes shared parts out in full; anchors help nobody who reads an API document."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# --- operations -------------------------------------------------------------------------------------


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
    problems = [f"operation {name!r} has no endpoint{_near(endpoints, name)}" for name in wanted
                if name not in endpoints]
    problems += [f"endpoint {name!r} of plugin {endpoints.owner(name)} has no operation in the API document"
                 for name in endpoints if name not in wanted]
    problems += [f"endpoint {name!r} of plugin {endpoints.owner(name)} is no coroutine function"
                 for name, function in endpoints.items() if not _is_async(function)]
    if problems:
        raise SpecError("the API document and the endpoints disagree: " + "; ".join(problems))


def _near(endpoints: Registry, name: str) -> str:
    hint = endpoints.suggest(name)
    return f" (there is {hint.removeprefix('; did you mean ').rstrip('?')})" if "did you mean" in hint else ""


def _is_async(function: Any) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  # not whether it can be called, but how
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


# --- fragments of plugins ---------------------------------------------------------------------------


def _fragments(plugins: Plugins) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, fragment in plugins.each("extend_openapi"):
        if not isinstance(fragment, Mapping | None):
            raise SpecError(f"plugin {name}: extend_openapi returned {fragment!r:.80}, and not a mapping")
        if fragment is not None:
            yield name, fragment


def merge(document: Document, fragment: Mapping[str, Any], owner: str, owners: dict[str, str]) -> None:
    """Add a plugin's paths, components and tags to ``document``, in place.

    Parameters
    ----------
    owners : dict
        Place in the document to the plugin that put it there, for error messages. It is added to.
    """
    unknown = sorted(set(fragment) - {"paths", "components", "tags", "openapi", "info"})
    if unknown:
        raise SpecError(f"plugin {owner}: a fragment has paths, components and tags, not {', '.join(unknown)}")

    def claim(place: str, taken: bool) -> None:
        if taken:
            raise SpecError(f"{place} is defined by both {owners.get(place, HOME)} and plugin {owner}")
        owners[place] = f"plugin {owner}"

    names = {operation.get("operationId") for _, _, operation in operations(document)}
    paths = {_PARAMETER.sub("{}", path): path for path in document["paths"]}
    for path, item in fragment.get("paths", {}).items():
        if (twin := paths.setdefault(_PARAMETER.sub("{}", path), path)) != path:  # /x/{id} and /x/{name} are one path
            side = owners.get(f"the path {twin}", HOME)
            raise SpecError(f"the path {path} of plugin {owner} is the path {twin} of {side}")
        if path not in document["paths"]:
            owners[f"the path {path}"] = f"plugin {owner}"
        target = document["paths"].setdefault(path, {})
        for key, value in item.items():
            claim(f"{key.upper()} {path}", key in target)
            target[key] = _with_text_keys(value)
            if key in METHODS:
                name = value.get("operationId")
                if not name:
                    raise SpecError(f"plugin {owner}: {key.upper()} {path} has no operationId")
                claim(f"operationId {name!r}", name in names)
                names.add(name)
                target[key] |= {} if _is_ours(owner) else {PLUGIN: owner}
    for section, things in fragment.get("components", {}).items():
        target = document.setdefault("components", {}).setdefault(section, {})
        for name, thing in things.items():
            claim(f"components.{section}.{name}", name in target)
            target[name] = _with_text_keys(thing)
    tags = document.setdefault("tags", [])
    for tag in fragment.get("tags", []):
        claim(f"tag {tag['name']!r}", any(tag["name"] == known["name"] for known in tags))
        tags.append(deepcopy(tag))


# --- samplers and defaults --------------------------------------------------------------------------


def add_sampler_options(document: Document, samplers: Registry, owners: Mapping[str, str] = NOBODY) -> None:
    """Give every schema that asks for it the fields of all samplers, and the names that ``samplers`` may hold."""
    for name, sampler in samplers.items():
        _check_options(sampler.options, f"of sampler {name!r} of plugin {samplers.owner(name)}")
        follower = getattr(sampler, "precedes", None)
        if follower is not None and follower not in samplers:
            owner, hint = samplers.owner(name), samplers.suggest(str(follower))
            raise SpecError(f"sampler {name!r} of plugin {owner} precedes {follower!r}, which is no sampler{hint}")
    for place, schema in _generating(document):
        properties = schema.setdefault("properties", {})
        sides = dict.fromkeys(properties, f"{owners.get(place, HOME)} ({place})")
        plain = dict(properties)
        for name, sampler in samplers.items():
            for field, option in sampler.options.items():
                side = f"sampler {name!r} of plugin {samplers.owner(name)}"
                option = {"nullable": True, **deepcopy(dict(option))}  # clients send null for "as you like"
                if field not in properties:
                    plain[field], sides[field] = option, side
                    properties[field] = _marked(option, samplers.owner(name))
                elif plain[field] != option:
                    raise SpecError(f"the field {field!r} is described differently by {sides[field]} and {side}")
        if "samplers" in properties:
            _set_names(properties["samplers"], list(samplers))


def add_fields(
    document: Document, fields: Registry, samplers: Registry, owners: Mapping[str, str] = NOBODY
) -> None:
    """Give every schema that takes the options of samplers the fields that plugins have registered, too."""
    for field, option in fields.items():
        _check_option(option, f"the field {field!r} of plugin {fields.owner(field)}")
    for place, schema in _generating(document):
        for field, option in fields.items():
            if field in schema["properties"]:
                named = [name for name, sampler in samplers.items() if field in sampler.options]
                other = (f"sampler {named[0]!r} of plugin {samplers.owner(named[0])}" if named
                         else f"{owners.get(place, HOME)} ({place})")
                raise SpecError(f"the field {field!r} is defined by both {other} and plugin {fields.owner(field)}")
            option = {"nullable": True, **deepcopy(dict(option))}
            schema["properties"][field] = _marked(option, fields.owner(field))


def _marked(option: dict[str, Any], owner: str) -> dict[str, Any]:
    """Let a field say which plugin it is from, to readers and to `server.validation`."""
    if _is_ours(owner):
        return option
    text = f"{option.get('description', '')} (Of the plugin `{owner}`.)".strip()
    return {**option, "description": text, PLUGIN: owner}


def _is_ours(owner: str) -> bool:
    return owner.startswith(f"{NAME}:")


def _check_options(options: Any, side: str) -> None:
    """Raise SpecError unless a sampler's options are JSON Schemas with defaults that they allow."""
    if not isinstance(options, Mapping):
        raise SpecError(f"the options {side} are {options!r:.80}, and not fields with their JSON Schemas")
    for field, option in options.items():
        check = _check_option(option, f"the option {field!r} {side}")
        if "default" not in option:
            raise SpecError(f"the option {field!r} {side} has no default")
        if option["default"] is not None and not check.is_valid(option["default"]):
            raise SpecError(f"the option {field!r} {side} does not allow its own default, {option['default']!r:.80}")


def _check_option(option: Any, side: str) -> jsonschema_rs.Draft4Validator:
    """Return a validator for a field of plugins'; SpecError if it is no JSON Schema."""
    try:
        return jsonschema_rs.Draft4Validator(as_json_schema(option) if isinstance(option, Mapping) else option)
    except (jsonschema_rs.ValidationError, ValueError, TypeError) as error:
        raise SpecError(f"{side} is no JSON Schema: {getattr(error, 'message', error)}") from None


def author(place: Sequence[Any], plugins: Plugins) -> str:
    """Return who has put a place of the document there, as an error says it: a plugin, or our file."""
    for name, fragment in _fragments(plugins):
        part: Any = fragment
        for word in list(place)[: 3 if place[0] == "components" else 2]:
            part = part.get(word) if isinstance(part, Mapping) else None
        if part is not None:
            return f"plugin {name}"
    return HOME


def set_defaults(document: Document, settings: Settings, samplers: Registry) -> None:
    """Show the defaults that flags have set; SettingsError if a request field does not allow one."""
    flags = {opt.request_field: opt.flags[-1] for opt in options().values() if opt.request_field}
    wanted: dict[str, tuple[str, Any]] = {
        field: (flags[field], value) for field, value in settings.request_defaults().items()
    }
    names = settings.sampler_names()
    if names is not None:
        for name in names:
            if name not in samplers:
                raise SettingsError(f"--samplers: there is no sampler {name!r}{samplers.suggest(name)}")
        wanted["samplers"] = ("--samplers", list(names))
    schemas = [schema for _, schema in _generating(document)]
    for field, (flag, value) in wanted.items():
        found = [schema["properties"] for schema in schemas if field in schema["properties"]]
        if not found and schemas:
            raise SettingsError(f"{flag}: no sampler or operation takes {field!r}")
        for properties in found:
            _check_default(document, properties[field], value, flag)
            properties[field] = {**properties[field], "default": value}


def _generating(document: Document) -> list[tuple[str, dict[str, Any]]]:
    schemas = document.get("components", {}).get("schemas", {})
    return [(f"components.schemas.{name}", schema) for name, schema in schemas.items()
            if isinstance(schema, dict) and schema.get(SAMPLER_OPTIONS)]


def _set_names(schema: Any, names: list[str]) -> None:
    """Set the ``enum`` of every string item within ``schema``."""
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
    root = {"allOf": [as_json_schema(schema)], "components": as_json_schema(document.get("components", {}))}
    error = next(iter(jsonschema_rs.Draft4Validator(root).iter_errors(value)), None)
    if error is not None:
        raise SettingsError(f"{flag}: {error.message}")


def add_refusals(document: Document) -> None:
    """Say of every operation that is not public how plugins that know users may refuse a request."""
    schema = {"$ref": "#/components/schemas/Error"}
    for _, _, operation in operations(document):
        if operation.get("security", document.get("security")):
            for status, text in REFUSALS.items():
                content = {"application/json": {"schema": schema}}
                operation["responses"].setdefault(status, {"description": text, "content": content})


# --- schemas ----------------------------------------------------------------------------------------

_NO_CONSTRAINT = {"example", "examples", "xml", "externalDocs", "discriminator", "default", "description", "title",
                  "deprecated", "readOnly", "writeOnly"}


def as_json_schema(schema: Any) -> Any:
    """Return an OpenAPI 3.0 schema as JSON Schema draft 4, which is what it is apart from ``nullable``."""
    if isinstance(schema, list):
        return [as_json_schema(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("properties", "schemas") and isinstance(value, Mapping):  # names, not keywords
            result[key] = {name: as_json_schema(part) for name, part in value.items()}
        elif key == "enum":
            result[key] = list(value)
        elif key not in _NO_CONSTRAINT and not key.startswith("x-"):
            result[key] = as_json_schema(value)
    if result.pop("nullable", False):
        return _or_null(result)
    return result


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    if "enum" in schema and None not in schema["enum"]:
        schema["enum"] = [*schema["enum"], None]
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _with_text_keys(thing: Any) -> Any:
    """YAML reads the status code 200 as a number; JSON has only text keys."""
    if isinstance(thing, Mapping):
        return {str(key): _with_text_keys(part) for key, part in thing.items()}
    if isinstance(thing, list):
        return [_with_text_keys(part) for part in thing]
    return thing
