"""Random graphs of the framework's operators, with random weights: for tests of backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from llamafw import Tensor
from llamafw import graph as g
from llamafw.graph.rows import Function

N_EMBD, N_VOCAB, N_EXPERT, EPS = 64, 96, 6, 1e-5
FUNCTIONS: tuple[Function, ...] = ("silu", "gelu", "gelu_tanh", "relu_squared", "elu", "sigmoid", "tanh", "softplus")
Item = TypeVar("Item")


class Weights:
    """Random float32 tensors of a model, made when a graph needs them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.tensors: dict[str, Tensor] = {}

    def __call__(self, *shape: int, std: float | None = None, mean: float = 0.0) -> g.Weight:
        """Return a new tensor; its numbers keep the size of a row that it is multiplied with."""
        std = std or (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)
        numbers = self._rng.normal(mean, std, shape).astype(np.float32)
        name = f"tensor.{len(self.tensors)}"
        self.tensors[name] = Tensor(name, shape, "F32", numbers.reshape(-1).view(np.uint8))
        return g.Weight(name, shape)


class RandomGraph:
    """A graph of random blocks, whose inputs and sums are random values among the ones before them."""

    def __init__(self, weights: Weights, rng: np.random.Generator) -> None:
        self._w, self._rng = weights, rng
        self._rows: list[g.Value] = []  # (N_EMBD,) each
        self._caches: list[g.Cache] = []

    def build(self) -> g.Graph:
        """Return the graph."""
        self._rows.append(g.EmbeddingLookup(g.TOKENS, self._w(N_VOCAB, N_EMBD, std=1.0)))
        blocks = [
            self._attention,
            self._gated,
            self._experts,
            self._convolution,
            self._linear_attention,
            self._rearranged,
        ]
        for _ in range(self._int(3, 6)):
            y = self._pick(blocks, [4, 4, 2, 1, 1, 1])()
            x = self._rows[-1] if self._chance(0.8) else self._row()
            self._rows.append(self._pick([x + y, y + x, y, x + self._norm(y)], [4, 4, 1, 1]))
        hidden = self._pick([self._norm(self._row()), self._row() + self._row(), g.Slice(self._row(), 32, 64)])
        x = self._pick([hidden, self._row()], [4, 1])
        logits = [self._linear(x, 96), g.softcap(self._linear(x, 50), 3.0), g.Slice(self._linear(x, 96), 5, 80)]
        return g.Graph(hidden, self._pick(logits), 64)

    # --- choices ------------------------------------------------------------------------------------

    def _chance(self, probability: float) -> bool:
        return bool(self._rng.random() < probability)

    def _int(self, low: int, high: int) -> int:
        return int(self._rng.integers(low, high + 1))

    def _pick(self, items: Sequence[Item], shares: Sequence[float] = ()) -> Item:
        p = np.array(shares) / sum(shares) if shares else None
        return items[int(self._rng.choice(len(items), p=p))]

    def _row(self) -> g.Value:
        return self._rows[max(0, len(self._rows) - 1 - int(self._rng.exponential(1.5)))]

    def _input(self) -> g.Value:
        return self._norm(self._row()) if self._chance(0.6) else self._row()

    # --- operators ----------------------------------------------------------------------------------

    def _linear(self, x: g.Value, n: int) -> g.Value:
        """Return a product, perhaps with some rows of a matrix, or some numbers of a longer product."""
        before, after = self._pick([0, 7, 16, 32]), self._pick([0, 5, 16])
        n_all = before + n + after
        matrix, bias = self._w(n_all, x.shape[-1]), self._w(n_all) if self._chance(0.3) else None
        if self._chance(0.3):
            return g.Slice(g.Linear(x, matrix, bias), before, before + n)
        last = before + n
        return g.Linear(x, matrix.rows(before, last), bias and bias.rows(before, last))

    def _norm(self, x: g.Value) -> g.Value:
        n = x.shape[-1]
        return self._pick(
            [
                g.RMSNorm(x, self._w(n, mean=1.0), EPS),
                g.RMSNorm(x, None, EPS, self._pick([1, 2])),
                g.LayerNorm(x, self._w(*x.shape, std=0.3, mean=1.0), self._w(n), EPS),
                g.L2Norm(x, EPS) * 4.0,
            ]
        )

    def _function(self, x: g.Value) -> g.Value:
        return self._pick([g.activation(x, self._pick(FUNCTIONS)), x * 0.9, g.Clamp(x, -1.0, 0.5)], [3, 1, 1])

    def _unary(self, x: g.Value) -> g.Value:
        weights = self._w(*self._pick([x.shape[-1:], x.shape, (1,), (*x.shape[:-1], 1)]), std=0.3, mean=1.0)
        others = [g.WeightMul(x, weights), g.WeightAdd(x, self._w(*x.shape, std=0.3)), g.layer_output(x, 0)]
        return self._pick([self._function(x), *others], [3, 1, 1, 1])

    def _elementwise(self, values: Sequence[g.Value]) -> g.Value:
        """Return random elementwise operators of some values."""
        found = list(values)
        for i in range(len(found)):
            if self._chance(0.5):  # rows of experts have no weights here
                found[i] = self._unary(found[i]) if len(found[i].shape) == 1 else self._function(found[i])
        while len(found) > 1:
            a, b = found.pop(self._int(0, len(found) - 1)), found.pop()
            found.append(self._pick([a * b, a + b]))
            if self._chance(0.1):
                found.append(a)
        return found[0]

    # --- blocks -------------------------------------------------------------------------------------

    def _gated(self) -> g.Value:
        x, n = self._input(), self._pick([32, 64, 96])
        if self._chance(0.3):
            parts = g.split(self._linear(x, 2 * n), n, n)
        else:
            parts = [self._linear(x if self._chance(0.8) else self._input(), n) for _ in range(self._int(1, 4))]
        return self._linear(self._elementwise(parts), N_EMBD)

    def _heads(self, x: g.Value, turn: g.Rotation) -> g.Value:
        """Return heads with up to two operators before or after their rotation."""
        for _ in range(self._int(0, 2)):
            x = self._norm(x) if self._chance(0.5) else self._unary(x)
        return g.rope(x, turn) if self._chance(0.8) else x

    def _attention(self) -> g.Value:
        x, size = self._input(), 16
        n_rotated = self._pick([16, 8])
        offset = self._pick([0, 16 - n_rotated])
        frequencies = 100.0 ** (-np.arange(n_rotated // 2) / 8)
        turn = g.Rotation(frequencies, interleaved=self._chance(0.5), offset=offset)
        if self._caches and self._chance(0.3):
            past = self._pick(self._caches)
            q = g.heads(self._linear(x, 64), 4)
        else:
            q, k, v = g.split(self._linear(x, 128), 64, 32, 32)
            if self._chance(0.7):
                q, k, v = (self._linear(x, n) for n in (64, 32, 32))
            q, k, v = g.heads(q, 4), g.heads(k, 2), g.heads(v, 2)
            past = g.cache(self._heads(k, turn), v if self._chance(0.9) else k)
            self._caches.append(past)
        y = g.Attention(
            self._heads(q, turn),
            past,
            size**-0.5,
            self._pick([None, 5, 16]),
            self._pick(["sliding", "chunked"]),
            self._pick([None, 1.5]),
            self._pick([None, self._w(4)]),
            self._pick([(), (0.5, 0.25, 0.1, 0.0)]),
            self._pick([None, (0.3, 7)]),
            position_bias=self._pick([None, self._w(8, 4)]),
        )
        return self._linear(g.flat(self._unary(y) if self._chance(0.3) else y), N_EMBD)

    def _experts(self) -> g.Value:
        x, n, k = self._input(), self._pick([32, 64]), self._pick([1, 2, 3])
        numbers = self._linear(x, N_EXPERT)
        scores: g.Value = self._pick([g.softmax(numbers), g.activation(numbers, "sigmoid")])
        choice = self._pick([scores, g.WeightAdd(scores, self._w(N_EXPERT)), g.GroupMask(scores, 3, 2)])
        chosen = g.top_k(choice, k)
        gathered = g.gather(scores, chosen)
        weights = self._pick([gathered, g.normalise(gathered), g.SparseMixer(numbers, chosen, jitter=0.3)])
        has_bias = self._chance(0.5)

        def product(x: g.Value, n: int) -> g.Value:
            bias = self._w(N_EXPERT, n) if has_bias else None
            return g.ExpertLinear(x, chosen, self._w(N_EXPERT, n, x.shape[-1]), bias)

        parts = [product(x if self._chance(0.8) else self._input(), n) for _ in range(self._int(1, 3))]
        if self._chance(0.3):
            parts = g.split(product(x, 2 * n), n, n)
        rows = product(self._elementwise(parts), N_EMBD) if self._chance(0.8) else product(x, N_EMBD)
        return g.weighted_sum(self._unary(rows) if self._chance(0.3) else rows, weights)

    def _convolution(self) -> g.Value:
        x = self._linear(self._input(), 64)
        y = g.Conv(x, self._w(64, 4), self._pick([None, self._w(64)]))
        return self._linear(g.activation(y, self._pick(FUNCTIONS)) * x, N_EMBD)

    def _linear_attention(self) -> g.Value:
        x = self._input()
        q, k = (g.Repeat(g.L2Norm(g.heads(self._linear(x, 32), 2), EPS), 2) for _ in range(2))
        gate = g.activation(self._linear(x, 4), "softplus") * -0.3
        beta = g.activation(self._linear(x, 4), "sigmoid")
        y = g.LinearAttention(q, k, g.heads(self._linear(x, 64), 4), gate, "delta", beta)
        return self._linear(g.flat(self._norm(y)) * g.activation(self._linear(x, 64), "silu"), N_EMBD)

    def _rearranged(self) -> g.Value:
        x = self._input()
        first, second = g.split(x, 24, 40)
        return self._pick(
            [
                g.concat(second, self._unary(first)),
                x * self._linear(x, 1),
                g.flat(g.Linear(g.heads(x, 2), self._w(2, 32, 32))),
                g.flat(g.Repeat(g.heads(g.Slice(x, 0, 32), 2), 2, tiled=True)),
                g.EmbeddingLookup(g.POSITIONS, self._w(64, N_EMBD)),
            ]
        )
