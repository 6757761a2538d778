"""The rules for tensor types: exact weights, independent blocks, any shape; data of the wrong size is an error.

What a type has for backends computes with the same exact weights. Weights that are rounded to it stay close.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from llamafw.errors import ModelError
from llamafw.interfaces import Backend, BackendContext, Quant
from llamafw.testing.conformance.base import ProtocolConformance, assert_identical
from llamafw.testing.quant_kernels import OpenBackend, check_products, check_rows
from llamafw.types import Bytes, Floats

NUMPY_TYPES = {"F64": "<f8", "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}  # ggml's types that numpy has
GGML = {kind.value: kind for kind in GGMLQuantizationType}


class QuantConformance(ProtocolConformance):
    """Subclass it, give the ``name``, and implement `reference` unless it is one of ggml's types.

    Attributes
    ----------
    extra : mapping of str to object
        Settings of backends for the tests of products. ``onnx_activations`` is ``float``, because the backend for ONNX
        Runtime may otherwise round activations to 8 bits.
    """

    kind = "quant"
    extra: ClassVar[Mapping[str, Any]] = {"onnx_activations": "float"}

    def reference(self, blocks: Bytes) -> npt.NDArray[np.floating[Any]]:
        """Dequantise ``blocks``, ``(n_blocks, type_size)`` uint8, independently; return ``(n_blocks, block_size)``.

        Override it: a loop in plain Python with float64 is good enough. The `gguf` package dequantises ggml's types.
        """
        kind = GGML.get(self.quant.type_id)
        if kind is None:
            pytest.skip("implement `reference` to compare the weights with its result")
        if kind.name in NUMPY_TYPES:
            return blocks.view(NUMPY_TYPES[kind.name])
        with np.errstate(all="ignore"):
            weights: Floats = dequantize(blocks.reshape(1, -1), kind).reshape(len(blocks), -1)
        return weights

    def blocks(self, rng: np.random.Generator, n: int) -> Bytes:
        """Return ``n`` random blocks, ``(n, type_size)`` uint8.

        Override it if some bytes are invalid.
        """
        return rng.integers(0, 256, (n, self.quant.type_size), np.uint8)

    def test_id_and_sizes_do_not_clash_with_ggml(self) -> None:
        """Name, id and sizes are valid, and no other type of ggml has the same id."""
        quant = self.quant
        assert quant.name == self.name, f"it is registered as {self.name!r}, but its `name` is {quant.name!r}"
        for attribute in ("type_id", "block_size", "type_size"):
            value = getattr(quant, attribute)
            assert isinstance(value, int), f"{attribute} is {value!r}, expected an integer"
            low = 0 if attribute == "type_id" else 1
            assert low <= value < 2**32, f"{attribute} is {value}, expected {low} to 2**32 - 1"

        kind = GGML.get(quant.type_id)
        if kind is not None:
            assert kind.name == quant.name, f"type_id {quant.type_id} belongs to ggml's {kind.name}"
            sizes = quant.block_size, quant.type_size
            expected = GGML_QUANT_SIZES[kind]
            assert sizes == expected, f"(block_size, type_size) is {sizes}, but ggml's {kind.name} has {expected}"

    def test_weights_are_exact(self) -> None:
        """`dequantize` returns the weights of `reference`, bit for bit, infinities and NaN included."""
        blocks = self.blocks(np.random.default_rng(0), 64)
        weights = self.unpack(blocks, (64, self.quant.block_size))
        with np.errstate(all="ignore"):
            expected = np.asarray(self.reference(blocks)).astype(np.float32)
        assert_identical(weights, expected, "the weights and those of `reference`")

    def test_any_shape_of_whole_blocks_works(self) -> None:
        """`dequantize` returns float32 of the requested shape, whatever the shape."""
        size = self.quant.block_size
        blocks = self.blocks(np.random.default_rng(1), 6)
        row = self.unpack(blocks, (6 * size,))
        for shape in ((6, size), (2, 3 * size), (3, 2 * size), (1, 2, 3 * size), [6, size]):
            weights = self.unpack(blocks, shape)
            assert weights.dtype == np.float32, f"the weights have the dtype {weights.dtype}, expected float32"
            assert weights.shape == tuple(shape), f"the shape is {weights.shape}, expected {tuple(shape)}"
            assert_identical(weights.reshape(-1), row, f"weights of shape {tuple(shape)} and those of one row")
        assert self.unpack(blocks[:0], (0, size)).shape == (0, size), f"the shape (0, {size}) does not work"

    def test_blocks_are_independent(self) -> None:
        """The weights of a block depend on its own bytes only, because tensors are dequantised in parts."""
        size = self.quant.block_size
        blocks = self.blocks(np.random.default_rng(2), 5)
        whole = self.unpack(blocks, (5, size))
        for i in range(5):
            alone = self.unpack(blocks[i : i + 1], (1, size))
            assert_identical(alone, whole[i : i + 1], f"block {i} alone and among others")

        changed = blocks.copy()
        changed[2] ^= 0xFF
        weights = self.unpack(changed, (5, size))
        others = [0, 1, 3, 4]
        assert_identical(weights[others], whole[others], "the other blocks after and before one has changed")

    def test_data_may_be_a_read_only_view(self) -> None:
        """The data may be a read-only view of a file at any address; the weights have memory of their own."""
        size, n = self.quant.block_size, self.quant.type_size
        blocks = self.blocks(np.random.default_rng(3), 4)
        expected = self.unpack(blocks, (4, size))
        memory = np.zeros(4 * n + 1, np.uint8)
        memory[1:] = blocks.reshape(-1)
        view = memory[1:]
        view.flags.writeable = False

        weights = self.dequantize(view, (4, size))
        assert_identical(weights, expected, "data at an odd address and aligned data")
        kept = weights.copy()
        memory[:] = 0
        assert_identical(weights, kept, "the weights after and before their data were overwritten")
        assert weights.flags.writeable, "the weights are read-only"

    def test_data_of_the_wrong_size_is_a_model_error(self) -> None:
        """Data that does not fit the shape is a ModelError."""
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
                raise AssertionError(f"{n_bytes} bytes for shape {shape} raise {error!r}, not ModelError") from error
            raise AssertionError(f"{n_bytes} bytes are accepted for the shape {shape}")

    # --- types that weights can be rounded to

    def test_rounded_weights_are_close(self) -> None:
        """`quantize` returns blocks whose weights are closer to the given ones than zeros are."""
        weights = np.random.default_rng(4).normal(0, 0.02, (6, 4 * self.quant.block_size)).astype(np.float32)
        error = np.square(self.dequantize(self.rounded(weights).reshape(-1), weights.shape) - weights).mean()
        assert error < np.square(weights).mean(), "the error of rounded weights is larger than the weights"
        zeros = self.dequantize(self.rounded(np.zeros_like(weights)).reshape(-1), weights.shape)
        assert np.abs(zeros).max() < 0.02, f"zeros become weights up to {np.abs(zeros).max()}"

    def test_rounded_blocks_are_independent(self) -> None:
        """A rounded block depends on its own weights only, because tensors are rounded in parts, by many threads."""
        size, n = self.quant.block_size, self.quant.type_size
        weights = np.random.default_rng(5).normal(size=(4, 3 * size)).astype(np.float32)
        weights.flags.writeable = False
        whole = self.rounded(weights)
        assert_identical(self.rounded(weights), whole, "the blocks of the first and the second call")
        assert_identical(self.rounded(weights[2:3]), whole[2:3], "row 2 alone and among others")
        alone = self.rounded(np.ascontiguousarray(weights[1:2, size : 2 * size]))
        assert_identical(alone, whole[1:2, n : 2 * n], "block 1 of row 1 alone and among others")
        assert self.rounded(weights[:0]).shape == (0, 3 * n), "no rows do not become no blocks"

    def test_importance_of_columns_is_accepted(self) -> None:
        """`quantize` accepts the importance of columns, zeros too, and rounded weights stay finite."""
        weights = np.random.default_rng(6).normal(size=(3, 2 * self.quant.block_size)).astype(np.float32)
        for importance in (np.ones(weights.shape[1], np.float32), np.zeros(weights.shape[1], np.float32)):
            rounded = self.dequantize(self.rounded(weights, importance).reshape(-1), weights.shape)
            assert np.isfinite(rounded).all(), f"with importance {importance[0]:g}, rounded weights are not finite"

    def test_importance_does_not_increase_the_errors_that_matter(self) -> None:
        """The sum of squared errors times importance is not larger than without importance.

        Some columns of real models matter a million times more than the others.
        """
        rng = np.random.default_rng(7)
        weights = rng.normal(size=(64, 4 * self.quant.block_size)).astype(np.float32)
        varied = rng.gamma(0.5, size=weights.shape[1:]).astype(np.float32)
        single = np.ones_like(varied)
        single[len(single) // 3] = 1e6
        for name, importance in (("varied importance", varied), ("one important column", single)):
            errors = []
            for blocks in (self.rounded(weights), self.rounded(weights, importance)):
                rounded = self.dequantize(blocks.reshape(-1), weights.shape)
                squares = np.square(rounded - weights).astype(np.float64)
                errors.append(float((squares * importance).sum()))
            assert errors[1] <= 1.01 * errors[0], f"with {name}, the error is {errors[1]:.4g}, not {errors[0]:.4g}"

    # --- backends that the type has something for

    def test_backends_read_exact_weights(self) -> None:
        """A backend that the type has something for reads the weights of `dequantize`, bit for bit."""
        for name, open_backend in self.backends():
            with reported(name):
                check_rows(self.quant, self.registry("quant"), self.blocks, open_backend)

    def test_backends_multiply_with_exact_weights(self) -> None:
        """A backend that the type has something for multiplies with the weights of `dequantize`, not with rounded ones.

        If a backend has variants for this machine, each of them does; if it is exact, they give the same bits.
        """
        first: dict[str, Floats] = {}
        for name, open_backend in self.backends():
            with reported(name):
                products = check_products(self.quant, self.registry("quant"), self.blocks, open_backend)
                backend = name.partition(" ")[0]
                assert_identical(products, first.setdefault(backend, products), "the products and those of the first")

    # --- helpers

    def backends(self) -> Iterator[tuple[str, OpenBackend]]:
        """Yield each backend that the type has something for, once for each of its variants; skip if there is none."""
        factories = self.registry("backend")
        names = [name for name in getattr(self.quant, "backends", {}) if name in factories]
        if not names:
            pytest.skip("the type has nothing for an installed backend, so weights are unpacked by `dequantize`")
        for name in names:
            variants: Sequence[Mapping[str, str]] = getattr(factories[name], "variants", lambda: ({},))()
            for variables in variants:
                label = " ".join([name, *(f"with {key}={value}" for key, value in variables.items())])
                yield label, partial(opened, factories[name], variables, self.extra)

    def implementations(self, tiny_model: Path) -> Iterator[tuple[type, Any]]:
        """Yield the tensor type."""
        yield Quant, self.registered()

    @property
    def quant(self) -> Quant:
        """The tensor type."""
        quant: Quant = self.registered()
        return quant

    def rounded(self, weights: Floats, importance: Floats | None = None) -> Bytes:
        """Return the blocks of ``weights``; skip the test if weights cannot be rounded to the type."""
        quantize = getattr(self.quant, "quantize", None)
        if quantize is None:
            pytest.skip("the type has no `quantize`, so weights cannot be rounded to it")
        blocks: Bytes = quantize(weights) if importance is None else quantize(weights, importance)
        shape = (len(weights), weights.shape[1] // self.quant.block_size * self.quant.type_size)
        assert blocks.dtype == np.uint8, f"`quantize` returned {blocks.dtype}, expected uint8"
        assert blocks.shape == shape, f"`quantize` returned the shape {blocks.shape}, expected {shape}"
        return blocks

    def unpack(self, blocks: Bytes, shape: Sequence[int]) -> Floats:
        """Return the weights of ``blocks``; skip the test if the type is known by name only."""
        assert math.prod(shape) == len(blocks) * self.quant.block_size
        try:
            return self.dequantize(blocks.reshape(-1), shape)
        except ModelError as error:
            if "cannot be unpacked" not in str(error):
                raise
            pytest.skip(str(error))

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        """Return the weights in ``data``."""
        with np.errstate(all="ignore"):
            return self.quant.dequantize(data, shape)


@contextmanager
def opened(
    factory: Callable[[BackendContext], Backend],
    variables: Mapping[str, str],
    extra: Mapping[str, Any],
    context: BackendContext,
) -> Iterator[Backend]:
    """Open a backend with settings, while environment variables have some values; close it at the end."""
    context = replace(context, options=replace(context.options, extra=extra))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        with closing(factory(context)) as backend:
            yield backend


@contextmanager
def reported(name: str) -> Iterator[None]:
    """Begin the message of a failed check with the backend that broke the rule."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error
