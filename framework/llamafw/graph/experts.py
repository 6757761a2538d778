"""Operators for mixtures of experts: they choose experts, and compute with the chosen ones only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llamafw.graph.values import Array, GraphError, Shape, Value
from llamafw.graph.weights import Weight, describe_row, input_error

if TYPE_CHECKING:
    from llamafw.graph.evaluate import Evaluation


@dataclass(frozen=True, slots=True, eq=False)
class TopK(Value):
    """The indices of the ``k`` largest numbers, largest first; of equal numbers the lower index comes first."""

    x: Value  # (n,)
    k: int

    def infer_shape(self) -> Shape:
        """Return the shape of the indices."""
        if len(self.x.shape) != 1 or not 1 <= self.k <= self.x.shape[0]:
            raise GraphError(f"a row of shape {describe_row(self.x)} does not have {self.k} numbers to choose")
        return (self.k,)

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the indices."""
        return np.argsort(-inputs["x"], -1, kind="stable")[:, : self.k]


@dataclass(frozen=True, slots=True, eq=False)
class GroupMask(Value):
    """``x`` with −inf in place of all numbers outside the ``n_used`` best of ``n_groups`` groups (arXiv:2412.19437).

    A group's score is the sum of its ``n_best`` largest numbers: two in DeepSeek-V3, one in V2 (arXiv:2405.04434).
    """

    x: Value  # (n,)
    n_groups: int
    n_used: int
    n_best: int = 2

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        if len(self.x.shape) != 1 or self.x.shape[0] % self.n_groups or not 1 <= self.n_used <= self.n_groups:
            raise GraphError(
                f"{self.n_used} of {self.n_groups} groups do not fit a row of shape {describe_row(self.x)}"
            )
        if not 1 <= self.n_best <= self.x.shape[0] // self.n_groups:
            raise GraphError(f"the {self.n_best} best do not fit groups of {self.x.shape[0] // self.n_groups}")
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the masked rows."""
        groups = inputs["x"].reshape(len(inputs["x"]), self.n_groups, -1)
        scores = np.sort(groups, -1)[..., -self.n_best :].sum(-1)
        best = np.argsort(-scores, -1, kind="stable")[:, : self.n_used]
        used = np.zeros_like(scores, bool)
        np.put_along_axis(used, best, True, -1)
        return np.where(used[..., None], groups, -np.inf).reshape(inputs["x"].shape)


@dataclass(frozen=True, slots=True, eq=False)
class Gather(Value):
    """The numbers of ``x`` at the given indices.

    ONNX: GatherElements.
    """

    x: Value  # (n,)
    indices: Value  # (k,)

    def infer_shape(self) -> Shape:
        """Return the shape of the indices."""
        if len(self.x.shape) != 1:
            raise GraphError(f"a row of shape {self.x.shape} cannot be indexed")
        return self.indices.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the numbers."""
        return np.take_along_axis(inputs["x"], inputs["indices"], -1)


@dataclass(frozen=True, slots=True, eq=False)
class SparseMixer(Value):
    """The weights of the chosen experts by SparseMixer: each one's share among those that it competes with.

    An expert ``c`` competes with each expert ``j`` that is not chosen before it and is close to it:
    ``x[c] − x[j] ≤ 2 · jitter · max(|x[j]|, x[c])``. Its weight is ``1 / Σ_j exp(x[j] − x[c])``, a softmax
    (arXiv:2409.12136, in inference).
    """

    x: Value  # (n,)
    chosen: Value  # (k,) indices, best first
    jitter: float = 0.01  # relative noise of the numbers in training

    def infer_shape(self) -> Shape:
        """Return the shape of the weights, one per chosen expert."""
        if len(self.x.shape) != 1 or len(self.chosen.shape) != 1 or self.chosen.shape[0] > self.x.shape[0]:
            raise GraphError(f"indices of shape {self.chosen.shape} do not fit a row of shape {self.x.shape}")
        return self.chosen.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the weights."""
        x, left, weights = inputs["x"], inputs["x"].copy(), []
        for column in np.split(inputs["chosen"], self.chosen.shape[0], -1):
            best = np.take_along_axis(x, column, -1)
            is_close = best - x <= 2 * self.jitter * np.maximum(np.abs(x), best)
            weights.append(1 / np.where(is_close, np.exp(left - best), 0).sum(-1))
            np.put_along_axis(left, column, -np.inf, -1)
        return np.stack(weights, -1)


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLinear(Value):
    """``W[e] x + b[e]`` for each chosen expert ``e``. ggml: mul_mat_id; ONNX: QMoE."""

    x: Value  # (n_in,), or (k, n_in): one row per chosen expert
    chosen: Value  # (k,) indices
    weight: Weight  # (n_expert, n_out, n_in)
    bias: Weight | None = None  # (n_expert, n_out)
    scale: Weight | None = None  # (n_expert,)

    def infer_shape(self) -> Shape:
        """Return the shape of the products, one row per chosen expert."""
        k = self.chosen.shape[0]
        if len(self.weight.shape) != 3 or self.x.shape not in (self.weight.shape[2:], (k, *self.weight.shape[2:])):
            raise input_error(self.weight, self.x)
        for other, shape in ((self.bias, self.weight.shape[:2]), (self.scale, self.weight.shape[:1])):
            if other is not None and other.shape != shape:
                raise GraphError(f"the tensor {other.name!r} has shape {other.shape} instead of {shape}")
        return (k, self.weight.shape[1])

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the products."""
        x, chosen = inputs["x"], inputs["chosen"]
        rows = x if x.ndim == 3 else np.repeat(x[:, None], chosen.shape[1], 1)
        product = np.einsum("nki,nkoi->nko", rows, run.weight(self.weight)[chosen])
        if self.scale is not None:
            product = product * run.weight(self.scale)[chosen][..., None]
        return product if self.bias is None else product + run.weight(self.bias)[chosen]


@dataclass(frozen=True, slots=True, eq=False)
class WeightedSum(Value):
    """``Σ_i weights[i] · parts[i]``."""

    parts: Value  # (k, n)
    weights: Value  # (k,)

    def infer_shape(self) -> Shape:
        """Return the shape of one part."""
        if len(self.parts.shape) != 2 or self.weights.shape != self.parts.shape[:1]:
            raise GraphError(f"{self.weights.shape} weights do not fit parts of shape {self.parts.shape}")
        return self.parts.shape[1:]

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the sums."""
        return np.einsum("nki,nk->ni", inputs["parts"], inputs["weights"])
