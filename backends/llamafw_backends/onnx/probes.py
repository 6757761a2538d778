"""Tiny models that show whether a provider has a node, each with the result that numpy computes in float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamafw_backends.onnx.block_formats import pack_codes
from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.support import Probe, Support

INT8_TOLERANCE = 0.05
"""The error of products whose activations are rounded to 8 bits, as a part of the largest number."""


def multiplies_blocks(
    support: Support, bits: int, block_size: int, accuracy_level: int, *, has_zero_points: bool = False
) -> bool:
    """Return whether MatMulNBits works with such codes; ``has_zero_points``: with zero points of 0."""
    name = f"MatMulNBits with {bits} bits in blocks of {block_size} and accuracy level {accuracy_level}"
    name += ", zero points" * has_zero_points
    return support.runs(
        name, lambda: _block_product(support.float_type, bits, block_size, accuracy_level, has_zero_points)
    )


def _block_product(
    dtype: np.dtype[Any], bits: int, block_size: int, accuracy_level: int, has_zero_points: bool
) -> Probe:
    rng = np.random.default_rng(0)
    n_in, n_out, middle = 2 * max(block_size, 32), 16, 0 if has_zero_points else 2 ** (bits - 1)
    x = rng.standard_normal((3, n_in)).astype(dtype)
    codes = rng.integers(0, 2**bits, (n_out, n_in // block_size, block_size), dtype=np.uint8)
    scales = rng.uniform(0.5, 1, codes.shape[:2]).astype(dtype)

    def build(b: ModelBuilder) -> None:
        zeros = np.zeros((n_out, -(-codes.shape[1] * bits // 8)), np.uint8)
        b.node(
            "com.microsoft.MatMulNBits",
            b.input("x", dtype, ["n", n_in]),
            b.constant(pack_codes(codes, bits)),
            b.constant(scales),
            *([b.constant(zeros)] if has_zero_points else []),
            outputs=["y"],
            K=n_in,
            N=n_out,
            bits=bits,
            block_size=block_size,
            accuracy_level=accuracy_level,
        )
        b.output("y", dtype, ["n", n_out])

    weights = ((codes.astype(np.float64) - middle) * scales[..., None]).reshape(n_out, n_in)
    expected = x.astype(np.float64) @ weights.T
    return Probe(build, {"x": x}, expected, tolerance=INT8_TOLERANCE if accuracy_level == 4 else None)


def adds_and_normalises(support: Support) -> bool:
    """Return whether SkipSimplifiedLayerNormalization works, with the sum as an output."""
    return support.runs("SkipSimplifiedLayerNormalization", lambda: _skip_norm(support.float_type))


def _skip_norm(dtype: np.dtype[Any]) -> Probe:
    rng = np.random.default_rng(0)
    x, skip = rng.standard_normal((2, 3, 32)).astype(dtype)
    weight = rng.uniform(0.5, 1.5, 32).astype(dtype)

    def build(b: ModelBuilder) -> None:
        rows = [b.input(name, dtype, ["n", 32]) for name in ("x", "skip")]
        name = "com.microsoft.SkipSimplifiedLayerNormalization"
        b.node(name, *rows, b.constant(weight), outputs=["norm", "", "", "sum"], epsilon=1e-5)
        b.node("Add", "norm", "sum", outputs=["y"])
        b.output("y", dtype, ["n", 32])

    total = x.astype(np.float64) + skip
    norm = total / np.sqrt((total**2).mean(-1, keepdims=True) + 1e-5) * weight
    return Probe(build, {"x": x, "skip": skip}, norm + total)
