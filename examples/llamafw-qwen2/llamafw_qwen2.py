"""The architecture ``qwen2``: Qwen2 and Qwen2.5 (arXiv:2407.10671), and models that share their graph.

It is Llama's with biases on Q, K and V, and rotary positions on the two halves of a head instead of adjacent pairs.
Keys are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, below ``qwen2.``. What this description
cannot express is an error: a model that is run without it would answer, and be wrong.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from llamafw import Decoder, Model, ModelError, Register, hookimpl

requires_api = ">=1.0,<2"
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
BIASED = ("attn_q", "attn_k", "attn_v")


class Qwen2:
    """Reads one model. Every failure names its key or its tensor."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def describe(self) -> Decoder:
        """Return what a backend needs to know."""
        for key in ("expert_count", "attention.sliding_window"):
            if self.model.metadata.get(f"qwen2.{key}"):
                self.fail(f"qwen2.{key} is not supported")
        n_embd, n_head = self.integer("embedding_length"), self.integer("attention.head_count")
        n_head_kv = self.integer("attention.head_count_kv", n_head)
        if n_embd % n_head or n_embd // n_head % 2 or n_head % n_head_kv:
            self.fail(f"{n_embd} numbers in {n_head} heads, {n_head_kv} of them for K and V, cannot be")
        size, n_layer, n_ff = n_embd // n_head, self.integer("block_count"), self.integer("feed_forward_length")
        n_vocab = self.tensor("token_embd.weight", None, n_embd)
        q, kv = n_head * size, n_head_kv * size
        shapes: dict[str, tuple[int, ...]] = {
            "attn_norm": (n_embd,),
            "attn_q": (q, n_embd),
            "attn_k": (kv, n_embd),
            "attn_v": (kv, n_embd),
            "attn_output": (n_embd, q),
            "ffn_norm": (n_embd,),
            "ffn_gate": (n_ff, n_embd),
            "ffn_up": (n_ff, n_embd),
            "ffn_down": (n_embd, n_ff),
        }
        roles = {role: f"blk.{{layer}}.{role}.weight" for role in LAYER}
        roles |= {f"{role}_bias": f"blk.{{layer}}.{role}.bias" for role in BIASED}
        for layer in range(n_layer):
            for role in LAYER:
                self.tensor(f"blk.{layer}.{role}.weight", *shapes[role])
            for role in BIASED:
                self.tensor(f"blk.{layer}.{role}.bias", shapes[role][0])
        self.tensor("output_norm.weight", n_embd)
        tied = "output.weight" not in self.model.tensors
        if not tied:
            self.tensor("output.weight", n_vocab, n_embd)
        n_known = 3 - tied + n_layer * (len(LAYER) + len(BIASED))
        if len(self.model.tensors) != n_known:
            self.fail(f"there are {len(self.model.tensors)} tensors, and qwen2 as known here has {n_known}")
        return Decoder(
            n_vocab=n_vocab,
            n_ctx_train=self.integer("context_length"),
            n_embd=n_embd,
            n_layer=n_layer,
            n_head=n_head,
            n_head_kv=n_head_kv,
            n_embd_head=size,
            n_ff=n_ff,
            norm_eps=self.number("attention.layer_norm_rms_epsilon"),
            rope_frequencies=self.frequencies(size),
            rope_magnitude=1.0,
            rope_interleaved=False,
            attention_scale=1 / math.sqrt(size),
            activation="silu",
            tensors={
                "token_embd": "token_embd.weight",
                "output_norm": "output_norm.weight",
                "output": "token_embd.weight" if tied else "output.weight",
                **roles,
            },
        )

    def frequencies(self, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the radians per position of each pair, ``(size // 2,)``."""
        kind = self.model.metadata.get("qwen2.rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            self.fail(f"qwen2.rope.scaling.type is {kind!r}; none and linear are supported")
        scale = 1.0 if kind == "none" else self.number("rope.scaling.factor", 1.0)
        base = self.number("rope.freq_base", 10_000.0)
        return base ** (-np.arange(0, size, 2, dtype=np.float64) / size) / scale

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number of the metadata."""
        value = self.model.metadata.get(f"qwen2.{key}", default)
        if type(value) is not int or not 0 < value < 2**31:
            self.fail(f"qwen2.{key} is {value!r}; it must be a whole number from 1 to 2**31 - 1")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number of the metadata."""
        value = self.model.metadata.get(f"qwen2.{key}", default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            self.fail(f"qwen2.{key} is {value!r}; it must be a number above 0")
        return float(value)

    def tensor(self, name: str, *shape: int | None) -> int:
        """Check that a tensor is there, in its shape, None standing for any size; return its number of rows."""
        found = self.model.tensors.get(name)
        if found is None:
            self.fail(f"the tensor {name!r} is missing")
        same = (want in (None, have) for want, have in zip(shape, found.shape, strict=False))
        if len(found.shape) != len(shape) or not all(same):
            self.fail(f"the tensor {name!r} has shape {found.shape}, not {shape}")
        return found.shape[0]

    def fail(self, what: str) -> NoReturn:
        """Raise the error, with the file's name."""
        raise ModelError(f"{self.model.path}: {what}")


def describe(model: Model) -> Decoder:
    """Return the description of a ``qwen2`` model."""
    return Qwen2(model).describe()


@hookimpl
def register_architectures(register: Register) -> None:
    """Run models whose ``general.architecture`` is ``qwen2``."""
    register("qwen2", describe)
