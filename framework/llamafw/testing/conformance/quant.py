"""What every tensor type keeps: exact weights, block by block, of any shape; bytes that do not fit are refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from llamafw.errors import ModelError
from llamafw.interfaces import Quant
from llamafw.testing.conformance.base import Conformance, same
from llamafw.types import Bytes, Floats

NUMBERS = {"F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}  # ggml's names for what numpy has
GGML = {kind.value: kind for kind in GGMLQuantizationType}


class QuantConformance(Conformance):
    """Subclass it, give the ``name``, and `reference` unless it is a type of ggml's."""

    kind = "quant"

    def reference(self, blocks: Bytes) -> npt.NDArray[np.floating[Any]]:
        """Return the weights of ``blocks``, ``(n_blocks, type_size)``, by other means, ``(n_blocks, block_size)``.

        Override it: plain Python in float64 will do. Types of ggml's are unpacked by the `gguf` package.
        """
        kind = GGML.get(self.quant.type_id)
        if kind is None:
            pytest.skip("there is no `reference` to compare with")
        if kind.name in NUMBERS:
            return blocks.view(NUMBERS[kind.name])
        with np.errstate(all="ignore"):
            weights: Floats = dequantize(blocks.reshape(1, -1), kind).reshape(len(blocks), -1)
        return weights

    def blocks(self, rng: np.random.Generator, n: int) -> Bytes:
        """Return random blocks, ``(n, type_size)`` uint8. Override it if not every byte will do."""
        return rng.integers(0, 256, (n, self.quant.type_size), np.uint8)

    def test_its_number_and_sizes_clash_with_no_type_of_ggml(self) -> None:
        quant = self.quant
        assert quant.name == self.name, f"it is registered as {self.name!r}, and its name is {quant.name!r}"
        for what in ("type_id", "block_size", "type_size"):
            value = getattr(quant, what)
            assert isinstance(value, int), f"{what} is {value!r}"
            assert 0 < value < 2**32 or (what == "type_id" and value == 0), f"{what} is {value}"
        kind = GGML.get(quant.type_id)
        if kind is not None:
            assert kind.name == quant.name, f"{quant.type_id} is the number of ggml's {kind.name}"
            sizes = GGML_QUANT_SIZES[kind]
            assert (quant.block_size, quant.type_size) == sizes, f"ggml's {kind.name} has blocks of {sizes}"

    def test_weights_are_exact(self) -> None:
        """To the last bit of float32, infinities and NaN of odd scales included."""
        blocks = self.blocks(np.random.default_rng(0), 64)
        found = self.unpack(blocks, (64, self.quant.block_size))
        with np.errstate(all="ignore"):
            expected = np.asarray(self.reference(blocks)).astype(np.float32)
        same(found, expected, "weights, beside those of the reference")

    def test_any_shape_of_whole_blocks(self) -> None:
        size = self.quant.block_size
        blocks = self.blocks(np.random.default_rng(1), 6)
        row = self.unpack(blocks, (6 * size,))
        for shape in ((6, size), (2, 3 * size), (3, 2 * size), (1, 2, 3 * size), [6, size]):
            found = self.unpack(blocks, shape)
            assert found.dtype == np.float32, f"weights are {found.dtype}"
            assert found.shape == tuple(shape), f"of shape {tuple(shape)} came {found.shape}"
            same(found.reshape(-1), row, f"weights of shape {tuple(shape)}")
        assert self.unpack(blocks[:0], (0, size)).shape == (0, size), "no blocks are no weights"

    def test_blocks_are_apart(self) -> None:
        """A block's weights depend on its own bytes: tensors are unpacked in parts."""
        size = self.quant.block_size
        blocks = self.blocks(np.random.default_rng(2), 5)
        whole = self.unpack(blocks, (5, size))
        for i in range(5):
            same(self.unpack(blocks[i : i + 1], (1, size)), whole[i : i + 1], f"block {i} alone")
        changed = blocks.copy()
        changed[2] ^= 0xFF
        found = self.unpack(changed, (5, size))
        same(found[[0, 1, 3, 4]], whole[[0, 1, 3, 4]], "the other blocks, after one has changed")

    def test_the_files_bytes_stay_the_files(self) -> None:
        """Bytes may be a read-only view of a mapped file, at any address; weights have memory of their own."""
        size, n = self.quant.block_size, self.quant.type_size
        blocks = self.blocks(np.random.default_rng(3), 4)
        expected = self.unpack(blocks, (4, size))
        memory = np.zeros(4 * n + 1, np.uint8)
        memory[1:] = blocks.reshape(-1)
        view = memory[1:]
        view.flags.writeable = False
        found = self.dequantize(view, (4, size))
        same(found, expected, "bytes at an odd address")
        kept = found.copy()
        memory[:] = 0
        same(found, kept, "weights, after the bytes they came from have changed")
        assert found.flags.writeable, "the weights are read-only"

    def test_bytes_that_are_no_such_tensor_are_refused(self) -> None:
        size, n = self.quant.block_size, self.quant.type_size
        cases = [(2 * n - 1, (2, size)), (2 * n + 1, (2, size)), (n, (2, size)), (2 * n, (size,)), (n, (0, size))]
        if size > 1:
            cases += [(n, (1, size - 1)), (n, (size + 1,))]
        for n_bytes, shape in cases:
            try:
                self.dequantize(np.zeros(n_bytes, np.uint8), shape)
            except ModelError:
                continue
            except Exception as error:
                raise AssertionError(f"{n_bytes} bytes for shape {shape}: {error!r} and no ModelError") from error
            raise AssertionError(f"{n_bytes} bytes for shape {shape} are accepted")

    # --- how

    @property
    def quant(self) -> Quant:
        """The tensor type."""
        quant: Quant = self.thing()
        return quant

    def unpack(self, blocks: Bytes, shape: Sequence[int]) -> Floats:
        """Return the weights of blocks."""
        assert math.prod(shape) == len(blocks) * self.quant.block_size
        try:
            return self.dequantize(blocks.reshape(-1), shape)
        except ModelError as error:
            if "cannot be unpacked" not in str(error):
                raise
            pytest.skip(str(error))  # it is known by name only

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        """Return what the type makes of bytes."""
        with np.errstate(all="ignore"):
            return self.quant.dequantize(data, shape)
