"""The pytest fixtures for plugins' tests, and the fake backend that their servers use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from llamafw import BackendOptions, Batch, LlamafwError, ModelError
from llamafw.testing.backend import DeterministicBackend

BODY = {"prompt": "Hello", "n_predict": 5, "seed": 1, "ignore_eos": True}
REQUEST_TIMEOUT = 300  # seconds; the machine may be busy


def make_backend() -> DeterministicBackend:
    graph = SimpleNamespace(n_vocab=50, n_ctx_train=64, n_embd=8)
    context: Any = SimpleNamespace(graph=graph, options=BackendOptions(n_slots=2))
    return DeterministicBackend(context)


def batch(*rows: tuple[int, int, int]) -> Batch:
    """Return a batch of (token, position, slot), all of which are outputs."""
    tokens, positions, slots = np.array(rows, np.int32).T
    return Batch(tokens, positions, slots, np.arange(len(rows), dtype=np.int32))


def test_logits_depend_on_the_slots_own_tokens_only() -> None:
    alone = make_backend().forward(batch((5, 0, 0), (6, 1, 0)))
    backend = make_backend()
    first = backend.forward(batch((9, 0, 1), (5, 0, 0)))[1]
    second = backend.forward(batch((6, 1, 0), (9, 1, 1)))[0]
    np.testing.assert_array_equal([first, second], alone)


def test_restored_slot_continues_equally() -> None:
    backend = make_backend()
    backend.forward(batch((5, 0, 0), (6, 1, 0)))
    backend.restore(1, 2, backend.save(0, 2))
    one, other = backend.forward(batch((7, 2, 0), (7, 2, 1)))
    np.testing.assert_array_equal(one, other)


def test_truncated_slot_continues_from_there() -> None:
    backend = make_backend()
    before = backend.forward(batch((5, 0, 0), (6, 1, 0)))
    backend.truncate(0, 1)
    np.testing.assert_array_equal(backend.forward(batch((6, 1, 0)))[0], before[1])


def test_shifted_positions_move_down() -> None:
    backend = make_backend()
    backend.forward(batch((4, 0, 0), (5, 1, 0)))
    backend.shift(0, 0, 1)
    expected = make_backend().hidden(batch((5, 0, 0), (6, 1, 0)))[1:]
    np.testing.assert_array_equal(backend.hidden(batch((6, 1, 0))), expected)


def test_gaps_and_wrong_states_are_errors() -> None:
    backend = make_backend()
    with pytest.raises(LlamafwError, match="position 9 does not continue slot 0, which holds 0 tokens"):
        backend.forward(batch((1, 9, 0)))
    backend.forward(batch((5, 0, 0), (6, 1, 0)))
    with pytest.raises(LlamafwError, match="a state of 8 bytes does not hold 3 tokens"):
        backend.restore(0, 3, backend.save(0, 2))


async def test_both_kinds_of_servers_answer_alike(serve: Any, serve_http: Any) -> None:
    async with (
        serve() as in_process,
        serve_http() as url,
        httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT) as over_http,
    ):
        one, other = [(await client.post("/completion", json=BODY)).json() for client in (in_process, over_http)]
    assert one["content"] == other["content"]
    assert one["tokens_predicted"] == 5


async def test_servers_take_settings_and_plugins(serve: Any, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text("from llamafw import hookimpl\n@hookimpl\ndef wrap_asgi(asgi): return None\n")
    async with serve(plugin=(str(plugin),), alias=("mine",)) as client:
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "mine"
        names = [found["name"] for found in (await client.get("/plugins")).json()["plugins"]]
        assert any(name.endswith("mine.py") for name in names)


async def test_model_that_cannot_be_loaded_fails_the_test(serve: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing.gguf"):
        async with serve(model=tmp_path / "missing.gguf"):
            pass
