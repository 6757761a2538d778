"""Operators that depend on a token's position and the tokens before it: rotary positions, the KV cache, attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llamafw.errors import suggest
from llamafw.graph.grouped_positions import GroupedPositions
from llamafw.graph.rows import EmbeddingLookup, Linear, softmax_rows
from llamafw.graph.shapes import Concat
from llamafw.graph.values import POSITIONS, Array, GraphError, Shape, Value
from llamafw.graph.weights import Weight

if TYPE_CHECKING:
    from llamafw.graph.evaluate import Evaluation

WindowKind = Literal["sliding", "chunked", "symmetric"]

MAX_DISTANCE = 128
"""The distance from which on `bias_by_distance` is constant."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """The parameters of rotary position embeddings: each pair of numbers is rotated by ``position · frequency``.

    ``frequencies`` include the scaling of long contexts. ``sections`` are the numbers of pairs that use each row of
    positions (M-RoPE, arXiv:2409.12191); for text all rows are equal. If ``sections_take_turns``, pairs use the rows
    0, 1, 2, 0, 1, 2 … until a section is used up; otherwise the first section is that of the first pairs.

    ``long_frequencies`` replace ``frequencies`` in contexts of more than ``original_context`` positions (LongRoPE,
    arXiv:2402.13753). All positions of a context have the same ones, so a backend chooses when it creates its slots.
    """

    frequencies: npt.NDArray[np.float64]  # (n_pairs,) radians per position
    magnitude: float = 1.0  # factor on cos and sin (YaRN, arXiv:2309.00071)
    interleaved: bool = False  # True: pairs (0, 1), (2, 3) …; False: pairs (0, n_pairs), (1, n_pairs + 1) …
    offset: int = 0  # numbers before the first pair; they stay unchanged
    sections: tuple[int, ...] = ()
    sections_take_turns: bool = False
    long_frequencies: npt.NDArray[np.float64] | None = None  # (n_pairs,)
    original_context: int = 0  # in positions, if there are long frequencies

    def frequencies_for(self, n_ctx: int) -> npt.NDArray[np.float64]:
        """Return the frequencies in a context of ``n_ctx`` positions."""
        if self.long_frequencies is None or n_ctx <= self.original_context:
            return self.frequencies
        return self.long_frequencies

    @property
    def n_rotated(self) -> int:
        """How many numbers of a head are rotated."""
        return 2 * len(self.frequencies)

    def pairs(self) -> tuple[slice, slice]:
        """Return where the first and the second numbers of the pairs are in a head."""
        start, n = self.offset, len(self.frequencies)
        if self.interleaved:
            return slice(start, start + 2 * n, 2), slice(start + 1, start + 2 * n, 2)
        return slice(start, start + n), slice(start + n, start + 2 * n)


@dataclass(frozen=True, slots=True, eq=False)
class Rope(Value):
    """Rotates pairs of numbers by the token's position (arXiv:2104.09864).

    ONNX: RotaryEmbedding.
    """

    x: Value  # (n_head, size)
    rotation: Rotation
    positions: Value = POSITIONS

    def infer_shape(self) -> Shape:
        """Return the input's shape."""
        if len(self.x.shape) != 2 or self.rotation.offset + self.rotation.n_rotated > self.x.shape[1]:
            raise GraphError(f"{self.rotation.n_rotated} numbers of a row of shape {self.x.shape} cannot be rotated")
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the rotated rows."""
        rotation = self.rotation
        first, second = rotation.pairs()
        angles = (inputs["positions"][:, None] * rotation.frequencies_for(run.n_ctx))[:, None]
        cos, sin = np.cos(angles) * rotation.magnitude, np.sin(angles) * rotation.magnitude
        x, rotated = inputs["x"], inputs["x"].copy()
        rotated[..., first] = x[..., first] * cos - x[..., second] * sin
        rotated[..., second] = x[..., first] * sin + x[..., second] * cos
        return rotated


@dataclass(frozen=True, slots=True, eq=False)
class Cache(Value):
    """The keys and values of a token and of all tokens before it in its slot.

    If two layers use the same `Cache`, they share it.
    """

    k: Value  # (n_head_kv, size)
    v: Value

    def infer_shape(self) -> Shape:
        """Return the shape of keys and values together."""
        return _kv_shape(self.k, self.v)

    @property
    def has_state(self) -> bool:
        """Whether later tokens depend on what this operator keeps: they do."""
        return True

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> tuple[Array, Array]:
        """Return the keys and values of the whole text, ``(n_positions, n_head_kv, size)``.

        With `GroupedPositions` there are keys for each token: ``(n_tokens, n_positions, n_head_kv, size)``.
        """
        keys, values = run.extend(self, inputs["k"], inputs["v"])
        rope, start = _last_rope(self.k)
        if rope is None or not isinstance(rope.positions, GroupedPositions):
            return keys, values
        return rope.positions.seen(keys, run.positions, rope.rotation, start, run.n_ctx), values


@dataclass(frozen=True, slots=True, eq=False)
class KeyValue(Value):
    """The keys and values of all tokens of a text, for encoders.

    A slot does not keep them.
    """

    k: Value
    v: Value

    def infer_shape(self) -> Shape:
        """Return the shape of keys and values together."""
        return _kv_shape(self.k, self.v)

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> tuple[Array, Array]:
        """Return keys and values."""
        return inputs["k"], inputs["v"]


@dataclass(frozen=True, slots=True, eq=False)
class Attention(Value):
    """``softmax(scale · q kᵀ) v`` (arXiv:1706.03762) over the tokens that a query sees.

    With a `Cache` a query sees its own token and those before it, with a `KeyValue` the whole text. A window limits
    this: ``sliding`` to the last ``window`` tokens; ``chunked`` to the same chunk of ``window`` positions;
    ``symmetric`` to half a window on each side. Each key head serves the same number of query heads (arXiv:2305.13245).
    ggml: flash_attn_ext; ONNX: Attention, GroupQueryAttention.
    """

    q: Value  # (n_head, size)
    past: Cache | KeyValue
    scale: float
    window: int | None = None
    window_kind: WindowKind = "sliding"
    softcap: float | None = None  # scores become softcap · tanh(score / softcap)
    sinks: Weight | None = None  # (n_head,) an extra score per head, for a value of 0 (arXiv:2309.17453)
    alibi: tuple[float, ...] = ()  # per head, subtracted from a score per token of distance (arXiv:2108.12409)
    temperature: tuple[float, int] | None = None
    """``(factor, length)``: queries are multiplied by ``1 + factor · ln(1 + floor(position / length))``."""

    temperature_offset: int = 0  # added to the position in this formula
    position_bias: Weight | None = None  # (n_bucket, n_head) added to scores, see `bias_by_distance`

    def infer_shape(self) -> Shape:
        """Return the shape of the values, one row per query head."""
        n_head, size = self.q.shape if len(self.q.shape) == 2 else (0, 0)
        n_head_kv, key_size = self.past.k.shape
        if not n_head or n_head % n_head_kv or size != key_size:
            raise GraphError(f"queries of shape {self.q.shape} and keys of shape {self.past.k.shape} do not fit")
        if self.sinks is not None and self.sinks.shape != (n_head,):
            raise GraphError(f"the tensor {self.sinks.name!r} has shape {self.sinks.shape} instead of {(n_head,)}")
        if self.alibi and len(self.alibi) != n_head:
            raise GraphError(f"alibi has {len(self.alibi)} slopes, but there are {n_head} heads")
        bias = self.position_bias
        if bias is not None and (len(bias.shape) != 2 or bias.shape[1] != n_head or not bias.shape[0] // 4):
            raise GraphError(f"the tensor {bias.name!r} has shape {bias.shape}, which does not fit {n_head} heads")
        if self.window is not None and self.window < 1:
            raise GraphError(f"the window is {self.window}; it must be at least 1, or None")
        if self.window_kind not in get_args(WindowKind):
            known = suggest(self.window_kind, get_args(WindowKind))
            raise GraphError(f"the kind of window {self.window_kind!r} is unknown{known}")
        if self.softcap is not None and not self.softcap > 0:
            raise GraphError(f"softcap is {self.softcap}; it must be above 0, or None")
        return (n_head, self.past.v.shape[1])

    def evaluate(self, inputs: Mapping[str, Any], run: Evaluation) -> Array:
        """Return the weighted sums of the values."""
        n_head, n_head_kv = self.q.shape[0], self.past.k.shape[0]
        keys, values = (np.repeat(part, n_head // n_head_kv, -2) for part in inputs["past"])
        q, positions = inputs["q"], run.positions
        key_positions = positions if isinstance(self.past, KeyValue) else np.arange(len(values))

        if self.temperature is not None:
            factor, length = self.temperature
            q = q * (1 + factor * np.log1p((positions + self.temperature_offset) // length))[:, None, None]
        scores = np.einsum("qhs,khs->hqk" if keys.ndim == 3 else "qhs,qkhs->hqk", q, keys) * self.scale
        if self.softcap is not None:
            scores = self.softcap * np.tanh(scores / self.softcap)

        distance = key_positions - positions[:, None]
        if self.alibi:
            scores = scores - np.array(self.alibi)[:, None, None] * np.abs(distance)
        if self.position_bias is not None:
            bias = bias_by_distance(run.weight(self.position_bias))
            scores = scores + bias[:, np.clip(distance, -MAX_DISTANCE, MAX_DISTANCE) + MAX_DISTANCE]
        scores = np.where(self.visible(positions, key_positions), scores, -np.inf)

        if self.sinks is None:
            return np.einsum("hqk,khs->qhs", softmax_rows(scores), values)
        sinks = np.broadcast_to(run.weight(self.sinks)[:, None, None], (*scores.shape[:2], 1))
        weights = softmax_rows(np.concatenate([scores, sinks], -1))[..., :-1]
        return np.einsum("hqk,khs->qhs", weights, values)

    def visible(self, positions: Array, key_positions: Array) -> npt.NDArray[np.bool_]:
        """Return which keys the query at each position sees, ``(n_tokens, n_keys)``."""
        distance = positions[:, None] - key_positions
        seen = np.ones_like(distance, bool) if isinstance(self.past, KeyValue) else distance >= 0

        if self.window is None:
            return seen
        if self.window_kind == "sliding":
            return seen & (distance < self.window)
        if self.window_kind == "chunked":
            return seen & (positions[:, None] // self.window == key_positions // self.window)
        return seen & (np.abs(distance) <= self.window // 2)


def key_rope(keys: Value) -> tuple[Rope | None, int]:
    """Return the rotation of the keys of a cache, None if they are not rotated, and the number at which it begins.

    Raises
    ------
    GraphError
        Something is computed from rotated numbers before they are keys, so keys cannot move to other positions.
    """
    rope, start = _last_rope(keys)
    todo = [keys] if rope is None else []
    for value in todo:
        if isinstance(value, Rope):
            raise GraphError("the keys of this model cannot be moved to other positions")
        if not isinstance(value, Linear | EmbeddingLookup | Attention) and not value.state_shape:
            todo += value.inputs()
    return rope, start


def _last_rope(keys: Value) -> tuple[Rope | None, int]:
    """Return the rotation from which a key or a part of it comes, None if there is none, and where the part begins."""
    parts = keys.inputs() if isinstance(keys, Concat) else [keys]
    for i, part in enumerate(parts):
        if isinstance(part, Rope):
            return part, sum(one.shape[-1] for one in parts[:i])
    return None, 0


def bias_by_distance(table: Array) -> Array:
    """Return T5's bias for keys at each distance from −128 (before the query) to 128 (arXiv:1910.10683, section 2.1).

    Each half of the buckets is for one direction. The first half of these are for one distance each; the others are for
    ranges of distances that grow exponentially up to `MAX_DISTANCE`.

    Parameters
    ----------
    table : array
        The biases of each bucket, ``(n_bucket, n_head)``.

    Returns
    -------
    array
        The biases of each head, ``(n_head, 257)``.
    """
    distance = np.arange(-MAX_DISTANCE, MAX_DISTANCE + 1)
    n = len(table) // 2
    n_single, far = n // 2, np.abs(distance)
    share = np.log(np.maximum(far, n_single) / n_single) / math.log(MAX_DISTANCE / n_single)
    ranges = np.minimum(n_single + (share * (n - n_single)).astype(int), n - 1)
    buckets = np.where(far < n_single, far, ranges) + np.where(distance > 0, n, 0)
    return np.ascontiguousarray(table[buckets].T)


def _kv_shape(k: Value, v: Value) -> Shape:
    if len(k.shape) != 2 or len(v.shape) != 2 or k.shape[0] != v.shape[0]:
        raise GraphError(f"keys of shape {k.shape} and values of shape {v.shape} do not fit")
    return (k.shape[0], k.shape[1] + v.shape[1])
