"""Write tensors of the types PQ2_0 and PTQ1_0, and fold matrices as Prism ML's converter does.

Independent of the plugin `custom_quant`: the element order is that of a loop over columns, and the transform is a dense
matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 128
Doubles = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]


def digit_of(column: int) -> tuple[int, int]:
    """Return which byte of a block of PTQ1_0 has a column, and which of its digits, the most significant one first."""
    if column < 80:
        return column % 16, column // 16
    if column < 120:
        return 16 + (column - 80) % 8, (column - 80) // 8
    return 24 + (column - 120) % 2, (column - 120) // 2


def pack_pq2_0(codes: Bytes, scales: npt.NDArray[np.float16]) -> Bytes:
    """Return blocks, ``(n, 34)`` uint8, of codes from 0 to 3, ``(n, 128)``."""
    blocks = np.zeros((len(codes), 34), np.uint8)
    blocks[:, :2] = scales.astype("<f2").view(np.uint8).reshape(-1, 2)
    for column in range(BLOCK):
        blocks[:, 2 + column // 4] |= codes[:, column] << 2 * (column % 4)
    return blocks


def pack_ptq1_0(codes: Bytes, scales: npt.NDArray[np.float16]) -> Bytes:
    """Return blocks, ``(n, 28)`` uint8, of codes from 0 to 2, ``(n, 128)``."""
    numbers = np.zeros((len(codes), 26), np.int64)
    for column in range(BLOCK):
        byte, digit = digit_of(column)
        numbers[:, byte] += codes[:, column].astype(np.int64) * 3 ** (4 - digit)
    blocks = np.zeros((len(codes), 28), np.uint8)
    blocks[:, :26] = -(-numbers * 256 // 243)  # rounded up
    blocks[:, 26:] = scales.astype("<f2").view(np.uint8).reshape(-1, 2)
    return blocks


def random_codes(rng: np.random.Generator, n: int, n_codes: int) -> tuple[Bytes, npt.NDArray[np.float16]]:
    """Return random codes of ``n`` blocks, and their scales."""
    return rng.integers(0, n_codes, (n, BLOCK), np.uint8), rng.uniform(0.02, 0.04, n).astype(np.float16)


@cache
def hadamard_matrix(n: int) -> Doubles:
    """Return the normalised Hadamard matrix in Sylvester's order: its signs are parities of common bits."""
    index = np.arange(n)
    parity = np.array([[int(number).bit_count() & 1 for number in row] for row in index[:, None] & index])
    matrix: Doubles = np.where(parity, -1.0, 1.0) / np.sqrt(n)
    return matrix


def rotate(rows: npt.ArrayLike, block_size: int, signs: npt.NDArray[Any]) -> Doubles:
    """Return rows multiplied by signs, and each of their blocks by the Hadamard matrix."""
    signed = np.asarray(rows, np.float64) * signs
    blocks = signed.reshape(*signed.shape[:-1], -1, block_size) @ hadamard_matrix(block_size)
    rotated: Doubles = blocks.reshape(signed.shape)
    return rotated


def group_columns(rows: Doubles, n_groups: int, n_heads: int) -> Doubles:
    """Return columns in the order of groups of heads: head k + n_groups · r goes to place k · n_heads + r."""
    size = rows.shape[-1] // (n_groups * n_heads)
    source = rows.reshape(*rows.shape[:-1], n_groups * n_heads, size)
    target = np.empty_like(source)
    for k in range(n_groups):
        for r in range(n_heads):
            target[..., k * n_heads + r, :] = source[..., k + n_groups * r, :]
    return target.reshape(rows.shape)


Arrays = Mapping[str, npt.NDArray[Any]]
PLAIN = (
    "token_embd",
    "ssm_alpha",
    "ssm_beta",
    "ffn_gate_inp",
    "ssm_conv1d",
    "nextn",
)
"""Parts of the names of matrices that are never in ``weight_names``."""


def is_folded(name: str, array: npt.NDArray[Any]) -> bool:
    """Return whether a converter folds a tensor, except the embedding."""
    return array.ndim > 1 and name.endswith(".weight") and not any(part in name for part in PLAIN)


def random_signs(rng: np.random.Generator, widths: Iterable[int]) -> dict[int, Bytes]:
    """Return signs for each width."""
    return {width: rng.choice([-1, 1], width) for width in sorted(widths)}


def fold(
    arrays: Arrays, block_size: int, *, groups: tuple[int, int] | None = None, explicit: bool = True
) -> tuple[dict[str, Doubles], dict[str, Any]]:
    """Return a model's tensors with its matrices folded, in float64, and the metadata for them.

    Parameters
    ----------
    arrays : mapping of str to array
        The tensors by name. Without ``output.weight``, the embedding is the output matrix too.
    block_size : int
        Numbers that are transformed together.
    groups : tuple of int, optional
        The number of groups, and of heads in each: reorder the columns of ``ssm_out``.
    explicit : bool
        Whether there are signs.
    """
    names = [name for name, array in arrays.items() if is_folded(name, array)]
    widths = {arrays[name].shape[-1] for name in (*names, "token_embd.weight")}
    signs = random_signs(np.random.default_rng(5), widths)
    if not explicit:
        signs = {width: np.ones_like(one) for width, one in signs.items()}

    folded = {name: array.astype(np.float64) for name, array in arrays.items()}
    for name in (*names, "token_embd.weight"):
        rows = folded[name]
        if groups and "ssm_out" in name:
            rows = group_columns(rows, *groups)
        folded[name] = rotate(rows, block_size, signs[rows.shape[-1]])

    keys: dict[str, Any] = {
        "version": 1 if "output.weight" in arrays else 2,
        "block_size": block_size,
        "transform": "normalized-sylvester-walsh-hadamard",
        "axis": "input-last-dimension",
        "sign_mode": "explicit" if explicit else "identity",
        "weight_names": names,
        "inverse_weight_names": ["token_embd.weight"],
    }
    if explicit:
        keys["sign_widths"] = list(signs)
        keys["sign_values"] = [int(sign) for one in signs.values() for sign in one]
    if groups:
        keys["gdn_v_grouped"] = True
    if "output.weight" not in arrays:
        keys["tied_output"] = True
    return folded, {f"prism.hadamard.{key}": value for key, value in keys.items()}
