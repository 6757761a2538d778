"""Encoders: texts whose tokens see later ones are computed as a whole, many in one batch; nothing of them is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from llamafw import LlamafwError, RequestError
from llamafw.testing.batches import batch
from llamafw.testing.graphs import SIZE, llama
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.numba_cpu.pages import PAGE
from support.numba_backend import fill_with_nan, make_context

LENGTHS = (150, 1, 64, 17, 65)  # in tokens; some texts fill whole pages
TEXTS = [[(7 * i * i + 3 * i + n) % 100 for i in range(n)] for n in LENGTHS]
N_BATCH = sum(LENGTHS)
OPTIONS: dict[str, dict[str, Any]] = {
    "all tokens": {},
    "a narrow window": {"window": 8, "window_kind": "symmetric"},
    "an odd window": {"window": 33, "window_kind": "symmetric"},
    "a window of several pages": {"window": 130, "window_kind": "symmetric"},
    "no window on either side": {"window": None, "window_kind": "symmetric"},  # ModernBERT, EmbeddingGemma
    "chunks": {"window": 24, "window_kind": "chunked"},
    "a window before": {"window": 12},
    "slopes": {"alibi": (0.5, 0.25, 0.125, 0.0625)},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


def encoder(options: dict[str, Any]) -> Any:
    """Return a function that builds an encoder's graph from the tiny Llama."""

    def attend(parts: Any, layer: g.Parameters) -> g.Value:
        q, k, v = parts
        return g.attention(q, g.whole_text(k, v), SIZE**-0.5, **options)

    return partial(llama, attend=attend)


@contextmanager
def opened(path: Path, options: dict[str, Any] | None = None, **settings: Any) -> Iterator[Any]:
    """Open a backend with an encoder."""
    context = make_context(path, **{"n_slots": len(TEXTS), "n_batch": N_BATCH, "n_ubatch": 32} | settings)
    backend = NumbaBackend(replace(context, graph=encoder(options or {})(context.model)))
    try:
        yield backend
    finally:
        backend.close()


def hidden(backend: Any, *runs: tuple[int, int, list[int]]) -> Any:
    """Return the hidden states of all tokens, after the memory was filled with NaN."""
    fill_with_nan(backend)
    return backend.hidden(batch(*runs)).copy()


@pytest.mark.parametrize("name", OPTIONS)
def test_hidden_states_match_float64_and_do_not_depend_on_the_batch(name: str, model: Path) -> None:
    context = make_context(model)
    graph = encoder(OPTIONS[name])(context.model)
    evaluator = g.Evaluator(graph, g.read_weights(context.model, context.quants))
    expected = [evaluator(text, g.TextState(graph, len(text)), graph.hidden)[0] for text in TEXTS]

    with opened(model, OPTIONS[name]) as backend:
        assert backend.whole_texts
        alone = [hidden(backend, (slot, 0, text)) for slot, text in enumerate(TEXTS)]
        for rows, right in zip(alone, expected, strict=True):
            assert np.abs(rows - right).max() < 1e-4 * np.abs(right).max()
        together = hidden(backend, *((4 - i, 0, text) for i, text in enumerate(TEXTS)))
        np.testing.assert_array_equal(together, np.concatenate(alone))
    with opened(model, OPTIONS[name], n_threads=3) as backend:
        some = hidden(backend, (2, 0, TEXTS[0]), (0, 0, TEXTS[3]))
        np.testing.assert_array_equal(some, np.concatenate([alone[0], alone[3]]))


def test_only_wanted_rows_are_returned(model: Path) -> None:
    with opened(model) as backend:
        everything = hidden(backend, (0, 0, TEXTS[0]), (1, 0, TEXTS[4]))
        chosen = backend.hidden(batch((0, 0, TEXTS[0]), (1, 0, TEXTS[4]), outputs=[0, 149, 150]))
        np.testing.assert_array_equal(chosen, everything[[0, 149, 150]])


def test_text_cannot_be_continued(model: Path) -> None:
    with opened(model) as backend:
        whole = hidden(backend, (0, 0, TEXTS[0]))
        with pytest.raises(RequestError, match="position 150 does not continue slot 0"):
            backend.hidden(batch((0, 150, [5])))
        np.testing.assert_array_equal(hidden(backend, (0, 0, TEXTS[0])), whole)


def test_memory_is_that_of_one_layer_and_one_batch(model: Path) -> None:
    with opened(model) as one, opened(model, n_ctx=2048, n_slots=200) as other:
        n_pages = -(-N_BATCH // PAGE)
        page_bytes = PAGE * 2 * 2 * SIZE * 4  # keys and values of 2 heads in float32
        for backend, n_slots in ((one, len(TEXTS)), (other, 200)):
            assert backend.describe()["cache_bytes"] <= (n_pages + n_slots) * page_bytes + 4096
            assert backend.page_counts().n_total == n_pages + n_slots
        assert one.n_ctx == N_BATCH


def test_slots_have_nothing_to_share(model: Path) -> None:
    with opened(model) as backend:
        hidden(backend, (0, 0, TEXTS[0]))
        assert backend.state_size(150) == 0
        with pytest.raises(LlamafwError, match="nothing to share"):
            backend.share_prefix(0, 1, 10)
        assert not backend.can_shift
