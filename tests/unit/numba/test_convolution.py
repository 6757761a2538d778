"""The convolution is close to float64, and its bits do not depend on batches, threads and going back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from llamafw.graph import Conv, Weight
from llamafw_backends.numba_cpu.convolution import CONVOLUTION, build, pack_weight, scratch_bytes, state_bytes
from llamafw_backends.numba_cpu.threads import Pool
from support.operators import FixedRows, compute
from support.recurrent import RecurrentLayer, Rows, compiler, part

N_CHANNELS = 96


@dataclass(frozen=True)
class Variant:
    """A kernel: the number of inputs that a token sees, with or without bias and SiLU."""

    k: int
    bias: bool = False
    silu: bool = False

    def __str__(self) -> str:
        return f"{self.k}{'-bias' * self.bias}{'-silu' * self.silu}"


VARIANTS = [Variant(1), Variant(2, silu=True), Variant(3, bias=True), Variant(4, bias=True, silu=True), Variant(8)]
over_variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def make_weights(variant: Variant) -> tuple[Any, Any]:
    """Return the weight, (n_channels, k), and the bias."""
    rng = np.random.default_rng(variant.k)
    return rng.normal(size=(N_CHANNELS, variant.k)).astype(np.float32), rng.normal(size=N_CHANNELS).astype(np.float32)


def make_layer(variant: Variant) -> RecurrentLayer:
    """Return a layer whose memory is NaN."""
    weight, bias = make_weights(variant)
    fields = {"weight": pack_weight(weight), "n_channels": N_CHANNELS}
    return RecurrentLayer(
        build(compiler(), variant.k, bias=variant.bias, silu=variant.silu),
        CONVOLUTION,
        fields | {"bias": bias} if variant.bias else fields,
        N_CHANNELS,
        state_bytes(N_CHANNELS, variant.k),
        scratch_bytes(N_CHANNELS, variant.k),
    )


def make_rows(n: int, seed: int = 1) -> Rows:
    """Return random rows of ``n`` tokens."""
    return {"x": np.random.default_rng(seed).normal(size=(n, N_CHANNELS)).astype(np.float32)}


def evaluate(variant: Variant, rows: Rows) -> Any:
    """Return the operator's outputs in float64."""
    weight, bias = make_weights(variant)
    x = FixedRows(rows["x"].astype(np.float64))
    operator = Conv(x, Weight("w", weight.shape), Weight("b", bias.shape) if variant.bias else None)
    y = compute(operator, {"w": weight, "b": bias})
    return y / (1 + np.exp(-y)) if variant.silu else y


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(4, compiler())
    yield pool
    pool.close()


@over_variants
def test_outputs_are_close_to_float64(variant: Variant) -> None:
    rows = make_rows(50)
    expected = evaluate(variant, rows)
    got = make_layer(variant).compute(rows, [50])
    assert np.abs(got - expected).max() < 1e-6 * np.abs(expected).max()


@over_variants
def test_bits_do_not_depend_on_cuts_other_slots_threads_and_going_back(variant: Variant, pool: Pool) -> None:
    rng = np.random.default_rng(2)
    rows = make_rows(61)
    layer = make_layer(variant)
    expected = layer.compute(rows, [1] * 61)
    assert np.isfinite(expected).all()

    for max_size in (1, 2, 3, 5, 9, 61) * 2:
        got = layer.compute_at_random(rows, rng, pool if max_size % 2 else None, max_size)
        np.testing.assert_array_equal(got, expected)


@over_variants
def test_slots_can_go_back_to_any_position_of_the_last_block(variant: Variant) -> None:
    rows, others = make_rows(24), make_rows(24, seed=9)
    layer = make_layer(variant)
    expected = layer.compute(rows, [24])
    for n in range(1, 17):
        for back in range((n - 1) // 4 * 4, n):
            layer.compute({"x": np.concatenate([rows["x"][:back], others["x"][back:n]])}, [n])
            layer.truncate(0, back)
            (got,) = layer.run([(0, part(rows, slice(back, None)))])
            np.testing.assert_array_equal(got, expected[back:])


def test_more_threads_than_groups_of_channels_are_allowed(pool: Pool) -> None:
    weight = np.ones((16, 3), np.float32)
    layer = RecurrentLayer(
        build(compiler(), 3),
        CONVOLUTION,
        {"weight": pack_weight(weight), "n_channels": 16},
        16,
        state_bytes(16, 3),
        scratch_bytes(16, 3),
    )
    (got,) = layer.run([(0, {"x": np.ones((5, 16))})], pool)
    np.testing.assert_array_equal(got[:, 0], [1, 2, 3, 3, 3])


def test_state_keeps_the_inputs_of_a_token_and_of_a_block() -> None:
    assert state_bytes(6144, 4) == 4 * 6144 * (3 + 4)
