"""Lower a graph to units of work, in an order in which they can be computed.

`fusion` decides what is computed together. A product that is added to the residual stream is added while it is
computed. All other operators become operators on rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llamafw import ModelError
from llamafw import graph as g
from llamafw_backends.numba_cpu import row_kernels as k
from llamafw_backends.numba_cpu.attention import CacheLayout
from llamafw_backends.numba_cpu.experts import table_bytes
from llamafw_backends.numba_cpu.fusion import ALIASES, Fusion, find_source, is_product, is_view, linear_of, strip
from llamafw_backends.numba_cpu.kept_rows import KeptRows
from llamafw_backends.numba_cpu.memory import align_up
from llamafw_backends.numba_cpu.mixing_lowering import lower_attention, lower_recurrent
from llamafw_backends.numba_cpu.operator_lowering import lower_operator
from llamafw_backends.numba_cpu.rotations import Rotations
from llamafw_backends.numba_cpu.row_lowering import append_token_order, lower_row, lower_weighted_pairs, parts, unary
from llamafw_backends.numba_cpu.tiles import BF16_LAYOUT, F32_LAYOUT, FLOAT_BYTES, ROWS
from llamafw_backends.numba_cpu.units import (
    Activations,
    Buffer,
    ColumnsUnit,
    GatherUnit,
    MatrixUnit,
    Pairs,
    Place,
    Product,
    RowUnit,
    SlotOp,
    SortUnit,
    Unit,
    float_buffer,
)
from llamafw_backends.numba_cpu.weights import Weights


def is_standard(value: g.Value) -> bool:
    """Return whether an operator is one of the framework's."""
    return type(value).__module__.startswith("llamafw.graph.")


class Lowering:
    """The units of one result of a graph.

    Parameters
    ----------
    graph : Graph
        The graph.
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
        self.fusion = Fusion(graph, result)
        self.weights, self.rotations, self.n_batch = weights, rotations, n_batch
        self.units: list[Unit] = []
        self.caches: list[tuple[g.Cache | g.KeyValue, CacheLayout]] = []
        self.n_tokens = 2**31  # in the vocabulary
        self.state_bytes = 0  # of the recurrent operators, per slot
        self.can_go_back = True  # whether their states serve all positions of their last block; see `recurrence`

        self.places: dict[g.Value, Place] = {}
        self.in_place: set[Buffer] = set()  # rows that products may be added to
        self._split: set[g.Value] = set()  # products with matrices whose columns are divided into parts
        self.cache_buffers: list[Buffer] = []  # stand for the caches
        self.cache_numbers: dict[g.Value, int] = {}  # of keys and values: the number of their cache
        self.pair_values: set[g.Value] = set()  # values with one row per pair of a token and an expert
        self._activations: dict[tuple[Any, ...], Activations] = {}
        self._pairs: dict[tuple[g.Value, int, int], Pairs] = {}
        self._is_returned = False

        for value in self.fusion.order:
            self._check_indices(value)
            if value not in self.fusion.claimed:
                self._lower(value)
        if not self._is_returned:
            self._copy_result()

    def stage(self, value: g.Value) -> int:
        """Return 0 for what is computed for all tokens of a ubatch, 1 for what its outputs need."""
        return 0 if value in self.fusion.early else 1

    def place(self, value: g.Value) -> Place:
        """Return where the rows of a value are."""
        if value in self.places:
            return self.places[value]
        if isinstance(value, ALIASES):
            return self.place(value.x)
        if isinstance(value, g.Slice) and len(value.x.shape) == 1:
            place = self.place(value.x)
            size = 8 if isinstance(find_source(value), g.TopK) else 4
            return Place(place.buffer, place.offset + size * value.first)
        raise AssertionError(f"{type(value).__name__} has no place")  # values are lowered in order

    def new(self, value: g.Value, extra: int = 0) -> Place:
        """Return a new place for the rows of a value."""
        self.places[value] = Place(float_buffer(g.size_of(value) + extra))
        return self.places[value]

    def _to_activations(self, value: g.Value, n_parts: int, stage: int, layout: int) -> Activations:
        """Return a value in the layout of matrix products."""
        n = g.size_of(value) // n_parts
        fused = self._activations.get((strip(value), stage))  # computed in groups of columns
        if fused is not None:
            fused.layouts |= layout
            return fused

        place = self.place(value)
        float_bytes = FLOAT_BYTES.get(layout, 4)
        key = (place, n_parts, n, stage, float_bytes)
        if key not in self._activations:
            x = self._activations[key] = Activations(n, n_parts, float_bytes=float_bytes)
            self.units.append(RowUnit(k.activations, place, None, x, parts(n, n_parts), stage=stage))
        self._activations[key].layouts |= layout
        return self._activations[key]

    def _final(self) -> g.Value:
        """Return the operator that computes the result."""
        return strip(self.fusion.result)

    def _is_only_returned(self, value: g.Value) -> bool:
        return value is self._final() and not self.fusion.readers_of(value)

    def _copy_result(self) -> None:
        """Append the unit that copies the result to where the step returns it."""
        n = g.size_of(self.fusion.result)
        fields = {**parts(n, 1), "repeat": 1, "tile": 1}
        self.units.append(RowUnit(k.copy_parts, self.place(self.fusion.result), None, None, fields, stage=1))

    def _lower(self, value: g.Value) -> None:
        """Append the units of a value."""
        stage = self.stage(value)
        if value in self.fusion.columns:
            self._lower_columns(value, stage)
            return
        if value in self.fusion.sums:
            self._append_products(value, [self._product(one, stage) for one in self.fusion.sums[value]], stage)
            return
        match value:
            case g.Input() | g.GroupedPositions() | g.Cache() | g.KeyValue():
                pass
            case _ if is_view(value):
                pass
            case g.Linear():
                self._lower_linear(value, stage)
            case g.Add() if (operands := self._residual(value)) is not None:
                self._add_in_place(value, *operands)
            case g.Attention():
                lower_attention(self, value)
            case g.Conv() | g.LinearAttention() | g.SelectiveScan():
                lower_recurrent(self, value)
            case g.ExpertLinear():
                self.fusion.columns[value] = [value]
                self._lower_columns(value, stage)
            case g.WeightedSum() if strip(value.parts) in self.pair_values:
                lower_weighted_pairs(self, value)
            case _ if is_standard(value) or isinstance(value, KeptRows):
                lower_row(self, value)
            case _:
                lower_operator(self, value)

    def _check_indices(self, value: g.Value) -> None:
        """Raise ModelError if an operator computes with indices as if they were numbers."""
        for name, operand in value.operands():
            for one in operand if isinstance(operand, tuple) else (operand,):
                is_index = isinstance(find_source(one), g.TopK)
                if is_index and not is_view(value) and name not in ("indices", "chosen", "ids") and is_standard(value):
                    raise self.refuse(value, f"its {name} are indices")
        if value is self.fusion.result and isinstance(find_source(value), g.TopK):
            raise self.refuse(find_source(value), "a model cannot return indices")

    def refuse(self, value: g.Value, reason: str) -> ModelError:
        """Return the error to raise for an operator that this backend cannot run."""
        return self.weights.context.refuse("numba", value, reason)

    def _lower_linear(self, value: g.Linear, stage: int) -> None:
        """Append the product with a matrix, or with one matrix per head."""
        product = self._product(value, stage, can_split=self._can_split(value))
        if product.matrix.n_splits > 1:
            self._append_split(value, product, stage)
            return
        if value.scale is not None:
            self._lower_scaled(value, product, stage)
            return
        self._append_products(value, [product], stage)

    def _can_split(self, value: g.Linear) -> bool:
        """Return whether the columns of a product's matrix can be divided into parts whose products are added."""
        is_plain = value.scale is None and value.bias is None and len(value.x.shape) == 1
        return is_plain and not self._is_only_returned(value) and value not in self.fusion.row_orders

    def _append_split(self, value: g.Linear, product: Product, stage: int) -> None:
        """Append the products with the parts of a matrix, and their sum."""
        n, n_parts = g.size_of(value), product.matrix.n_splits
        self._split.add(value)
        source = Place(float_buffer(n * n_parts))
        self.units.append(MatrixUnit([product], source, stage=stage))
        fields = {"size": n, "n": n, "n_parts": n_parts, "a_step": 4 * n}
        self.units.append(RowUnit(k.add_parts, source, None, self.new(value), fields, stage=stage))

    def _append_products(self, value: g.Value, products: Sequence[Product], stage: int) -> None:
        """Append the product that a value is, or the sum of several."""
        if self._is_only_returned(value):
            self.units.append(MatrixUnit(products, None, stage=stage))
            self._is_returned = True
            return
        place = self.new(value)
        self.in_place.add(place.buffer)
        self.units.append(MatrixUnit(products, place, stage=stage))

    def _lower_scaled(self, value: g.Linear, product: Product, stage: int) -> None:
        """Append a product, and the operators that multiply it by its scale and add its bias."""
        assert value.scale is not None  # the only case that is lowered here
        n = g.size_of(value)
        source = Place(float_buffer(n))
        self.units.append(MatrixUnit([product], source, stage=stage))
        factor = {"x": float(self.weights.vector(value.scale).values[0])}
        place = self.new(value) if value.bias is None else Place(float_buffer(n))
        self.units.append(RowUnit(k.scale, source, None, place, parts(n, 1) | factor, stage=stage))
        if value.bias is not None:
            bias, n_bias = self.weights.vector(value.bias), math.prod(value.bias.shape)
            fields = parts(n_bias, n // n_bias) | {"weight": bias}
            self.units.append(RowUnit(k.add_weight, place, None, self.new(value), fields, stage=stage))

    def _product(self, value: g.Value, stage: int, *, can_split: bool = False) -> Product:
        """Return the product that a value is: all of it, or the part that a slice takes."""
        linear = linear_of(value)
        order = self.fusion.row_orders.get(linear, ()) if isinstance(linear, g.Linear) else ()
        matrix = self.weights.matrix(linear.weight, None if linear.scale else linear.bias, order, can_split=can_split)
        scales = biases = None
        if isinstance(linear, g.Linear):
            x = self._to_activations(linear.x, math.prod(linear.x.shape[:-1]), stage, matrix.layout)
            if x.n_parts > matrix.n_parts and matrix.n_rows % ROWS:
                raise self.refuse(
                    linear, f"it multiplies several rows, and {matrix.n_rows} is not a multiple of {ROWS}"
                )
        else:
            x = self._to_pair_activations(linear, stage, matrix.layout)
            scales = self.weights.vector(linear.scale) if linear.scale else None
            biases = self.weights.vector(linear.bias) if linear.scale and linear.bias else None
        if isinstance(value, g.Slice):
            n_tiles = -(-(value.last - value.first) // ROWS)
            return Product(matrix, x, value.first // ROWS, n_tiles, scales, biases)
        return Product(matrix, x, 0, matrix.part_tiles, scales, biases)

    def _pairs_of(self, chosen: g.Value, n_expert: int, stage: int) -> Pairs:
        """Return the pairs of a token and one of its experts."""
        key = (chosen, n_expert, stage)
        if key not in self._pairs:
            n_used = g.size_of(chosen)
            table, places = Buffer(table_bytes(n_expert, n_used)), Buffer(align_up(8 * n_used))
            pairs = self._pairs[key] = Pairs(n_expert, n_used, table, places)
            self.units.append(SortUnit(self.place(chosen), pairs, stage=stage))
        return self._pairs[key]

    def _to_pair_activations(self, value: g.ExpertLinear, stage: int, layout: int) -> Activations:
        """Return the input of a product with experts, one row per pair."""
        n_used = g.size_of(value.chosen)
        fused = self._activations.get((strip(value.x), stage))
        has_pair_rows = len(value.x.shape) == 2
        if fused is not None and has_pair_rows:
            fused.layouts |= layout
            return fused

        pairs, place = self._pairs_of(value.chosen, value.weight.shape[0], stage), self.place(value.x)
        n = value.x.shape[-1]
        float_bytes = FLOAT_BYTES.get(layout, 4)
        key = (place, pairs, has_pair_rows, float_bytes)
        if key not in self._activations:
            x = self._activations[key] = Activations(n, n_used, has_pair_rows=has_pair_rows, float_bytes=float_bytes)
            self.units.append(GatherUnit(place, pairs, x, 4 * n * has_pair_rows, stage=stage))
        self._activations[key].layouts |= layout
        return self._activations[key]

    def _residual(self, value: g.Add) -> tuple[g.Value, g.Value] | None:
        """Return the operands of a sum if the second is one or several products that can be added to the first."""
        for x, product in ((value.a, value.b), (value.b, value.a)):
            source, linear = strip(x), strip(product)
            if linear not in self.fusion.sums and (not isinstance(linear, g.Linear) or linear.scale is not None):
                continue
            if linear not in self.places or linear in self._split or value is self._final():
                continue
            if self.fusion.readers_of(linear) != [value] or linear is strip(self.fusion.result):
                continue
            place = self.places.get(source)
            if place is None or place.buffer not in self.in_place or source is find_source(self.fusion.result):
                continue
            others = [user for user in self.fusion.viewers_of(source) if user is not value]
            if all(self.fusion.is_ancestor(user, linear) for user in others):  # they have read it by then
                return source, linear
        return None

    def _add_in_place(self, value: g.Add, source: g.Value, linear: g.Value) -> None:
        """Let a product be added to the rows of the other operand."""
        place = self.places[value] = self.places[source]
        for key in [key for key in self._activations if isinstance(key[0], Place) and key[0].buffer is place.buffer]:
            del self._activations[key]  # of the rows before the sum
        old = self.places.pop(linear)
        (unit,) = (unit for unit in self.units if isinstance(unit, MatrixUnit) and unit.out == old)
        self.units.remove(unit)
        self.units.append(MatrixUnit(unit.products, self.places[value], add=True, stage=self.stage(value)))

    def _lower_columns(self, last: g.Value, stage: int) -> None:
        """Append elementwise operators of products, computed in groups of columns."""
        members = self.fusion.columns[last]
        products = [member for member in members if is_product(member)]
        slots = self.fusion.slots_of_products(members)
        firsts = {slots[product]: product for product in reversed(products)}
        products.sort(key=lambda one: firsts[slots[one]] is not one)  # those of one adapter are adjacent in memory
        inputs = [(slots[product], self._product(product, stage)) for product in products]
        n_slots, ops = 1 + max(slots.values()), []
        gates = {value.a for value in members if isinstance(value, g.Mul) and self._is_gate(value.a)}
        for value in members:
            if value in slots or value in gates:
                continue
            if isinstance(value, ALIASES):
                slots[value] = slots[value.x]
                continue
            operands: list[g.Value] = value.inputs()
            kernel, fields = k.add_rows, {}
            if isinstance(value, g.Mul) and isinstance(value.a, g.Activation) and value.a in gates:
                operands = [value.a.x, value.b]
                kernel, fields = k.gated, {"function": k.FUNCTIONS[value.a.function]}
            elif isinstance(value, g.Mul):
                kernel = k.multiply_rows
            elif not isinstance(value, g.Add):
                kernel, fields = unary(self, value)
            slots[value], n_slots = n_slots, n_slots + 1
            ops.append(SlotOp(kernel, slots[operands[0]], slots[operands[-1]], slots[value], fields))

        linear = linear_of(products[0])
        pairs = None
        if isinstance(linear, g.ExpertLinear):
            pairs = self._pairs_of(linear.chosen, linear.weight.shape[0], stage)
        n = last.shape[-1] if pairs else g.size_of(last)
        out = self._column_result(last, stage, n, pairs)
        self.units.append(ColumnsUnit(inputs, ops, n_slots, slots[last], n, out, pairs, stage=stage))
        if pairs and isinstance(out, Place) and last not in self.pair_values:
            append_token_order(self, last, pairs, out, stage)

    def _is_gate(self, value: g.Value) -> bool:
        """Return whether an activation function can be computed together with the product that has its result."""
        is_vector = isinstance(value, g.Activation) and value.function != "softplus"
        return is_vector and len(self.fusion.users[value]) == 1

    def _column_result(self, last: g.Value, stage: int, n: int, pairs: Pairs | None) -> Place | Activations | None:
        """Return where the result of operators in groups of columns goes."""
        if self._is_only_returned(last) and not pairs:
            self._is_returned = True
            return None
        if n % 32 == 0 and self._feeds_only(last, lambda user: self._multiplies(user, last, pairs)):
            layouts = {self.weights.layout(linear_of(user).weight) for user in self.fusion.readers_of(last)}
            if not {F32_LAYOUT, BF16_LAYOUT} <= layouts:  # `Activations` have floats of one kind
                float_bytes = min(FLOAT_BYTES.get(layout, 4) for layout in layouts)
                x = Activations(n, g.size_of(last) // n, float_bytes=float_bytes)
                self._activations[last, stage] = x
                return x
        if pairs and self._feeds_only(last, lambda user: isinstance(user, g.WeightedSum) and strip(user.parts) is last):
            self.pair_values.add(last)
        return self.new(last)

    def _feeds_only(self, value: g.Value, reads: Callable[[g.Value], bool]) -> bool:
        """Return whether all operators that read a value do so in one way, in the stage in which it is computed."""
        users = self.fusion.readers_of(value)
        return (
            bool(users)
            and value is not self._final()
            and all(reads(user) and self.stage(user) == self.stage(value) for user in users)
        )

    def _multiplies(self, user: g.Value, value: g.Value, pairs: Pairs | None) -> bool:
        """Return whether an operator only multiplies a value with matrices, in the value's order of rows."""
        if not pairs:
            return isinstance(user, g.Linear) and len(user.x.shape) == 1
        if not isinstance(user, g.ExpertLinear) or user.x.shape != value.shape:
            return False
        return self._pairs.get((user.chosen, user.weight.shape[0], self.stage(user))) is pairs
