"""Run any model in plain numpy, in float32, one token at a time.

This backend is written to be read and copied. `llamafw.graph.Evaluator` computes the operators of the model's graph, so
every architecture runs, including those of plugins. What remains is what a server needs: batches of several slots, and
caches that can be cut, saved and restored.

The logits of a token must not depend, to the last bit, on the other tokens of a batch. This backend guarantees it by
computing each token alone, which is simple and slow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from llamafw import (
    Backend,
    BackendContext,
    Batch,
    Bytes,
    Floats,
    LlamafwError,
    Register,
    RequestError,
    SettingsError,
    Snapshots,
    hookimpl,
)
from llamafw import graph as g

requires_api = ">=1.0,<2"
CACHE_TYPES = {"f16": np.float16, "f32": np.float32}
Arrays = list[g.Array]


class NumpyBackend:
    """A `llamafw.Backend` in plain numpy, which is also a `llamafw.SnapshotBackend` for recurrent models."""

    exact = True  # each token is computed alone
    can_shift = False  # the server evaluates the tokens again instead
    state_format = "numpy-2"

    def __init__(self, context: BackendContext) -> None:
        graph, options = context.graph, context.options
        self.graph = graph
        self.n_slots, self.n_batch = options.n_slots, options.n_batch
        self.n_ctx = options.n_ctx or graph.n_ctx_train
        self.n_vocab, self.n_embd = graph.n_vocab, graph.n_embd

        self.evaluate = g.Evaluator(graph, g.read_weights(context.model, context.quants), np.float32)
        self.weight_bytes = 4 * sum(int(np.prod(tensor.shape)) for tensor in context.model.tensors.values())
        for kind in (options.cache_type_k, options.cache_type_v):
            if kind not in CACHE_TYPES:
                raise SettingsError(
                    f"the numpy backend stores keys and values as {' or '.join(CACHE_TYPES)}, not {kind}"
                )
        types = CACHE_TYPES[options.cache_type_k], CACHE_TYPES[options.cache_type_v]
        self.texts = [g.TextState(graph, self.n_ctx, np.float32, types) for _ in range(self.n_slots)]

        self.whole_texts = not graph.causal  # the tokens of an encoder see those after them
        self.can_cut = not self.texts[0].fixed  # the state of a recurrent model is that of the text's end
        self.n_snapshots = options.n_snapshots
        self.kept = [Snapshots[Arrays](self.n_snapshots) for _ in self.texts]  # copies of `fixed`

    # --- the forward pass

    def forward(self, batch: Batch) -> Floats:
        """Return the logits of ``batch.outputs``, ``(m, n_vocab)`` float32."""
        if self.graph.logits is None:
            raise RequestError("this model only embeds texts; it cannot generate")
        return self.rows(batch, self.graph.logits)

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states of ``batch.outputs`` after the output norm, ``(m, n_embd)`` float32."""
        return self.rows(batch, self.graph.hidden)

    def rows(self, batch: Batch, result: g.Value) -> Floats:
        """Add all tokens to their slots, and return the rows of ``batch.outputs``."""
        outputs, rows = set(batch.outputs.tolist()), []
        for first, last in self.parts(batch):
            tokens, text = batch.tokens[first:last].tolist(), self.start(batch, first, last)
            wanted = [i for i in range(first, last) if i in outputs]
            types = batch.checked_types(self.graph.n_types)[first:last].tolist()
            try:
                found = self.evaluate(tokens, text, *[result] if wanted else [], types=types)
            except Exception:
                text.n_tokens += 1  # the fixed states may have changed, so go back to a snapshot
                self.truncate(int(batch.slots[first]), text.n_tokens - 1)
                raise
            rows += [found[0][i - first] for i in wanted]
        return np.array(rows, np.float32).reshape(len(rows), *result.shape)

    def parts(self, batch: Batch) -> Iterator[tuple[int, int]]:
        """Yield which tokens are evaluated together, as the first index and the last + 1: a token, or a whole text."""
        n, first = len(batch.tokens), 0
        while first < n:
            last = first + 1
            while self.whole_texts and last < n and batch.slots[last] == batch.slots[first]:
                last += 1
            yield first, last
            first = last

    def start(self, batch: Batch, first: int, last: int) -> g.TextState:
        """Return the text that some tokens of the batch continue; RequestError if they cannot."""
        tokens, slot, position = batch.tokens[first:last], int(batch.slots[first]), int(batch.positions[first])
        if not 0 <= slot < self.n_slots or not 0 <= position <= self.n_ctx - len(tokens):
            raise RequestError(f"slot {slot} or position {position} is out of range")
        if self.n_vocab and not ((tokens >= 0) & (tokens < self.n_vocab)).all():
            raise RequestError(f"a token of {tokens.tolist()} is not in the vocabulary of {self.n_vocab} tokens")

        text = self.texts[slot]
        if position > text.n_tokens or (position < text.n_tokens and not self.can_cut):
            raise RequestError(f"position {position} does not continue slot {slot}, which has {text.n_tokens} tokens")
        text.n_tokens = position
        return text

    # --- cuts

    def truncate(self, slot: int, n: int) -> int:
        """Remove positions from the end of ``slot`` until at most ``n`` are left; return how many are left."""
        text = self.texts[slot]
        if n < text.n_tokens:
            self.kept[slot].cut(n)
            position, fixed = self.fixed_at(slot, n)
            for state, copy in zip(text.fixed.values(), fixed, strict=True):
                state[...] = copy
            text.n_tokens = position
        return text.n_tokens

    def fixed_at(self, slot: int, n: int) -> tuple[int, Arrays]:
        """Return the last position of at most ``n`` at which the slot can be cut, and the fixed states there."""
        text = self.texts[slot]
        if self.can_cut or n >= text.n_tokens:
            return min(n, text.n_tokens), list(text.fixed.values())
        return self.kept[slot].last(n) or (0, [np.zeros_like(state) for state in text.fixed.values()])

    def take_snapshot(self, slot: int) -> None:
        """Keep a copy of the state of ``slot`` at its end."""
        text = self.texts[slot]
        self.kept[slot].add(text.n_tokens, [state.copy() for state in text.fixed.values()])

    def snapshots(self, slot: int) -> Sequence[int]:
        """Return the positions of the snapshots of ``slot``."""
        return self.kept[slot].positions

    def shift(self, slot: int, first: int, n: int) -> None:
        """Raise LlamafwError; it is never called, because ``can_shift`` is False."""
        raise LlamafwError("the numpy backend cannot move positions")

    # --- saved states: keys and values, fixed states, then the position and the fixed states of each snapshot

    def state_size(self, n: int) -> int:
        """Return the largest possible size in bytes of the state of ``n`` positions."""
        text = self.texts[0]
        return n_bytes(text.arrays(n)) + (0 if self.can_cut else self.n_snapshots * self.snapshot_bytes)

    @property
    def snapshot_bytes(self) -> int:
        """The size of a snapshot with its position."""
        return 8 + n_bytes(self.texts[0].fixed.values())

    def save(self, slot: int, n: int) -> Bytes:
        """Return the state of the first ``n`` positions of ``slot``."""
        position, fixed = self.fixed_at(slot, n)
        if position != n:
            raise LlamafwError(f"slot {slot} cannot be cut at {n}")
        text = self.texts[slot]
        arrays = text.arrays(n)[: 2 * len(text.caches)] + fixed
        for before, states in self.kept[slot]:
            if before < n:
                arrays += [np.array([before], np.int64), *states]
        parts = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays)
        return np.concatenate([np.zeros(0, np.uint8), *parts])

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the contents of ``slot`` by the ``n`` positions in ``state``, which `save` returned."""
        if not 0 <= n <= self.n_ctx:
            raise LlamafwError(f"{n} positions do not fit into a context of {self.n_ctx}")
        text = self.texts[slot]
        arrays, fixed = text.arrays(n), list(text.fixed.values())
        n_snapshots, rest = divmod(state.nbytes - n_bytes(arrays), self.snapshot_bytes)
        if rest or not 0 <= n_snapshots <= (0 if self.can_cut else self.n_snapshots):
            raise LlamafwError(f"a state of {state.nbytes} bytes is not that of {n} positions, {n_bytes(arrays)} bytes")

        saved = unpack(state, [*arrays, *[np.zeros(1, np.int64), *fixed] * n_snapshots])
        for array in arrays:
            array[...] = next(saved)
        text.n_tokens = n
        self.kept[slot].cut(-1)
        for _ in range(n_snapshots):
            self.kept[slot].add(int(next(saved)[0]), [next(saved).copy() for _ in fixed])

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``."""
        return {"backend": "numpy", "n_threads": 1, "weight_bytes": self.weight_bytes}

    def close(self) -> None:
        """Do nothing: there are no threads or files to close."""


def n_bytes(arrays: Iterable[g.Array]) -> int:
    """Return the size of arrays in bytes."""
    return sum(array.nbytes for array in arrays)


def unpack(state: Bytes, like: Arrays) -> Iterator[g.Array]:
    """Yield arrays of the shapes and types of ``like``, which follow one another in ``state``."""
    start = 0
    for array in like:
        yield state[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        start += array.nbytes


def make_backend(context: BackendContext) -> Backend:
    """Return a backend with the model's weights."""
    return NumpyBackend(context)


@hookimpl
def register_backends(register: Register) -> None:
    """Register ``--backend numpy``."""
    register("numpy", make_backend)
