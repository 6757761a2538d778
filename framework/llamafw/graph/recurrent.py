"""Operators that read tokens in order and keep a state of fixed size: convolution, linear attention, scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from llamafw.errors import suggest
from llamafw.graph.values import Array, GraphError, Shape, Value
from llamafw.graph.weights import Weight, describe_row, input_error

if TYPE_CHECKING:
    from llamafw.graph.evaluate import Evaluation

Rule = Literal["delta", "decay"]


@dataclass(frozen=True, slots=True, eq=False)
class Conv(Value):
    """A causal depthwise convolution: ``y[t, c] = Σ_j w[c, j] · x[t − k + 1 + j, c] + b[c]``.

    Its state is the last ``k − 1`` inputs. ggml: ssm_conv; ONNX: CausalConvWithState.
    """

    x: Value  # (n_channels,)
    weight: Weight  # (n_channels, k)
    bias: Weight | None = None

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        if len(self.weight.shape) != 2 or self.x.shape != self.weight.shape[:1]:
            raise input_error(self.weight, self.x)
        if self.bias is not None and self.bias.shape != self.x.shape:
            raise GraphError(f"the tensor {self.bias.name!r} has shape {self.bias.shape} instead of {self.x.shape}")
        return self.x.shape

    @property
    def state_shape(self) -> Shape:
        """Shape of a slot's state."""
        return (self.weight.shape[1] - 1, self.weight.shape[0])

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the convolved rows."""
        kernel, x = run.weight(self.weight), inputs["x"]
        k = kernel.shape[1]
        past = run.state(self)
        padded = np.concatenate([past, x])
        y = sum(padded[j : j + len(x)] * kernel[:, j] for j in range(k))
        past[...] = padded[len(x) :]
        result: Array = np.asarray(y if self.bias is None else y + run.weight(self.bias))
        return result


@dataclass(frozen=True, slots=True, eq=False)
class LinearAttention(Value):
    """Linear attention: the state is a matrix ``S`` per head, of shape ``(key_size, value_size)``.

    The rule ``decay`` is that of Mamba-2 (arXiv:2405.21060) and retention: ``S ← g_t S + k_t v_tᵀ``.
    The rule ``delta`` is the gated delta rule (arXiv:2412.06464): ``S ← g_t S + β_t k_t (v_t − g_t Sᵀ k_t)ᵀ``.
    The result is ``o_t = scale · Sᵀ q_t``. ``gate`` is ``ln g``, one number per head or per channel of the keys.
    ggml: gated_delta_net, ssm_scan; ONNX: GatedDeltaNet, LinearAttention.
    """

    q: Value  # (n_head, key_size)
    k: Value  # (n_head, key_size)
    v: Value  # (n_head, value_size)
    gate: Value  # (n_head,), (n_head, 1) or (n_head, key_size)
    rule: Rule = "delta"
    beta: Value | None = None  # (n_head,) or (n_head, 1), for the delta rule
    scale: float = 1.0

    def infer_shape(self) -> Shape:
        """Return the shape of the values."""
        n_head, key_size = self.q.shape if len(self.q.shape) == 2 else (0, 0)
        if not n_head or self.k.shape != self.q.shape or len(self.v.shape) != 2 or self.v.shape[0] != n_head:
            raise GraphError(f"shapes {self.q.shape}, {self.k.shape} and {self.v.shape} of q, k and v do not fit")
        if self.gate.shape not in ((n_head,), (n_head, 1), (n_head, key_size)):
            raise GraphError(
                f"a gate of shape {describe_row(self.gate)} does not fit {n_head} heads of {key_size} channels"
            )
        if self.rule not in get_args(Rule):
            raise GraphError(f"the rule {self.rule!r} is unknown{suggest(self.rule, get_args(Rule))}")
        if (self.beta is not None) != (self.rule == "delta"):
            raise GraphError("beta belongs to the delta rule, and the delta rule needs it")
        if self.beta is not None and self.beta.shape not in ((n_head,), (n_head, 1)):
            raise GraphError(f"beta of shape {describe_row(self.beta)} does not fit {n_head} heads")
        return self.v.shape

    @property
    def state_shape(self) -> Shape:
        """Shape of a slot's state."""
        return (*self.k.shape, self.v.shape[1])

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the outputs, computed token by token."""
        q, k, v = inputs["q"], inputs["k"], inputs["v"]
        n_head = q.shape[1]
        decay = np.exp(inputs["gate"].reshape(len(q), n_head, -1))
        state = run.state(self)
        rows = []
        for t in range(len(q)):
            state *= decay[t][..., None]
            update = v[t]
            if self.rule == "delta":
                beta = inputs["beta"][t].reshape(n_head, 1)
                update = beta * (v[t] - np.einsum("hkv,hk->hv", state, k[t]))
            state += k[t][..., None] * update[:, None, :]
            rows.append(np.einsum("hkv,hk->hv", state, q[t]) * self.scale)
        return np.array(rows).reshape(len(q), *self.v.shape)


@dataclass(frozen=True, slots=True, eq=False)
class SelectiveScan(Value):
    """Mamba-1's scan (arXiv:2312.00752): ``h ← exp(Δ A) h + Δ B x`` per channel, ``y = C · h + D x``.

    ggml: ssm_scan.
    """

    x: Value  # (n_channels,)
    delta: Value  # (n_channels,) after softplus
    b: Value  # (n_state,)
    c: Value  # (n_state,)
    a: Weight  # (n_channels, n_state), negative
    d: Weight  # (n_channels,)

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        n_channels, n_state = self.a.shape if len(self.a.shape) == 2 else (0, 0)
        shapes = (self.x.shape, self.delta.shape, self.b.shape, self.c.shape, self.d.shape)
        if shapes != ((n_channels,), (n_channels,), (n_state,), (n_state,), (n_channels,)):
            raise GraphError(f"the tensor {self.a.name!r} has shape {self.a.shape}, but the inputs have {shapes}")
        return self.x.shape

    @property
    def state_shape(self) -> Shape:
        """Shape of a slot's state."""
        return self.a.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the outputs, computed token by token."""
        a, d = run.weight(self.a), run.weight(self.d)
        state = run.state(self)
        rows = []
        for x, delta, b, c in zip(inputs["x"], inputs["delta"], inputs["b"], inputs["c"], strict=True):
            state *= np.exp(delta[:, None] * a)
            state += (delta * x)[:, None] * b
            rows.append(state @ c + d * x)
        return np.array(rows).reshape(len(rows), *self.x.shape)
