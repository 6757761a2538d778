"""Lowers mixtures of experts to QMoE, or each expert to a product with the rows that have chosen it."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.attention_lowering import LOWEST
from llamafw_backends.onnx.code_products import block_sums
from llamafw_backends.onnx.expert_mixture import Mixture, Node, add_mixture, find_mixture, find_node
from llamafw_backends.onnx.lowering import Lowering, lowers
from llamafw_backends.onnx.matrices import add_product, form_of, read_codes, single_node_codes


@lowers(g.TopK)
def lower_top_k(value: g.TopK, low: Lowering) -> str:
    """Lower to TopK; of equal numbers, both have the lower index first."""
    _, indices = low.builder.node("TopK", low.of(value.x), low.builder.ints(value.k), n_outputs=2, axis=-1)
    return str(indices)


@lowers(g.Gather)
def lower_gather(value: g.Gather, low: Lowering) -> str:
    """Lower to GatherElements."""
    return str(low.builder.node("GatherElements", low.of(value.x), low.of(value.indices), axis=-1))


@lowers(g.GroupMask)
def lower_group_mask(value: g.GroupMask, low: Lowering) -> str:
    """Lower to the scores of groups, and a mask of those that are not among the best."""
    b, n_groups = low.builder, value.n_groups
    size = value.shape[0] // n_groups
    groups = low.reshape(low.of(value.x), n_groups, size)
    best, _ = b.node("TopK", groups, b.ints(value.n_best), n_outputs=2, axis=-1)
    scores = b.node("ReduceSum", best, b.ints(-1), keepdims=0)
    _, used = b.node("TopK", scores, b.ints(value.n_used), n_outputs=2, axis=-1)
    chosen = b.node("OneHot", used, b.constant(n_groups, np.int64), b.constant([0, 1], np.int64), axis=-1)
    chosen = b.node("Cast", b.node("ReduceMax", chosen, b.ints(1), keepdims=0), to=9)  # 9: BOOL
    masked = b.node("Where", low.reshape(chosen, n_groups, 1), groups, b.floats(LOWEST[b.float_type]))
    return low.reshape(masked, *value.shape)


@lowers(g.SparseMixer)
def lower_sparse_mixer(value: g.SparseMixer, low: Lowering) -> str:
    """Lower to the weight of each chosen expert in turn, among the experts that are left."""
    b, x, chosen = low.builder, low.of(value.x), low.of(value.chosen)
    n, k = value.x.shape[0], value.chosen.shape[0]
    lowest, left, weights = b.floats(LOWEST[b.float_type]), x, []
    for i in range(k):
        column = b.node("Slice", chosen, b.ints(i), b.ints(i + 1), b.ints(-1))
        best = b.node("GatherElements", x, column, axis=-1)
        size = b.node("Max", b.node("Abs", x), best)
        limit = b.node("Mul", size, b.floats(2 * value.jitter))
        is_close = b.node("LessOrEqual", b.node("Sub", best, x), limit)
        shares = b.node("Where", is_close, b.node("Exp", b.node("Sub", left, best)), b.floats(0.0))
        total = b.node("ReduceSum", shares, b.ints(-1), keepdims=1)
        weights.append(b.node("Reciprocal", total))
        taken = b.node("OneHot", column, b.constant(n, np.int64), b.constant([0, 1], np.int64), axis=-1)
        taken = b.node("Cast", b.node("Reshape", taken, b.ints(-1, n)), to=9)
        left = b.node("Where", taken, lowest, left)
    return str(b.node("Concat", *weights, axis=-1))


@lowers(g.ExpertLinear)
def lower_expert_linear(value: g.ExpertLinear, low: Lowering) -> str:
    """Lower to a product per expert, or lower the whole mixture to one node, which its weighted sum adds."""
    found = find_mixture(value, low.readers)
    node = found if isinstance(found, str) else find_node(found, low, partial(single_node_codes, low, n_rows=1))
    if isinstance(found, Mixture) and isinstance(node, Node):
        for one in found.inside:
            low.set(one, "")  # nothing but the node reads it
            low.chosen[one] = "part of the mixture of experts"
        low.memo[found.total] = found, node
        return ""
    low.chosen[value] = f"a product per expert, because {node}"
    return _product_per_expert(value, low)


def _product_per_expert(value: g.ExpertLinear, low: Lowering) -> str:
    """Lower to a product per expert, of the rows that have chosen it; the products go back to their places."""
    b, k = low.builder, value.chosen.shape[0]
    n_expert, n_out, _ = value.weight.shape
    experts = [_expert(value.weight, i) for i in range(n_expert)]
    parts = [add_product(low, rows, expert) for rows, expert in zip(_rows_by_expert(value, low), experts, strict=True)]
    y = b.node("Gather", b.node("Concat", *parts, axis=0), _by_expert(value.chosen, n_expert, low).places, axis=0)

    chosen = b.node("Reshape", low.of(value.chosen), b.ints(-1))
    if value.scale is not None:
        factors = b.node("Gather", low.small_weight(value.scale), chosen, axis=0)
        y = b.node("Mul", y, b.node("Reshape", factors, b.ints(-1, 1)))
    if value.bias is not None:
        y = b.node("Add", y, b.node("Gather", low.small_weight(value.bias), chosen, axis=0))
    return low.reshape(low.rows(y, n_out), k, n_out)


class _ByExpert(NamedTuple):
    """The chosen experts of all tokens, ``(n_tokens · k,)``, sorted."""

    order: str  # the index of each one before sorting
    places: str  # the index of each one after sorting
    counts: str  # how many there are of each expert, (n_expert,)


def _by_expert(chosen: g.Value, n_expert: int, low: Lowering) -> _ByExpert:
    def make() -> _ByExpert:
        b = low.builder
        flat = b.node("Reshape", low.of(chosen), b.ints(-1))
        size = b.node("Shape", flat)
        _, order = b.node("TopK", flat, size, n_outputs=2, largest=0)
        _, places = b.node("TopK", order, size, n_outputs=2, largest=0)
        is_chosen = b.node("OneHot", flat, b.constant(n_expert, np.int64), b.constant([0, 1], np.int64), axis=0)
        return _ByExpert(order, places, b.node("ReduceSum", is_chosen, b.ints(1), keepdims=0))

    return low.once(("by expert", chosen), make)  # type: ignore[no-any-return]  # what `make` returns


def _rows_by_expert(value: g.ExpertLinear, low: Lowering) -> tuple[str, ...]:
    """Return the rows that each expert multiplies, ``(n, n_in)``, with the sums of their blocks at hand."""
    b, k = low.builder, value.chosen.shape[0]
    n_expert, _, n_in = value.weight.shape

    by_expert = _by_expert(value.chosen, n_expert, low)

    def sort() -> str:
        order = by_expert.order
        if len(value.x.shape) == 1:
            order = b.node("Div", order, b.ints(k))  # each token has k rows in turn
        return str(b.node("Gather", low.reshape(low.of(value.x), n_in), order, axis=0))

    def divide(rows: str) -> tuple[str, ...]:
        parts = b.node("Split", rows, by_expert.counts, n_outputs=n_expert, axis=0)
        return (parts,) if n_expert == 1 else parts

    rows: str = low.once(("sorted rows", value.x, value.chosen), sort)
    parts: tuple[str, ...] = low.once(("rows by expert", rows), lambda: divide(rows))
    has_form = form_of(low, value.weight) is not None
    if has_form and (codes := read_codes(low, value.weight, n_rows=1)).offsets is not None:
        size = codes.block_size
        sums = low.once(("sums by expert", rows, size), lambda: divide(block_sums(b, rows, size, n_in)))
        b.shared.update({(part, size): one for part, one in zip(parts, sums, strict=True)})
    return parts


def _expert(weight: g.Weight, expert: int) -> g.Weight:
    """Return the matrix of one expert."""
    first = weight.first + expert
    return g.Weight(weight.name, weight.shape[1:], first, first + 1)


@lowers(g.WeightedSum)
def lower_weighted_sum(value: g.WeightedSum, low: Lowering) -> str:
    """Lower to a product of a row of weights with a matrix of parts, or to the node for the whole mixture."""
    if value in low.memo:
        mixture, node = low.memo[value]
        low.chosen[value] = "QMoE"
        return add_mixture(mixture, node, low, partial(single_node_codes, low))
    b, (k, n) = low.builder, value.parts.shape
    y = b.node("MatMul", low.reshape(low.of(value.weights), 1, k), low.of(value.parts))
    return low.reshape(y, n)
