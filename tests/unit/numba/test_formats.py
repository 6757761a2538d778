"""Each tensor type is multiplied with its exact weights by all instruction sets, and unpacked exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from llamafw import Backend, BackendContext, Bytes
from llamafw.testing.quant_kernels import check_products, check_rows
from llamafw.testing.random_tensors import random_tensor
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.numba_cpu.formats import BUILT_IN
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
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


@pytest.mark.parametrize("type_name", NAMES)
def test_products_are_those_of_the_exact_weights(type_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instruction sets and batches of any size give the same bits."""
    quant = QUANTS[type_name]

    def make_blocks(rng: np.random.Generator, n: int) -> Bytes:
        return random_tensor(rng, (n, quant.block_size), type_name, std=0.1).view(np.uint8).reshape(n, -1)

    results = []
    for isa in ISAS:
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        results.append(check_products(quant, QUANTS, make_blocks, opened))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("type_name", NAMES)
def test_blocks_are_unpacked_exactly(type_name: str) -> None:
    """Any bytes give the bits of the reference, infinities included; all NaN are alike."""
    quant = QUANTS[type_name]
    check_rows(quant, QUANTS, lambda rng, n: rng.integers(0, 256, (n, quant.type_size), np.uint8), opened)
