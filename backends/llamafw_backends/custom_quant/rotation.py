"""Rotate the inputs of folded matrices in a graph, and the rows of a folded embedding.

R multiplies each number of a row by a sign, and then transforms blocks of numbers. A matrix W is stored as W Rᵀ. As R
does not change lengths and angles, W x = (W Rᵀ) (R x). The rows x of an embedding are stored as R x.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from llamafw import graph as g
from llamafw_backends.custom_quant.hadamard import Hadamard

STATE_OUTPUT = re.compile(r"blk\.\d+\.ssm_out\.weight")

Signs = npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Rotation:
    """How the matrices of a model are folded.

    Attributes
    ----------
    block_size : int
        Numbers that are transformed together.
    signs : mapping of int to array
        The signs for rows of some size, by that size.
    forward : frozenset of str
        The folded matrices, by name.
    inverse : frozenset of str
        The folded embeddings.
    state_heads : tuple of int, optional
        The heads of the input of ``ssm_out``, if its columns have another order than the graph: the number of groups,
        and of heads in each group. The graph has the first heads of all groups first, then the second ones …
    """

    block_size: int
    signs: Mapping[int, Signs]
    forward: frozenset[str]
    inverse: frozenset[str]
    state_heads: tuple[int, int] | None = None


def rotate(graph: g.Graph, rotation: Rotation) -> g.Graph:
    """Return the graph that computes with folded matrices.

    A value that is the input of several of them is rotated once.

    Raises
    ------
    GraphError
        An operator uses a folded tensor in a way that is not known.
    """
    folded = rotation.forward | rotation.inverse
    rotated: dict[tuple[g.Value, bool], g.Value] = {}

    def turn(x: g.Value, *, reorder: bool) -> g.Value:
        if (x, reorder) not in rotated:
            y = _group_heads(x, *rotation.state_heads) if reorder and rotation.state_heads else x
            rotated[x, reorder] = _hadamard(y, rotation)
        return rotated[x, reorder]

    def change(value: g.Value) -> g.Value:
        match value:
            case g.EmbeddingLookup() if value.weight.name in rotation.inverse:
                return _hadamard(value, rotation, inverse=True)
            case g.Linear() | g.ExpertLinear() if value.weight.name in rotation.forward:
                reorder = STATE_OUTPUT.fullmatch(value.weight.name) is not None
                return replace(value, x=turn(value.x, reorder=reorder))
        for name in value.__dataclass_fields__:
            field = getattr(value, name)
            if isinstance(field, g.Weight) and field.name in folded:
                raise g.GraphError(f"the folded tensor {field.name!r} cannot be used by {type(value).__name__}")
        return value

    return g.rewrite(graph, change)


def _hadamard(x: g.Value, rotation: Rotation, *, inverse: bool = False) -> g.Value:
    """Return a value with the last axis rotated."""
    n = rotation.block_size
    blocks = g.Reshape(x, (g.size_of(x) // n, n))
    return g.Reshape(Hadamard(blocks, rotation.signs[x.shape[-1]], inverse), x.shape)


def _group_heads(x: g.Value, n_groups: int, n_heads: int) -> g.Value:
    """Return the heads of each group together."""
    firsts = g.split(x, *[x.shape[-1] // n_heads] * n_heads)  # the first head of each group, the second ones …
    return g.flat(g.concat(*(g.heads(part, n_groups) for part in firsts)))
