"""Lowers operators with a state of fixed size: convolution, linear attention, scan.

Where the provider has the nodes of `packed_recurrence`, they read the packed rows. Otherwise the rows of each slot are
read in order, by a Scan over steps in which slots with fewer tokens keep their state.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llamafw import graph as g
from llamafw_backends.onnx.lowering import Lowering, StateTensor, lowers, weight_name
from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.packed_recurrence import (
    FLOAT32,
    DeltaNet,
    add_convolution,
    runs_convolution,
    runs_delta_net,
)
from llamafw_backends.onnx.scan import Step, add_scan


@lowers(g.Conv)
def lower_conv(value: g.Conv, low: Lowering) -> str:
    """Lower a convolution, together with the activation function of its result if there is one."""
    kernel, silu = value.weight.shape[1], _silu_of(value, low)
    if kernel < 2 or not runs_convolution(low.support, kernel, has_bias=value.bias is not None, silu=silu is not None):
        low.chosen[value] = "standard operators, because the provider has no VarlenCausalConvWithState for it"
        return _shifted_sum(value, low)

    b, (n_channels, _) = low.builder, value.weight.shape
    low.chosen[value] = "VarlenCausalConvWithState"
    state = _state(low, value, (n_channels, kernel - 1))
    weights = low.tensors.floats(value.weight).reshape(n_channels, 1, kernel).astype(b.float_type)
    name = b.weight(weight_name(value.weight, "kernel"), weights)
    bias = "" if value.bias is None else low.small_weight(value.bias)
    outputs = [f"{state.name}.rows", f"{state.name}.after"]
    add_convolution(b, low.of(value.x), name, bias, _active(low, state), outputs, silu=silu is not None)
    _save(low, state, outputs[1])
    if silu is not None:
        low.set(silu, outputs[0])
        low.chosen[silu] = "part of the convolution before"
    return outputs[0]


def _silu_of(value: g.Conv, low: Lowering) -> g.Activation | None:
    """Return the activation function of a result, if it is ``silu`` and all that reads the result."""
    readers = low.readers[value]
    is_silu = len(readers) == 1 and isinstance(readers[0], g.Activation) and readers[0].function == "silu"
    return readers[0] if is_silu and low.is_together(value, readers[0]) else None  # type: ignore[return-value]  # it is a g.Activation


def _shifted_sum(value: g.Conv, low: Lowering) -> str:
    """Lower a convolution: the last inputs of each slot and its new rows, shifted and added."""
    b, (n_channels, kernel) = low.builder, value.weight.shape
    state = _state(low, value, value.state_shape)
    past = _active(low, state)
    rows = by_slot(low, low.of(value.x))  # (n_active, n_steps, n_channels)
    padded = b.node("Concat", past, rows, axis=1)

    weights = low.tensors.floats(value.weight)
    steps = b.node("Shape", rows, start=1, end=2)
    y = ""
    for i in range(kernel):
        end = b.node("Add", steps, b.ints(i))
        part = b.node("Slice", padded, b.ints(i), end, b.ints(1))
        product = b.node("Mul", part, b.floats(weights[:, i].reshape(1, 1, n_channels)))
        y = b.node("Add", y, product) if y else product
    if value.bias is not None:
        y = b.node("Add", y, low.small_weight(value.bias))

    lengths = b.node("Reshape", b.input("lengths", np.int64, ["n_active"]), b.ints(-1, 1, 1))
    last = b.node("Add", lengths, b.constant(np.arange(kernel - 1).reshape(1, -1, 1), np.int64))
    last = b.node("Expand", last, b.ints(1, 1, n_channels))
    _save(low, state, b.node("GatherElements", padded, last, axis=1))
    return packed(low, y, value.shape)


@lowers(g.LinearAttention)
def lower_linear_attention(value: g.LinearAttention, low: Lowering) -> str:
    """Lower linear attention to GatedDeltaNet, or to a scan over the tokens of each slot."""
    net, inputs = _delta_net(value)
    has_other_lengths = net.is_delta and not (_has_length_1(value.k) and _has_length_1(value.q))
    if has_other_lengths or not runs_delta_net(low.support, net):
        reason = "keys do not have length 1" if has_other_lengths else "the provider has no GatedDeltaNet for it"
        low.chosen[value] = f"Scan, because {reason}"
        return _scan_tokens(value, low)

    low.chosen[value] = "GatedDeltaNet"
    n_gates = g.size_of(value.gate) // net.n_head
    gate = low.reshape(low.of(value.gate), net.n_head, *[n_gates] * net.by_channel)
    beta = "" if value.beta is None else _float32(low, low.reshape(low.of(value.beta), net.n_head))
    rows = [*(low.of(one) for one in inputs), _float32(low, gate), beta]
    return _add_delta_net(low, value, net, rows)


def _delta_net(value: g.LinearAttention) -> tuple[DeltaNet, list[g.Value]]:
    """Return the node for an operator, and its queries, keys and values; several heads may share a key head."""
    q, k, v = value.q, value.k, value.v
    n_head, key_size = k.shape
    if isinstance(q, g.Repeat) and isinstance(k, g.Repeat) and q.x.shape == k.x.shape and not q.tiled and not k.tiled:
        q, k = q.x, k.x
    by_channel = g.size_of(value.gate) > n_head
    is_delta = value.beta is not None
    net = DeltaNet(k.shape[0], n_head, key_size, v.shape[1], is_delta, by_channel, value.scale)
    return net, [q, k, v]


def _has_length_1(value: g.Value) -> bool:
    """Return whether each head has length 1."""
    while isinstance(value, g.Repeat):
        value = value.x
    return isinstance(value, g.L2Norm)


def _add_delta_net(low: Lowering, value: g.Value, net: DeltaNet, rows: list[str]) -> str:
    """Add GatedDeltaNet for rows of q, k, v, gate and beta; return the results, ``(n_tokens, n_head, value_size)``."""
    state = _state(low, value, net.state_shape, FLOAT32)
    outputs = [f"{state.name}.rows", f"{state.name}.after"]
    net.add(low.builder, rows, _active(low, state), outputs)
    _save(low, state, outputs[1])
    return low.rows(outputs[0], net.n_head, net.value_size)


def _float32(low: Lowering, x: str) -> str:
    return x if low.builder.float_type == FLOAT32 else str(low.builder.node("Cast", x, to=1))  # 1: FLOAT


def _scan_tokens(value: g.LinearAttention, low: Lowering) -> str:
    """Lower linear attention to a scan over the tokens of each slot."""
    b, (n_head, key_size), value_size = low.builder, value.k.shape, value.v.shape[1]
    gate = b.node("Exp", low.of(value.gate))
    rows = {
        "q": low.reshape(low.of(value.q), n_head, 1, key_size),
        "k": low.reshape(low.of(value.k), n_head, key_size, 1),
        "v": low.reshape(low.of(value.v), n_head, 1, value_size),
        "decay": low.reshape(gate, n_head, g.size_of(value.gate) // n_head, 1),
    }
    if value.beta is not None:
        rows["beta"] = low.reshape(low.of(value.beta), n_head, 1, 1)

    def step(s: ModelBuilder, state: str, row: Step) -> tuple[str, str]:
        state = s.node("Mul", state, row["decay"])
        update = row["v"]
        if value.beta is not None:
            known = s.node("MatMul", s.node("Transpose", row["k"], perm=[0, 1, 3, 2]), state)
            update = s.node("Mul", s.node("Sub", update, known), row["beta"])
        state = s.node("Add", state, s.node("Mul", row["k"], update))
        return state, s.node("Mul", s.node("MatMul", row["q"], state), s.floats(value.scale))

    return low.reshape(_scan(low, value, rows, step), *value.shape)


@lowers(g.SelectiveScan)
def lower_selective_scan(value: g.SelectiveScan, low: Lowering) -> str:
    """Lower Mamba-1's scan to GatedDeltaNet with a head per channel, or to a scan over the tokens of each slot."""
    b, (n_channels, n_state) = low.builder, value.a.shape
    x, delta = low.of(value.x), low.of(value.delta)
    net = DeltaNet(1, n_channels, n_state, 1, is_delta=False, by_channel=True, scale=1.0)
    if runs_delta_net(low.support, net):
        low.chosen[value] = "GatedDeltaNet"
        gate = b.node("Mul", low.reshape(delta, n_channels, 1), low.small_weight(value.a))
        q, k = (low.reshape(low.of(one), 1, n_state) for one in (value.c, value.b))
        v = low.reshape(low.rows(b.node("Mul", delta, x), n_channels), n_channels, 1)
        y = low.reshape(_add_delta_net(low, value, net, [q, k, v, _float32(low, gate), ""]), n_channels)
        return str(b.node("Add", y, b.node("Mul", x, low.small_weight(value.d))))

    low.chosen[value] = "Scan, because the provider has no GatedDeltaNet for it"
    decay = b.node("Exp", b.node("Mul", low.reshape(delta, n_channels, 1), low.small_weight(value.a)))
    rows = {
        "decay": decay,
        "input": low.reshape(b.node("Mul", delta, x), n_channels, 1),
        "b": low.reshape(low.of(value.b), 1, n_state),
        "c": low.reshape(low.of(value.c), n_state, 1),
    }

    def step(s: ModelBuilder, state: str, row: Step) -> tuple[str, str]:
        state = s.node("Add", s.node("Mul", state, row["decay"]), s.node("Mul", row["input"], row["b"]))
        return state, s.node("MatMul", state, row["c"])

    y = low.reshape(_scan(low, value, rows, step), n_channels)
    return str(b.node("Add", y, b.node("Mul", x, low.small_weight(value.d))))


class _State:
    """A state of fixed size of an operator."""

    def __init__(self, tensor: StateTensor, name: str, past_name: str) -> None:
        self.tensor, self.name, self.past_name = tensor, name, past_name


def _state(low: Lowering, value: g.Value, shape: g.Shape, dtype: np.dtype[np.generic] | None = None) -> _State:
    """Add the state of an operator to the model, by default in the type of the activations."""
    tensor = StateTensor(f"{len(low.states)}.state", shape, dtype or low.builder.float_type, False, value)
    name = f"{low.builder.scope}/{tensor.name}"
    return _State(tensor, name, low.state(tensor, ("n_slots", *shape)))


def _active(low: Lowering, state: _State) -> str:
    """Return the states of the slots with tokens, ``(n_active, …)``."""
    b = low.builder
    return str(b.node("Gather", state.past_name, b.input("active", np.int64, ["n_active"]), axis=0))


def _save(low: Lowering, state: _State, new: str) -> None:
    """Write the new states of the slots with tokens, ``(n_active, …)``."""
    b = low.builder
    indices = b.node("Reshape", b.input("active", np.int64, ["n_active"]), b.ints(-1, 1))
    b.node("ScatterND", state.past_name, indices, new, outputs=[state.tensor.present])


def _scan(
    low: Lowering,
    value: g.Value,
    rows: dict[str, str],
    step: Callable[[ModelBuilder, str, Step], tuple[str, str]],
) -> str:
    """Run ``step`` for the tokens of each slot in order; return the outputs of all tokens, packed."""
    b, state = low.builder, _state(low, value, value.state_shape)
    past = _active(low, state)
    by_step = {name: _steps_first(low, row) for name, row in rows.items()}
    new, y = add_scan(b, past, by_step, _is_token(low, len(value.state_shape)), step)
    _save(low, state, new)
    return packed(low, _swap(low, y), None)


def by_slot(low: Lowering, rows: str) -> str:
    """Return packed rows by slot, ``(n_active, n_steps, …)``."""
    b = low.builder
    return str(b.node("Gather", rows, b.input("padded", np.int64, ["n_active", "n_steps"]), axis=0))


def _steps_first(low: Lowering, rows: str) -> str:
    """Return packed rows by step, ``(n_steps, n_active, …)``."""
    b = low.builder

    def make() -> str:
        return str(b.node("Transpose", b.input("padded", np.int64, ["n_active", "n_steps"]), perm=[1, 0]))

    return str(b.node("Gather", rows, low.once("padded, steps first", make), axis=0))


def packed(low: Lowering, rows: str, shape: tuple[int, ...] | None) -> str:
    """Return rows by slot, ``(n_active, n_steps, …)``, packed: those of tokens one after the other."""
    b = low.builder
    if shape is None:
        ends = b.node("Shape", rows, start=2)
        flat = b.node("Reshape", rows, b.node("Concat", b.ints(-1), ends, axis=0))
    else:
        flat = b.node("Reshape", rows, b.ints(-1, *shape))
    return str(b.node("Gather", flat, b.input("unpadded", np.int64, ["n_tokens"]), axis=0))


def _swap(low: Lowering, rows: str) -> str:
    """Return rows with slots first: the axes of steps and slots are swapped, those after them joined."""
    b = low.builder
    ends = b.node("Shape", rows, start=2)
    flat = b.node("Reshape", rows, b.ints(0, 0, -1))
    slots_first = b.node("Transpose", flat, perm=[1, 0, 2])
    front = b.node("Shape", slots_first, start=0, end=2)
    return str(b.node("Reshape", slots_first, b.node("Concat", front, ends, axis=0)))


def _is_token(low: Lowering, n_axes: int) -> str:
    """Return which steps of each slot are tokens and not padding, ``(n_steps, n_active, 1, …)`` bool."""
    b = low.builder

    def make() -> str:
        n_steps = b.node("Shape", b.input("padded", np.int64, ["n_active", "n_steps"]), start=1, end=2)
        end = b.node("Squeeze", n_steps, b.ints(0))
        steps = b.node("Range", b.constant(0, np.int64), end, b.constant(1, np.int64))
        steps = b.node("Reshape", steps, b.ints(-1, 1))
        is_token = b.node("Less", steps, b.input("lengths", np.int64, ["n_active"]))
        return str(b.node("Reshape", is_token, b.ints(0, 0, *[1] * n_axes)))

    return str(low.once(("is token", n_axes), make))
