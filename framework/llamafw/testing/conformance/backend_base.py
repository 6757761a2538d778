"""What all tests of a backend share: the tokens, how a model is opened, how logits are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from llamafw.graph import Graph
from llamafw.interfaces import (
    AdaptingBackend,
    Backend,
    BackendContext,
    CandidateBackend,
    HoldingBackend,
    SharingBackend,
    SnapshotBackend,
)
from llamafw.models.gguf import read_gguf
from llamafw.testing.batches import batch
from llamafw.testing.conformance.base import ProtocolConformance, assert_identical
from llamafw.types import BackendOptions, Model

N_TOKENS = 40
TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 300, N_TOKENS)]  # the prompt of all tests
F32_CACHE: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32"}

WriteModel = Callable[..., Path]


class BackendTests(ProtocolConformance):
    """The helpers of `BackendConformance`, which documents the attributes."""

    kind = "backend"
    types: ClassVar[tuple[str, ...]] = ("F32", "F16", "Q8_0", "Q4_1")
    tolerance: ClassVar[float] = 0.02
    follows_the_model: ClassVar[bool] = True
    options: ClassVar[dict[str, Any]] = {}

    def implementations(self, tiny_model: Path) -> Iterator[tuple[type, Any]]:
        """Yield a backend of the tiny model."""
        with self.open(tiny_model) as backend:
            yield Backend, backend
            if not getattr(backend, "can_cut", True):
                yield SnapshotBackend, backend
                if hasattr(backend, "hold_state"):
                    yield HoldingBackend, backend
            if hasattr(backend, "share_prefix"):
                yield SharingBackend, backend
            if hasattr(backend, "top_logits"):
                yield CandidateBackend, backend
            if hasattr(backend, "set_adapters"):
                yield AdaptingBackend, backend

    def skip_unless_it_follows_the_model(self) -> None:
        """Skip the test if the backend does not compute the model."""
        if not self.follows_the_model:
            pytest.skip("`follows_the_model` is False")

    @contextmanager
    def open(self, path: Path, *, build: Callable[[Model], Graph] | None = None, **options: Any) -> Iterator[Backend]:
        """Open a model with the backend, and close the backend at the end.

        ``build`` returns the graph of the model; by default it is the architecture ``llama``.
        """
        quants = self.registry("quant")
        model = read_gguf(path, quants)
        graph = (build or self.registry("architecture")["llama"])(model)
        options = {"n_slots": 2, "n_threads": 1} | self.options | options
        operators = self.registry("operator")
        context = BackendContext(model, graph, BackendOptions(**options), quants, operators=operators)
        backend: Backend = self.registered()(context)
        try:
            yield backend
        finally:
            backend.close()

    def check_same(self, backend: Backend, actual: Any, expected: Any, subject: str) -> None:
        """Fail unless two arrays are equal: to the last bit if the backend is exact, else within `tolerance`."""
        if backend.exact:
            assert_identical(actual, expected, subject)
        else:
            self.check_close(actual, expected, subject)

    def check_top_logits(self, backend: CandidateBackend, rows: Any) -> None:
        """Fail unless `top_logits` returns the highest logits of ``rows``: those of three tokens of slot 1."""
        n, n_vocab, outputs = 5, backend.n_vocab - 3, [0, 3, N_TOKENS - 1]
        backend.truncate(1, 0)
        ids, highest = backend.top_logits(batch((1, 0, TOKENS), outputs=outputs), n, n_vocab)
        for array, dtype in ((ids, np.int32), (highest, np.float32)):
            is_right = array.dtype == dtype and array.shape == (len(outputs), n)
            assert is_right, f"top_logits returned {array.dtype} {array.shape}, expected {np.dtype(dtype)} (3, {n})"
        expected = -np.sort(-rows[:, :n_vocab])[:, :n]
        self.check_same(backend, highest, expected, f"the {n} highest logits of {n_vocab} tokens")
        found = np.take_along_axis(rows, ids.astype(np.int64), 1)
        self.check_same(backend, found, expected, "the logits of the tokens that top_logits returned")

    def check_close(self, actual: Any, expected: Any, subject: str) -> None:
        """Fail unless all numbers are within `tolerance` of the expected ones; ``subject`` begins the message."""
        assert actual.shape == expected.shape, f"{subject}: the shape is {actual.shape}, expected {expected.shape}"
        difference = float(np.abs(actual - expected).max())
        limit = self.tolerance
        assert difference <= limit, f"{subject} differ by up to {difference:.3g}; `tolerance` is {limit}"
