"""The base class of the conformance suites: it looks up the object under test."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from llamafw.interfaces import Tokenizer
from llamafw.interfaces.members import lacks, missing_members
from llamafw.plugins import Plugins
from llamafw.registry import Registry
from llamafw.testing import vocabularies


class Conformance:
    """A suite for one registered object, which is looked up by its name, as in a server.

    Attributes
    ----------
    kind : str
        The kind of object: ``"sampler"``, ``"backend"`` …
    label : str
        The suite's part of generated names of tests, if a kind has several suites.
    name : str
        The name under which it is registered.
    plugins : tuple of str
        Plugins to load in addition to the installed ones, as for ``llamafw serve --plugin``.
    generated : bool
        True for the subclasses that ``llamafw plugin check`` makes. A subclass that an author has written replaces
        the generated one, because it may contain examples that cannot be guessed.
    """

    kind: ClassVar[str]
    label: ClassVar[str] = ""
    name: ClassVar[str] = ""
    plugins: ClassVar[tuple[str, ...]] = ()
    generated: ClassVar[bool] = False

    @classmethod
    def registry(cls, kind: str) -> Registry:
        """Return the objects of a kind that the plugins have registered."""
        return load(cls.plugins).registry(kind)

    @classmethod
    def registered(cls) -> Any:
        """Return the object that is registered under the name."""
        registry = cls.registry(cls.kind)
        if cls.name not in registry:
            pytest.fail(
                f"no {cls.kind} is registered as {cls.name!r}{registry.suggest(cls.name)} (is its package installed?)"
            )
        return registry[cls.name]


class ProtocolConformance(Conformance):
    """A suite for objects that implement a protocol.

    Without all members the other rules cannot be checked.
    """

    def implementations(self, tiny_model: Path) -> Iterator[tuple[type, Any]]:
        """Yield each protocol and the object that should implement it."""
        raise NotImplementedError

    def test_has_all_members_of_its_protocol(self, tiny_model: Path) -> None:
        """It has every attribute and method of its protocol."""
        if message := self.missing_members(tiny_model):
            pytest.fail(f"{message}; docs/protocols.md describes them")

    @pytest.fixture(autouse=True)
    def _skip_without_members(self, request: pytest.FixtureRequest, tiny_model: Path) -> None:
        if request.function.__name__ == "test_has_all_members_of_its_protocol":
            return
        try:
            message = self.missing_members(tiny_model)
        except (Exception, pytest.fail.Exception):  # the test itself meets the same exception and reports it
            return
        if message:
            pytest.skip(message)

    def missing_members(self, tiny_model: Path) -> str:
        """Return a sentence about the first object that lacks members, or an empty string."""
        for protocol, implementation in self.implementations(tiny_model):
            if implementation is None:
                return f"it is None; it must be a llamafw.{protocol.__name__}"
            if missing := missing_members(implementation, protocol):
                cls = implementation if isinstance(implementation, type) else type(implementation)
                return f"the class {cls.__name__} {lacks(missing, protocol)}"
        return ""


@cache
def load(extra: tuple[str, ...]) -> Plugins:
    """Return the installed plugins and ``extra``."""
    return Plugins(extra=extra)


@cache
def tokenizer() -> Tokenizer:
    """Return the tokenizer of the tiny model."""
    made: Tokenizer = load(()).registry("tokenizer")["gpt2"](vocabularies.gpt2())
    return made


def assert_identical(actual: Any, expected: Any, subject: str) -> None:
    """Fail unless two arrays are bit for bit the same; ``subject`` begins the message."""
    assert actual.shape == expected.shape, f"{subject}: the shape is {actual.shape}, expected {expected.shape}"
    differs = (actual != expected) & ~(np.isnan(actual) & np.isnan(expected))
    if differs.any():
        with np.errstate(all="ignore"):
            differences = np.abs(actual[differs].astype(np.float64) - expected[differs])
        finite = differences[np.isfinite(differences)]
        size = f", by up to {finite.max():.3g}" if len(finite) else ""
        pytest.fail(f"{subject}: {differs.sum()} of {actual.size} numbers differ{size}")
