"""Each type of keys and values: rounding, reading, accuracy, and the same bits with each instruction set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numba
import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from llamafw import SettingsError
from llamafw.testing.batches import batch, logits
from llamafw.testing.reference import Array, Reference
from llamafw.testing.tiny import write_tiny_gguf
from llamafw.types.backend_options import CacheType as CacheTypeName
from llamafw_backends.numba_cpu import cache_types, cpu, emit, hadamard, tables
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.numba_cpu.cache_types import CACHE_TYPES, CacheType
from llamafw_backends.numba_cpu.formats.iq4_nl import NUMBERS
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.simd import i64, operation, void
from support.numba_backend import cached_keys, cached_values, fill_with_nan, make_context, open_backend

Floats = npt.NDArray[np.float32]

TOKENS = [int(t) for t in np.random.default_rng(7).integers(0, 300, 60)]
SIZE = 64  # of a head
QUANTISED = [name for name, kind in CACHE_TYPES.items() if kind.n_scales]
HEAD_ORDER = np.concatenate([np.arange(0, SIZE, 2), np.arange(1, SIZE, 2)])  # of keys in the cache: see `fusion`
INVERSE_ORDER = np.argsort(HEAD_ORDER)

MAX_ERRORS = {
    "f32": 0.01,
    "f16": 0.02,
    "bf16": 0.03,
    "q8_0": 0.05,
    "q5_1": 0.4,
    "q5_0": 0.4,
    "q4_1": 0.4,
    "q4_0": 0.4,
    "iq4_nl": 0.4,
}
"""Of logits, whose standard deviation is about 3, compared with float64 and the same rounding of keys and values.

A number in the middle between two steps may be rounded to the other one, and the steps of 4 bits are large.
"""
PAIRS = [(name, name) for name in CACHE_TYPES] + [("q8_0", "f32"), ("f16", "q8_0"), ("q4_0", "f16"), ("q8_0", "q4_1")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes: dict[str, Any] = {"n_embd": 128, "n_head": 4, "n_head_kv": 2, "n_embd_head": SIZE}
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "m.gguf", types="Q8_0", n_layer=1, **sizes)


def transform() -> Array:
    """Return the matrix of the Walsh-Hadamard transform of a head."""
    matrix = np.ones((1, 1))
    while len(matrix) < SIZE:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    orthogonal: Array = matrix / np.sqrt(SIZE)
    return orthogonal


def rounded(x: npt.NDArray[np.floating], name: str) -> npt.NDArray[np.uint8]:
    """Return numbers rounded to a type, in the layout of files."""
    numbers = np.ascontiguousarray(x, np.float32)
    if name == "iq4_nl":
        blocks = [iq4_nl_block(block) for block in numbers.reshape(-1, 32)]
        return np.concatenate(blocks).reshape(*numbers.shape[:-1], -1)
    return quantize(numbers, GGMLQuantizationType[name.upper()]).view(np.uint8)


def iq4_nl_block(block: Floats) -> npt.NDArray[np.uint8]:
    """Return a block of IQ4_NL, as ggml's ``quantize_row_iq4_nl_ref`` computes it."""
    numbers = np.array(NUMBERS, np.float32)
    farthest = block[np.abs(block).argmax()]
    if abs(farthest) < 1e-15:
        return np.array([0, 0, *[0x88] * 16], np.uint8)  # the number nearest to 0 has index 8
    inverse = np.float32(1) / (farthest / numbers[0])
    indices, products, squares = [], np.float32(0), np.float32(0)
    for x in block:
        scaled = inverse * x
        upper = min(max(int(np.searchsorted(numbers, scaled, "right")), 1), 15)
        index = upper - 1 if scaled - numbers[upper - 1] < numbers[upper] - scaled else upper
        indices.append(index)
        products += x * x * numbers[index] * x
        squares += x * x * numbers[index] * numbers[index]
    nibbles = [low | high << 4 for low, high in zip(indices[:16], indices[16:], strict=True)]
    return np.concatenate([np.array([products / squares], np.float16).view(np.uint8), np.array(nibbles, np.uint8)])


def exact(x: npt.NDArray[np.floating], name: str) -> Floats:
    """Return numbers after they were rounded to a type."""
    found: Floats = dequantize(rounded(x, name), GGMLQuantizationType[name.upper()]).reshape(x.shape)
    return found


def round_blocks(kind: CacheType, x: Floats) -> npt.NDArray[np.uint8]:
    """Return the blocks that the kernel writes for (n, columns) numbers."""
    kernel = KernelCompiler(lambda line: None)(f"round to {kind.name}", 2, kind.round, has_result=False).ctypes
    n_bytes = kind.columns // kind.format.block_size * kind.format.block_bytes
    blocks = np.full((len(x), n_bytes), 0xFF, np.uint8)
    for numbers, block in zip(x, blocks, strict=True):
        kernel(numbers.ctypes.data, block.ctypes.data)
    return blocks


def test_settings_have_the_types() -> None:
    assert set(get_args(CacheTypeName)) == set(CACHE_TYPES)


@pytest.mark.parametrize("kind", CACHE_TYPES.values(), ids=CACHE_TYPES)
def test_numbers_are_rounded_as_in_files(kind: CacheType) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, kind.columns)).astype(np.float32)
    x[:100] *= np.float32(10.0) ** rng.integers(-6, 4, (100, 1)).astype(np.float32)
    x[100:110] = 0
    x[110:120] = 1
    x[120:150] = rng.integers(-2, 3, (30, kind.columns))  # the same size with both signs
    x[150:160, 1:] = 0
    np.testing.assert_array_equal(round_blocks(kind, x), rounded(x, kind.name))


@pytest.mark.parametrize("name", ["q8_0", "q4_0", "q5_1", "iq4_nl"])
def test_numbers_that_are_not_finite_fill_their_block_only(name: str) -> None:
    kind = CACHE_TYPES[name]
    x = np.ones((3, 32), np.float32)
    x[0], x[1, 4], x[1, 5] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(round_blocks(kind, x)[2:], rounded(x[2:], name))


@pytest.mark.parametrize("features", [{"avx512f", "avx2"}, {"avx2"}, set()], ids=["avx512", "avx2", "none"])
@pytest.mark.parametrize("kind", CACHE_TYPES.values(), ids=CACHE_TYPES)
def test_values_are_loaded_with_any_instruction(
    kind: CacheType, features: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not features <= cpu.features():
        pytest.skip("the processor does not have these instructions")
    for module in (cache_types, tables):
        monkeypatch.setattr(module, "features", lambda: frozenset(features))

    def emit_row(b: Any, row: Any, out: Any) -> None:
        for i in range(4):
            emit.store(b, kind.load(b, row, i), emit.address(b, out, 64 * i))

    load_row = operation(void, (i64, i64), emit_row)
    kernel = numba.cfunc(void(i64, i64))(lambda row, out: load_row(row, out)).ctypes
    x = np.random.default_rng(2).standard_normal((64 // kind.columns, kind.columns)).astype(np.float32)
    blocks, numbers = round_blocks(kind, x), np.empty(64, np.float32)
    scales = blocks[:, : 2 * kind.n_scales].copy().view(np.float16).astype(np.float32)
    row = blocks[:, 2 * kind.n_scales :].copy()
    kernel(row.ctypes.data, numbers.ctypes.data)

    values = numbers.reshape(x.shape)
    if kind.n_scales:
        values = values * scales[:, :1] + (scales[:, 1:] if kind.n_scales == 2 else 0)
    np.testing.assert_array_equal(values, exact(x, kind.name))


@pytest.mark.parametrize("size", [32, 48, 64, 96, 128])
def test_rotation_is_orthogonal_and_its_own_inverse(size: int) -> None:
    def run(x: int, out: int) -> int:
        hadamard.rotate(x, size, out)
        return 0

    kernel = KernelCompiler(lambda line: None)(f"test rotation {size}", 2, run).ctypes
    x = np.random.default_rng(size).standard_normal((5, size)).astype(np.float32)
    rotated, back = np.empty_like(x), np.empty_like(x)
    for source, out, again in zip(x, rotated, back, strict=True):
        kernel(source.ctypes.data, out.ctypes.data)
        kernel(out.ctypes.data, again.ctypes.data)
    np.testing.assert_allclose(rotated @ rotated.T, x @ x.T, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(back, x, atol=1e-5)
    if size == SIZE:
        np.testing.assert_allclose(rotated, x @ transform(), atol=1e-5)


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_cache_has_rounded_keys_and_values(model: Path, name: str) -> None:
    """In the first layer, keys and values do not depend on the types; rotated ones may be rounded to the next step."""
    n = len(TOKENS)
    with open_backend(model, n_ctx=96, cache_type_k="f32", cache_type_v="f32") as backend:
        logits(backend, TOKENS)
        keys, values = cached_keys(backend)[0, :, :n].copy(), cached_values(backend)[0, :, :n].copy().view(np.float32)
    rotation = transform() if name in QUANTISED else np.eye(SIZE)

    with open_backend(model, n_ctx=96, cache_type_k=name, cache_type_v=name) as backend:
        fill_with_nan(backend)
        logits(backend, TOKENS, [17, 1, 2, 40])
        got_keys, got_values = cached_keys(backend)[0, :, :n], cached_values(backend)[0, :, :n]
        assert backend.describe()["cache_types"] == f"{name}/{name}"
    found = dequantize(got_values, GGMLQuantizationType[name.upper()]).reshape(values.shape)
    for got, numbers in ((got_keys, keys), (found, values)):
        expected = exact(numbers @ rotation, name)
        assert np.mean(np.isclose(got, expected, rtol=1e-6, atol=1e-7)) > 0.999
        step = np.abs(expected).max() / 4
        np.testing.assert_allclose(got, expected, atol=step)


class RoundedReference(Reference):
    """Computes with rounded keys and values, in float64."""

    types = "f32", "f32"

    def cached(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Return rounded keys and values."""
        keys, values = self.types
        return self._rounded(k[..., HEAD_ORDER], keys)[..., INVERSE_ORDER], self._rounded(v, values)

    def _rounded(self, x: Array, name: str) -> Array:
        rotation = transform() if name in QUANTISED else np.eye(SIZE)
        return exact(x @ rotation, name) @ rotation


@pytest.mark.inventory("C-041", "C-042")
@pytest.mark.parametrize(("keys", "values"), PAIRS)
def test_logits_match_float64_with_the_same_rounding(model: Path, keys: str, values: str) -> None:
    reference = RoundedReference(model)
    reference.types = keys, values
    expected = reference.logits(TOKENS)
    with open_backend(model, n_ctx=96, n_threads=2, cache_type_k=keys, cache_type_v=values) as backend:
        fill_with_nan(backend)
        got = logits(backend, TOKENS, [17, 1, 2, 40])
    assert np.abs(got - expected).max() < max(MAX_ERRORS[keys], MAX_ERRORS[values])
    assert np.abs(got - expected).mean() < 0.1 * max(MAX_ERRORS[keys], MAX_ERRORS[values])


@pytest.mark.parametrize("name", QUANTISED)
def test_logits_do_not_depend_on_batches_slots_and_threads(model: Path, name: str) -> None:
    types: dict[str, Any] = {"cache_type_k": name, "cache_type_v": name}
    with open_backend(model, n_ctx=96, **types) as backend:
        expected = logits(backend, TOKENS, [1] * len(TOKENS))

    with open_backend(model, n_ctx=96, n_slots=3, n_threads=2, n_threads_batch=3, n_ubatch=48, **types) as backend:
        for slot, sizes in enumerate(([60], [17, 1, 2, 40], [1, 15, 16, 28])):
            fill_with_nan(backend)
            np.testing.assert_array_equal(logits(backend, TOKENS, sizes, slot=slot), expected)
            backend.truncate(slot, 0)
        np.testing.assert_array_equal(beside_others(backend, [7, 1, 9, 30, 13]), expected)


def beside_others(backend: Any, sizes: Sequence[int]) -> Floats:
    """Return the logits of tokens of slot 1, in batches with other tokens of slots 0 and 2."""
    fill_with_nan(backend)
    rows, first = [], 0
    for i, size in enumerate(sizes):
        others = [(0, i, [9]), (2, 2 * i, [5, 7])]
        runs = others[0], (1, first, TOKENS[first : first + size]), others[1]
        rows.append(backend.forward(batch(*runs, outputs=range(1, 1 + size))).copy())
        first += size
    return np.concatenate(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTISED)
def test_instruction_sets_agree_to_the_bit(model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [isa.name for isa in INSTRUCTION_SETS.values() if isa.available()]
    found = {}
    for isa in sets:
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        with open_backend(model, n_ctx=96, cache_type_k=name, cache_type_v=name) as backend:
            found[isa] = logits(backend, TOKENS, [1, 20, 39])
    assert "plain" in found
    for isa in sets:
        np.testing.assert_array_equal(found[isa], found["plain"], err_msg=isa)


@pytest.mark.parametrize(
    "types", [("q8_0", "q4_0"), ("q4_1", "q5_1"), ("iq4_nl", "q8_0"), ("bf16", "bf16")], ids="/".join
)
def test_shifted_keys_are_rotated_to_their_new_positions(model: Path, types: tuple[str, str]) -> None:
    """Keys are rounded twice; with 4 bits, each time by up to half a step: a seventh of the largest number or less."""
    with open_backend(model, n_ctx=96, n_slots=2, cache_type_k=types[0], cache_type_v=types[1]) as backend:
        fill_with_nan(backend)
        logits(backend, TOKENS, slot=0)
        backend.shift(0, 4, 17)
        logits(backend, TOKENS[:4] + TOKENS[21:], slot=1)

        end = len(TOKENS) - 17
        keys, values = cached_keys(backend)[:, :, :end], cached_values(backend)[:, :, :end]
        np.testing.assert_array_equal(values[0], values[1])
        np.testing.assert_array_equal(keys[0, :, :4], keys[1, :, :4])  # which were not moved
        step = np.abs(keys[1]).max() / {"q8_0": 120, "bf16": 120}.get(types[0], 6)
        np.testing.assert_allclose(keys[0], keys[1], atol=1.5 * step)


def test_caches_are_as_large_as_their_types(model: Path) -> None:
    sizes = {}
    for name in CACHE_TYPES:
        with open_backend(model, n_ctx=4096, n_slots=1, cache_type_k=name, cache_type_v=name) as backend:
            sizes[name] = backend.describe()["cache_bytes"]
            assert backend.state_size(4096) == sizes[name]
    assert {name: size / sizes["f32"] * 32 for name, size in sizes.items()} == {
        "f32": 32,
        "f16": 16,
        "bf16": 16,
        "q8_0": 8.5,
        "q5_1": 6,
        "q5_0": 5.5,
        "q4_1": 5,
        "q4_0": 4.5,
        "iq4_nl": 4.5,
    }


@pytest.mark.parametrize(
    ("options", "flag"), [({"cache_type_k": "q8_0"}, "-ctk q8_0"), ({"cache_type_v": "q4_1"}, "-ctv q4_1")]
)
def test_heads_that_are_not_whole_blocks_are_refused(options: dict[str, Any], flag: str, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", n_embd=96, n_head=2, n_head_kv=2, n_embd_head=48)
    with open_backend(path, cache_type_k="bf16", cache_type_v="bf16") as backend:
        assert np.isfinite(logits(backend, TOKENS)).all()
    with pytest.raises(SettingsError, match=f"{flag} stores blocks of 32 numbers, but this model has heads of 48"):
        NumbaBackend(make_context(path, **options))
