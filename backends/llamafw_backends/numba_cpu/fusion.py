"""Find the operators of a graph that are computed together.

- A norm, a rotation or a scale of query, key or value heads is part of the attention that reads them.
- SiLU after a convolution is part of it, and so is the repetition of heads before linear attention.
- Elementwise operators of matrix products are computed with the products, in groups of columns.
- Products that are only added are one product: each is added to the one before while it is computed.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from llamafw import graph as g
from llamafw_backends.numba_cpu.kept_rows import KeptRows
from llamafw_backends.numba_cpu.rotations import has_table
from llamafw_backends.numba_cpu.tiles import ROWS
from llamafw_backends.numba_cpu.weights import Order

MAX_FUSED = 24  # values that are computed together in groups of columns
MIXING = (g.Attention, g.Conv, g.LinearAttention, g.SelectiveScan)
"""Operators whose rows depend on other tokens."""
ALIASES = (g.Reshape, g.LayerOutput)
"""Operators whose rows are those of their input."""


class Fusion:
    """The values of a graph in order, and what is computed together.

    Parameters
    ----------
    graph : Graph
        The graph.
    result : Value
        The value of the graph that is computed, besides what later tokens depend on.
    """

    def __init__(self, graph: g.Graph, result: g.Value) -> None:
        self.result = g.Reshape(result, result.shape)  # one more user of the value that is returned
        self.order = [*_needed(graph, result), self.result]
        self.users: dict[g.Value, list[g.Value]] = defaultdict(list)
        for value in self.order:
            for operand in value.inputs():
                self.users[operand].append(value)
        self.early = self._find_early()
        self.number = {value: i for i, value in enumerate(self.order)}
        self.ancestors = self._find_ancestors()

        self.claimed: set[g.Value] = set()  # computed as a part of something else
        self.columns: dict[g.Value, list[g.Value]] = {}  # by the last value of elementwise operators of products
        self.sums: dict[g.Value, list[g.Value]] = {}  # products by their sum
        self.chains: dict[g.Value, tuple[list[g.Value], g.Value]] = {}  # see `_head_chain`
        self.row_orders: dict[g.Linear, Order] = {}
        self.silu_of: dict[g.Value, g.Value] = {}  # by the convolution
        self._fuse_heads()
        self._fuse_recurrent()
        self._fuse_columns()

    def is_ancestor(self, value: g.Value, of: g.Value) -> bool:
        """Return whether ``of`` is computed from ``value``."""
        return bool(self.ancestors[of] >> self.number[value] & 1)

    def aliases_of(self, source: g.Value) -> list[g.Value]:
        """Return a value and the values that stand for the same rows."""
        found = [source]
        for value in found:
            found += [user for user in self.users[value] if isinstance(user, ALIASES)]
        return found

    def readers_of(self, source: g.Value) -> list[g.Value]:
        """Return the operators that read a value, directly or under another shape."""
        return [user for one in self.aliases_of(source) for user in self.users[one] if not isinstance(user, ALIASES)]

    def n_readers(self, past: g.Value) -> int:
        """Return how many attentions read keys and values."""
        return sum(isinstance(value, g.Attention) and value.past is past for value in self.order)

    def viewers_of(self, source: g.Value) -> list[g.Value]:
        """Return the operators that read the rows of a value, or a part of them, where they are."""
        found = [source]
        for value in found:
            found += [user for user in self.users[value] if is_view(user)]
        return [user for one in found for user in self.users[one] if not is_view(user)]

    def slots_of_products(self, members: Sequence[g.Value]) -> dict[g.Value, int]:
        """Return a number for each product of a group, and for their sums.

        Products that are only added have the same number, because each is added to those before it.
        """
        products = [member for member in members if is_product(member)]
        whole = {product: product for product in products}  # the sum that a value is a part of
        for value in members if all(isinstance(linear_of(one), g.Linear) for one in products) else []:
            parts = value.inputs()
            if isinstance(value, g.Add) and all(one in whole.values() and len(self.users[one]) == 1 for one in parts):
                whole = {one: value if total in parts else total for one, total in whole.items()} | {value: value}
        numbers = {total: i for i, total in enumerate(dict.fromkeys(whole[product] for product in products))}
        return {one: numbers[total] for one, total in whole.items()}

    def _find_early(self) -> set[g.Value]:
        """Return the values that other tokens depend on, or that are returned for all tokens."""
        early: set[g.Value] = set()
        for value in reversed(self.order):
            if isinstance(value, (*MIXING, KeptRows)) or value.state_shape or value in early:
                early.add(value)
                early.update(value.inputs())
        return early

    def _find_ancestors(self) -> dict[g.Value, int]:
        """Return, for each value, a bit for each value that it is computed from."""
        ancestors: dict[g.Value, int] = {}
        for i, value in enumerate(self.order):
            bits = 1 << i
            for operand in value.inputs():
                bits |= ancestors[operand]
            ancestors[value] = bits
        return ancestors

    def _fuse_heads(self) -> None:
        """Find the operators on heads that attention applies itself."""
        for attention in self.order:
            if not isinstance(attention, g.Attention):
                continue
            parts = [attention.q, attention.past.k, attention.past.v]
            for part in parts:
                if part not in self.chains:
                    self.chains[part] = self._head_chain(part)
            self._choose_order(attention)
            for part in parts:
                self.claimed.update(self.chains[part][0])

    def _head_chain(self, value: g.Value) -> tuple[list[g.Value], g.Value]:
        """Return the operators that can be applied to each head of a value in place, and the value before them."""
        ops: list[g.Value] = []
        base = value
        while len(self.users[base]) == 1 and self._is_head_op(base):
            ops.insert(0, base)
            base = base.x  # type: ignore[attr-defined]  # every operator on heads has one input, x
        source, is_alone = base, True
        while isinstance(source, ALIASES):
            is_alone = is_alone and len(self.users[source]) == 1
            source = source.x
        if not is_alone or len(self.users[source]) != 1 or not self._products(source):
            return [], value
        return ops, base

    def _products(self, source: g.Value) -> list[g.Linear]:
        """Return the product that a value is, or those that it is the sum of and that nothing else reads."""
        if isinstance(source, g.Linear):
            return [source]
        if not isinstance(source, g.Add):
            return []
        products = [one for one in source.inputs() if isinstance(one, g.Linear) and len(self.users[one]) == 1]
        return products if len(products) == 2 else []

    def order_of(self, value: g.Value) -> Order:
        """Return the order of the numbers in a head of a value; empty if it is that of the file."""
        products = self._products(strip(value))
        return self.row_orders.get(products[0], ()) if products else ()

    @staticmethod
    def _is_head_op(value: g.Value) -> bool:
        if len(value.shape) != 2:
            return False
        if isinstance(value, g.RMSNorm):
            return value.groups == 1 and (value.weight is None or len(value.weight.shape) == 1)
        if isinstance(value, g.LayerNorm):
            return value.weight is None or len(value.weight.shape) == 1
        return isinstance(value, g.L2Norm | g.Scale) or (isinstance(value, g.Rope) and has_table(value))

    def _choose_order(self, attention: g.Attention) -> None:
        """Reorder the rows of Q and K if their rotation has adjacent pairs.

        The rows of each head become first the first numbers of all pairs, then the second ones. Pair i is then
        (i, i + n/2), and a rotation is a few operations on whole vectors. Scores do not change, because queries and
        keys are reordered in the same way.
        """
        orders: list[Order] = []
        linears: list[g.Linear] = []
        for part in (attention.q, attention.past.k):
            ops, base = self.chains[part]
            turns = [op.rotation for op in ops if isinstance(op, g.Rope)]
            products = self._products(strip(base))
            if len(turns) != 1 or not turns[0].interleaved or turns[0].offset:
                return
            if not products or any(one.scale is not None for one in products):
                return
            n_rot, size = turns[0].n_rotated, part.shape[1]
            order = (*range(0, n_rot, 2), *range(1, n_rot, 2), *range(n_rot, size))
            orders += [order] * len(products)
            linears += products
        fits = all(linear.weight.shape[-2] % len(order) == 0 for linear, order in zip(linears, orders, strict=True))
        if fits and len(set(orders)) == 1 and len(self.users[attention.past]) == 1:
            self.row_orders |= dict(zip(linears, orders, strict=True))

    def _fuse_recurrent(self) -> None:
        """Find the operators that convolutions and linear attention apply themselves."""
        for value in self.order:
            users = self.users[value]
            if isinstance(value, g.Conv) and len(users) == 1:
                (user,) = users
                if isinstance(user, g.Activation) and user.function == "silu":
                    self.silu_of[value] = user
                    self.claimed.add(user)
            if isinstance(value, g.LinearAttention):
                self._fuse_repeated_heads(value)

    def _fuse_repeated_heads(self, value: g.LinearAttention) -> None:
        """Let linear attention repeat its queries and keys, if both are repeated in the same way and only for it."""
        q, k = value.q, value.k
        if not isinstance(q, g.Repeat) or not isinstance(k, g.Repeat):
            return
        is_alone = all(set(self.users[one]) == {value} for one in (q, k))
        is_other_input = any(one in (value.v, value.gate, value.beta) for one in (q, k))
        if is_alone and not is_other_input and (q.tiled, q.x.shape) == (k.tiled, k.x.shape):
            self.claimed.update((q, k))

    def _fuse_columns(self) -> None:
        """Find elementwise operators of products that are computed in groups of columns."""
        for value in reversed(self.order):
            if value in self.claimed or not is_elementwise(value):
                continue
            members = self._column_members(value)
            if members:
                if all(_is_summand(member) for member in members):
                    self.sums[value] = [member for member in members if is_product(member)]
                else:
                    self.columns[value] = members
                self.claimed.update(member for member in members if member is not value)
                self.claimed.update(linear_of(member) for member in members if is_product(member))

    def _column_members(self, last: g.Value) -> list[g.Value]:
        """Return the values that are computed together with ``last``, in order; none if that is not possible."""
        members, todo = {last}, [last]
        while todo:
            value = todo.pop()
            if is_product(value):
                continue
            for operand in value.inputs():
                if operand in members:
                    continue
                fits = is_product(operand) or is_elementwise(operand) or isinstance(operand, ALIASES)
                if not fits or operand in self.claimed or g.size_of(operand) != g.size_of(last):
                    return []
                members.add(operand)
                todo.append(operand)
            if len(members) > MAX_FUSED:
                return []
        if any(user not in members for member in members - {last} for user in self.users[member]):
            return []
        products = [linear_of(member) for member in members if is_product(member)]
        if any(user not in members for product in products for user in self.users[product]):
            return []
        chosen = {one.chosen if isinstance(one, g.ExpertLinear) else None for one in products}
        if len(chosen) != 1:
            return []
        if chosen != {None} and not all(_fits_experts(member, last) for member in members):
            return []
        return [value for value in self.order if value in members]


def _needed(graph: g.Graph, result: g.Value) -> list[g.Value]:
    """Return the values that the result or later tokens depend on, in the order of the graph.

    All results of a graph have the same operators that depend on other tokens, in the same order: they share a state.
    """
    values, needed = list(graph), {result}
    for value in reversed(values):
        if value in needed or isinstance(value, MIXING) or value.has_state:
            needed.update((value, *value.inputs()))
    return [value for value in values if value in needed]


def _fits_experts(value: g.Value, last: g.Value) -> bool:
    """Return whether a value can be computed for the pairs of a token and an expert, whatever their order."""
    if isinstance(value, g.WeightMul | g.WeightAdd) and math.prod(value.weight.shape) != 1:
        return False
    return value.shape == last.shape and value.shape[-1] % ROWS == 0


def is_view(value: g.Value) -> bool:
    """Return whether the rows of a value are those of its input, or a part of them."""
    return isinstance(value, ALIASES) or (isinstance(value, g.Slice) and len(value.x.shape) == 1)


def find_source(value: g.Value) -> g.Value:
    """Return the value whose rows a value is in."""
    while is_view(value):
        value = value.x  # type: ignore[attr-defined]  # every view has one input, x
    return value


def strip(value: g.Value) -> g.Value:
    """Return the value whose rows a value has."""
    while isinstance(value, ALIASES):
        value = value.x
    return value


def is_product(value: g.Value) -> bool:
    """Return whether a value is a product with a matrix or with experts, or a slice of one that has whole tiles."""
    if isinstance(value, g.Slice):
        return is_product(value.x) and not isinstance(value.x, g.Slice) and value.first % ROWS == 0
    if isinstance(value, g.Linear):
        return len(value.weight.shape) == 2 and len(value.x.shape) == 1 and value.scale is None
    return isinstance(value, g.ExpertLinear)


def _is_summand(value: g.Value) -> bool:
    """Return whether a value is a product with a matrix, or a sum."""
    return isinstance(value, g.Add) or (is_product(value) and isinstance(linear_of(value), g.Linear))


def linear_of(value: g.Value) -> g.Linear | g.ExpertLinear:
    """Return the product that a value is, or is a slice of."""
    linear = value.x if isinstance(value, g.Slice) else value
    assert isinstance(linear, g.Linear | g.ExpertLinear)  # see `is_product`
    return linear


def is_elementwise(value: g.Value) -> bool:
    """Return whether an operator computes each number of a row from the same numbers of its operands."""
    match value:
        case g.Activation() | g.Scale() | g.Clamp() | g.Add():
            return True
        case g.Mul():
            return value.a.shape == value.b.shape
        case g.WeightMul() | g.WeightAdd():
            return math.prod(value.weight.shape) in (1, g.size_of(value))
    return False
