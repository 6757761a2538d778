"""Instruction sets that few test machines have give the same bits; their instructions are emulated."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from llvmlite import ir

from llamafw.testing.quant_kernels import check_products
from llamafw_backends.numba_cpu import amx, emit, matmul
from llamafw_backends.numba_cpu.emit import I8, I32, I64, INTS, Builder, Value, address, constant
from llamafw_backends.numba_cpu.formats import FORMATS
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from llamafw_backends.numba_cpu.isa import InstructionSet, Neon, Vnni
from support.gguf_models import QUANTS
from support.quant_products import block_maker, opened
from support.rounded_products import byte_activations, multiply


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


class EmulatedTiles:
    """The tile registers of AMX, as memory on the stack of each function."""

    def __init__(self) -> None:
        self._registers: dict[Any, list[Value]] = {}

    def tile(self, b: Builder, operation: str, *tiles: int) -> None:
        """Emit an operation on registers only."""
        registers = self._of_function(b)
        if operation == "tilezero":
            (n_rows, n_bytes), where = amx.Amx.shapes[tiles[0]], registers[tiles[0]]
            for start in range(0, n_rows * n_bytes, 64):
                emit.store(b, constant(INTS, 0), address(b, where, start))
            return
        assert operation == "tdpbsud"  # signed bytes times unsigned bytes
        self._multiply(b, *(registers[tile] for tile in tiles), n_quads=amx.Amx.shapes[tiles[1]][1] // 4)

    def move(self, b: Builder, operation: str, tile: int, where: Value, stride: int) -> None:
        """Emit a copy between a register and memory."""
        (n_rows, n_bytes), register = amx.Amx.shapes[tile], self._of_function(b)[tile]
        row = ir.VectorType(I8, n_bytes)
        for i in range(n_rows):
            places = [address(b, where, i * stride), address(b, register, i * 64)]
            source, to = places if operation == "tileloadd64" else reversed(places)
            emit.store(b, emit.load(b, source, row), to)

    def _of_function(self, b: Builder) -> list[Value]:
        if b.function not in self._registers:
            self._registers[b.function] = [emit.scratch(b, 1024) for _ in amx.Amx.shapes]
        return self._registers[b.function]

    def _multiply(self, b: Builder, total: Value, left: Value, right: Value, *, n_quads: int) -> None:
        narrow, wide = ir.VectorType(I8, 64), ir.VectorType(I32, 64)

        def multiply_row(m: Value, _: list[Value]) -> list[Value]:
            offset = b.mul(m, constant(I64, 64))
            row = emit.load(b, b.add(total, offset), INTS)
            for k in range(n_quads):
                quads = emit.load_splat(b, address(b, b.add(left, offset), 4 * k), I32)
                signed = b.sext(b.bitcast(quads, narrow), wide)
                products = b.mul(signed, b.zext(emit.load(b, address(b, right, 64 * k), narrow), wide))
                for i in range(4):
                    row = b.add(row, emit.take(b, products, list(range(i, 64, 4))))
            emit.store(b, row, b.add(total, offset))
            return []

        emit.loop(b, constant(I64, 16), [], multiply_row)


class EmulatedAmx(amx.Amx):
    """AMX without its instructions, on processors with AVX-512 VNNI."""

    name = "emulated-amx"
    required_features = Vnni.required_features

    def available(self) -> bool:
        return Vnni().available()

    def begin(self, b: Builder) -> None:
        """Emit nothing: memory needs no shapes."""

    def end(self, b: Builder) -> None:
        """Emit nothing."""


def check_same_bits(isa: InstructionSet, reference: str, type_name: str, patch: pytest.MonkeyPatch, tmp: Path) -> None:
    """Check that two instruction sets give the same products, with activations of 15 and of 8 bits."""
    patch.setattr(numba.config, "CACHE_DIR", str(tmp))  # the cache does not notice changes of this file
    patch.setitem(INSTRUCTION_SETS, isa.name, isa)
    results, activations = [], byte_activations() * np.float32(1.7)
    for name in (reference, isa.name):
        patch.setenv("LLAMAFW_ISA", name)
        exact = check_products(QUANTS[type_name], QUANTS, block_maker(type_name), opened)
        results.append([exact, *multiply(type_name, activations, "int8")])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("type_name", ["Q4_K", "Q6_K", "Q8_0"])
def test_neon_gives_the_same_bits(type_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_same_bits(EmulatedNeon(), "plain", type_name, monkeypatch, tmp_path)


@pytest.mark.skipif(not EmulatedAmx().available(), reason="needs a processor with AVX-512 VNNI")
@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K", "Q6_K", "Q8_0", "IQ2_XS", "MXFP4"])
def test_amx_gives_the_same_bits(type_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tiles = EmulatedTiles()
    monkeypatch.setattr(amx, "_tile", tiles.tile)
    monkeypatch.setattr(amx, "_move", tiles.move)
    check_same_bits(EmulatedAmx(), "avx512vnni", type_name, monkeypatch, tmp_path)


@pytest.mark.parametrize("type_name", ["Q4_K", "Q8_0"])
def test_neon_kernels_use_dot_products(type_name: str) -> None:
    """The code for ARM can be read on any machine."""
    module = ir.Module()
    module.triple = "aarch64-linux-gnu"
    matmul._tiles_by_tokens(module, Neon(), FORMATS[type_name], 1, 4, [4], is_stream=False).linkage = "external"
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("aarch64-linux-gnu").create_target_machine(features="+dotprod,+fullfp16", opt=2)
    code = machine.emit_assembly(llvm.parse_assembly(str(module)))
    n_products = len(re.findall(r"\bsdot\b", code))
    assert n_products == 4 * 2 * 4 * 8  # tokens, parts, quarters of 16 lanes, words
