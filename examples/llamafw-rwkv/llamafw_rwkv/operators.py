"""The operators of RWKV-7 (arXiv:2503.14456): their shapes, and their evaluation with numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import graph as g

CHANNELS = 32  # channels that `TokenShift` computes together; a row is a multiple of it


@dataclass(frozen=True, slots=True, eq=False)
class TokenShift(g.Value):
    """Mixtures of a token's row and that of the token before it: ``x_t + (x_{t−1} − x_t) · μ`` for each row of ``μ``.

    Equation 3 of the paper (lerp). The row before the first token is zero.
    """

    x: g.Value  # (n_embd,)
    mu: g.Weight  # (n_mixtures, n_embd)

    def infer_shape(self) -> g.Shape:
        """Return the shape of the mixtures."""
        if self.mu.shape[1:] != self.x.shape or len(self.mu.shape) != 2 or self.x.shape[0] % CHANNELS:
            raise g.GraphError(
                f"the tensor {self.mu.name!r} has shape {self.mu.shape}, but its input has {self.x.shape}; "
                f"the last axis must be a multiple of {CHANNELS}"
            )
        return self.mu.shape

    @property
    def state_shape(self) -> g.Shape:
        """Shape of the last row, in groups of channels."""
        return (self.x.shape[0] // CHANNELS, CHANNELS)

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> g.Array:
        """Return the mixtures."""
        x, last = inputs["x"], run.state(self)
        before = np.concatenate([last.reshape(1, -1), x[:-1]])
        last[...] = x[-1].reshape(last.shape)
        mixtures: g.Array = x[:, None] + (before - x)[:, None] * run.weight(self.mu)
        return mixtures


@dataclass(frozen=True, slots=True, eq=False)
class Wkv7(g.Value):
    """The generalised delta rule of RWKV-7, equations 15 to 17 of the paper, for each head.

    ``S ← S (diag(w) − κ̂ᵀ (a ⊙ κ̂)) + vᵀ k``, and the result is ``S rᵀ``. All are row vectors, and S has the shape
    ``(value, key)``. The state is kept transposed. ggml: rwkv_wkv7.
    """

    r: g.Value  # (n_head, size): receptance
    w: g.Value  # (n_head, size): decay, between 0 and 1
    k: g.Value  # (n_head, size): key
    v: g.Value  # (n_head, size): value
    removed: g.Value  # (n_head, size): κ̂, the key that is removed, of length 1
    rate: g.Value  # (n_head, size): a, how much of it is removed

    def infer_shape(self) -> g.Shape:
        """Return the shape of the values."""
        shapes = {one.shape for one in self.inputs()}
        if len(shapes) > 1 or len(self.v.shape) != 2:
            raise g.GraphError(f"the inputs of Wkv7 have the shapes {sorted(shapes)}; all must be (n_head, size)")
        return self.v.shape

    @property
    def state_shape(self) -> g.Shape:
        """Shape of a transposed S for each head."""
        return (*self.v.shape, self.v.shape[1])

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> g.Array:
        """Return the results, computed token by token."""
        r, w, k, v, removed, rate = (inputs[name] for name in ("r", "w", "k", "v", "removed", "rate"))
        state = run.state(self)  # (n_head, key, value)
        rows = []
        for t in range(len(r)):
            old = np.einsum("hkv,hk->hv", state, removed[t])
            state *= w[t][..., None]
            state += k[t][..., None] * v[t][:, None] - (rate[t] * removed[t])[..., None] * old[:, None]
            rows.append(np.einsum("hkv,hk->hv", state, r[t]))
        return np.array(rows).reshape(v.shape)


@dataclass(frozen=True, slots=True, eq=False)
class HeadDot(g.Value):
    """``Σ_j a_j · b_j · w_j`` for each head."""

    a: g.Value  # (n_head, size)
    b: g.Value  # (n_head, size)
    weight: g.Weight  # (n_head, size)

    def infer_shape(self) -> g.Shape:
        """Return the shape of one number for each head."""
        if len(self.a.shape) != 2 or self.b.shape != self.a.shape or self.weight.shape != self.a.shape:
            raise g.GraphError(f"rows of shapes {self.a.shape}, {self.b.shape} and {self.weight.shape} do not fit")
        return (self.a.shape[0], 1)

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> g.Array:
        """Return the sums."""
        sums: g.Array = (inputs["a"] * inputs["b"] * run.weight(self.weight)).sum(-1, keepdims=True)
        return sums
