"""Builds the API document: ``openapi.yaml``, extended by plugins and settings.

The steps: read the file, merge the fragments of plugins, add the options of samplers and the fields of plugins, and
replace the defaults that flags change. A plugin with an invalid part is disabled. If two plugins define the same name,
the `SpecError` names both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from llamafw.errors import SpecError
from llamafw.plugins import Plugins, is_builtin, public_name
from llamafw.registry import Registry
from llamafw.settings import Settings
from llamafw.spec.fields import add_fields, add_sampler_options, check_field, check_sampler, set_defaults
from llamafw.spec.fragments import checked_fragment, references
from llamafw.spec.operations import FILE_NAME, METHODS, PLUGIN, Document, add_unsupported_coding, operations
from llamafw.spec.schemas import with_string_keys

_PATH_PARAMETER = re.compile(r"{[^}]*}")


def load_document() -> Document:
    """Return ``openapi.yaml`` of this installation: the copy in the wheel, or the one in the checkout."""
    in_wheel = files("llamafw") / FILE_NAME
    in_checkout = Path(__file__).parents[3] / FILE_NAME
    return read_document(in_wheel if in_wheel.is_file() else in_checkout, FILE_NAME)


def read_document(file: Path | Traversable, name: str) -> Document:
    """Read an API document, YAML or JSON.

    Parameters
    ----------
    file : Path or Traversable
        The file.
    name : str
        Its name, for error messages.

    Raises
    ------
    SpecError
        The file cannot be read, or it is not an API document.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast, but not always installed
    try:
        document = yaml.load(file.read_text("utf-8"), Loader=loader)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{name} cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or not isinstance(document.get("paths"), dict) or not document["paths"]:
        raise SpecError(f"{name} has no paths")
    return with_string_keys(document)  # type: ignore[no-any-return]  # it returns a dict for a dict


def merged_document(plugins: Plugins, settings: Settings, base: Document | None = None) -> Document:
    """Return the document that this server serves.

    Parameters
    ----------
    plugins : Plugins
        Extend the document. Plugins with an invalid part are disabled.
    settings : Settings
        Change defaults of request fields.
    base : dict, optional
        The document to start from instead of `load_document`'s. It is not changed.

    Raises
    ------
    SpecError
        Two plugins, or a plugin and the document, define the same thing.
    PluginError
        A plugin that start-up depends on has an invalid fragment, option or field.
    SettingsError
        A flag sets a default that its request field does not allow.
    """
    document = load_document() if base is None else deepcopy(base)
    owners: dict[str, str] = {}
    _disable_invalid(plugins, "sampler", check_sampler)
    _disable_invalid(plugins, "field", check_field)
    fragments = list(_fragments(plugins))
    for owner, fragment in fragments:
        merge(document, fragment, owner, owners)

    for owner, fragment in fragments:
        if broken := [ref for ref in references(fragment) if not _exists(document, ref)]:
            plugins.disable(owner, SpecError(f"its API document refers to {broken[0]}, which does not exist"))
            return merged_document(plugins, settings, base)  # start again without the disabled plugin's fragment

    samplers = plugins.registry("sampler")
    add_sampler_options(document, samplers, owners)
    add_fields(document, plugins.registry("field"), samplers, owners)
    set_defaults(document, settings, samplers)
    add_unsupported_coding(document)
    if settings.api_prefix:
        document["servers"] = [{"url": settings.api_prefix}]
    return document


def render(document: Mapping[str, Any], form: str = "yaml") -> str:
    """Return the document as text; ``form`` is "yaml" or "json"."""
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return yaml.dump(dict(document), Dumper=_DumperWithoutAnchors, sort_keys=False, allow_unicode=True, width=120)


class _DumperWithoutAnchors(yaml.SafeDumper):
    """Repeats shared parts, because anchors make a document hard to read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _fragments(plugins: Plugins) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, fragment in plugins.call_each("extend_openapi"):
        if fragment is not None:
            try:
                parts = checked_fragment(fragment)
            except SpecError as error:
                plugins.disable(name, error)
            else:
                yield name, parts


def _disable_invalid(plugins: Plugins, kind: str, check: Callable[[str, Registry], None]) -> None:
    """Disable every plugin that has registered something for which ``check`` raises SpecError."""
    registry, all_valid = plugins.registry(kind), False
    while not all_valid:  # again after each change: an entry may depend on one of a disabled plugin
        all_valid = True
        for name in list(registry):
            try:
                if name in registry:
                    check(name, registry)
            except SpecError as error:
                plugins.disable(registry.owner(name), error)
                all_valid = False


def merge(document: Document, fragment: Mapping[str, Any], owner: str, owners: dict[str, str]) -> None:
    """Add a plugin's paths, components and tags to a document, in place.

    Parameters
    ----------
    document : dict
        The document to extend.
    fragment : mapping
        The result of `checked_fragment`.
    owner : str
        The plugin's name.
    owners : dict
        The owner of each part so far, for error messages. It is updated.

    Raises
    ------
    SpecError
        The document has one of these names already.
    """

    def claim(place: str, is_taken: bool) -> None:
        if is_taken:
            raise SpecError(f"{place} is defined by both {owners.get(place, FILE_NAME)} and plugin {owner}")
        owners[place] = f"plugin {owner}"

    ids = {operation.get("operationId") for _, _, operation in operations(document)}
    paths = {_PATH_PARAMETER.sub("{}", path): path for path in document["paths"]}
    for path, item in fragment.get("paths", {}).items():
        same = paths.setdefault(_PATH_PARAMETER.sub("{}", path), path)
        if same != path:  # /x/{id} and /x/{name} match the same requests
            other = owners.get(f"the path {same}", FILE_NAME)
            raise SpecError(f"the path {path} of plugin {owner} is the same as the path {same} of {other}")
        if path not in document["paths"]:
            owners[f"the path {path}"] = f"plugin {owner}"
        target = document["paths"].setdefault(path, {})
        for key, value in item.items():
            claim(f"{key.upper()} {path}", key in target)
            target[key] = deepcopy(value)
            if key in METHODS:
                id = value["operationId"]
                claim(f"operationId {id!r}", id in ids)
                ids.add(id)
                if not is_builtin(owner):
                    target[key][PLUGIN] = public_name(owner)

    for section, entries in fragment.get("components", {}).items():
        target = document.setdefault("components", {}).setdefault(section, {})
        for name, entry in entries.items():
            claim(f"components.{section}.{name}", name in target)
            target[name] = deepcopy(entry)

    tags = document.setdefault("tags", [])
    for tag in fragment.get("tags", []):
        claim(f"tag {tag['name']!r}", any(tag["name"] == known["name"] for known in tags))
        tags.append(deepcopy(tag))


def _exists(document: Document, reference: str) -> bool:
    root, *names = reference.split("/")
    part: Any = document
    for name in names:
        key = name.replace("~1", "/").replace("~0", "~")  # the escapes of JSON pointers
        part = part.get(key) if isinstance(part, Mapping) else None
    return root == "#" and part is not None


def defined_by(path: Sequence[Any], plugins: Plugins) -> str:
    """Return the owner of a part of the document: ``"plugin x"`` or ``"openapi.yaml"``.

    Parameters
    ----------
    path : sequence
        Keys that lead to the part, from the root of the document.
    plugins : Plugins
        The plugins whose fragments are searched.
    """
    keys = list(path)
    for name, fragment in _fragments(plugins) if keys else ():
        part: Any = fragment
        for key in keys[: 3 if keys[0] == "components" else 2]:
            part = part.get(key) if isinstance(part, Mapping) else None
        if part is not None:
            return f"plugin {name}"
    return FILE_NAME
