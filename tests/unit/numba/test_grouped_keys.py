"""Grouped positions: the keys of full windows move; cuts, drafts, shared pages and saved states respect that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Batch, LlamafwError, ModelError, RequestError
from llamafw import graph as g
from llamafw.testing.batches import batch, logits
from llamafw.testing.reference import Reference
from llamafw.testing.tiny import write_tiny_gguf
from support.numba_backend import open_backend
from support.self_extend import llama_cpp_positions

TOKENS = [int(token) for token in np.random.default_rng(6).integers(0, 300, 150)]
FACTOR, WIDTH = 3, 24  # windows do not begin at multiples of 16, the positions in a block of keys


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "m.gguf", n_embd_head=32)


@pytest.fixture(scope="module")
def expected(model: Path) -> Any:
    """The logits after each token in float64."""
    return Reference(model).logits(TOKENS, llama_cpp_positions(len(TOKENS), FACTOR, WIDTH))


def opened(model: Path, factor: int = FACTOR, width: int = WIDTH, **options: Any) -> Any:
    options = {"n_ctx": 192, "n_slots": 3, "cache_type_k": "f32", "cache_type_v": "f32"} | options
    return open_backend(model, None, change=lambda graph: g.self_extend(graph, factor, width), **options)


@pytest.fixture(scope="module")
def backend(model: Path) -> Iterator[Any]:
    with opened(model) as found:
        yield found


@pytest.fixture(scope="module")
def token_by_token(backend: Any) -> Any:
    return logits(backend, TOKENS, [1] * len(TOKENS))


def go_on(backend: Any, first: int, last: int, slot: int = 0) -> Any:
    """Return the logits of some of the tokens, which continue a slot."""
    return backend.forward(batch((slot, first, TOKENS[first:last]))).copy()


@pytest.mark.inventory("K-11")
def test_logits_are_those_of_float64(token_by_token: Any, expected: Any) -> None:
    np.testing.assert_allclose(token_by_token, expected, rtol=0, atol=2e-4)


@pytest.mark.inventory("K-11")
@pytest.mark.parametrize("types", [("f16", "f16"), ("q8_0", "q8_0"), ("bf16", "q4_0")], ids="-".join)
def test_keys_of_each_type_move(model: Path, types: tuple[str, str], expected: Any) -> None:
    """The error is that of the rounding, as without groups."""
    with opened(model, cache_type_k=types[0], cache_type_v=types[1]) as backend:
        got = np.abs(logits(backend, TOKENS) - expected).max()
    with open_backend(model, n_ctx=192, n_slots=1, cache_type_k=types[0], cache_type_v=types[1]) as backend:
        plain = np.abs(logits(backend, TOKENS) - Reference(model).logits(TOKENS)).max()
    assert 0 < got < 2 * plain


@pytest.mark.parametrize("sizes", [[150], [10, 100, 40], [24, 24, 102], [23, 2, 1, 124]], ids=str)
def test_logits_do_not_depend_on_batches(backend: Any, token_by_token: Any, sizes: list[int]) -> None:
    np.testing.assert_array_equal(logits(backend, TOKENS, sizes, slot=1), token_by_token)


def test_slots_of_one_batch_are_in_different_windows(backend: Any, token_by_token: Any) -> None:
    for slot, n in enumerate((20, 47, 96)):
        backend.truncate(slot, 0)
        backend.forward(batch((slot, 0, TOKENS[:n])))
    outputs = [0, 5, 7, 29, 34, 40]
    runs = [(0, 20, TOKENS[20:30]), (1, 47, TOKENS[47:77]), (2, 96, TOKENS[96:97])]
    indices = [*range(20, 30), *range(47, 77), 96]
    rows = backend.forward(batch(*runs, outputs=outputs))
    np.testing.assert_array_equal(rows, token_by_token[[indices[i] for i in outputs]])


@pytest.mark.parametrize(
    ("n", "wanted", "left"),
    [(60, 55, 55), (60, 48, 48), (60, 47, 24), (60, 24, 24), (60, 20, 0), (72, 71, 48), (72, 72, 72), (20, 7, 7)],
)
def test_slot_is_cut_in_its_last_window_or_at_the_end_of_another(
    backend: Any, token_by_token: Any, n: int, wanted: int, left: int
) -> None:
    logits(backend, TOKENS[:n])
    assert backend.snapshots(0) == list(range(WIDTH, n + 1, WIDTH))
    assert backend.truncate(0, wanted) == left
    np.testing.assert_array_equal(go_on(backend, left, 150), token_by_token[left:])


@pytest.mark.parametrize(("start", "end", "cut"), [(70, 75, 71), (70, 73, 72), (47, 49, 47), (60, 100, 65)])
def test_draft_is_removed_from_a_full_window(backend: Any, token_by_token: Any, start: int, end: int, cut: int) -> None:
    logits(backend, TOKENS[:start])
    backend.hold_state(0)
    wrong = [(token + 7) % 300 for token in TOKENS[cut:end]]
    backend.forward(batch((0, start, [*TOKENS[start:cut], *wrong])))
    assert backend.truncate(0, cut) == cut
    np.testing.assert_array_equal(go_on(backend, cut, 150), token_by_token[cut:])


def test_draft_is_removed_from_a_slot_that_shares_pages(backend: Any, token_by_token: Any) -> None:
    logits(backend, TOKENS[:70])
    backend.hold_state(0)
    backend.forward(batch((0, 70, TOKENS[70:75])))
    backend.truncate(1, 0)
    backend.share_prefix(0, 1, 72)
    assert backend.truncate(0, 71) == 71
    np.testing.assert_array_equal(go_on(backend, 72, 150, slot=1), token_by_token[72:])
    np.testing.assert_array_equal(go_on(backend, 71, 150), token_by_token[71:])


def test_window_moves_in_one_of_two_slots_that_share_it(backend: Any, token_by_token: Any) -> None:
    logits(backend, TOKENS[:40])
    backend.share_prefix(0, 1, 40)
    for slot in (0, 1):
        np.testing.assert_array_equal(go_on(backend, 40, 150, slot), token_by_token[40:])
    with pytest.raises(LlamafwError, match="slot 0 cannot be cut at 100, which is within a full window"):
        backend.share_prefix(0, 2, 100)


def test_states_are_saved_and_restored(backend: Any, token_by_token: Any) -> None:
    logits(backend, TOKENS[:100])
    with pytest.raises(LlamafwError, match="cannot be cut at 95"):
        backend.save(0, 95)
    for n in (100, 97, 96, 48):
        state = backend.save(0, n)
        assert state.nbytes == backend.state_size(n)
        backend.restore(1, n, state)
        np.testing.assert_array_equal(go_on(backend, n, 150, slot=1), token_by_token[n:])
    with pytest.raises(LlamafwError):
        backend.restore(1, 48, backend.save(0, 96))


def test_hidden_states_of_several_windows_come_in_order(backend: Any) -> None:
    backend.truncate(0, 0)
    rows = backend.hidden(batch((0, 0, TOKENS), outputs=[3, 50, 149])).copy()
    backend.truncate(0, 0)
    one_by_one = [backend.hidden(batch((0, i, [token])))[0].copy() for i, token in enumerate(TOKENS)]
    np.testing.assert_array_equal(rows, [one_by_one[i] for i in (3, 50, 149)])


def test_slot_cannot_continue_in_a_full_window(backend: Any) -> None:
    logits(backend, TOKENS[:60])
    with pytest.raises(RequestError, match="slot 0 cannot continue at position 30"):
        backend.forward(batch((0, 30, TOKENS[30:31])))


@pytest.mark.parametrize("wrong", ["positions", "slots", "outputs"])
def test_faulty_batch_is_refused(backend: Any, wrong: str) -> None:
    arrays: dict[str, Any] = {name: np.zeros(1, np.int32) for name in ("tokens", "positions", "slots", "outputs")}
    arrays[wrong] = np.array([5, 6], np.int32)
    with pytest.raises(RequestError):
        backend.forward(Batch(**arrays))


@pytest.mark.parametrize("kind", ["window", "no rotation of keys"])
def test_keys_that_cannot_move_are_refused(model: Path, kind: str) -> None:
    def change(graph: g.Graph) -> g.Graph:
        grouped = g.GroupedPositions(FACTOR, WIDTH)

        def one(value: g.Value) -> g.Value:
            if isinstance(value, g.Rope):
                return g.Rope(value.x, value.rotation, grouped)
            if isinstance(value, g.Attention) and kind == "window":
                return g.Attention(value.q, value.past, value.scale, window=8)
            if isinstance(value, g.Cache) and kind != "window":
                return g.Cache(value.k * 2.0, value.v)
            return value

        return g.rewrite(graph, one)

    with (
        pytest.raises(ModelError, match="GroupedPositions.*the keys of this model cannot be moved"),
        open_backend(model, change=change, n_ctx=192, n_ubatch=16),
    ):
        pass
