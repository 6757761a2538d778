"""Arguments of `llamafw.testing.quant_kernels` for the types of the Numba backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from llamafw import Backend, BackendContext, Bytes
from llamafw.testing.quant_kernels import MakeBlocks
from llamafw.testing.random_tensors import random_tensor
from llamafw_backends.numba_cpu.backend import NumbaBackend
from support.gguf_models import QUANTS


@contextmanager
def opened(context: BackendContext) -> Iterator[Backend]:
    """Open the backend, which must multiply with the tensor type itself."""
    backend = NumbaBackend(context)
    try:
        if "matrix" in context.model.tensors:
            assert context.model.tensors["matrix"].type_name in backend.describe()["weight_types"]
        yield backend
    finally:
        backend.close()


def block_maker(type_name: str) -> MakeBlocks:
    """Return a function that makes random blocks of a type, with a standard deviation of 0.1."""

    def make_blocks(rng: np.random.Generator, n: int) -> Bytes:
        shape = (n, QUANTS[type_name].block_size)
        return random_tensor(rng, shape, type_name, std=0.1).view(np.uint8).reshape(n, -1)

    return make_blocks
