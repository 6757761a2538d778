"""Each tensor type is multiplied with its exact weights by all instruction sets, and unpacked exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from llvmlite import ir

from llamafw import Backend, BackendContext, Bytes
from llamafw.testing.quant_kernels import MakeBlocks, check_products, check_rows
from llamafw.testing.random_tensors import random_tensor
from llamafw_backends.numba_cpu import emit, matmul
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.numba_cpu.formats import BUILT_IN, FORMATS
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from llamafw_backends.numba_cpu.isa import Neon
from support.gguf_models import QUANTS

ISAS = [name for name, isa in INSTRUCTION_SETS.items() if isa.available()]
NAMES = [one.name for one in BUILT_IN]


@contextmanager
def opened(context: BackendContext) -> Iterator[Backend]:
    """Open the backend, which must multiply with the tensor type itself."""
    backend = NumbaBackend(context)
    try:
        types = {tensor.type_name for tensor in context.model.tensors.values()}
        if "matrix" in context.model.tensors:
            assert backend.describe()["weight_types"] == sorted(types)
        yield backend
    finally:
        backend.close()


def block_maker(type_name: str) -> MakeBlocks:
    """Return a function that makes random blocks of a type, with a standard deviation of 0.1."""

    def make_blocks(rng: np.random.Generator, n: int) -> Bytes:
        shape = (n, QUANTS[type_name].block_size)
        return random_tensor(rng, shape, type_name, std=0.1).view(np.uint8).reshape(n, -1)

    return make_blocks


@pytest.mark.parametrize("type_name", NAMES)
def test_products_are_those_of_the_exact_weights(type_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instruction sets and batches of any size give the same bits."""
    results = []
    for isa in ISAS:
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        results.append(check_products(QUANTS[type_name], QUANTS, block_maker(type_name), opened))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("type_name", NAMES)
def test_blocks_are_unpacked_exactly(type_name: str) -> None:
    """Any bytes give the bits of the reference, infinities included; all NaN are alike."""
    quant = QUANTS[type_name]
    check_rows(quant, QUANTS, lambda rng, n: rng.integers(0, 256, (n, quant.type_size), np.uint8), opened)


class EmulatedNeon(Neon):
    """NEON on any processor: products of bytes are emitted as such."""

    name = "emulated-neon"
    required_features = frozenset[str]()

    def _sdot(self, b: Any, total: Any, weights: Any, quants: Any) -> Any:
        wide = ir.VectorType(ir.IntType(32), 16)
        products = b.mul(b.sext(weights, wide), b.sext(b.bitcast(quants, self._bytes), wide))
        for start in range(4):
            total = b.add(total, emit.take(b, products, list(range(start, 16, 4))))
        return total


@pytest.mark.parametrize("type_name", ["Q4_K", "Q6_K", "Q8_0"])
def test_neon_gives_the_same_bits(type_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))  # the cache does not notice changes of this file
    monkeypatch.setitem(INSTRUCTION_SETS, "emulated-neon", EmulatedNeon())
    results = []
    for isa in ("plain", "emulated-neon"):
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        results.append(check_products(QUANTS[type_name], QUANTS, block_maker(type_name), opened))
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
