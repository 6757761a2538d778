"""The nodes GatedDeltaNet and VarlenCausalConvWithState, which read the packed rows of several sequences.

``sequence_starts``, ``(n_active + 1,)`` int32, says where the rows of each slot begin. Each node has a tiny model that
shows whether a provider has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw_backends.onnx.model_builder import Array, Dimensions, ModelBuilder
from llamafw_backends.onnx.support import Probe, Support

STARTS = np.array([0, 3, 4, 6], np.int32)
"""The sequences of the tiny models."""

FLOAT32 = np.dtype(np.float32)


def sequence_starts(b: ModelBuilder) -> str:
    """Return the input with the index of the first row of each slot, and the number of rows."""
    return b.input("sequence_starts", np.int32, ["n_starts"])


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """The sizes and attributes of GatedDeltaNet; its state is ``(n_head, value_size, key_size)`` float32."""

    n_key_heads: int
    n_head: int
    key_size: int
    value_size: int
    is_delta: bool  # True: the gated delta rule; False: decay only
    by_channel: bool  # whether each number of a key has a decay
    scale: float

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """The shape of a slot's state."""
        return (self.n_head, self.value_size, self.key_size)

    def add(self, b: ModelBuilder, rows: Sequence[str], state: str, outputs: Sequence[str]) -> None:
        """Add the node.

        Parameters
        ----------
        b : ModelBuilder
            The model.
        rows : sequence of str
            Queries and keys, ``(n_tokens, n_key_heads, key_size)``; values, ``(n_tokens, n_head, value_size)``;
            logarithms of decays and, for the delta rule, rates, both float32; otherwise "".
        state : str
            The state before, ``(n_active, *state_shape)``.
        outputs : sequence of str
            The names of the results, ``(n_tokens, n_head, value_size)``, and of the state after.
        """
        b.node(
            "com.microsoft.GatedDeltaNet",
            *rows[:3],
            sequence_starts(b),
            *rows[3:],
            state,
            outputs=outputs,
            update_rule="gated_delta" if self.is_delta else "gated",
            scale=self.scale,
        )


def runs_delta_net(support: Support, net: DeltaNet) -> bool:
    """Return whether the provider has GatedDeltaNet for heads of these sizes."""
    times = net.n_head // net.n_key_heads
    small = DeltaNet(2, 2 * times, net.key_size, net.value_size, net.is_delta, net.by_channel, net.scale)
    return support.runs(str(small), lambda: _delta_net(support.float_type, small))


def _delta_net(dtype: np.dtype[Any], net: DeltaNet) -> Probe:
    rng = np.random.default_rng(0)
    n_tokens, n_sequences = int(STARTS[-1]), len(STARTS) - 1
    q, k = rng.standard_normal((2, n_tokens, net.n_key_heads, net.key_size))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v = rng.standard_normal((n_tokens, net.n_head, net.value_size))
    gate_shape = (n_tokens, net.n_head, *[net.key_size] * net.by_channel)
    feeds: dict[str, Array] = {"q": q.astype(dtype), "k": k.astype(dtype), "v": v.astype(dtype)}
    feeds["gate"] = -rng.uniform(0, 1, gate_shape).astype(np.float32)
    if net.is_delta:
        feeds["beta"] = rng.uniform(0, 1, (n_tokens, net.n_head)).astype(np.float32)
    state = rng.standard_normal((n_sequences, *net.state_shape)).astype(np.float32)
    y, after = _recur(net, feeds, state.astype(np.float64))

    def build(b: ModelBuilder) -> None:
        names = [
            b.input(name, array.dtype, ["n", *array.shape[1:]]) if array is not None else ""
            for name, array in ((name, feeds.get(name)) for name in ("q", "k", "v", "gate", "beta"))
        ]
        past = b.input("past", FLOAT32, ["n_active", *net.state_shape])
        net.add(b, names, past, ["y", "present"])
        b.output("y", dtype, ["n", net.n_head, net.value_size])
        b.output("present", FLOAT32, ["n_active", *net.state_shape])

    states = {("past", "present"): (state, after)}
    return Probe(build, feeds | {"sequence_starts": STARTS}, y, states)


def _recur(net: DeltaNet, rows: dict[str, Array], state: Array) -> tuple[Array, Array]:
    """Return the results of all rows and the states after them, in float64."""
    times, results = net.n_head // net.n_key_heads, []
    q, k = (np.repeat(rows[name].astype(np.float64), times, 1) for name in ("q", "k"))
    decay = np.exp(rows["gate"].astype(np.float64)).reshape(len(q), net.n_head, 1, -1)
    for i, (first, last) in enumerate(zip(STARTS, STARTS[1:], strict=False)):
        for t in range(first, last):
            state[i] *= decay[t]
            update = rows["v"][t].astype(np.float64)
            if net.is_delta:
                update = rows["beta"][t][:, None] * (update - np.einsum("hvk,hk->hv", state[i], k[t]))
            state[i] += update[..., None] * k[t][:, None]
            results.append(net.scale * np.einsum("hvk,hk->hv", state[i], q[t]))
    return np.array(results), state


def add_convolution(
    b: ModelBuilder, rows: str, kernel: str, bias: str, state: str, outputs: Sequence[str], *, silu: bool
) -> None:
    """Add VarlenCausalConvWithState.

    Parameters
    ----------
    b : ModelBuilder
        The model.
    rows : str
        The packed rows, ``(n_tokens, n_channels)``.
    kernel : str
        The weights, ``(n_channels, 1, k)``.
    bias : str
        The bias, ``(n_channels,)``; "" if there is none.
    state : str
        The last inputs of each slot, ``(n_active, n_channels, k − 1)``.
    outputs : sequence of str
        The names of the result and of the state after.
    silu : bool
        Whether the activation function ``silu`` is applied to the result.
    """
    name, activation = "com.microsoft.VarlenCausalConvWithState", "silu" if silu else "none"
    b.node(name, rows, kernel, sequence_starts(b), bias, state, outputs=outputs, activation=activation)


def runs_convolution(support: Support, size: int, *, has_bias: bool, silu: bool) -> bool:
    """Return whether the provider has VarlenCausalConvWithState for kernels of this size."""
    name = f"VarlenCausalConvWithState with {size} taps" + ", a bias" * has_bias + ", silu" * silu
    return support.runs(name, lambda: _convolution(support.float_type, size, has_bias, silu))


def _convolution(dtype: np.dtype[Any], size: int, has_bias: bool, silu: bool) -> Probe:
    rng = np.random.default_rng(0)
    n_tokens, n_sequences, n_channels = int(STARTS[-1]), len(STARTS) - 1, 6
    x = rng.standard_normal((n_tokens, n_channels)).astype(dtype)
    kernel = rng.standard_normal((n_channels, size)).astype(dtype)
    bias = rng.standard_normal(n_channels).astype(dtype) if has_bias else None
    past = rng.standard_normal((n_sequences, n_channels, size - 1)).astype(dtype)
    after, results = past.copy(), []
    for i, (first, last) in enumerate(zip(STARTS, STARTS[1:], strict=False)):
        padded = np.concatenate([past[i].T, x[first:last]]).astype(np.float64)
        results += [(padded[t : t + size] * kernel.T).sum(0) for t in range(last - first)]
        after[i] = padded[last - first :].T
    y = np.array(results) + (0 if bias is None else bias.astype(np.float64))
    if silu:
        y /= 1 + np.exp(-y)

    def build(b: ModelBuilder) -> None:
        dims: Dimensions = ["n_active", n_channels, size - 1]
        rows, state = b.input("x", dtype, ["n", n_channels]), b.input("past", dtype, dims)
        bias_name = "" if bias is None else b.constant(bias)
        add_convolution(b, rows, b.constant(kernel[:, None]), bias_name, state, ["y", "present"], silu=silu)
        b.output("y", dtype, ["n", n_channels])
        b.output("present", dtype, dims)

    return Probe(build, {"x": x, "sequence_starts": STARTS}, y, {("past", "present"): (past, after)})
