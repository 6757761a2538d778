"""The API document: one ``openapi.yaml``, with what plugins and settings add to it. It knows nothing of HTTP.

The order: read the file, merge the fragments of plugins, add the options of samplers, put in the defaults that
flags have changed. Plugins whose part is none are left out; whatever disagrees is a `SpecError` that names both sides.
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
from llamafw.plugins import Plugins, is_ours, shown
from llamafw.registry import Registry
from llamafw.settings import Settings
from llamafw.spec.fields import add_fields, add_sampler_options, check_field, check_sampler, set_defaults
from llamafw.spec.fragments import checked, references
from llamafw.spec.operations import HOME, METHODS, PLUGIN, Document, operations
from llamafw.spec.schemas import with_text_keys

_PARAMETER = re.compile(r"{[^}]*}")


def load_document() -> Document:
    """Return ``openapi.yaml`` of this installation: the wheel's copy, or the root of the checkout."""
    shipped = files("llamafw") / HOME
    checkout = Path(__file__).parents[3] / HOME
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
    return with_text_keys(document)  # type: ignore[no-any-return]  # a dict stays one


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
    PluginError
        A plugin whose failures end the start has a fragment or an option that is none.
    SettingsError
        A flag sets a default that its request field does not allow.
    """
    document = load_document() if base is None else deepcopy(base)
    owners: dict[str, str] = {}
    _hold(plugins, "sampler", check_sampler)
    _hold(plugins, "field", check_field)
    fragments = list(_fragments(plugins))
    for owner, fragment in fragments:
        merge(document, fragment, owner, owners)
    for owner, fragment in fragments:
        if lost := [ref for ref in references(fragment) if not _is_there(document, ref)]:
            plugins.leave_out(owner, SpecError(f"its API document refers to {lost[0]}, which is not there"))
            return merged_document(plugins, settings, base)  # what it has added must go again
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


def _fragments(plugins: Plugins) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, fragment in plugins.each("extend_openapi"):
        if fragment is not None:
            try:
                parts = checked(fragment)
            except SpecError as error:
                plugins.leave_out(name, error)
            else:
                yield name, parts


def _hold(plugins: Plugins, kind: str, check: Callable[[str, Registry], None]) -> None:
    """Leave out plugins that have registered something of a kind that ``check`` raises a SpecError for."""
    registry, whole = plugins.registry(kind), False
    while not whole:  # what is left out may be what another one relies on
        whole = True
        for name in list(registry):
            try:
                if name in registry:
                    check(name, registry)
            except SpecError as error:
                plugins.leave_out(registry.owner(name), error)
                whole = False


def merge(document: Document, fragment: Mapping[str, Any], owner: str, owners: dict[str, str]) -> None:
    """Add a plugin's paths, components and tags to ``document``, in place; SpecError if they are there already.

    Parameters
    ----------
    fragment : mapping
        As `checked` returns it.
    owners : dict
        Place in the document to the plugin that put it there, for error messages. It is added to.
    """

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
            target[key] = deepcopy(value)
            if key in METHODS:
                name = value["operationId"]
                claim(f"operationId {name!r}", name in names)
                names.add(name)
                target[key] |= {} if is_ours(owner) else {PLUGIN: shown(owner)}
    for section, things in fragment.get("components", {}).items():
        target = document.setdefault("components", {}).setdefault(section, {})
        for name, thing in things.items():
            claim(f"components.{section}.{name}", name in target)
            target[name] = deepcopy(thing)
    tags = document.setdefault("tags", [])
    for tag in fragment.get("tags", []):
        claim(f"tag {tag['name']!r}", any(tag["name"] == known["name"] for known in tags))
        tags.append(deepcopy(tag))


def _is_there(document: Document, reference: str) -> bool:
    home, *names = reference.split("/")
    part: Any = document
    for name in names:
        part = part.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(part, Mapping) else None
    return home == "#" and part is not None


def author(place: Sequence[Any], plugins: Plugins) -> str:
    """Return who has put a place of the document there, as an error says it: a plugin, or our file."""
    for name, fragment in _fragments(plugins):
        part: Any = fragment
        for word in list(place)[: 3 if place[0] == "components" else 2]:
            part = part.get(word) if isinstance(part, Mapping) else None
        if part is not None:
            return f"plugin {name}"
    return HOME
