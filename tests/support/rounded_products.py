"""Products of weights with activations that are rounded to eight bits, or that eight bits hold exactly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llamafw import BackendContext, BackendOptions, Model, Quant, Tensor
from llamafw import graph as g
from llamafw.testing.batches import batch
from llamafw.testing.random_tensors import random_tensor
from llamafw_backends.custom_quant.types import PQ2_0, PTQ1_0
from llamafw_backends.numba_cpu.backend import NumbaBackend
from support import gguf_models, ternary

N_VOCAB, N_COLUMNS, N_ROWS, N_EXPERT_ROWS, N_EXPERT = 128, 512, 40, 48, 3
QUANTS: dict[str, Quant] = {**gguf_models.QUANTS, "PQ2_0": PQ2_0(), "PTQ1_0": PTQ1_0()}
SIZES = (1, 2, 3, 5, 12, 16, 31, 112)  # of batches; every instruction set unpacks tiles for 112

Floats = npt.NDArray[np.float32]


def byte_activations() -> Floats:
    """Return activations ``(N_VOCAB, N_COLUMNS)`` whose groups of 32 are integers up to 127 times a power of two."""
    rng = np.random.default_rng(5)
    numbers = rng.integers(-127, 128, (N_VOCAB, N_COLUMNS // 32, 32))
    numbers[..., 7] = rng.choice([-127, 127], numbers.shape[:2])  # the largest of each group
    scales = 2.0 ** rng.integers(-12, -6, (N_VOCAB, N_COLUMNS // 32, 1))
    return (numbers * scales).astype(np.float32).reshape(N_VOCAB, N_COLUMNS)


def multiply(type_name: str, activations: Floats, kind: str) -> list[Floats]:
    """Return the products of a matrix and of experts of a type with all activations, in batches of several sizes.

    Parameters
    ----------
    type_name : str
        The tensor type.
    activations : (N_VOCAB, N_COLUMNS) float32
        The embedding.
    kind : str
        The value of ``--numba-activations``.

    Returns
    -------
    list of (size, n) float32
        For each of ``SIZES``.
    """
    rng = np.random.default_rng(6)
    shapes = {"matrix": (N_ROWS, N_COLUMNS), "experts": (N_EXPERT, N_EXPERT_ROWS, N_COLUMNS)}
    tensors = {
        name: Tensor(name, shape, type_name, _random_blocks(rng, shape, type_name)) for name, shape in shapes.items()
    }
    floats = {"embedding": activations, "router": rng.normal(0, 1, (N_EXPERT, N_COLUMNS)).astype(np.float32)}
    for name, numbers in floats.items():
        tensors[name] = Tensor(name, numbers.shape, "F32", numbers.view(np.uint8).reshape(-1))
    x = g.EmbeddingLookup(g.TOKENS, g.Weight("embedding", activations.shape))
    chosen = g.top_k(g.Linear(x, g.Weight("router", (N_EXPERT, N_COLUMNS))), 2)
    experts = g.ExpertLinear(x, chosen, g.Weight("experts", shapes["experts"]))
    graph = g.Graph(g.concat(g.Linear(x, g.Weight("matrix", shapes["matrix"])), g.flat(experts)), None, N_VOCAB)

    model = Model(Path("m.gguf"), {}, tensors, 0)
    options = BackendOptions(n_ctx=N_VOCAB, n_slots=1, n_threads=2, extra={"numba_activations": kind})
    backend, results = NumbaBackend(BackendContext(model, graph, options, QUANTS)), []
    try:
        for size in SIZES:
            backend.truncate(0, 0)
            results.append(backend.hidden(batch((0, 0, list(range(size))))).copy())
    finally:
        backend.close()
    return results


def matrix_weights(type_name: str) -> npt.NDArray[np.float64]:
    """Return the weights of the matrix that `multiply` makes."""
    shape = (N_ROWS, N_COLUMNS)
    data = _random_blocks(np.random.default_rng(6), shape, type_name)
    return QUANTS[type_name].dequantize(data, shape).astype(np.float64)


def _random_blocks(rng: np.random.Generator, shape: tuple[int, ...], type_name: str) -> npt.NDArray[np.uint8]:
    """Return the blocks of a random tensor of a type of ggml, or of the plugin `custom_quant`."""
    n_blocks = math.prod(shape) // ternary.BLOCK
    if type_name == "PQ2_0":
        return ternary.pack_pq2_0(*ternary.random_codes(rng, n_blocks, 4)).reshape(-1)
    if type_name == "PTQ1_0":
        return ternary.pack_ptq1_0(*ternary.random_codes(rng, n_blocks, 3)).reshape(-1)
    return random_tensor(rng, shape, type_name, 0.1).view(np.uint8).reshape(-1)
