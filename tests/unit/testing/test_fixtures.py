"""The fixtures that plugins' tests are given, and the backend behind them."""

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


def backend() -> DeterministicBackend:
    decoder = SimpleNamespace(n_vocab=50, n_ctx_train=64, n_embd=8)
    context: Any = SimpleNamespace(decoder=decoder, options=BackendOptions(n_slots=2))
    return DeterministicBackend(context)


def batch(*rows: tuple[int, int, int]) -> Batch:
    """Token, position and slot of each; all are outputs."""
    tokens, positions, slots = np.array(rows, np.int32).T
    return Batch(tokens, positions, slots, np.arange(len(rows), dtype=np.int32))


def test_scores_depend_on_a_slots_own_tokens_alone() -> None:
    alone = backend().forward(batch((5, 0, 0), (6, 1, 0)))
    made = backend()
    cut = [made.forward(batch((9, 0, 1), (5, 0, 0)))[1], made.forward(batch((6, 1, 0), (9, 1, 1)))[0]]
    np.testing.assert_array_equal(cut, alone)
    state = made.save(0, 2)
    made.restore(1, 2, state)
    last = made.forward(batch((7, 2, 0), (7, 2, 1)))
    np.testing.assert_array_equal(last[0], last[1])
    made.truncate(0, 1)
    np.testing.assert_array_equal(made.forward(batch((6, 1, 0)))[0], alone[1])
    made.shift(0, 0, 1)
    np.testing.assert_array_equal(made.hidden(batch((6, 1, 0))), backend().hidden(batch((6, 0, 0), (6, 1, 0)))[1:])
    with pytest.raises(LlamafwError, match="does not continue"):
        made.forward(batch((1, 9, 0)))
    with pytest.raises(LlamafwError, match="is not that of 3 tokens"):
        made.restore(0, 3, state)


async def test_both_servers_answer_alike(serve: Any, serve_http: Any) -> None:
    async with serve() as near, serve_http() as url, httpx.AsyncClient(base_url=url) as far:
        answers = [(await client.post("/completion", json=BODY)).json() for client in (near, far)]
        assert answers[0]["content"] == answers[1]["content"]
        assert answers[0]["tokens_predicted"] == 5


async def test_a_server_takes_settings_and_plugins(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from llamafw import hookimpl\n@hookimpl\ndef wrap_asgi(asgi): return None\n")
    async with serve(plugin=(str(tmp_path / "mine.py"),), alias="mine") as client:
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "mine"


async def test_a_model_that_cannot_be_loaded_fails_the_test_at_once(serve: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the model file .* does not exist"):
        async with serve(model=tmp_path / "none.gguf"):
            pass
