"""Conversion to the architecture ``falcon``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llamafw import checkpoints as c

BLOCK = "transformer.h.{i}"
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_norm_2": "ln_attn",
    "attn_output": "self_attention.dense",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}


@dataclass(frozen=True, slots=True)
class QueriesOfKeys(c.EachAlone):
    """Rows of Q, K and V: by key in the checkpoint (its queries, itself, its value), one after the other in GGUF."""

    n_head: int
    n_head_kv: int

    def change(self, array: c.Array) -> c.Array:
        """Return the rows of all queries, then those of all keys, then those of all values."""
        heads = array.reshape(self.n_head_kv, self.n_head // self.n_head_kv + 2, -1, *array.shape[1:])
        parts = (heads[:, :-2], heads[:, -2], heads[:, -1])
        return np.concatenate([part.reshape(-1, *array.shape[1:]) for part in parts])

    def undo(self, array: c.Array) -> c.Array:
        """Return the rows by key."""
        heads = array.reshape(self.n_head + 2 * self.n_head_kv, -1, *array.shape[1:])
        parts = np.split(heads, [self.n_head, self.n_head + self.n_head_kv])
        by_key = [part.reshape(self.n_head_kv, -1, *part.shape[1:]) for part in parts]
        return np.concatenate(by_key, 1).reshape(array.shape)

    def describe(self, arrays: Sequence[c.Array]) -> list[c.Array]:
        """Return the arrays, whose shapes stay the same."""
        n = self.n_head + 2 * self.n_head_kv
        if any(len(array) % n for array in arrays):
            raise ValueError(f"{len(arrays[0])} rows cannot be divided into {n} heads")
        return list(arrays)


def falcon(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``FalconForCausalLM``."""
    config.require("alibi", False, default=False)
    config.require("activation", "gelu", default="gelu")
    is_new = config.flag("new_decoder_architecture", default=False)
    if not is_new:
        config.require("parallel_attn", True, default=True)
    n_embd, n_head = config.integer("hidden_size"), config.integer("num_attention_heads", "n_head")
    n_kv = config.integer("num_kv_heads", "n_head_kv", default=n_head)
    if not is_new and config.flag("multi_query", default=True):
        n_kv = 1
    rope = c.rope(config, n_embd // n_head)
    return c.Conversion(
        "falcon",
        {
            "vocab_size": config.integer("vocab_size"),
            "context_length": config.integer("max_position_embeddings", default=2048),
            "embedding_length": n_embd,
            "block_count": config.integer("num_hidden_layers", "n_layer"),
            "feed_forward_length": config.integer("ffn_hidden_size", default=4 * n_embd),
            "attention.head_count": n_head,
            "attention.head_count_kv": n_kv,
            "attention.layer_norm_epsilon": config.number("layer_norm_epsilon", default=1e-5),
            **rope.metadata,
        },
        [
            *c.ends(root="transformer.", embedding="word_embeddings", norm="ln_f"),
            *_first_norm(config, is_new),
            *c.layers(LAYER, layer=BLOCK),
            *c.renames({"attn_qkv": "self_attention.query_key_value"}, BLOCK, QueriesOfKeys(n_head, n_kv)),
        ],
        extra=rope.tensors,
    )


def _first_norm(config: c.Config, is_new: bool) -> list[c.Rule]:
    """Return the rules for the norm of the feed-forward block, if attention has another one."""
    has_two = is_new and config.integer("num_ln_in_parallel_attn", default=2) == 2
    return c.renames({"attn_norm": "ln_mlp"}, BLOCK) if has_two else []
