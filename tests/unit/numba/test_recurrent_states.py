"""Slots of recurrent models: going back, snapshots, saved states."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import all_checkpoints, write
from llamafw import Floats, LlamafwError, RequestError
from llamafw.testing.batches import batch
from support.numba_backend import fill_with_nan, open_backend

NAMES = ("qwen35", "nemotron_h", "lfm2")
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(40)]

Open = Callable[..., Any]


@pytest.fixture(params=NAMES)
def open_model(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Return a function that opens a backend with one of the recurrent models."""
    (checkpoint,) = [one for one in all_checkpoints() if one.name == request.param]
    path = write(checkpoint, tmp_path / "model.gguf")
    opened = []

    def open_one(**options: Any) -> Any:
        opened.append(open_backend(path, **{"n_ctx": 64} | options))
        return opened[-1].__enter__()

    yield open_one
    for one in opened:
        one.__exit__(None, None, None)


def evaluate(backend: Any, first: int, last: int, slot: int = 0) -> Floats:
    """Return the logits of the tokens ``first`` … ``last - 1``."""
    logits: Floats = backend.forward(batch((slot, first, TOKENS[first:last]))).copy()
    return logits


def test_slots_cannot_be_cut_or_shifted(open_model: Open) -> None:
    backend = open_model()
    assert not backend.can_cut
    assert not backend.can_shift
    evaluate(backend, 0, 10)
    with pytest.raises(LlamafwError):
        backend.shift(0, 0, 4)


def test_slot_goes_back_to_its_snapshots(open_model: Open) -> None:
    backend = open_model()
    expected = evaluate(backend, 0, 40)
    backend.truncate(0, 0)
    evaluate(backend, 0, 9)
    backend.take_snapshot(0)
    evaluate(backend, 9, 22)
    backend.take_snapshot(0)
    evaluate(backend, 22, 40)
    assert backend.snapshots(0) == [9, 22]

    assert backend.truncate(0, 30) == 22
    assert np.array_equal(evaluate(backend, 22, 40), expected[22:])
    assert backend.truncate(0, 21) == 9
    assert backend.snapshots(0) == [9]
    assert np.array_equal(evaluate(backend, 9, 40), expected[9:])
    assert backend.truncate(0, 8) == 0
    assert np.array_equal(evaluate(backend, 0, 40), expected)


@pytest.mark.parametrize("n", range(1, 12))
def test_slot_goes_back_within_its_last_block(open_model: Open, n: int) -> None:
    """The rows of a block of tokens are kept, so short cuts need no snapshot."""
    backend = open_model()
    expected = evaluate(backend, 0, 40)
    backend.truncate(0, 0)
    evaluate(backend, 0, n)
    start = (n - 1) // 4 * 4
    for position in range(n, start, -1):
        assert backend.truncate(0, position) == position
    assert np.array_equal(evaluate(backend, max(start + 1, 1), 40), expected[max(start + 1, 1) :])


def test_number_of_snapshots_is_limited(open_model: Open) -> None:
    backend = open_model(n_snapshots=2)
    for position in range(0, 40, 5):
        evaluate(backend, position, position + 5)
        backend.take_snapshot(0)
    assert len(backend.snapshots(0)) == 2
    assert backend.snapshots(0)[-1] == 40


def test_batch_may_be_computed_again(open_model: Open) -> None:
    backend = open_model()
    first = evaluate(backend, 0, 10)
    assert np.array_equal(evaluate(backend, 0, 10), first)
    step = evaluate(backend, 10, 11)
    assert np.array_equal(evaluate(backend, 10, 11), step)


def test_batch_at_a_lost_position_is_refused(open_model: Open) -> None:
    backend = open_model()
    evaluate(backend, 0, 30)
    with pytest.raises(RequestError, match="slot 0 cannot continue at position 10"):
        evaluate(backend, 10, 30)


def test_saved_state_has_the_snapshots(open_model: Open) -> None:
    """A restored slot continues as the saved one, and can go back to the same snapshots."""
    backend = open_model()
    expected = evaluate(backend, 0, 40)
    backend.truncate(0, 0)
    evaluate(backend, 0, 9)
    backend.take_snapshot(0)
    evaluate(backend, 9, 23)
    state = backend.save(0, 23)
    assert state.nbytes <= backend.state_size(23)

    fill_with_nan(backend)
    backend.restore(1, 23, state)
    assert np.array_equal(evaluate(backend, 23, 40, slot=1), expected[23:])
    assert backend.truncate(1, 12) == 9
    assert np.array_equal(evaluate(backend, 9, 40, slot=1), expected[9:])


def test_snapshot_can_be_saved_alone(open_model: Open) -> None:
    backend = open_model()
    expected = evaluate(backend, 0, 40)
    backend.truncate(0, 0)
    evaluate(backend, 0, 9)
    backend.take_snapshot(0)
    evaluate(backend, 9, 30)
    with pytest.raises(LlamafwError, match="20 positions of slot 0 was not kept"):
        backend.save(0, 20)
    backend.restore(1, 9, backend.save(0, 9))
    assert np.array_equal(evaluate(backend, 9, 40, slot=1), expected[9:])


@pytest.mark.parametrize("change", ["shorter", "longer", "no states", "wrong position"])
def test_damaged_state_is_refused(open_model: Open, change: str) -> None:
    """The slot keeps what it had."""
    backend = open_model()
    expected = evaluate(backend, 0, 40)
    backend.truncate(0, 0)
    evaluate(backend, 0, 23)
    state = backend.save(0, 23)
    n_cached = backend._kv.state_size(23)
    damaged = {
        "shorter": state[:-1],
        "longer": np.concatenate([state, state[:1]]),
        "no states": state[:n_cached],
        "wrong position": np.concatenate([state[: n_cached + 8], state[n_cached + 8 :][::-1]]),
    }[change]
    with pytest.raises(LlamafwError):
        backend.restore(0, 23, damaged)
    assert np.array_equal(evaluate(backend, 23, 40), expected[23:])
