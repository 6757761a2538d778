"""Lower the operators that become operators on rows: kernels of `row_kernels`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llamafw import graph as g
from llamafw_backends.numba_cpu import row_kernels as k
from llamafw_backends.numba_cpu import row_reductions as reductions
from llamafw_backends.numba_cpu.kept_rows import KeptRows
from llamafw_backends.numba_cpu.memory import align_up
from llamafw_backends.numba_cpu.rotations import has_table
from llamafw_backends.numba_cpu.units import Buffer, ColumnsUnit, Kernel, Pairs, Place, RowUnit
from llamafw_backends.numba_cpu.weights import Order, Weights

if TYPE_CHECKING:
    from llamafw_backends.numba_cpu.lowering import Lowering


Fields = dict[str, Any]
"""Fields of a ROW_OP record."""


def parts(n: int, n_parts: int) -> Fields:
    """Return the fields of a row that has ``n_parts`` parts of ``n`` numbers."""
    return {"n": n, "n_parts": n_parts, "size": n * n_parts, "a_step": 4 * n, "out_step": 4 * n}


def _heads(value: g.Value) -> Fields:
    """Return the fields of a row whose parts are the last axis of a value."""
    return parts(value.shape[-1], math.prod(value.shape[:-1]))


def unary(low: Lowering, value: g.Value, order: Order = ()) -> tuple[Kernel, Fields]:
    """Return the kernel and the fields of an operator with one input.

    Parameters
    ----------
    low : Lowering
        Receives the requests for weights.
    value : Value
        The operator.
    order : Order
        The order of the numbers of a head, if it is not that of the file.

    Raises
    ------
    ModelError
        The operator has no kernel.
    """
    match value:
        case g.RMSNorm() | g.LayerNorm():
            return _norm(low.weights, value, order)
        case g.L2Norm():
            return reductions.normalise_l2, _heads(value) | {"x": value.eps}
        case g.Scale():
            return k.scale, {"x": value.factor}
        case g.Clamp():
            return k.clamp, {"x": value.low, "y": value.high}
        case g.Activation():
            if value.function not in k.FUNCTIONS:
                raise low.refuse(value, f"there is no kernel for the function {value.function!r}")
            return k.activation, {"function": k.FUNCTIONS[value.function]}
        case g.Softmax():
            return reductions.softmax, _heads(value)
        case g.Normalise():
            return reductions.normalise_sum, _heads(value) | {"x": value.low}
        case g.WeightMul() | g.WeightAdd():
            return _with_weight(low.weights, value)
    raise low.refuse(value, "there is no kernel for it")


def _norm(w: Weights, value: g.RMSNorm | g.LayerNorm, order: Order) -> tuple[Kernel, Fields]:
    n = value.shape[-1] // (value.groups if isinstance(value, g.RMSNorm) else 1)
    weights = {"weight": value.weight, "bias": value.bias if isinstance(value, g.LayerNorm) else None}
    n_weights = max((math.prod(one.shape) for one in weights.values() if one is not None), default=n)
    fields = parts(n, g.size_of(value) // n) | {"x": value.eps, "weight_parts": n_weights // n}
    for name, weight in weights.items():
        if weight is not None:
            n_all = math.prod(weight.shape)  # repeated if the other one has numbers for more parts
            repeated = tuple(range(n_all)) * (n_weights // n_all) if n_all < n_weights else order
            fields[name] = w.vector(weight, repeated)
    return reductions.normalise_rms if isinstance(value, g.RMSNorm) else reductions.normalise_layer, fields


def _with_weight(w: Weights, value: g.WeightMul | g.WeightAdd) -> tuple[Kernel, Fields]:
    n, is_product = math.prod(value.weight.shape), isinstance(value, g.WeightMul)
    if n == 1 and is_product:
        return k.scale, {"x": float(w.vector(value.weight).values[0])}
    order: Order = ()
    if is_product and value.weight.shape == (*value.shape[:-1], 1):  # one number per head
        order = tuple(head for head in range(n) for _ in range(value.shape[-1]))
        n = g.size_of(value)
    kernel = k.multiply_weight if is_product else k.add_weight
    return kernel, parts(n, g.size_of(value) // n) | {"weight": w.vector(value.weight, order)}


def lower_row(low: Lowering, value: g.Value) -> None:
    """Append the units of an operator on rows."""

    def append(kernel: Kernel, a: g.Value, fields: Fields, b: g.Value | None = None, out: Place | None = None) -> None:
        size: Fields = {"size": g.size_of(value), "n": g.size_of(value), "n_parts": 1}
        places = low.place(a), None if b is None else low.place(b)
        low.units.append(RowUnit(kernel, *places, out or low.new(value), size | fields, stage=low.stage(value)))

    match value:
        case g.EmbeddingLookup():
            _lower_embedding(low, value)
        case g.TokenScales():
            fields = parts(value.n, 1)
            low.units.append(RowUnit(k.copy_scales, None, None, low.new(value), fields, stage=low.stage(value)))
        case g.HiddenRows():
            fields = parts(value.n, 1)
            low.units.append(RowUnit(k.copy_hidden, None, None, low.new(value), fields, stage=low.stage(value)))
        case KeptRows():
            append(k.keep_row, value.x, {})
        case g.Rope() if has_table(value):
            _lower_rope(low, value)
        case g.Slice():
            n_parts, n = math.prod(value.shape[:-1]), value.shape[-1]
            place = low.place(value.x)
            source = Place(place.buffer, place.offset + 4 * value.first)
            fields = parts(n, n_parts) | {"a_step": 4 * value.x.shape[-1], "repeat": 1, "tile": n_parts}
            low.units.append(RowUnit(k.copy_parts, source, None, low.new(value), fields, stage=low.stage(value)))
        case g.Concat():
            place, offset, n_parts = low.new(value), 0, math.prod(value.shape[:-1])
            for part in value.parts:
                n = part.shape[-1]
                steps = {"out_step": 4 * value.shape[-1], "repeat": 1, "tile": math.prod(part.shape[:-1])}
                append(k.copy_parts, part, parts(n, n_parts) | steps, out=Place(place.buffer, place.offset + offset))
                offset += 4 * n
        case g.Repeat():
            times = {"repeat": 1 if value.tiled else value.times, "tile": value.x.shape[0]}
            append(k.copy_parts, value.x, _heads(value) | times)
        case g.Add():
            append(k.add_rows, value.a, {}, value.b)
        case g.Mul() if value.a.shape == value.b.shape:
            append(k.multiply_rows, value.a, {}, value.b)
        case g.Mul():
            n_parts = g.size_of(value.b)
            append(k.scale_parts, value.a, parts(g.size_of(value) // n_parts, n_parts) | {"b_step": 4}, value.b)
        case g.WeightedSum():
            n_parts, n = value.parts.shape
            append(reductions.weighted_sum, value.parts, {"n": n, "n_parts": n_parts, "a_step": 4 * n}, value.weights)
        case g.TopK():
            low.places[value] = Place(Buffer(align_up(8 * value.k)))
            append(reductions.top_k, value.x, {"n": g.size_of(value.x), "count": value.k}, out=low.places[value])
        case g.Gather():
            append(reductions.gather, value.x, {}, value.indices)
        case g.SparseMixer():
            fields = {"n": g.size_of(value.x), "count": value.chosen.shape[0], "x": 2 * value.jitter}
            append(reductions.sparse_mixer, value.x, fields, value.chosen)
        case g.GroupMask():
            if value.n_best > 2:
                raise low.refuse(value, f"n_best is {value.n_best}; it must be 1 or 2")
            fields = parts(g.size_of(value) // value.n_groups, value.n_groups)
            fields |= {"count": value.n_used, "repeat": value.n_best}
            append(reductions.mask_groups, value.x, fields, out=low.new(value, value.n_groups))
        case _:
            kernel, fields = unary(low, value)
            append(kernel, value.inputs()[0], fields)


def _lower_rope(low: Lowering, value: g.Rope) -> None:
    """Append the units that copy and rotate heads."""
    turn, place, stage = value.rotation, low.new(value), low.stage(value)
    copied = _heads(value) | {"repeat": 1, "tile": value.shape[0]}
    low.units.append(RowUnit(k.copy_parts, low.place(value.x), None, place, copied, stage=stage))
    rotated = Place(place.buffer, place.offset + 4 * turn.offset)
    kernel, fields = rotation(low, value, turn.interleaved)
    low.units.append(RowUnit(kernel, rotated, None, rotated, _heads(value) | fields, stage=stage))


def rotation(low: Lowering, rope: g.Rope, interleaved: bool) -> tuple[Kernel, Fields]:
    """Return the kernel and the fields of a rotation of adjacent pairs, or of pairs of halves."""
    kernel = k.rotate_interleaved if interleaved else k.rotate
    return kernel, {"n": rope.rotation.n_rotated, "table": low.rotations.table(rope, interleaved)}


def _lower_embedding(low: Lowering, value: g.EmbeddingLookup) -> None:
    """Append the unit that looks up the embedding of a row's token, position or type."""
    if not isinstance(value.ids, g.Input):
        raise low.refuse(value, "its ids are computed")
    if value.ids is g.TOKENS:
        low.n_tokens = min(low.n_tokens, value.weight.shape[0])
    place = low.new(value)
    table = low.weights.table(value.weight, low.n_batch, value.ids.name)
    fields = {**parts(value.shape[0], 1), "table": table}
    low.units.append(RowUnit(k.look_up, None, None, place, fields, is_shared=True, stage=low.stage(value)))
    low.in_place.add(place.buffer)


def append_token_order(low: Lowering, value: g.Value, pairs: Pairs, rows: Place, stage: int) -> None:
    """Append the unit that copies rows of pairs to where each token has the rows of its experts in order."""
    n_parts, n = value.shape
    fields = parts(n, n_parts) | {"table": rows}
    low.units.append(RowUnit(reductions.rows_of_pairs, Place(pairs.places), None, low.new(value), fields, stage=stage))


def lower_weighted_pairs(low: Lowering, value: g.WeightedSum) -> None:
    """Append the weighted sum of the rows of a token's experts."""
    n_parts, n = value.parts.shape
    (pairs,) = {
        unit.pairs for unit in low.units if isinstance(unit, ColumnsUnit) and unit.out == low.place(value.parts)
    }
    assert pairs is not None  # rows of pairs come from experts
    fields = {"size": n, "n": n, "n_parts": n_parts, "a_step": 4 * n, "table": low.place(value.parts)}
    places, weights = Place(pairs.places), low.place(value.weights)
    low.units.append(
        RowUnit(reductions.weighted_sum_of_pairs, places, weights, low.new(value), fields, stage=low.stage(value))
    )
