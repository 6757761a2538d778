"""Lowers a whole mixture of experts to QMoE: the products of the chosen experts and their weighted sum.

The node chooses experts by itself. It is given 1 for those that the graph has chosen and 0 for the others, so every way
to choose works, and the weights of the sum apart from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.block_formats import BlockCodes, pack_codes
from llamafw_backends.onnx.model_builder import Array, Dimensions, ModelBuilder
from llamafw_backends.onnx.probes import INT8_TOLERANCE
from llamafw_backends.onnx.support import Probe, Support

if TYPE_CHECKING:
    from llamafw_backends.onnx.lowering import Lowering


@dataclass(frozen=True, slots=True)
class Gate:
    """``gate · sigmoid(alpha · gate) · (up + beta)``, with ``gate`` up to the limit and ``up`` between both limits."""

    alpha: float = 1.0
    beta: float = 0.0
    limit: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """A mixture of experts in a graph.

    Attributes
    ----------
    total : WeightedSum
        Its result.
    gate, up : (ExpertLinear, int, int)
        The product that has these rows, and the first and last of them.
    down : ExpertLinear
        The product with the hidden rows.
    function : Gate
        How the hidden rows are computed.
    inside : list of Value
        The operators between the input and the result, which nothing else reads.
    """

    total: g.WeightedSum
    gate: tuple[g.ExpertLinear, int, int]
    up: tuple[g.ExpertLinear, int, int]
    down: g.ExpertLinear
    function: Gate
    inside: list[g.Value]


def find_mixture(product: g.ExpertLinear, readers: dict[g.Value, list[g.Value]]) -> Mixture | str:
    """Return the mixture of experts that a product is the beginning of, or why it is not one for QMoE."""
    total = _first_sum(product, readers)
    if total is None or not isinstance(total.parts, g.ExpertLinear):
        return "there is no weighted sum of experts"
    down = total.parts
    hidden = _match_hidden(down.x)
    if hidden is None:
        return "its activation function is not a SwiGLU"
    gate, up, function = hidden
    products = {gate[0], up[0], down}
    if len(gate[0].x.shape) != 1 or gate[0].x is not up[0].x or len({one.chosen for one in products}) != 1:
        return "its products have different inputs"
    inside = _between(total, {gate[0].x, total.weights, down.chosen})
    if any(reader not in (*inside, total) for value in inside for reader in readers[value]):
        return "its parts have other readers"
    return Mixture(total, gate, up, down, function, inside)


def _first_sum(product: g.ExpertLinear, readers: dict[g.Value, list[g.Value]]) -> g.WeightedSum | None:
    """Return the weighted sum that is computed from a product."""
    todo: list[g.Value] = [product]
    for value in todo:
        if isinstance(value, g.WeightedSum):
            return value
        if len(value.shape) == 2:  # one row per chosen expert
            todo += [one for one in readers[value] if one not in todo]
    return None


def _between(total: g.WeightedSum, inputs: set[g.Value]) -> list[g.Value]:
    """Return the operators that a sum is computed from, without its inputs."""
    todo: list[g.Value] = [total]
    for value in todo:
        todo += [one for one in value.inputs() if one not in inputs and one not in todo]
    return todo[1:]


def _match_hidden(
    hidden: g.Value,
) -> tuple[tuple[g.ExpertLinear, int, int], tuple[g.ExpertLinear, int, int], Gate] | None:
    """Return the gate, the other factor and the function of hidden rows, if they are a SwiGLU."""
    beta = 0.0
    if isinstance(hidden, g.Add) and isinstance(hidden.a, g.Mul) and hidden.a.a is hidden.b:
        hidden, beta = hidden.a, 1.0  # act · up + act
    if not isinstance(hidden, g.Mul) or not isinstance(hidden.a, g.Activation):
        return None
    act, up = hidden.a, hidden.b
    alpha = {"silu": 1.0, "quick_gelu": 1.702}.get(act.function)
    gate, limits = act.x, []
    if isinstance(gate, g.Clamp) and isinstance(up, g.Clamp) and gate.low == -np.inf and up.low == -up.high:
        limits = [gate.high, up.high]
        gate, up = gate.x, up.x
    parts = _match_rows(gate), _match_rows(up)
    if alpha is None or parts[0] is None or parts[1] is None or len(set(limits)) > 1:
        return None
    return parts[0], parts[1], Gate(alpha, beta, limits[0] if limits else None)


def _match_rows(value: g.Value) -> tuple[g.ExpertLinear, int, int] | None:
    """Return the product that a value is, or is a part of, with the first and the last row."""
    if isinstance(value, g.ExpertLinear):
        return value, 0, value.weight.shape[1]
    if isinstance(value, g.Slice) and isinstance(value.x, g.ExpertLinear):
        return value.x, value.first, value.last
    return None


@dataclass(frozen=True, slots=True)
class Node:
    """The attributes of QMoE."""

    n_used: int
    bits: tuple[int, int]  # of the first and the second products
    block_size: int
    function: Gate
    accuracy_level: int

    def add(self, b: ModelBuilder, x: str, chosen: str, weights: str, first: list[str], second: list[str]) -> str:
        """Add the node.

        Parameters
        ----------
        b : ModelBuilder
            The model.
        x : str
            The rows, ``(n_tokens, n_in)``.
        chosen, weights : str
            1 for each chosen expert and otherwise 0, and the weights of the sum, ``(n_tokens, n_expert)``.
        first, second : list of str
            Codes ``(n_expert, n_rows, n_bytes)``, scales ``(n_expert, n_rows, n_blocks)`` and biases
            ``(n_expert, n_rows)``, "" if there are none, of gate and up, whose rows take turns, and of the rest.
        """
        inputs = [x, chosen, *first, *second, "", "", "", "", "", "", weights]
        return str(
            b.node(
                "com.microsoft.QMoE",
                *inputs,
                k=self.n_used,
                expert_weight_bits=self.bits[0],
                fc2_expert_weight_bits=self.bits[1] if self.bits[1] != self.bits[0] else None,
                block_size=self.block_size,
                activation_type="swiglu",
                swiglu_fusion=1,
                activation_alpha=self.function.alpha,
                activation_beta=self.function.beta,
                swiglu_limit=self.function.limit,
                normalize_routing_weights=0,
                weights_prepacked=0,
                accuracy_level=self.accuracy_level,
            )
        )


def runs_mixture(support: Support, node: Node, *, has_bias: bool) -> bool:
    """Return whether the provider has QMoE for such codes and this function."""
    name = f"QMoE, {node}" + ", biases" * has_bias
    return support.runs(name, lambda: _mixture(support.float_type, node, has_bias))


def _mixture(dtype: np.dtype[Any], node: Node, has_bias: bool) -> Probe:
    rng = np.random.default_rng(0)
    n_expert, n_tokens, size = node.n_used + 2, 5, 2 * max(node.block_size, 32)
    x = rng.standard_normal((n_tokens, size)).astype(dtype)
    chosen = np.argsort(rng.random((n_tokens, n_expert)), -1)[:, : node.n_used]
    weights = np.zeros((n_tokens, n_expert), dtype)
    np.put_along_axis(weights, chosen, rng.uniform(0.2, 1, chosen.shape).astype(dtype), -1)
    is_chosen = (weights > 0).astype(dtype)
    arrays, matrices, biases = [], [], []
    for bits, n_rows in zip(node.bits, (2 * size, size), strict=True):
        codes = rng.integers(0, 2**bits, (n_expert * n_rows, size // node.block_size, node.block_size), np.uint8)
        scales = (rng.uniform(0.5, 1, codes.shape[:2]) / 2**bits / size**0.5).astype(dtype)
        matrix = (codes - 2.0 ** (bits - 1)) * scales[..., None]
        arrays.append(_per_expert(BlockCodes(bits, codes, scales.astype(np.float32)), n_expert, dtype))
        matrices.append(matrix.reshape(n_expert, n_rows, size))
        biases.append(rng.standard_normal((n_expert, n_rows)).astype(dtype) if has_bias else None)

    feeds: dict[str, Array] = {"x": x, "chosen": is_chosen, "w": weights}
    dims: list[Dimensions] = [["n", array.shape[1]] for array in feeds.values()]

    def build(b: ModelBuilder) -> None:
        parts = [
            [*(b.weight(f"{i}.{j}", array) for j, array in enumerate(pair)), "" if bias is None else b.constant(bias)]
            for i, (pair, bias) in enumerate(zip(arrays, biases, strict=True))
        ]
        rows, ones, sums = (b.input(*one) for one in zip(feeds, [dtype] * 3, dims, strict=True))
        b.node("Identity", node.add(b, rows, ones, sums, *parts), outputs=["y"])
        b.output("y", dtype, ["n", size])

    def product(i: int, rows: Array, expert: int) -> Array:
        bias = biases[i]
        y: Array = matrices[i][expert] @ rows
        return y if bias is None else y + bias[expert]

    expected = np.zeros((n_tokens, size))
    for t in range(n_tokens):
        for expert in chosen[t]:
            both = product(0, x[t].astype(np.float64), expert)
            hidden = _hidden(node.function, both[::2], both[1::2])
            expected[t] += weights[t, expert] * product(1, hidden, expert)
    is_rounded = node.accuracy_level or 8 in node.bits
    return Probe(build, feeds, expected, tolerance=INT8_TOLERANCE if is_rounded else None)


def _hidden(function: Gate, gate: Array, up: Array) -> Array:
    if function.limit is not None:
        gate, up = np.minimum(gate, function.limit), np.clip(up, -function.limit, function.limit)
    hidden: Array = gate / (1 + np.exp(-function.alpha * gate)) * (up + function.beta)
    return hidden


def _per_expert(codes: BlockCodes, n_expert: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Return codes and scales of all experts, ``(n_expert, n_rows, …)``."""
    packed, n_rows = pack_codes(codes.codes, codes.bits), len(codes.scales) // n_expert
    return packed.reshape(n_expert, n_rows, -1), codes.scales.reshape(n_expert, n_rows, -1).astype(dtype)


Read = Callable[[g.Weight], BlockCodes | None]


def find_node(mixture: Mixture, low: Lowering, read: Read) -> Node | str:
    """Return the node for a mixture, or why there is none; ``read`` returns codes of a matrix's first row."""
    found = [read(one.weight) for one in (mixture.gate[0], mixture.up[0], mixture.down)]
    codes = [one for one in found if one is not None and one.offsets is None]
    if len(codes) < len(found):
        return "its weights are not multiples of a scale"
    if codes[0].bits != codes[1].bits or len({one.block_size for one in codes}) > 1:
        return "its weights have different types"
    if (mixture.gate[0].bias is None) != (mixture.up[0].bias is None):
        return "only one of gate and up has biases"
    bits = codes[0].bits, codes[2].bits
    if 8 in bits and low.builder.float_type == np.float32 and not low.accuracy_level:
        return "its weights of 8 bits would round activations"
    node = Node(mixture.down.chosen.shape[0], bits, codes[0].block_size, mixture.function, low.accuracy_level)
    has_bias = any(one.bias is not None for one in (mixture.gate[0], mixture.up[0], mixture.down))
    if not runs_mixture(low.support, node, has_bias=has_bias):
        return "the provider has no QMoE for it"
    return node


def add_mixture(mixture: Mixture, node: Node, low: Lowering, read: Read) -> str:
    """Add the node for a mixture of experts; return its result."""
    b, total = low.builder, mixture.total
    chosen, n_expert = low.of(mixture.down.chosen), mixture.down.weight.shape[0]
    parts = [mixture.gate, mixture.up]
    arrays = [_arrays(low, one, read, first, last) for one, first, last in parts]
    first = [
        np.stack(pair, 2).reshape(n_expert, 2 * pair[0].shape[1], *pair[0].shape[2:])
        for pair in zip(*arrays, strict=True)
    ]
    second = _arrays(low, mixture.down, read, 0, mixture.down.weight.shape[1])
    names = [
        [b.weight(f"{name}.{part}", array) for part, array in zip(("codes", "scales", "bias"), some, strict=False)]
        for name, some in ((f"{b.scope}/experts/gate_up", first), (f"{b.scope}/experts/down", second))
    ]
    names = [some if len(some) == 3 else [*some, ""] for some in names]

    def make_zeros() -> str:
        n_tokens = b.node("Shape", chosen, start=0, end=1)
        return str(b.node("Expand", b.floats(0.0), b.node("Concat", n_tokens, b.ints(n_expert), axis=0)))

    zeros = low.once(("no experts", n_expert, total in low.early), make_zeros)
    ones = b.node("Expand", b.floats(1.0), b.node("Shape", chosen))
    is_chosen = b.node("ScatterElements", zeros, chosen, ones, axis=1)
    weights = b.node("ScatterElements", zeros, chosen, low.of(total.weights), axis=1)
    return node.add(b, low.of(mixture.gate[0].x), is_chosen, weights, names[0], names[1])


def _arrays(low: Lowering, product: g.ExpertLinear, read: Read, first: int, last: int) -> list[Array]:
    """Return codes, scales and biases of some rows of all experts, ``(n_expert, n_rows, …)``; no biases if none."""
    dtype, n_expert = low.builder.float_type, product.weight.shape[0]
    codes = read(product.weight)
    assert codes is not None, "find_node has read codes"
    packed, scales = _per_expert(codes, n_expert, dtype)
    if product.scale is not None:
        scales = (scales * low.tensors.floats(product.scale)[:, None, None]).astype(dtype)
    arrays = [packed[:, first:last], scales[:, first:last]]
    if product.bias is not None:
        arrays.append(low.tensors.floats(product.bias).astype(dtype)[:, first:last])
    return arrays
