"""A table of named objects that remembers which plugin registered each, and checks them when they are added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llamafw.errors import PluginError, suggest
from llamafw.graph import Value
from llamafw.interfaces import Operator, Quant, Sampler, SamplerPlugin, ToolParserPlugin
from llamafw.interfaces.members import lacks, methods_that_need_an_instance, missing_members
from llamafw.serving import Authenticator

PROTOCOLS: Mapping[str, type] = {
    "sampler": SamplerPlugin,
    "tool_parser": ToolParserPlugin,
    "quant": Quant,
    "authenticator": Authenticator,
}
"""Kinds that are registered as objects, and the protocol of these objects."""

FUNCTIONS: Mapping[str, str] = {
    "command": "main(argv: list[str]) -> int",
    "chat_format": "factory(ChatContext) -> ChatFormat",
    "grammar": "factory(GrammarContext) -> GrammarCompiler",
    "drafter": "factory(DrafterContext) -> Drafter",
    "tokenizer": "factory(metadata) -> Tokenizer",
    "architecture": "architecture(Model) -> Graph",
    "conversion": "convert(Config) -> Conversion",
    "backend": "factory(BackendContext) -> Backend",
    "endpoint": "async def create(call: Call)",
    "error_format": "error_format(problem: Problem) -> tuple[int, body]",
}
"""Kinds that are registered as functions, and the signature of these functions. Their results are checked later."""


class RegistrationError(PluginError):
    """A plugin registers something invalid.

    The message names the plugin.
    """


class NameClash(RegistrationError):
    """Two plugins register the same name, tensor types with the same id, or operators of the same class."""


class Registry(Mapping[str, Any]):
    """The objects of one kind that plugins have registered, by name, in the order of registration.

    Parameters
    ----------
    kind : str
        A key of `PROTOCOLS` or `FUNCTIONS`, ``"operator"``, or ``"field"``. JSON Schemas of fields are checked when the
        API document is built.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, tuple[Any, str]] = {}  # name → object, plugin

    @property
    def noun(self) -> str:
        """The kind, as it is written in messages."""
        return self.kind.replace("_", " ")

    def add(self, name: str, thing: Any, /, *, owner: str) -> None:
        """Add an object.

        Parameters
        ----------
        name : str
            The name by which it will be found.
        thing : object
            The object that the plugin registers.
        owner : str
            The plugin, as ``distribution:entry``.

        Raises
        ------
        NameClash
            Another plugin has registered the name, a tensor type with the same `type_id`, or an operator of the same
            class.
        RegistrationError
            The name is empty or not a string, or the object lacks a member of its protocol.
        """
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"plugin {owner} registers a {self.noun} as {name!r}; the name must be a string")
        if problem := self._problem(thing):
            raise RegistrationError(f"plugin {owner} registers the {self.noun} {name!r}, which {problem}")
        if name in self._entries:
            raise NameClash(f"{self.noun} {name!r} is registered by both {self.owner(name)} and {owner}")
        if self.kind == "quant":
            self._check_type_id(name, thing, owner)
        if self.kind == "operator":
            self._check_class(name, thing, owner)
            thing = replace(thing, plugin=owner)
        self._entries[name] = (thing, owner)

    def remove(self, owner: str) -> None:
        """Remove everything that a plugin has registered."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry[1] != owner}

    def owner(self, name: str) -> str:
        """Return the plugin that registered ``name``, as ``distribution:entry``."""
        return self._entries[name][1]

    def suggest(self, name: str) -> str:
        """Return the end of a message about an unknown name: see `llamafw.errors.suggest`."""
        return suggest(name, self._entries)

    def _problem(self, thing: Any) -> str | None:
        """Return what is wrong with an object, as the predicate of a sentence; None if it is valid."""
        if self.kind == "operator":
            return _operator_problem(thing)
        protocol = PROTOCOLS.get(self.kind)
        if protocol is None:
            signature = FUNCTIONS.get(self.kind)
            if signature is not None and not callable(thing):
                return f"is not a function: {thing!r:.80}; register {signature}"
            return None

        if missing := missing_members(thing, protocol):
            return lacks(missing, protocol)
        if methods := methods_that_need_an_instance(thing, protocol):
            return f"is a class, but {methods[0]} needs an instance; register {thing.__name__}(…)"
        if self.kind == "sampler" and isinstance(thing, type):
            missing = missing_sampler_members(thing)
        return lacks(missing, Sampler) if missing else None

    def _check_type_id(self, name: str, quant: Quant, owner: str) -> None:
        """Raise NameClash if another tensor type has the same id: files name their types by the id alone."""
        for other, (entry, other_owner) in self._entries.items():
            if entry.type_id == quant.type_id:
                raise NameClash(
                    f"the type_id {quant.type_id} is used by both quant {other!r} of {other_owner} "
                    f"and quant {name!r} of {owner}"
                )

    def _check_class(self, name: str, operator: Operator, owner: str) -> None:
        """Raise NameClash if the class is registered already: backends find an operator by its class."""
        for other, (entry, other_owner) in self._entries.items():
            if entry.value is operator.value:
                raise NameClash(
                    f"the class {operator.value.__name__} is registered as operator {other!r} by {other_owner} and "
                    f"as {name!r} by {owner}"
                )

    def __getitem__(self, name: str) -> Any:
        return self._entries[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _operator_problem(thing: Any) -> str | None:
    """Return what is wrong with an operator, as the predicate of a sentence; None if it is valid."""
    if not isinstance(thing, Operator):
        return f"is not a llamafw.Operator: {thing!r:.80}; register Operator(YourValue, {{…}})"
    if not isinstance(thing.value, type) or not issubclass(thing.value, Value) or thing.value is Value:
        return f"has {thing.value!r:.80} as its value, which is not a subclass of llamafw.graph.Value"
    if not isinstance(thing.backends, Mapping) or not all(isinstance(name, str) for name in thing.backends):
        return f"has {thing.backends!r:.80} as its backends; they must be a mapping of names of backends"
    return None


def missing_sampler_members(thing: Any) -> list[str]:
    """Return the members of `Sampler` that a sampler, or its class, lacks.

    A sampler with an attribute ``kernel`` needs no ``apply``. A class with neither method is not taken for a sampler:
    its ``create`` may return objects of another class.
    """
    missing = missing_members(thing, Sampler)
    if isinstance(thing, type) and len(missing) == 2:
        return []
    return [name for name in missing if name != "apply()"] if _has_kernel(thing) else missing


def _has_kernel(thing: Any) -> bool:
    """Return whether a sampler has a kernel, or its class declares one."""
    classes = thing.__mro__ if isinstance(thing, type) else type(thing).__mro__
    return hasattr(thing, "kernel") or any("kernel" in vars(cls).get("__annotations__", ()) for cls in classes)
