"""What the suites have in common: where they find the thing that they test."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import numpy as np
import pytest

from llamafw.interfaces import Tokenizer
from llamafw.plugins import Plugins
from llamafw.registry import Registry
from llamafw.testing import vocabularies


class Conformance:
    """A suite for one thing of one kind, looked up as servers look it up: by its name among the plugins.

    Attributes
    ----------
    name : str
        What it is registered under.
    plugins : tuple of str
        Plugins to load besides those installed, as ``llamafw serve --plugin`` takes them.
    generated : bool
        False: an author has written the subclass, and may know more of the thing than can be found out.
    """

    kind: ClassVar[str]
    name: ClassVar[str] = ""
    plugins: ClassVar[tuple[str, ...]] = ()
    generated: ClassVar[bool] = False

    @classmethod
    def registry(cls, kind: str) -> Registry:
        """Return what all plugins have registered of a kind."""
        return load(cls.plugins).registry(kind)

    @classmethod
    def thing(cls) -> Any:
        """Return what is registered under the name."""
        registry = cls.registry(cls.kind)
        if cls.name not in registry:
            pytest.fail(f"there is no {cls.kind} {cls.name!r}{registry.suggest(cls.name)} (is its package installed?)")
        return registry[cls.name]


@cache
def load(extra: tuple[str, ...]) -> Plugins:
    """Return the plugins that are installed, and ``extra``."""
    return Plugins(extra=extra)


@cache
def tokenizer() -> Tokenizer:
    """Return the tokenizer of the tiny model."""
    made: Tokenizer = load(()).registry("tokenizer")["gpt2"](vocabularies.gpt2())
    return made


def same(found: Any, expected: Any, what: str) -> None:
    """Fail with ``what`` unless two arrays are the same to the bit."""
    assert found.shape == expected.shape, f"{what}: the shape is {found.shape} and not {expected.shape}"
    if not np.array_equal(found, expected, equal_nan=True):
        n = int((found != expected).sum())
        pytest.fail(f"{what}: {n} of {found.size} numbers differ, by up to {np.abs(found - expected).max():.3g}")
