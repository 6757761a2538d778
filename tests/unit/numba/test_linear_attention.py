"""Linear attention is close to float64, and its bits do not depend on batches, threads and going back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest

from llamafw.graph import LinearAttention
from llamafw_backends.numba_cpu.linear_attention import LINEAR_ATTENTION, build, scratch_bytes, state_bytes
from llamafw_backends.numba_cpu.threads import Pool
from support.operators import FixedRows, compute
from support.recurrent import RecurrentLayer, Rows, compiler, part

N_HEAD, N_KEY_HEADS, SCALE = 4, 2, 0.3
HEAD_BYTES = 4 * (128 * 128 + 4 * 128 + 4 * 128 + 4 * 16 + 16)  # S, keys, rows u, decays, position


@dataclass(frozen=True)
class Variant:
    """A kernel: the rule, the sizes of a head, and whether the gate has a number per channel."""

    rule: Literal["delta", "decay"]
    key_size: int
    value_size: int
    by_channel: bool = False

    def __str__(self) -> str:
        return f"{self.rule}-{self.key_size}x{self.value_size}{'-by-channel' * self.by_channel}"


VARIANTS = [
    Variant("delta", 128, 128),
    Variant("delta", 16, 16),
    Variant("delta", 64, 48),
    Variant("delta", 16, 32, by_channel=True),
    Variant("decay", 128, 64),
    Variant("decay", 32, 160, by_channel=True),
]
over_variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)


@cache
def kernel(variant: Variant) -> Any:
    return build(compiler(), variant.rule, variant.key_size, variant.value_size, by_channel=variant.by_channel)


def make_layer(variant: Variant, *, tiled: bool = True) -> RecurrentLayer:
    """Return a layer whose memory is NaN."""
    return RecurrentLayer(
        kernel(variant),
        LINEAR_ATTENTION,
        {"n_head": N_HEAD, "n_key_heads": N_KEY_HEADS, "tiled": tiled, "scale": SCALE},
        N_HEAD * variant.value_size,
        state_bytes(N_HEAD, variant.key_size, variant.value_size, by_channel=variant.by_channel),
        scratch_bytes(variant.key_size, variant.value_size),
    )


def make_rows(variant: Variant, n: int, gates: str = "mixed", seed: int = 1) -> Rows:
    """Return random rows of ``n`` tokens; keys and queries have length 1, and keys of one head resemble each other."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, n, N_KEY_HEADS, variant.key_size))
    k += 0.7 * rng.normal(size=(N_KEY_HEADS, variant.key_size))
    shape = (n, N_HEAD, variant.key_size) if variant.by_channel else (n, N_HEAD)
    gate = {
        "none": np.zeros(shape),
        "weak": -rng.uniform(0, 0.1, shape),
        "strong": -rng.uniform(2, 120, shape),  # beyond what float32 can hold
        "mixed": np.where(rng.random(shape) < 0.1, -rng.uniform(5, 120, shape), -rng.uniform(0, 0.5, shape)),
    }[gates]
    rows = {
        "q": q / np.linalg.norm(q, axis=-1, keepdims=True),
        "k": k / np.linalg.norm(k, axis=-1, keepdims=True),
        "v": rng.normal(size=(n, N_HEAD, variant.value_size)),
        "gate": gate,
    }
    if variant.rule == "delta":
        rows["beta"] = 1 / (1 + np.exp(-2 * rng.normal(size=(n, N_HEAD))))
    return {name: array.astype(np.float32) for name, array in rows.items()}


def evaluate(variant: Variant, rows: Rows, *, tiled: bool = True) -> Any:
    """Return the operator's outputs in float64, ``(n_tokens, n_head * value_size)``."""
    heads = np.arange(N_HEAD)
    key_heads = heads % N_KEY_HEADS if tiled else heads // (N_HEAD // N_KEY_HEADS)
    values = {name: FixedRows(array.astype(np.float64)) for name, array in rows.items()}
    q, k = (FixedRows(rows[name][:, key_heads].astype(np.float64)) for name in ("q", "k"))
    operator = LinearAttention(q, k, values["v"], values["gate"], variant.rule, values.get("beta"), SCALE)
    return compute(operator).reshape(len(rows["v"]), -1)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(3, compiler())
    yield pool
    pool.close()


@over_variants
@pytest.mark.parametrize("gates", ["none", "weak", "strong", "mixed"])
def test_outputs_are_close_to_float64(variant: Variant, gates: str) -> None:
    rows = make_rows(variant, 300, gates)
    expected = evaluate(variant, rows)
    got = make_layer(variant).compute(rows, [300])
    assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_key_heads_are_tiled_or_grouped() -> None:
    variant = VARIANTS[1]
    rows = make_rows(variant, 20)
    results = []
    for tiled in (True, False):
        got = make_layer(variant, tiled=tiled).compute(rows, [20])
        np.testing.assert_allclose(got, evaluate(variant, rows, tiled=tiled), atol=1e-5)
        results.append(got)
    assert np.abs(results[0] - results[1]).max() > 0.1


@over_variants
def test_bits_do_not_depend_on_cuts_other_slots_threads_and_going_back(variant: Variant, pool: Pool) -> None:
    rng = np.random.default_rng(2)
    rows = make_rows(variant, 61)
    layer = make_layer(variant)
    expected = layer.compute(rows, [1] * 61)
    assert np.isfinite(expected).all()

    for max_size in (1, 2, 3, 5, 9, 61) * 2:
        got = layer.compute_at_random(rows, rng, pool if max_size % 2 else None, max_size)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=str)
def test_slots_can_go_back_to_any_position_of_the_last_block(variant: Variant) -> None:
    rows, others = make_rows(variant, 20), make_rows(variant, 20, seed=9)
    layer = make_layer(variant)
    expected = layer.compute(rows, [20])
    for n in range(1, 13):
        for back in range((n - 1) // 4 * 4, n):
            layer.compute({name: np.concatenate([rows[name][:back], others[name][back:n]]) for name in rows}, [n])
            assert layer.earliest[0] == (n - 1) // 4 * 4
            layer.truncate(0, back)
            (got,) = layer.run([(0, part(rows, slice(back, None)))])
            np.testing.assert_array_equal(got, expected[back:])


@over_variants
def test_copied_states_continue_with_the_same_bits(variant: Variant) -> None:
    rows = make_rows(variant, 24)
    layer = make_layer(variant)
    expected = layer.compute(rows, [24])
    for n in range(1, 9):
        layer.compute(part(rows, slice(n)), [n])
        layer.states[2], layer.positions[2], layer.earliest[2] = layer.states[0], n, layer.earliest[0]
        layer.states[0] = np.nan
        (got,) = layer.run([(2, part(rows, slice(n, None)))])
        np.testing.assert_array_equal(got, expected[n:])


def test_state_has_the_documented_size() -> None:
    assert state_bytes(16, 128, 128) == 16 * HEAD_BYTES
    assert all(state_bytes(3, v.key_size, v.value_size, by_channel=v.by_channel) % 64 == 0 for v in VARIANTS)


def test_kernels_are_loaded_from_the_cache() -> None:
    kernel(VARIANTS[1])
    again = compiler()
    build(again, "delta", 16, 16)
    assert again.compiled == []
