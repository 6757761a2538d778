"""The rules for a backend's cache, with a model that has recurrent states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from llamafw.errors import ModelError
from llamafw.graph import Graph
from llamafw.interfaces import Backend
from llamafw.testing.conformance.backend_cache import BackendCacheTests
from llamafw.testing.graphs import Variation, variations
from llamafw.types import Model

OPERATORS = ("Conv", "LinearAttention", "SelectiveScan")


class RecurrentBackendConformance(BackendCacheTests):
    """Subclass it and give the ``name``; the attributes are those of `BackendConformance`.

    The models have attention in one layer, and an operator with a state of fixed size in the other. Tests are skipped
    if the backend refuses such models.
    """

    label: ClassVar[str] = "recurrent_backend"

    @pytest.fixture(params=[one for one in variations() if one.operator in OPERATORS], ids=lambda one: one.name)
    def variation(self, request: pytest.FixtureRequest) -> Variation:
        """The graph."""
        found: Variation = request.param
        return found

    @pytest.fixture(autouse=True)
    def _use_variation(self, variation: Variation) -> None:
        self.build: Callable[[Model], Graph] = variation.build

    @pytest.fixture
    def write_model(self, write_model: Callable[..., Path], variation: Variation) -> Callable[..., Path]:
        """The function that writes tiny models, with the tensors of the graph."""
        return lambda **options: write_model(tensors=variation.tensors(), **options)

    @pytest.fixture
    def tiny_model(self, write_model: Callable[..., Path]) -> Path:
        """The file of a tiny model with the tensors of the graph."""
        return write_model()

    @contextmanager
    def open(self, path: Path, *, build: Callable[[Model], Graph] | None = None, **options: Any) -> Iterator[Backend]:
        """Open a model with the backend; skip the test if the backend refuses it."""
        with ExitStack() as stack:
            try:
                backend = stack.enter_context(super().open(path, build=build or self.build, **options))
            except ModelError as error:
                pytest.skip(f"the backend refuses it: {error}")
            yield backend
