"""Lower a graph to units of work: decide what is computed together.

- A norm, a rotation or a scale of query, key or value heads is part of the attention that reads them.
- Elementwise operators of matrix products are computed with the products, in groups of columns.
- A product that is added to the residual stream is added while it is computed.
- All other operators become operators on rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from llamafw import ModelError
from llamafw import graph as g
from llamafw_backends.numba_cpu import convolution, linear_attention, selective_scan
from llamafw_backends.numba_cpu import row_kernels as k
from llamafw_backends.numba_cpu.convolution import pack_weight
from llamafw_backends.numba_cpu.emit import LANES
from llamafw_backends.numba_cpu.experts import table_bytes
from llamafw_backends.numba_cpu.kv_cache import KeyRotation
from llamafw_backends.numba_cpu.memory import align_up
from llamafw_backends.numba_cpu.rotations import Rotations
from llamafw_backends.numba_cpu.selective_scan import pack_a
from llamafw_backends.numba_cpu.tiles import ROWS
from llamafw_backends.numba_cpu.units import (
    Activations,
    AttentionUnit,
    Buffer,
    CacheLayout,
    ColumnsUnit,
    GatherUnit,
    MatrixUnit,
    Pairs,
    Place,
    Product,
    RecurrentUnit,
    RowUnit,
    SlotOp,
    SortUnit,
    Unit,
    float_buffer,
)
from llamafw_backends.numba_cpu.weights import Order, Weights

MAX_FUSED = 24  # values that are computed together in groups of columns
MIXING = (g.Attention, g.Conv, g.LinearAttention, g.SelectiveScan)
"""Operators whose rows depend on other tokens."""
_ALIASES = (g.Reshape, g.LayerOutput)


class Lowering:
    """The units of one result of a graph, in an order in which they can be computed.

    Parameters
    ----------
    graph : Graph
        The model.
    result : Value
        What the step returns: the graph's logits or its hidden states.
    weights : Weights
        Receives the requests for weights.
    rotations : Rotations
        Receives the requests for tables of cosines and sines.
    n_batch : int
        Maximum number of tokens in a batch.

    Raises
    ------
    ModelError
        An operator has no kernel, or its sizes are not supported.
    """

    def __init__(self, graph: g.Graph, result: g.Value, weights: Weights, rotations: Rotations, n_batch: int) -> None:
        self.units: list[Unit] = []
        self.caches: list[tuple[g.Cache, CacheLayout]] = []
        self.n_tokens = 2**31  # in the vocabulary
        self.state_bytes = 0  # of the recurrent operators, per slot
        self._weights, self._rotations, self._n_batch = weights, rotations, n_batch
        self._result, self._is_returned = result, False

        self._order = list(g.Graph(result, None, graph.n_ctx_train))
        self._users: dict[g.Value, list[g.Value]] = defaultdict(list)
        for value in self._order:
            for operand in value.inputs():
                self._users[operand].append(value)
        self._early = self._find_early()
        self._ancestors = self._find_ancestors()
        self._fused: dict[g.Value, list[g.Value]] = {}  # by the last value of elementwise operators of products
        self._claimed: set[g.Value] = set()  # computed as a part of something else
        self._orders: dict[g.Linear, Order] = {}
        self._chains: dict[g.Value, tuple[list[g.Value], g.Value]] = {}

        self._places: dict[g.Value, Place] = {}
        self._activations: dict[tuple[Any, ...], Activations] = {}
        self._in_place: set[Buffer] = set()  # rows that products may be added to
        self._cache_buffers: dict[g.Cache, Buffer] = {}
        self._pairs: dict[tuple[g.Value, int, int], Pairs] = {}
        self._pair_values: set[g.Value] = set()  # values with one row per pair

        self._fuse_heads()
        self._fuse_recurrent()
        self._fuse_columns()
        for value in self._order:
            if value not in self._claimed:
                self._lower(value)
        if not self._is_returned:
            self._copy_result()

    # --- what is computed together ------------------------------------------------------------------

    def _find_early(self) -> set[g.Value]:
        """Return the values that other tokens depend on."""
        early: set[g.Value] = set()
        for value in reversed(self._order):
            if isinstance(value, MIXING) or value in early:
                early.add(value)
                early.update(value.inputs())
        return early

    def _find_ancestors(self) -> dict[g.Value, int]:
        """Return, for each value, a bit for each value that it is computed from."""
        ancestors: dict[g.Value, int] = {}
        for i, value in enumerate(self._order):
            bits = 1 << i
            for operand in value.inputs():
                bits |= ancestors[operand]
            ancestors[value] = bits
        self._bit = {value: i for i, value in enumerate(self._order)}
        return ancestors

    def _fuse_heads(self) -> None:
        """Find the operators on heads that attention applies itself."""
        for attention in self._order:
            if not isinstance(attention, g.Attention) or not isinstance(attention.past, g.Cache):
                continue
            parts = [attention.q, attention.past.k, attention.past.v]
            for part in parts:
                if part not in self._chains:
                    self._chains[part] = self._head_chain(part)
            self._choose_order(attention)
            for part in parts:
                self._claimed.update(self._chains[part][0])

    def _head_chain(self, value: g.Value) -> tuple[list[g.Value], g.Value]:
        """Return the operators that can be applied to each head of a value in place, and the value before them."""
        ops: list[g.Value] = []
        base = value
        while len(self._users[base]) == 1 and self._is_head_op(base):
            ops.insert(0, base)
            base = base.x  # type: ignore[attr-defined]  # every operator on heads has one input, x
        source, is_alone = base, True
        while isinstance(source, _ALIASES):
            is_alone = is_alone and len(self._users[source]) == 1
            source = source.x
        if not is_alone or len(self._users[source]) != 1 or not isinstance(source, g.Linear):
            return [], value
        return ops, base

    @staticmethod
    def _is_head_op(value: g.Value) -> bool:
        if len(value.shape) != 2:
            return False
        if isinstance(value, g.RMSNorm):
            return value.groups == 1 and (value.weight is None or len(value.weight.shape) == 1)
        if isinstance(value, g.LayerNorm):
            return value.weight is None or len(value.weight.shape) == 1
        return isinstance(value, g.L2Norm | g.Scale) or (isinstance(value, g.Rope) and value.positions is g.POSITIONS)

    def _choose_order(self, attention: g.Attention) -> None:
        """Reorder the rows of Q and K if their rotation has adjacent pairs.

        The rows of each head become first the first numbers of all pairs, then the second ones. Pair i is then
        (i, i + n/2), and a rotation is a few operations on whole vectors. Scores do not change, because queries and
        keys are reordered in the same way.
        """
        orders, linears = [], []
        for part in (attention.q, attention.past.k):
            ops, base = self._chains[part]
            turns = [op.rotation for op in ops if isinstance(op, g.Rope)]
            source = base
            while isinstance(source, _ALIASES):
                source = source.x
            if len(turns) != 1 or not turns[0].interleaved or turns[0].offset or not isinstance(source, g.Linear):
                return
            n_rot, size = turns[0].n_rotated, part.shape[1]
            orders.append((*range(0, n_rot, 2), *range(1, n_rot, 2), *range(n_rot, size)))
            linears.append(source)
        if orders[0] == orders[1] and len(self._users[attention.past]) == 1:
            self._orders |= dict(zip(linears, orders, strict=True))

    def _fuse_recurrent(self) -> None:
        """Find the operators that convolutions and linear attention apply themselves."""
        self._silu_of: dict[g.Value, g.Value] = {}  # by the convolution
        for value in self._order:
            users = self._users[value]
            if isinstance(value, g.Conv) and len(users) == 1:
                (user,) = users
                if isinstance(user, g.Activation) and user.function == "silu":
                    self._silu_of[value] = user
                    self._claimed.add(user)
            if isinstance(value, g.Repeat) and all(
                isinstance(user, g.LinearAttention) and value in (user.q, user.k) for user in users
            ):
                self._claimed.add(value)

    def _fuse_columns(self) -> None:
        """Find elementwise operators of products that are computed in groups of columns."""
        for value in reversed(self._order):
            if value in self._claimed or not _is_elementwise(value):
                continue
            members = self._column_members(value)
            if members:
                self._fused[value] = members
                self._claimed.update(member for member in members if member is not value)
                for linear in {_linear_of(member) for member in members if _is_product(member)}:
                    if all(user in self._claimed for user in self._users[linear]):
                        self._claimed.add(linear)

    def _column_members(self, last: g.Value) -> list[g.Value]:
        """Return the values that are computed together with ``last``, in order; none if that is not possible."""
        members, todo = {last}, [last]
        while todo:
            value = todo.pop()
            if _is_product(value):
                continue
            for operand in value.inputs():
                if operand in members:
                    continue
                fits = _is_product(operand) or _is_elementwise(operand) or isinstance(operand, _ALIASES)
                if not fits or operand in self._claimed or g.size_of(operand) != g.size_of(last):
                    return []
                members.add(operand)
                todo.append(operand)
            if len(members) > MAX_FUSED:
                return []
        if any(user not in members for member in members - {last} for user in self._users[member]):
            return []
        products = [_linear_of(member) for member in members if _is_product(member)]
        chosen = {one.chosen if isinstance(one, g.ExpertLinear) else None for one in products}
        if self._result in members - {last} or len(chosen) != 1:
            return []
        return [value for value in self._order if value in members]

    # --- places -------------------------------------------------------------------------------------

    def _stage(self, value: g.Value) -> int:
        return 0 if value in self._early else 1

    def _place(self, value: g.Value) -> Place:
        """Return where the rows of a value are."""
        if value in self._places:
            return self._places[value]
        if isinstance(value, _ALIASES):
            return self._place(value.x)
        if isinstance(value, g.Slice) and len(value.x.shape) == 1:
            place = self._place(value.x)
            return Place(place.buffer, place.offset + 4 * value.first)
        raise AssertionError(f"{type(value).__name__} has no place")  # values are lowered in order

    def _new(self, value: g.Value, extra: int = 0) -> Place:
        """Return a new place for the rows of a value."""
        self._places[value] = Place(float_buffer(g.size_of(value) + extra))
        return self._places[value]

    def _to_activations(self, value: g.Value, n_parts: int, stage: int, layout: int) -> Activations:
        """Return a value in the layout of matrix products."""
        n = g.size_of(value) // n_parts
        source = value
        while isinstance(source, _ALIASES):
            source = source.x
        fused = self._activations.get((source, stage))  # computed in groups of columns
        if fused is not None:
            fused.layouts |= layout
            return fused

        place = self._place(value)
        key = (place, n_parts, n, stage)
        if key not in self._activations:
            x = self._activations[key] = Activations(n, n_parts)
            self.units.append(RowUnit(k.activations, place, None, x, self._parts(n, n_parts), stage=stage))
        self._activations[key].layouts |= layout
        return self._activations[key]

    @staticmethod
    def _parts(n: int, n_parts: int) -> dict[str, Any]:
        return {"n": n, "n_parts": n_parts, "size": n * n_parts, "a_step": 4 * n, "out_step": 4 * n}

    def _final(self) -> g.Value:
        value = self._result
        while isinstance(value, _ALIASES):
            value = value.x
        return value

    def _copy_result(self) -> None:
        n = g.size_of(self._result)
        fields = {**self._parts(n, 1), "repeat": 1, "tile": 1}
        self.units.append(RowUnit(k.copy_parts, self._place(self._result), None, None, fields, stage=1))

    # --- operators ----------------------------------------------------------------------------------

    def _lower(self, value: g.Value) -> None:
        """Append the units of a value."""
        stage = self._stage(value)
        if value in self._fused:
            self._lower_columns(value, stage)
            return
        match value:
            case g.Input() | g.Cache() | g.Reshape() | g.LayerOutput():
                pass
            case g.Slice() if len(value.x.shape) == 1:
                pass
            case g.Linear():
                self._lower_linear(value, stage)
            case g.Add() if self._can_add_in_place(value):
                self._add_in_place(value, stage)
            case g.Attention(past=g.Cache()):
                self._lower_attention(value)
            case g.Conv() | g.LinearAttention() | g.SelectiveScan():
                self._lower_recurrent(value)
            case g.ExpertLinear():
                self._fused[value] = [value]
                self._lower_columns(value, stage)
            case g.WeightedSum() if self._strip(value.parts) in self._pair_values:
                self._lower_weighted_pairs(value, stage)
            case _:
                self._lower_row(value, stage)

    def _row(
        self,
        kernel: Any,
        value: g.Value,
        a: g.Value | None,
        b: g.Value | None = None,
        out: Place | None = None,
        **fields: Any,
    ) -> None:
        """Append a unit that computes the rows of a value."""
        places = [None if operand is None else self._place(operand) for operand in (a, b)]
        target = out or self._new(value)
        size = {"size": g.size_of(value), "n": g.size_of(value), "n_parts": 1}
        self.units.append(RowUnit(kernel, *places, target, {**size, **fields}, stage=self._stage(value)))

    def _lower_row(self, value: g.Value, stage: int) -> None:
        """Append a unit for an operator on rows."""
        match value:
            case g.EmbeddingLookup():
                self._lower_embedding(value, stage)
            case g.Rope() if value.positions is g.POSITIONS:
                turn, n_head, size = value.rotation, *value.shape
                place = self._new(value)
                self._row(k.copy_parts, value, value.x, out=place, **self._parts(size, n_head), repeat=1, tile=n_head)
                fields = {**self._parts(size, n_head), **self._turn(turn, turn.interleaved)}
                rotated = Place(place.buffer, place.offset + 4 * turn.offset)
                self.units.append(
                    RowUnit(_rotation_kernel(turn.interleaved), rotated, None, rotated, fields, stage=stage)
                )
            case g.Slice():
                n_parts, n = math.prod(value.shape[:-1]), value.shape[-1]
                source = Place(self._place(value.x).buffer, self._place(value.x).offset + 4 * value.first)
                fields = self._parts(n, n_parts) | {"a_step": 4 * value.x.shape[-1], "repeat": 1, "tile": n_parts}
                self.units.append(RowUnit(k.copy_parts, source, None, self._new(value), fields, stage=stage))
            case g.Concat():
                place, offset, n_parts = self._new(value), 0, math.prod(value.shape[:-1])
                for part in value.parts:
                    n = part.shape[-1]
                    steps = {"out_step": 4 * value.shape[-1], "repeat": 1, "tile": math.prod(part.shape[:-1])}
                    target = Place(place.buffer, place.offset + offset)
                    self._row(k.copy_parts, value, part, out=target, **self._parts(n, n_parts) | steps)
                    offset += 4 * n
            case g.Repeat():
                n_head, size = value.x.shape
                times = {"repeat": 1 if value.tiled else value.times, "tile": n_head}
                self._row(k.copy_parts, value, value.x, **self._parts(size, value.shape[0]), **times)
            case g.Add():
                self._row(k.add_rows, value, value.a, value.b)
            case g.Mul() if value.a.shape == value.b.shape:
                self._row(k.multiply_rows, value, value.a, value.b)
            case g.Mul():
                n_parts = g.size_of(value.b)
                n = g.size_of(value) // n_parts
                self._row(k.scale_parts, value, value.a, value.b, **self._parts(n, n_parts), b_step=4)
            case g.WeightedSum():
                n_parts, n = value.parts.shape
                self._row(k.weighted_sum, value, value.parts, value.weights, n=n, n_parts=n_parts, a_step=4 * n)
            case g.TopK():
                place = self._places[value] = Place(Buffer(-(-8 * value.k // 64) * 64))
                self._row(k.top_k, value, value.x, out=place, n=g.size_of(value.x), count=value.k)
            case g.Gather():
                self._row(k.gather, value, value.x, value.indices)
            case g.GroupMask():
                n = g.size_of(value) // value.n_groups
                if value.n_best > 2:
                    raise ModelError(f"the numba backend has no kernel for n_best={value.n_best} of {self._describe(value)}")
                fields = {"n": n, "n_parts": value.n_groups, "count": value.n_used, "repeat": value.n_best}
                self._row(k.mask_groups, value, value.x, out=self._new(value, value.n_groups), **fields)
            case g.Softmax():
                self._row(k.softmax, value, value.x, **self._parts(value.shape[-1], math.prod(value.shape[:-1])))
            case g.Normalise():
                parts = self._parts(value.shape[-1], math.prod(value.shape[:-1]))
                self._row(k.normalise_sum, value, value.x, **parts, x=value.low)
            case _ if _is_elementwise(value) or isinstance(
                value, g.RMSNorm | g.LayerNorm | g.L2Norm | g.WeightMul | g.WeightAdd
            ):
                kernel, fields = self._unary(value)
                self._row(kernel, value, value.x, **fields)  # type: ignore[attr-defined]  # all have one input, x
            case _:
                raise ModelError(f"the numba backend has no kernel for the operator {self._describe(value)}")

    def _describe(self, value: g.Value) -> str:
        """Return an operator's name and layer."""
        later = self._order[self._bit[value] :]
        layer = next((one.layer for one in later if isinstance(one, g.LayerOutput)), None)
        return type(value).__name__ + ("" if layer is None else f" in layer {layer}")

    def _unary(self, value: g.Value, order: Order = ()) -> tuple[Any, dict[str, Any]]:
        """Return the kernel and the fields of an operator with one input."""
        w = self._weights
        match value:
            case g.RMSNorm():
                n = value.shape[-1] // value.groups
                fields = self._parts(n, g.size_of(value) // n) | {"x": value.eps, "weight_parts": value.groups}
                if value.weight is not None:
                    fields |= {
                        "weight": w.vector(value.weight, order),
                        "weight_parts": math.prod(value.weight.shape) // n,
                    }
                return k.normalise_rms, fields
            case g.LayerNorm():
                n = value.shape[-1]
                fields = self._parts(n, g.size_of(value) // n) | {"x": value.eps, "weight_parts": 1}
                if value.weight is not None:
                    fields |= {
                        "weight": w.vector(value.weight, order),
                        "weight_parts": math.prod(value.weight.shape) // n,
                    }
                if value.bias is not None:
                    fields["bias"] = w.vector(value.bias, order)
                return k.normalise_layer, fields
            case g.L2Norm():
                n = value.shape[-1]
                return k.normalise_l2, self._parts(n, g.size_of(value) // n) | {"x": value.eps}
            case g.Scale():
                return k.scale, {"x": value.factor}
            case g.Clamp():
                return k.clamp, {"x": value.low, "y": value.high}
            case g.Activation():
                return k.activation, {"function": k.FUNCTIONS[value.function]}
            case g.WeightMul() | g.WeightAdd():
                if math.prod(value.weight.shape) == 1 and isinstance(value, g.WeightMul):
                    return k.scale, {"x": float(w.vector(value.weight).values[0])}
                kernel = k.multiply_weight if isinstance(value, g.WeightMul) else k.add_weight
                n, shape = math.prod(value.weight.shape), value.shape
                if value.weight.shape == (*shape[:-1], 1):  # one number per head
                    order = tuple(head for head in range(n) for _ in range(shape[-1]))
                    n = g.size_of(value)
                return kernel, self._parts(n, g.size_of(value) // n) | {"weight": w.vector(value.weight, order)}
        raise AssertionError(f"{type(value).__name__} is not an operator with one input")

    def _turn(self, turn: g.Rotation, interleaved: bool) -> dict[str, Any]:
        return {"n": turn.n_rotated, "table": self._rotations.table(turn, interleaved)}

    def _lower_embedding(self, value: g.EmbeddingLookup, stage: int) -> None:
        if value.ids not in (g.TOKENS, g.POSITIONS):
            raise ModelError(
                f"the numba backend has no kernel for the operator {self._describe(value)} of computed ids"
            )
        if value.ids is g.TOKENS:
            self.n_tokens = min(self.n_tokens, value.weight.shape[0])
        place = self._new(value)
        fields = {
            **self._parts(value.shape[0], 1),
            "table": self._weights.table(value.weight, self._n_batch),
            "from_positions": int(value.ids is g.POSITIONS),
        }
        self.units.append(RowUnit(k.look_up, None, None, place, fields, is_shared=True, stage=stage))
        self._in_place.add(place.buffer)

    def _lower_linear(self, value: g.Linear, stage: int) -> None:
        """Append the product with a matrix, or with one matrix per head."""
        if value.x.shape[:-1] != () and len(value.weight.shape) == 2:
            raise ModelError(
                f"the numba backend has no kernel for the operator {self._describe(value)} of several rows"
            )
        product = self._product(value, stage)
        if value is self._final():
            self.units.append(MatrixUnit(product, None, stage=stage))
            self._is_returned = True
            return
        place = self._new(value)
        self._in_place.add(place.buffer)
        self.units.append(MatrixUnit(product, place, stage=stage))

    def _product(self, value: g.Value, stage: int) -> Product:
        """Return the product that a value is: all of it, or the part that a slice takes."""
        linear = _linear_of(value)
        if linear.scale is not None:
            raise ModelError(f"the numba backend has no kernel for the scale {linear.scale.name!r}")
        order = self._orders.get(linear, ()) if isinstance(linear, g.Linear) else ()
        matrix = self._weights.matrix(linear.weight, linear.bias, order)
        if isinstance(linear, g.Linear):
            x = self._to_activations(linear.x, matrix.n_parts, stage, matrix.layout)
        else:
            x = self._to_pair_activations(linear, stage, matrix.layout)
        if isinstance(value, g.Slice):
            return Product(matrix, x, value.first // ROWS, -(-(value.last - value.first) // ROWS))
        return Product(matrix, x, 0, matrix.part_tiles)

    def _pairs_of(self, chosen: g.Value, n_expert: int, stage: int) -> Pairs:
        """Return the pairs of a token and one of its experts."""
        key = (chosen, n_expert, stage)
        if key not in self._pairs:
            n_used = g.size_of(chosen)
            table, places = Buffer(table_bytes(n_expert, n_used)), Buffer(align_up(8 * n_used))
            pairs = self._pairs[key] = Pairs(n_expert, n_used, table, places)
            self.units.append(SortUnit(self._place(chosen), pairs, stage=stage))
        return self._pairs[key]

    def _to_pair_activations(self, value: g.ExpertLinear, stage: int, layout: int) -> Activations:
        """Return the input of a product with experts, one row per pair."""
        n_used = g.size_of(value.chosen)
        fused = self._activations.get((self._strip(value.x), stage))
        if fused is not None and len(value.x.shape) == 2:
            fused.layouts |= layout
            return fused
        if len(value.x.shape) != 1:
            raise ModelError(f"the numba backend has no kernel for the input of {self._describe(value)}")

        pairs, place = self._pairs_of(value.chosen, value.weight.shape[0], stage), self._place(value.x)
        key = (place, pairs)
        if key not in self._activations:
            x = self._activations[key] = Activations(value.x.shape[0], n_used)
            self.units.append(GatherUnit(place, pairs, x, stage=stage))
        self._activations[key].layouts |= layout
        return self._activations[key]

    def _can_add_in_place(self, value: g.Add) -> bool:
        return any(self._is_residual(value, x, product) for x, product in ((value.a, value.b), (value.b, value.a)))

    def _is_residual(self, value: g.Add, x: g.Value, product: g.Value) -> bool:
        """Return whether ``product`` can be added to ``x`` while it is computed."""
        linear = self._strip(product)
        if not isinstance(linear, g.Linear) or linear not in self._deferred(value) or value is self._final():
            return False
        source = self._strip(x)
        if (
            source not in self._places
            or self._places[source].buffer not in self._in_place
            or self._places[source].offset
        ):
            return False
        others = [
            user for one in self._aliases_of(source) for user in self._users[one] if not isinstance(user, _ALIASES)
        ]
        return all(user is value or self._ancestors[linear] >> self._bit[user] & 1 for user in others)

    def _deferred(self, value: g.Add) -> set[g.Value]:
        """Return the products whose units were the last to be appended for an addition."""
        found = set()
        for operand in (value.a, value.b):
            source = self._strip(operand)
            if (
                isinstance(source, g.Linear)
                and source in self._places
                and len(self._users[source]) == 1
                and source is not self._result
            ):
                found.add(source)
        return found

    def _strip(self, value: g.Value) -> g.Value:
        while isinstance(value, _ALIASES):
            value = value.x
        return value

    def _aliases_of(self, source: g.Value) -> list[g.Value]:
        """Return a value and the values that stand for the same rows."""
        found = [source]
        for value in found:
            found += [user for user in self._users[value] if isinstance(user, _ALIASES)]
        return found

    def _add_in_place(self, value: g.Add, stage: int) -> None:
        """Let a product be added to the rows of the other operand."""
        x, product = (value.a, value.b) if self._is_residual(value, value.a, value.b) else (value.b, value.a)
        place = self._places[self._strip(x)]
        old = self._places.pop(self._strip(product))
        for i, unit in enumerate(self.units):
            if isinstance(unit, MatrixUnit) and unit.out == old:
                self.units.append(MatrixUnit(unit.product, place, add=True, stage=stage))
                del self.units[i]
                break
        self._places[value] = place

    def _lower_columns(self, last: g.Value, stage: int) -> None:
        """Append elementwise operators of products, computed in groups of columns."""
        members, slots = self._fused[last], {}
        products = [member for member in members if _is_product(member)]
        inputs = [self._product(product, stage) for product in products]
        slots = {product: i for i, product in enumerate(products)}
        n_slots, ops = len(inputs), []
        gates = {
            value.a
            for value in members
            if isinstance(value, g.Mul) and isinstance(value.a, g.Activation) and len(self._users[value.a]) == 1
            and value.a.function != "softplus"
        }  # fmt: skip
        for value in members:
            if value in slots or value in gates:
                continue
            if isinstance(value, _ALIASES):
                slots[value] = slots[value.x]
                continue
            operands: list[g.Value] = value.inputs()
            kernel, fields = k.add_rows, {}
            if isinstance(value, g.Mul) and value.a in gates:
                operands = [value.a.x, value.b]  # type: ignore[attr-defined]  # an Activation
                kernel, fields = k.gated, {"function": k.FUNCTIONS[value.a.function]}  # type: ignore[attr-defined]
            elif isinstance(value, g.Mul):
                kernel = k.multiply_rows
            elif not isinstance(value, g.Add):
                kernel, fields = self._unary(value)
            slots[value], n_slots = n_slots, n_slots + 1
            ops.append(SlotOp(kernel, slots[operands[0]], slots[operands[-1]], slots[value], fields))

        linear = _linear_of(products[0])
        pairs = None
        if isinstance(linear, g.ExpertLinear):
            pairs = self._pairs_of(linear.chosen, linear.weight.shape[0], stage)
            self._pair_values.add(last)
        out = self._column_result(last, stage, last.shape[-1] if pairs else g.size_of(last))
        n = last.shape[-1] if pairs else g.size_of(last)
        self.units.append(ColumnsUnit(inputs, ops, n_slots, slots[last], n, out, pairs, stage=stage))

    def _column_result(self, last: g.Value, stage: int, n: int) -> Place | Activations | None:
        """Return where the result of operators in groups of columns goes."""
        if last is self._final():
            self._is_returned = True
            return None
        if self._only_feeds_products(last) and n % 32 == 0:
            x = self._activations[(last, stage)] = Activations(n, g.size_of(last) // n)
            return x
        return self._new(last)

    def _only_feeds_products(self, value: g.Value) -> bool:
        """Return whether a value is only multiplied with matrices, in the stage in which it is computed."""
        users = [user for one in self._aliases_of(value) for user in self._users[one] if not isinstance(user, _ALIASES)]
        return bool(users) and all(
            (isinstance(user, g.ExpertLinear) or (isinstance(user, g.Linear) and len(user.weight.shape) == 2))
            and self._stage(user) == self._stage(value)
            for user in users
        )

    def _lower_weighted_pairs(self, value: g.WeightedSum, stage: int) -> None:
        """Append the weighted sum of the rows of a token's experts."""
        n_parts, n = value.parts.shape
        (pairs,) = {
            unit.pairs for unit in self.units if isinstance(unit, ColumnsUnit) and unit.out == self._place(value.parts)
        }
        assert pairs is not None  # rows of pairs come from experts
        fields = {"size": n, "n": n, "n_parts": n_parts, "a_step": 4 * n, "table": self._place(value.parts)}
        places, weights = Place(pairs.places), self._place(value.weights)
        self.units.append(RowUnit(k.weighted_sum_of_pairs, places, weights, self._new(value), fields, stage=stage))

    # --- attention ----------------------------------------------------------------------------------

    def _lower_attention(self, value: g.Attention) -> None:
        """Append attention, with the operators on heads before it."""
        past = value.past
        assert isinstance(past, g.Cache)  # the only case that is lowered
        layout = CacheLayout(past.k.shape[0], past.k.shape[1], past.v.shape[1])
        for size in (layout.key_size, layout.value_size):
            if size % 16:
                raise ModelError(
                    f"the numba backend needs a head size that is a multiple of 16; this model's is {size}"
                )
        if value.window_kind == "symmetric" and value.window is not None:
            raise ModelError("the numba backend has no kernel for symmetric windows over a cache")

        stores = past not in self._cache_buffers
        if stores:
            self._cache_buffers[past] = Buffer(0)
            self.caches.append((past, layout))
        number = next(i for i, (cache, _) in enumerate(self.caches) if cache is past)
        q, q_ops = self._heads(value.q)
        (key, k_ops), (v, v_ops) = (self._heads(part) if stores else (q, []) for part in (past.k, past.v))

        fields: dict[str, Any] = {
            "window": value.window or 0,
            "chunked": int(value.window_kind == "chunked"),
            "scale": value.scale,
            "softcap": value.softcap or 0.0,
        }
        if value.temperature is not None:
            fields["temperature"], fields["temperature_length"] = value.temperature
        if value.sinks is not None:
            fields["sinks"] = self._weights.vector(value.sinks)
        if value.alibi:
            fields["alibi"] = self._weights.numbers(value.alibi)
        self.units.append(
            AttentionUnit(
                q,
                key,
                v,
                self._new(value),
                q_ops,
                k_ops,
                v_ops,
                value.q.shape[0],
                layout,
                number,
                self._cache_buffers[past],
                stores,
                fields,
                stage=0,
            )
        )

    def _lower_recurrent(self, value: g.Conv | g.LinearAttention | g.SelectiveScan) -> None:
        """Append an operator that reads the tokens of a slot in order."""
        w = self._weights
        match value:
            case g.Conv():
                n_channels, n = value.weight.shape
                silu, bias = value in self._silu_of, value.bias is not None
                if n_channels % LANES:
                    raise ModelError(f"the numba backend needs channels in multiples of {LANES}, not {n_channels}")
                fields = {"n_channels": n_channels, "weight": w.vector(value.weight, change=pack_weight)}
                if value.bias is not None:
                    fields["bias"] = w.vector(value.bias)
                inputs = {"x": self._place(value.x)}
                result = self._silu_of.get(value, value)
                unit = RecurrentUnit(
                    lambda compiler: convolution.build(compiler, n, bias=bias, silu=silu),
                    convolution.CONVOLUTION,
                    inputs,
                    self._new(result),
                    fields,
                    convolution.state_bytes(n_channels, n),
                    convolution.scratch_bytes(n_channels, n),
                    stage=0,
                )
            case g.LinearAttention():
                unit = self._linear_attention(value)
            case g.SelectiveScan():
                n_channels, n_state = value.a.shape
                if n_channels % LANES:
                    raise ModelError(f"the numba backend needs channels in multiples of {LANES}, not {n_channels}")
                fields = {"a": w.vector(value.a, change=pack_a), "d": w.vector(value.d)}
                fields |= {"n_channels": n_channels, "n_state": n_state}
                inputs = {name: self._place(getattr(value, name)) for name in ("x", "delta", "b", "c")}
                unit = RecurrentUnit(
                    selective_scan.build,
                    selective_scan.SELECTIVE_SCAN,
                    inputs,
                    self._new(value),
                    fields,
                    selective_scan.state_bytes(n_channels, n_state),
                    selective_scan.scratch_bytes(n_state),
                    stage=0,
                )
        unit.state, self.state_bytes = self.state_bytes, self.state_bytes + unit.state_bytes
        self.units.append(unit)

    def _linear_attention(self, value: g.LinearAttention) -> RecurrentUnit:
        """Return the unit of linear attention."""
        n_head, key_size = value.k.shape
        value_size, by_channel = value.v.shape[1], value.gate.shape == value.k.shape
        for size in (key_size, value_size):
            if size % LANES:
                raise ModelError(f"the numba backend needs a head size that is a multiple of {LANES}, not {size}")
        sources, tiled = [], set()
        for part in (value.q, value.k):
            repeats = isinstance(part, g.Repeat) and part in self._claimed
            sources.append(part.x if repeats else part)  # type: ignore[attr-defined]  # a Repeat
            tiled.add(part.tiled if repeats else False)  # type: ignore[attr-defined]
        if len(tiled) > 1 or sources[0].shape != sources[1].shape:
            raise ModelError(f"the numba backend needs the same heads of queries and keys in {self._describe(value)}")

        inputs = {"q": self._place(sources[0]), "k": self._place(sources[1])}
        inputs |= {"v": self._place(value.v), "gate": self._place(value.gate)}
        if value.beta is not None:
            inputs["beta"] = self._place(value.beta)
        rule = value.rule
        return RecurrentUnit(
            lambda compiler: linear_attention.build(compiler, rule, key_size, value_size, by_channel=by_channel),
            linear_attention.LINEAR_ATTENTION,
            inputs,
            self._new(value),
            {"n_head": n_head, "n_key_heads": sources[0].shape[0], "tiled": int(tiled.pop()), "scale": value.scale},
            linear_attention.state_bytes(n_head, key_size, value_size, by_channel=by_channel),
            linear_attention.scratch_bytes(key_size, value_size),
            stage=0,
        )

    def _heads(self, value: g.Value) -> tuple[Place, Sequence[RowUnit]]:
        """Return where the heads of Q, K or V are, and the operators that are still to be applied to each."""
        ops, base = self._chains[value]
        units = []
        for op in ops:
            source = self._strip(base)
            order = self._orders.get(source, ()) if isinstance(source, g.Linear) else ()
            if isinstance(op, g.Rope):
                interleaved = op.rotation.interleaved and not order
                kernel, fields = _rotation_kernel(interleaved), {"offset": 4 * op.rotation.offset}
                fields |= {**self._parts(op.shape[1], 1), **self._turn(op.rotation, interleaved)}
            else:
                kernel, fields = self._unary(op, order)
                fields = fields | {"n_parts": 1, "size": op.shape[1]}
            units.append(RowUnit(kernel, None, None, None, fields, stage=0))
        return self._place(base), units

    def key_rotation(self, cache: g.Cache) -> KeyRotation | None:
        """Return how the keys of a cache are rotated; None if they are not.

        Raises
        ------
        ModelError
            The rotation of cached keys cannot be changed.
        """
        value, offset = cache.k, 0
        if isinstance(value, g.Concat):
            turned = [part for part in value.parts if isinstance(part, g.Rope)]
            if turned:
                offset = sum(part.shape[-1] for part in value.parts[: value.parts.index(turned[0])])
                value = turned[0]
        if not isinstance(value, g.Rope):
            if any(isinstance(one, g.Rope) for one in g.Graph(cache.k, None, 0)):
                raise ModelError("the keys of this model cannot be moved to other positions")
            return None

        turn, n = value.rotation, value.rotation.n_rotated
        frequencies = self._rotations.frequencies(turn)
        source = self._strip(self._chains[cache.k][1])
        start = offset + turn.offset
        if turn.interleaved and not (isinstance(source, g.Linear) and source in self._orders):
            return KeyRotation(frequencies, slice(start, start + n, 2), slice(start + 1, start + n, 2))
        return KeyRotation(frequencies, slice(start, start + n // 2), slice(start + n // 2, start + n))


def _is_product(value: g.Value) -> bool:
    """Return whether a value is a product with a matrix or with experts, or a slice of one that has whole tiles."""
    if isinstance(value, g.Slice):
        return _is_product(value.x) and not isinstance(value.x, g.Slice) and value.first % ROWS == 0
    if isinstance(value, g.Linear):
        return len(value.weight.shape) == 2 and len(value.x.shape) == 1 and value.scale is None
    return isinstance(value, g.ExpertLinear) and value.scale is None


def _linear_of(value: g.Value) -> g.Linear | g.ExpertLinear:
    """Return the product that a value is, or is a slice of."""
    linear = value.x if isinstance(value, g.Slice) else value
    assert isinstance(linear, g.Linear | g.ExpertLinear)  # see `_is_product`
    return linear


def _rotation_kernel(interleaved: bool) -> Any:
    return k.rotate_interleaved if interleaved else k.rotate


def _is_elementwise(value: g.Value) -> bool:
    """Return whether an operator computes each number of a row from the same numbers of its operands."""
    match value:
        case g.Activation() | g.Scale() | g.Clamp() | g.Add():
            return True
        case g.Mul():
            return value.a.shape == value.b.shape
        case g.WeightMul() | g.WeightAdd():
            return math.prod(value.weight.shape) in (1, g.size_of(value))
    return False
