"""Conversion to the architecture ``baichuan``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llamafw import checkpoints as c
from llamafw_plugins.architectures.baichuan import ALIBI_BIAS, LAYERS_OF_13B

VOCABULARY_OF_BAICHUAN_2 = 125_696
"""Configs do not say that rows of the output matrix have length 1, as in Baichuan 2; its vocabulary tells it."""

LAYER = {**c.NORMS, **c.FEED_FORWARD, "attn_output": c.ATTENTION["attn_output"]}


@dataclass(frozen=True, slots=True)
class UnitRows(c.EachAlone):
    """Divide each row by its length, as Baichuan 2 does when it runs; the lengths are lost."""

    def change(self, array: c.Array) -> c.Array:
        """Return rows of length 1, in float32."""
        rows = array if array.dtype == np.float64 else array.astype(np.float32)
        lengths = np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
        result: c.Array = rows / lengths.astype(rows.dtype)
        return result

    def undo(self, array: c.Array) -> c.Array:
        """Return the rows as they are."""
        return array


def baichuan(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``BaichuanForCausalLM``, which has Q, K and V in one tensor."""
    config.require("hidden_act", "silu", default="silu")
    n_head, n_ctx = config.integer("num_attention_heads"), config.integer("max_position_embeddings", "model_max_length")
    is_13b = config.integer("num_hidden_layers") == LAYERS_OF_13B or not config.has("max_position_embeddings")
    config = config.with_defaults(max_position_embeddings=n_ctx)
    rope = c.rope(config, c.head_size(config))
    qkv = ("blk.{i}.attn_q.{part}", "blk.{i}.attn_k.{part}", "blk.{i}.attn_v.{part}")
    permute = c.Each(c.Permute(n_head), c.Permute(n_head), None)
    to_unit = (UnitRows(),) if config.integer("vocab_size") == VOCABULARY_OF_BAICHUAN_2 else ()
    return c.Conversion(
        "baichuan",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            "attention.max_alibi_bias": ALIBI_BIAS if is_13b else None,
        },
        [
            c.rule("output.weight", "lm_head.weight", *to_unit),
            *c.ends(),
            c.rule(qkv, "model.layers.{i}.self_attn.W_pack.{part}", c.Split(3), permute),
            *c.layers(LAYER),
        ],
        extra=rope.tensors,
    )
