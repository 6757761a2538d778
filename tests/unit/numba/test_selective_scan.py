"""The selective scan is close to float64, and its bits do not depend on batches, threads and going back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from llamafw.graph import SelectiveScan, Weight
from llamafw_backends.numba_cpu.selective_scan import SELECTIVE_SCAN, build, pack_a, state_bytes
from llamafw_backends.numba_cpu.threads import Pool
from support.operators import FixedRows, compute
from support.recurrent import RecurrentLayer, Rows, compiler, part

N_CHANNELS = 96
over_sizes = pytest.mark.parametrize("n_state", [5, 16, 32])


def make_weights(n_state: int) -> dict[str, Any]:
    """Return A and D."""
    rng = np.random.default_rng(n_state)
    a, d = -rng.uniform(0.1, 16, (N_CHANNELS, n_state)), rng.normal(size=N_CHANNELS)
    return {"a": a.astype(np.float32), "d": d.astype(np.float32)}


def make_layer(n_state: int) -> RecurrentLayer:
    """Return a layer whose memory is NaN."""
    weights = make_weights(n_state)
    return RecurrentLayer(
        build(compiler()),
        SELECTIVE_SCAN,
        {"a": pack_a(weights["a"]), "d": weights["d"], "n_channels": N_CHANNELS, "n_state": n_state},
        N_CHANNELS,
        state_bytes(N_CHANNELS, n_state),
    )


def make_rows(n_state: int, n: int, seed: int = 1) -> Rows:
    """Return random rows of ``n`` tokens."""
    rng = np.random.default_rng(seed)
    rows = {
        "x": rng.normal(size=(n, N_CHANNELS)),
        "delta": np.exp(rng.uniform(np.log(1e-3), np.log(10), (n, N_CHANNELS))),
        "b": rng.normal(size=(n, n_state)),
        "c": rng.normal(size=(n, n_state)),
    }
    return {name: array.astype(np.float32) for name, array in rows.items()}


def evaluate(n_state: int, rows: Rows) -> Any:
    """Return the operator's outputs in float64."""
    values = {name: FixedRows(array.astype(np.float64)) for name, array in rows.items()}
    a, d = Weight("a", (N_CHANNELS, n_state)), Weight("d", (N_CHANNELS,))
    return compute(SelectiveScan(**values, a=a, d=d), make_weights(n_state))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(4, compiler())
    yield pool
    pool.close()


@over_sizes
def test_outputs_are_close_to_float64(n_state: int) -> None:
    rows = make_rows(n_state, 300)
    expected = evaluate(n_state, rows)
    got = make_layer(n_state).compute(rows, [300])
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@over_sizes
def test_bits_do_not_depend_on_cuts_other_slots_threads_and_going_back(n_state: int, pool: Pool) -> None:
    rng = np.random.default_rng(2)
    rows = make_rows(n_state, 61)
    layer = make_layer(n_state)
    expected = layer.compute(rows, [1] * 61)
    assert np.isfinite(expected).all()

    for max_size in (1, 2, 3, 5, 9, 61) * 2:
        got = layer.compute_at_random(rows, rng, pool if max_size % 2 else None, max_size)
        np.testing.assert_array_equal(got, expected)


def test_slots_can_go_back_to_any_position_of_the_last_block() -> None:
    rows, others = make_rows(16, 24), make_rows(16, 24, seed=9)
    layer = make_layer(16)
    expected = layer.compute(rows, [24])
    for n in range(1, 17):
        for back in range((n - 1) // 4 * 4, n):
            layer.compute({name: np.concatenate([rows[name][:back], others[name][back:n]]) for name in rows}, [n])
            layer.truncate(0, back)
            (got,) = layer.run([(0, part(rows, slice(back, None)))])
            np.testing.assert_array_equal(got, expected[back:])


def test_copied_states_continue_with_the_same_bits() -> None:
    rows = make_rows(16, 24)
    layer = make_layer(16)
    expected = layer.compute(rows, [24])
    for n in range(1, 9):
        layer.compute(part(rows, slice(n)), [n])
        layer.states[2], layer.positions[2], layer.earliest[2] = layer.states[0], n, layer.earliest[0]
        layer.states[0] = np.nan
        (got,) = layer.run([(2, part(rows, slice(n, None)))])
        np.testing.assert_array_equal(got, expected[n:])


def test_state_has_the_documented_size() -> None:
    # per 16 channels: h twice, and x, delta and B of four tokens, and positions
    assert state_bytes(5120, 16) == 320 * (2 * 16 * 64 + 4 * (64 + 64 + 64) + 64)
    assert state_bytes(16, 5) % 64 == 0
