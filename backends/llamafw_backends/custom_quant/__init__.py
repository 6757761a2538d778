"""The ternary tensor types of Prism ML's Bonsai models, and the rotation of their activations.

The types are PQ2_0 and PTQ1_0. In most of these files, whatever the type of their tensors, the columns of matrices are
folded with signs and a Hadamard transform, as the metadata ``prism.hadamard.*`` say: before such a matrix, activations
are rotated in the same way. A file without these keys is computed as usual.

This plugin uses only what any plugin can use: `llamafw`, and `llamafw_backends.numba_cpu.kernel_api`.
"""

from __future__ import annotations

from llamafw import Model, Operator, Register, hookimpl
from llamafw import graph as g
from llamafw_backends.custom_quant import kernels
from llamafw_backends.custom_quant.hadamard import Hadamard
from llamafw_backends.custom_quant.metadata import read_rotation
from llamafw_backends.custom_quant.rotation import rotate
from llamafw_backends.custom_quant.types import PQ2_0, PTQ1_0

requires_api = ">=1.0,<2"


@hookimpl
def register_quants(register: Register) -> None:
    """Register the tensor types."""
    for quant in (PQ2_0(), PTQ1_0()):
        register(quant.name, quant)


@hookimpl
def register_operators(register: Register) -> None:
    """Register the rotation."""
    register("hadamard", Operator(Hadamard, {"numba": kernels.hadamard}))


@hookimpl
def rewrite_graph(model: Model, graph: g.Graph) -> g.Graph | None:
    """Rotate the inputs of folded matrices, and the rows of a folded embedding."""
    rotation = read_rotation(model)
    return None if rotation is None else rotate(graph, rotation)
