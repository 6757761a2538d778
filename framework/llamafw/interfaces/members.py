"""Checks that an object has the members of a protocol.

``isinstance`` only says yes or no; these functions name the missing members.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import getattr_static, isfunction
from typing import Any

from llamafw.errors import PluginError


def missing_members(thing: Any, protocol: type) -> list[str]:
    """Return the members of a protocol that an object lacks.

    An attribute is named ``"n_vocab"``, a method ``"encode()"``. A method must be callable; types are not checked.
    """
    attributes = [*vars(protocol).get("__annotations__", ()), *_names(protocol, property)]
    missing = [name for name in attributes if not hasattr(thing, name)]
    return missing + [f"{name}()" for name in _methods(protocol) if not callable(getattr(thing, name, None))]


def methods_that_need_an_instance(thing: Any, protocol: type) -> list[str]:
    """Return the methods of a protocol that cannot be called on ``thing`` because it is a class, not an object."""
    if not isinstance(thing, type):
        return []
    return [f"{name}()" for name in _methods(protocol) if isfunction(getattr_static(thing, name, None))]


def check_members(thing: Any, protocol: type, description: str) -> None:
    """Check that an object has the members of a protocol.

    Parameters
    ----------
    thing : object
        An object that a plugin has made.
    protocol : type
        A protocol class of `llamafw`.
    description : str
        The subject of the error message, such as ``"plugin x: the tokenizer 'gpt2'"``.

    Raises
    ------
    PluginError
        A member is missing.
    """
    if thing is None:
        raise PluginError(f"{description} is None; it must be a llamafw.{protocol.__name__}")
    if missing := missing_members(thing, protocol):
        raise PluginError(f"{description} {lacks(missing, protocol)}")


def lacks(missing: Sequence[str], protocol: type) -> str:
    """Return the part of an error message after its subject: ``"lacks n_vocab, encode() (see llamafw.Tokenizer)"``."""
    return f"lacks {', '.join(missing)} (see llamafw.{protocol.__name__})"


def _methods(protocol: type) -> list[str]:
    return [name for name, member in vars(protocol).items() if _is_public_method(name, member)]


def _is_public_method(name: str, member: Any) -> bool:
    return not name.startswith("_") and (isfunction(member) or isinstance(member, classmethod))


def _names(protocol: type, kind: type) -> list[str]:
    return [name for name, member in vars(protocol).items() if isinstance(member, kind)]
