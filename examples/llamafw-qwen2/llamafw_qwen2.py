"""Describe the architecture ``qwen2``: Qwen2 and Qwen2.5 (arXiv:2407.10671), and models with the same graph.

It is Llama's architecture with two differences: Q, K and V have biases, and rotary positions pair the two halves of a
head instead of adjacent numbers. Metadata keys, with the prefix ``qwen2.``, are those of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. A feature that the description cannot express is an error,
because the model would run without it and give wrong answers.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from llamafw import Decoder, Model, ModelError, Register, hookimpl

requires_api = ">=1.0,<2"
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
BIASES = ("attn_q", "attn_k", "attn_v")


class Qwen2:
    """Reads the description of one model; every error names a metadata key or a tensor."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def describe(self) -> Decoder:
        """Return the description."""
        for key in ("expert_count", "attention.sliding_window"):
            if self.model.metadata.get(f"qwen2.{key}"):
                self.fail(f"qwen2.{key} is not supported")

        n_embd, n_head = self.integer("embedding_length"), self.integer("attention.head_count")
        n_head_kv = self.integer("attention.head_count_kv", n_head)
        if n_embd % n_head or n_embd // n_head % 2 or n_head % n_head_kv:
            self.fail(f"embedding length {n_embd}, {n_head} heads and {n_head_kv} KV heads do not fit together")

        size, n_layer, n_ff = n_embd // n_head, self.integer("block_count"), self.integer("feed_forward_length")
        n_vocab = self.check_tensor("token_embd.weight", None, n_embd)
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
        roles |= {f"{role}_bias": f"blk.{{layer}}.{role}.bias" for role in BIASES}

        for layer in range(n_layer):
            for role in LAYER:
                self.check_tensor(f"blk.{layer}.{role}.weight", *shapes[role])
            for role in BIASES:
                self.check_tensor(f"blk.{layer}.{role}.bias", shapes[role][0])

        self.check_tensor("output_norm.weight", n_embd)
        tied = "output.weight" not in self.model.tensors
        if not tied:
            self.check_tensor("output.weight", n_vocab, n_embd)
        n_expected = 3 - tied + n_layer * (len(LAYER) + len(BIASES))
        if len(self.model.tensors) != n_expected:
            self.fail(f"the file has {len(self.model.tensors)} tensors; a qwen2 model of this size has {n_expected}")

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
        """Return the angle per position of each pair in radians, ``(size // 2,)`` float64."""
        kind = self.model.metadata.get("qwen2.rope.scaling.type", "none")
        if kind not in ("none", "linear"):
            self.fail(f"qwen2.rope.scaling.type is {kind!r}; none and linear are supported")
        scale = 1.0 if kind == "none" else self.number("rope.scaling.factor", 1.0)
        base = self.number("rope.freq_base", 10_000.0)
        return base ** (-np.arange(0, size, 2, dtype=np.float64) / size) / scale

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive integer of the metadata."""
        value = self.model.metadata.get(f"qwen2.{key}", default)
        if type(value) is not int or not 0 < value < 2**31:
            self.fail(f"qwen2.{key} is {value!r}; it must be an integer from 1 to 2**31 - 1")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive number of the metadata."""
        value = self.model.metadata.get(f"qwen2.{key}", default)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            self.fail(f"qwen2.{key} is {value!r}; it must be a number above 0")
        return float(value)

    def check_tensor(self, name: str, *shape: int | None) -> int:
        """Check that a tensor exists in a shape, where None is any size, and return its number of rows."""
        tensor = self.model.tensors.get(name)
        if tensor is None:
            self.fail(f"the tensor {name!r} is missing")

        same = (expected in (None, size) for expected, size in zip(shape, tensor.shape, strict=False))
        if len(tensor.shape) != len(shape) or not all(same):
            self.fail(f"the tensor {name!r} has shape {tensor.shape}, not {shape}")
        return tensor.shape[0]

    def fail(self, message: str) -> NoReturn:
        """Raise a `ModelError` with the file's name."""
        raise ModelError(f"{self.model.path}: {message}")


def describe(model: Model) -> Decoder:
    """Return the description of a ``qwen2`` model."""
    return Qwen2(model).describe()


@hookimpl
def register_architectures(register: Register) -> None:
    """Register the architecture ``qwen2``."""
    register("qwen2", describe)
