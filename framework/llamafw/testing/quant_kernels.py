"""Check what a backend makes of a tensor type: the rows of an embedding, and products with matrices and experts.

Independent of backends and of tensor types. The functions raise AssertionError with a message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llamafw import graph as g
from llamafw.interfaces import Backend, BackendContext, Quant
from llamafw.testing.batches import batch
from llamafw.types import BackendOptions, Bytes, Floats, Model, Tensor

N_VOCAB, N_EXPERT, N_USED = 64, 3, 2
N_ROWS, N_EXPERT_ROWS = 40, 48  # of matrices; 40 is not a multiple of the 16 or 32 rows that kernels may take at once
MIN_COLUMNS = 512
N_BLOCKS = 200  # of any bytes
BATCHES = (1, 3, 7, 12, 16, 40)
TOLERANCE = 1e-4  # of the largest activation times the sum of the weights' magnitudes
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, N_VOCAB, 160)]
"""Enough that kernels multiply a matrix, and usually each expert (two thirds of the tokens), as with a prompt."""

MakeBlocks = Callable[[np.random.Generator, int], Bytes]
"""Returns random blocks, ``(n, type_size)`` uint8."""

Doubles = npt.NDArray[np.float64]

OpenBackend = Callable[[BackendContext], AbstractContextManager[Backend]]
"""Opens a backend; closes it at the end of a with statement."""


def check_rows(quant: Quant, quants: Mapping[str, Quant], make_blocks: MakeBlocks, open_backend: OpenBackend) -> None:
    """Check that the rows of an embedding of a type are the weights that `Quant.dequantize` returns, bit for bit.

    Parameters
    ----------
    quant : Quant
        The type.
    quants : mapping of str to Quant
        All types by name.
    make_blocks : callable
        Makes blocks; their weights may be infinite or NaN.
    open_backend : callable
        Opens the backend.
    """
    shape = (N_BLOCKS, _columns(quant, 32))
    n_blocks = N_BLOCKS * shape[1] // quant.block_size
    blocks = make_blocks(np.random.default_rng(3), n_blocks)
    tensors = {"embedding": Tensor("embedding", shape, quant.name, blocks.reshape(-1))}
    graph = g.Graph(g.EmbeddingLookup(g.TOKENS, g.Weight("embedding", shape)), None, N_BLOCKS)
    with np.errstate(all="ignore"):
        expected = quant.dequantize(blocks.reshape(-1), shape)

    options = BackendOptions(n_ctx=N_BLOCKS, n_slots=1, n_batch=N_BLOCKS, n_threads=1)
    with open_backend(_context(graph, tensors, options, quants)) as backend:
        rows = backend.hidden(batch((0, 0, list(range(N_BLOCKS))))).copy()
    is_nan = np.isnan(expected)
    differs = (rows.view(np.uint32) != expected.view(np.uint32)) & ~(is_nan & np.isnan(rows))
    if differs.any():
        raise AssertionError(f"{differs.sum()} of {differs.size} numbers in rows of {quant.name} are not its weights")


def check_products(
    quant: Quant, quants: Mapping[str, Quant], make_blocks: MakeBlocks, open_backend: OpenBackend
) -> Floats:
    """Check products with a matrix and with experts of a type against those of its exact weights in float64.

    Batches of any size must give the same products, to the last bit if the backend is exact.

    Parameters
    ----------
    quant, quants, make_blocks, open_backend
        As in `check_rows`. Of the blocks, those with finite weights of similar magnitudes are used.

    Returns
    -------
    (n_tokens, n) float32
        The products.
    """
    n, rng = _columns(quant, MIN_COLUMNS), np.random.default_rng(1)
    tensors = {
        "embedding": _floats("embedding", rng.standard_normal((N_VOCAB, n)) * 0.1),
        "router": _floats("router", rng.standard_normal((N_EXPERT, n))),
        "matrix": _tensor("matrix", (N_ROWS, n), quant, make_blocks, rng),
        "experts": _tensor("experts", (N_EXPERT, N_EXPERT_ROWS, n), quant, make_blocks, rng),
    }
    expected, limits = _multiply(tensors, quant)

    options = BackendOptions(n_ctx=len(TOKENS), n_slots=1, n_batch=len(TOKENS), n_threads=2)
    with open_backend(_context(_products(n), tensors, options, quants)) as backend:
        whole = backend.hidden(batch((0, 0, TOKENS))).copy()
        errors = np.abs(whole - expected)
        if not (errors <= limits).all():
            raise AssertionError(
                f"products with {quant.name} differ from those of its exact weights by up to {errors.max():.3g}; "
                f"the largest product is {np.abs(expected).max():.3g}"
            )
        for size in BATCHES:
            backend.truncate(0, 0)
            part = backend.hidden(batch((0, 0, TOKENS[:size])))
            differs = part != whole[:size] if backend.exact else np.abs(part - expected[:size]) > limits[:size]
            if differs.any():
                raise AssertionError(f"products with {quant.name} of {size} and of {len(TOKENS)} tokens differ")
    return whole


def _products(n: int) -> g.Graph:
    """Return a graph that multiplies embeddings with a matrix, and with those of chosen experts."""
    x = g.EmbeddingLookup(g.TOKENS, g.Weight("embedding", (N_VOCAB, n)))
    chosen = g.top_k(g.Linear(x, g.Weight("router", (N_EXPERT, n))), N_USED)
    experts = g.ExpertLinear(x, chosen, g.Weight("experts", (N_EXPERT, N_EXPERT_ROWS, n)))
    return g.Graph(g.concat(g.Linear(x, g.Weight("matrix", (N_ROWS, n))), g.flat(experts)), None, len(TOKENS))


def _multiply(tensors: Mapping[str, Tensor], quant: Quant) -> tuple[Doubles, Doubles]:
    """Return the products of each token in float64, and how far others may be from them, ``(n_tokens, n)``."""
    weights = {
        name: (one.data.view("<f4").reshape(one.shape) if one.type_name == "F32" else _read(one, quant)).astype(float)
        for name, one in tensors.items()
    }
    x = weights["embedding"][TOKENS]
    chosen = np.argsort(-(x @ weights["router"].T), -1, kind="stable")[:, :N_USED]
    matrix = np.broadcast_to(weights["matrix"], (len(x), *weights["matrix"].shape))
    rows = np.concatenate([matrix, weights["experts"][chosen].reshape(len(x), -1, x.shape[1])], axis=1)
    products: Doubles = np.einsum("tn,trn->tr", x, rows)
    return products, TOLERANCE * np.abs(x).max(-1, keepdims=True) * np.abs(rows).sum(-1)


def _columns(quant: Quant, at_least: int) -> int:
    """Return a number of columns that makes whole blocks, and is a multiple of 32."""
    unit = math.lcm(quant.block_size, 32)
    return -(-at_least // unit) * unit


def _context(
    graph: g.Graph, tensors: Mapping[str, Tensor], options: BackendOptions, quants: Mapping[str, Quant]
) -> BackendContext:
    return BackendContext(Model(Path("model.gguf"), {}, dict(tensors), 0), graph, options, quants)


def _read(tensor: Tensor, quant: Quant) -> Floats:
    return quant.dequantize(tensor.data, tensor.shape)


def _floats(name: str, numbers: Doubles) -> Tensor:
    return Tensor(name, numbers.shape, "F32", numbers.astype("<f4").view(np.uint8).reshape(-1))


def _tensor(
    name: str, shape: tuple[int, ...], quant: Quant, make_blocks: MakeBlocks, rng: np.random.Generator
) -> Tensor:
    """Return a tensor of blocks whose weights are finite and of similar magnitudes."""
    n_blocks = math.prod(shape) // quant.block_size
    blocks = make_blocks(rng, max(4 * n_blocks, 2000))
    with np.errstate(all="ignore"):
        weights = np.abs(quant.dequantize(blocks.reshape(-1), (len(blocks), quant.block_size)))
    largest = np.where(np.isfinite(weights).all(-1), weights.max(-1), 0)
    if not largest.any():
        raise AssertionError(f"there are no blocks of {quant.name} with finite weights")

    middle = np.median(largest[largest > 0])
    usable = np.flatnonzero((largest >= middle / 16) & (largest <= middle * 16))
    chosen = blocks[np.resize(usable, n_blocks)]
    return Tensor(name, shape, quant.name, chosen.reshape(-1))
