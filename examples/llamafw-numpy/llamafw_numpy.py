"""Compute the forward pass of a `llamafw.Decoder` in plain numpy, in float32, one token at a time.

This backend is written to be read and copied. The logits of every backend must not depend, to the last bit, on the
other tokens of a batch. This one guarantees it by computing each token alone, which is simple and slow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llamafw import (
    Backend,
    BackendContext,
    Batch,
    Bytes,
    Decoder,
    Floats,
    LlamafwError,
    Register,
    RequestError,
    check_decoder,
    hookimpl,
)

requires_api = ">=1.0,<2"
CACHE_TYPES = {"f16": np.float16, "f32": np.float32}
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "output")
ROLES = ("token_embd", "attn_norm", "ffn_norm", "output_norm", *MATRICES)
BIASES = tuple(f"{role}_bias" for role in MATRICES)


class NumpyBackend:
    """A `llamafw.Backend` in plain numpy."""

    exact = True  # each token is computed alone
    whole_texts = False  # a token sees the tokens before it only, so a text may be several batches
    can_cut = can_shift = True  # the cache has a key and a value for each position

    def __init__(self, context: BackendContext) -> None:
        decoder, options = context.decoder, context.options
        check_decoder(decoder, "numpy", activations=("silu",), required=ROLES, optional=BIASES)
        self.decoder = decoder
        self.n_slots, self.n_batch = options.n_slots, options.n_batch
        self.n_ctx = options.n_ctx or decoder.n_ctx_train
        self.n_vocab, self.n_embd = decoder.n_vocab, decoder.n_embd
        self.state_format = "numpy-1"

        self.layers = [dict(read_weights(context, layer)) for layer in range(decoder.n_layer)]
        self.globals = dict(read_weights(context, None))  # embedding, output norm and output matrix

        shape = self.n_slots, decoder.n_layer, self.n_ctx, decoder.n_head_kv, decoder.n_embd_head
        self.keys = np.zeros(shape, CACHE_TYPES[options.cache_type_k])
        self.values = np.zeros(shape, CACHE_TYPES[options.cache_type_v])
        self.n_filled = [0] * self.n_slots  # cached positions of each slot

    # --- the forward pass

    def forward(self, batch: Batch) -> Floats:
        """Return the logits of ``batch.outputs``, ``(m, n_vocab)`` float32."""
        rows = [linear(self.globals, "output", x) for x in self.run(batch)]
        return np.array(rows, np.float32).reshape(len(rows), self.n_vocab)

    def hidden(self, batch: Batch) -> Floats:
        """Return the hidden states of ``batch.outputs`` after the output norm, ``(m, n_embd)`` float32."""
        rows = list(self.run(batch))
        return np.array(rows, np.float32).reshape(len(rows), self.n_embd)

    def run(self, batch: Batch) -> Iterator[Floats]:
        """Add all tokens to the cache and yield the hidden states of ``batch.outputs``."""
        outputs = set(batch.outputs.tolist())
        tokens = zip(batch.tokens.tolist(), batch.positions.tolist(), batch.slots.tolist(), strict=True)
        for i, (token, position, slot) in enumerate(tokens):
            if not (0 <= token < self.n_vocab and 0 <= slot < self.n_slots and 0 <= position < self.n_ctx):
                raise RequestError(f"token {token}, slot {slot} or position {position} is out of range")
            if position > self.n_filled[slot]:
                raise RequestError(f"position {position} does not continue slot {slot}")

            x = self.token(token, position, slot)
            self.n_filled[slot] = position + 1
            if i in outputs:
                yield norm(x, self.globals["output_norm"], self.decoder.norm_eps)

    def token(self, token: int, position: int, slot: int) -> Floats:
        """Return the last layer's output for one token, ``(n_embd,)``."""
        x: Floats = self.globals["token_embd"][token].copy()

        for layer, w in enumerate(self.layers):
            x += self.attention(norm(x, w["attn_norm"], self.decoder.norm_eps), w, position, slot, layer)

            h = norm(x, w["ffn_norm"], self.decoder.norm_eps)
            gate = linear(w, "ffn_gate", h)
            with np.errstate(over="ignore"):  # exp may overflow to inf, which makes the gate 0
                gate /= 1 + np.exp(-gate)  # SiLU
            x += linear(w, "ffn_down", gate * linear(w, "ffn_up", h))

        return x

    def attention(self, h: Floats, w: Mapping[str, Floats], position: int, slot: int, layer: int) -> Floats:
        """Add the token's key and value to the cache and return its attention output, ``(n_embd,)``."""
        d = self.decoder
        q = linear(w, "attn_q", h).reshape(d.n_head, d.n_embd_head)
        k = linear(w, "attn_k", h).reshape(d.n_head_kv, d.n_embd_head)

        self.keys[slot, layer, position] = rotate(k, position, d)
        self.values[slot, layer, position] = linear(w, "attn_v", h).reshape(k.shape)
        keys, values = (c[slot, layer, : position + 1].astype(np.float32) for c in (self.keys, self.values))

        q = rotate(q, position, d) * np.float32(d.attention_scale)
        output = np.empty_like(q)
        for head in range(d.n_head):
            kv_head = head // (d.n_head // d.n_head_kv)
            scores = keys[:, kv_head] @ q[head]
            weights = np.exp(scores - scores.max())
            output[head] = (weights / weights.sum()) @ values[:, kv_head]

        return linear(w, "attn_output", output.reshape(-1))

    # --- the cache

    def truncate(self, slot: int, n: int) -> int:
        """Remove the positions from ``n`` on from the cache of ``slot``; return how many are left."""
        self.n_filled[slot] = min(self.n_filled[slot], n)
        return self.n_filled[slot]

    def shift(self, slot: int, first: int, n: int) -> None:
        """Remove ``n`` positions from ``first`` on, and move the rest down, with keys rotated back by ``n``."""
        end = self.n_filled[slot]
        if not 0 <= first <= first + n <= end:
            raise LlamafwError(f"slot {slot} holds {end} tokens; {n} tokens from position {first} on cannot be removed")

        moved = self.keys[slot, :, first + n : end].astype(np.float32)
        self.keys[slot, :, first : end - n] = rotate(moved, -n, self.decoder, magnitude=False)
        self.values[slot, :, first : end - n] = self.values[slot, :, first + n : end].copy()
        self.n_filled[slot] = end - n

    def state_size(self, n: int) -> int:
        """Return the size in bytes of the state of ``n`` positions."""
        return int(self.keys[0, :, :n].nbytes + self.values[0, :, :n].nbytes)

    def save(self, slot: int, n: int) -> Bytes:
        """Return the state of the first ``n`` positions of ``slot``."""
        if not 0 <= n <= self.n_filled[slot]:
            raise LlamafwError(f"slot {slot} holds {self.n_filled[slot]} tokens, not {n}")
        parts = [np.ascontiguousarray(c[slot, :, :n]).view(np.uint8).reshape(-1) for c in (self.keys, self.values)]
        return np.concatenate(parts)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        """Replace the cache of ``slot`` by the ``n`` positions in ``state``, which `save` returned."""
        if not 0 <= n <= self.n_ctx:
            raise LlamafwError(f"{n} positions do not fit into a context of {self.n_ctx}")

        keys, values = self.keys[slot, :, :n], self.values[slot, :, :n]
        if state.nbytes != keys.nbytes + values.nbytes:
            raise LlamafwError(f"the state has {state.nbytes} bytes; {n} positions need {keys.nbytes + values.nbytes}")

        keys[...] = state[: keys.nbytes].view(keys.dtype).reshape(keys.shape)
        values[...] = state[keys.nbytes :].view(values.dtype).reshape(values.shape)
        self.n_filled[slot] = n

    def describe(self) -> Mapping[str, Any]:
        """Return facts for logs and ``llamafw bench``."""
        n_bytes = sum(w.nbytes for part in (*self.layers, self.globals) for w in part.values())
        return {"backend": "numpy", "n_threads": 1, "weight_bytes": n_bytes}

    def close(self) -> None:
        """Do nothing: there are no threads or files to close."""


def read_weights(context: BackendContext, layer: int | None) -> Iterator[tuple[str, Floats]]:
    """Yield the role and the float32 weights of each tensor of a layer, or of the global ones for None."""
    for role, name in context.decoder.tensors.items():
        if ("{layer}" in name) == (layer is not None):
            tensor = context.model.tensors[name.format(layer=layer)]
            yield role, context.quants[tensor.type_name].dequantize(tensor.data, tensor.shape)


def linear(w: Mapping[str, Floats], role: str, x: Floats) -> Floats:
    """Return ``W x``, plus the bias if the model has one."""
    y: Floats = w[role] @ x
    return y + w[f"{role}_bias"] if f"{role}_bias" in w else y


def norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """Return RMSNorm (arXiv:1910.07467) of ``x``, ``(n_embd,)``."""
    y: Floats = x / np.sqrt(np.mean(x * x) + np.float32(eps)) * weight
    return y


def rotate(x: Floats, n: int, decoder: Decoder, *, magnitude: bool = True) -> Floats:
    """Return ``x``, ``(…, n_embd_head)``, rotated by ``n`` positions (RoPE, arXiv:2104.09864)."""
    angles, n_rot = n * decoder.rope_frequencies, 2 * len(decoder.rope_frequencies)
    scale = decoder.rope_magnitude if magnitude else 1.0
    cos, sin = ((part * scale).astype(np.float32) for part in (np.cos(angles), np.sin(angles)))

    if decoder.rope_interleaved:
        first, second = slice(0, n_rot, 2), slice(1, n_rot, 2)
    else:
        first, second = slice(0, n_rot // 2), slice(n_rot // 2, n_rot)

    y = x.copy()
    y[..., first] = x[..., first] * cos - x[..., second] * sin
    y[..., second] = x[..., first] * sin + x[..., second] * cos
    return y


def make_backend(context: BackendContext) -> Backend:
    """Return a backend with the model's weights."""
    return NumpyBackend(context)


@hookimpl
def register_backends(register: Register) -> None:
    """Register ``--backend numpy``."""
    register("numpy", make_backend)
