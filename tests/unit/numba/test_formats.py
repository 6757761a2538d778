"""Each tensor type is multiplied with its exact weights by every instruction set, and unpacked exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import numpy.typing as npt
import pytest
from llvmlite import ir

from llamafw import BackendContext, BackendOptions, Model, Tensor
from llamafw import graph as g
from llamafw.testing.batches import batch
from llamafw.testing.random_tensors import random_tensor
from llamafw_backends.numba_cpu import emit, matmul
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.numba_cpu.cpu import features
from llamafw_backends.numba_cpu.emit import Builder, Value
from llamafw_backends.numba_cpu.formats import FORMATS, bits
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from llamafw_backends.numba_cpu.isa import Neon
from llamafw_backends.numba_cpu.kernel_compiler import KernelCompiler
from llamafw_backends.numba_cpu.simd import i64, operation, void
from llamafw_backends.numba_cpu.tiles import Record
from support.gguf_models import QUANTS

N_VOCAB, N_EXPERT, N_USED = 64, 3, 2
N_ROWS = 40  # two whole tiles, and half of a third one
N_COLUMNS = 512
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, N_VOCAB, 40)]
ISAS = [name for name, isa in INSTRUCTION_SETS.items() if isa.available()]


def make_tensor(rng: np.random.Generator, name: str, shape: tuple[int, ...], type_name: str) -> Tensor:
    """Return a tensor of random weights."""
    return Tensor(name, shape, type_name, random_tensor(rng, shape, type_name, std=0.1).view(np.uint8).reshape(-1))


@contextmanager
def opened(graph: g.Graph, tensors: dict[str, Tensor], n_threads: int = 2) -> Iterator[NumbaBackend]:
    """Open a backend for a graph, with a model that is only in memory."""
    options = BackendOptions(n_ctx=64, n_slots=1, n_batch=64, n_threads=n_threads)
    backend = NumbaBackend(BackendContext(Model(Path("m.gguf"), {}, tensors, 0), graph, options, QUANTS))
    try:
        yield backend
    finally:
        backend.close()


def weights_of(tensors: dict[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    return {name: QUANTS[one.type_name].dequantize(one.data, one.shape) for name, one in tensors.items()}


def build(tensors: dict[str, Tensor]) -> g.Graph:
    """Return a graph that multiplies embeddings with a matrix, and with those of chosen experts."""
    x = g.EmbeddingLookup(g.TOKENS, g.Weight("embedding", tensors["embedding"].shape))
    chosen = g.top_k(g.Linear(x, g.Weight("router", tensors["router"].shape)), N_USED)
    experts = g.ExpertLinear(x, chosen, g.Weight("experts", tensors["experts"].shape))
    return g.Graph(g.concat(g.Linear(x, g.Weight("matrix", tensors["matrix"].shape)), g.flat(experts)), None, 64)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("type_name", FORMATS)
def test_products_are_those_of_the_exact_weights(type_name: str, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of any size give the same bits."""
    monkeypatch.setenv("LLAMAFW_ISA", isa)
    rng = np.random.default_rng(1)
    tensors = {
        "embedding": make_tensor(rng, "embedding", (N_VOCAB, N_COLUMNS), "F32"),
        "router": make_tensor(rng, "router", (N_EXPERT, N_COLUMNS), "F32"),
        "matrix": make_tensor(rng, "matrix", (N_ROWS, N_COLUMNS), type_name),
        "experts": make_tensor(rng, "experts", (N_EXPERT, 48, N_COLUMNS), type_name),
    }
    graph = build(tensors)
    expected, _ = g.evaluate(graph, TOKENS, weights_of(tensors).__getitem__)

    with opened(graph, tensors) as backend:
        assert backend.describe()["weight_types"] == sorted({"F32", type_name})
        whole = backend.hidden(batch((0, 0, TOKENS))).copy()
        error = np.sqrt(np.mean((whole - expected) ** 2) / np.mean(expected**2))
        assert error < 1e-4  # activations have 15 bits
        for n in (1, 3, 12):
            backend.truncate(0, 0)
            np.testing.assert_array_equal(backend.hidden(batch((0, 0, TOKENS[:n]))), whole[:n])


@pytest.mark.parametrize("type_name", FORMATS)
def test_all_instruction_sets_give_the_same_bits(type_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    tensors = {name: make_tensor(rng, name, (N_VOCAB, N_COLUMNS), type_name) for name in ("embedding", "matrix")}
    x = g.EmbeddingLookup(g.TOKENS, g.Weight("embedding", (N_VOCAB, N_COLUMNS)))
    graph = g.Graph(g.Linear(x, g.Weight("matrix", (N_VOCAB, N_COLUMNS))), None, 64)
    results = []
    for isa in ISAS:
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        with opened(graph, tensors) as backend:
            results.append(backend.hidden(batch((0, 0, TOKENS))).copy())
    assert np.isfinite(results[0]).all()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("type_name", FORMATS)
def test_blocks_are_unpacked_exactly(type_name: str) -> None:
    """Any bytes give the bits of the reference, infinities included; all NaN are alike."""
    quant, rng = QUANTS[type_name], np.random.default_rng(3)
    one = FORMATS[type_name]
    unpack = KernelCompiler(lambda line: None)(one.kernel_name("unpack"), 2, one.unpack, has_result=False).ctypes
    blocks = rng.integers(0, 256, (200, one.block_bytes), np.uint8)
    weights = np.empty((200, one.block_size), np.float32)
    for block, row in zip(blocks, weights, strict=True):
        unpack(block.ctypes.data, row.ctypes.data)
    with np.errstate(all="ignore"):
        expected = quant.dequantize(blocks.reshape(-1), weights.shape)
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(weights), ~number)
    np.testing.assert_array_equal(weights[number].view(np.uint32), expected[number].view(np.uint32))


class EmulatedNeon(Neon):
    """NEON on any processor: products of bytes are emitted as such."""

    name = "emulated-neon"
    required_features = frozenset[str]()

    def _multiply(self, b: Any, total: Any, word: Any, quants: Any) -> Any:
        narrow, wide = (ir.VectorType(ir.IntType(bits), 16) for bits in (8, 32))
        products = b.mul(b.sext(b.bitcast(word, narrow), wide), b.sext(b.bitcast(quants, narrow), wide))
        for start in range(4):
            total = b.add(total, emit.take(b, products, list(range(start, 16, 4))))
        return total


@pytest.mark.parametrize("type_name", ["Q4_K", "Q6_K", "Q8_0"])
def test_neon_gives_the_same_bits(type_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))  # the cache does not notice changes of this file
    monkeypatch.setitem(INSTRUCTION_SETS, "emulated-neon", EmulatedNeon())
    rng = np.random.default_rng(2)
    tensors = {name: make_tensor(rng, name, (N_VOCAB, N_COLUMNS), type_name) for name in ("embedding", "matrix")}
    x = g.EmbeddingLookup(g.TOKENS, g.Weight("embedding", (N_VOCAB, N_COLUMNS)))
    graph = g.Graph(g.Linear(x, g.Weight("matrix", (N_VOCAB, N_COLUMNS))), None, 64)
    results = []
    for isa in ("plain", "emulated-neon"):
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        with opened(graph, tensors) as backend:
            results.append(backend.hidden(batch((0, 0, TOKENS))).copy())
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("type_name", ["Q4_K", "Q8_0"])
def test_neon_kernels_use_dot_products(type_name: str) -> None:
    """The code for ARM can be read on any machine."""
    module = ir.Module()
    module.triple = "aarch64-linux-gnu"
    matmul._tiles_by_tokens(module, Neon(), FORMATS[type_name], 1, 4).linkage = "external"
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("aarch64-linux-gnu").create_target_machine(features="+dotprod,+fullfp16", opt=2)
    code = machine.emit_assembly(llvm.parse_assembly(str(module)))
    n_products = len(re.findall(r"\bsdot\b", code))
    assert n_products == 4 * 2 * 4 * 8  # tokens, parts, quarters of 16 lanes, words


@pytest.mark.parametrize(("type_name", "n_scales", "scale_bytes"), [("MXFP4", 1, range(224)), ("NVFP4", 4, range(256))])
def test_products_are_right_with_any_scale_byte(type_name: str, n_scales: int, scale_bytes: range) -> None:
    """One row for each byte; larger ones of MXFP4 would give infinite sums."""
    rng, one, n = np.random.default_rng(4), FORMATS[type_name], len(scale_bytes)
    blocks = rng.integers(0, 256, (n, N_COLUMNS // one.block_size, one.block_bytes), np.uint8)
    blocks[:, :, :n_scales] = np.array(scale_bytes)[:, None, None]
    tensors = {
        "embedding": Tensor("embedding", (N_VOCAB, N_COLUMNS), "F32", make_embedding(rng)),
        "matrix": Tensor("matrix", (n, N_COLUMNS), type_name, blocks.reshape(-1)),
    }
    x = g.EmbeddingLookup(g.TOKENS, g.Weight("embedding", (N_VOCAB, N_COLUMNS)))
    graph = g.Graph(g.Linear(x, g.Weight("matrix", (n, N_COLUMNS))), None, 64)
    expected, _ = g.evaluate(graph, TOKENS, weights_of(tensors).__getitem__)
    with opened(graph, tensors) as backend:
        result = backend.hidden(batch((0, 0, TOKENS))).astype(np.float64)

    size = np.sqrt(np.mean(expected**2, 0))
    zero = size == 0
    assert list(np.flatnonzero(zero)) == ([0, 0x7F, 0x80] if type_name == "NVFP4" else [])
    assert not result[:, zero].any()
    assert (np.sqrt(np.mean((result - expected) ** 2, 0))[~zero] < 1e-4 * size[~zero]).all()


def make_embedding(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return activations so large that products with the smallest scales are not subnormal."""
    return rng.normal(0, 1e4, (N_VOCAB, N_COLUMNS)).astype(np.float32).view(np.uint8).reshape(-1)


@pytest.mark.parametrize("feature", ["avx512bw", "avx2", "ssse3", None])
def test_bytes_are_looked_up_with_any_instruction(feature: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if feature and feature not in features():
        pytest.skip(f"this processor has no {feature}")
    monkeypatch.setattr(bits, "features", lambda: {feature})
    table = [(37 * i + 11) % 256 for i in range(16)]

    def look_up(b: Builder, source: Value, out: Value) -> None:
        record = Record(b, source, source, source)
        (word,) = bits.look_up(record, table, [record.word(0)])
        emit.store(b, word, out)

    copy = operation(void, (i64, i64), look_up)
    kernel = numba.cfunc(void(i64, i64))(lambda source, out: copy(source, out))
    indices = np.random.default_rng(0).integers(0, 16, 64, np.uint8)
    found = np.empty(64, np.uint8)
    kernel.ctypes(indices.ctypes.data, found.ctypes.data)
    assert found.tolist() == [table[i] for i in indices]
