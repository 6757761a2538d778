"""Conversion to the architecture ``gpt-oss``; experts keep their MXFP4 blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import checkpoints as c
from llamafw_plugins.conversions.gemma2 import windows

PERIOD = 2  # one layer of so many sees all tokens
BLOCK = 32  # weights per MXFP4 block
EXPERTS = "model.layers.{i}.mlp.experts"


@dataclass(frozen=True)
class Mxfp4(c.Change):
    """MXFP4 blocks and their scales, apart in the checkpoint, together in GGUF.

    In the checkpoint a byte has two neighbours: ``(…, n_out, n_block, 16)`` and ``(…, n_out, n_block)`` uint8. In GGUF
    a byte has a weight of the block's first half and one of its second half, and the scale precedes the 16 bytes.
    """

    n: int  # tensors whose rows alternate in the checkpoint

    def forward(self, arrays: Sequence[c.Array]) -> list[Any]:
        """Return ``n`` tensors of packed blocks."""
        blocks, scales = arrays
        self._check(arrays)
        nibbles = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], BLOCK)
        halves = nibbles[..., : BLOCK // 2] | nibbles[..., BLOCK // 2 :] << 4
        packed = np.concatenate([scales[..., None], halves], -1)
        return [self._part(packed[:, i :: self.n]) for i in range(self.n)]

    def describe(self, arrays: Sequence[c.Array]) -> list[Any]:
        """Return packed blocks of the same shapes that need no memory."""
        blocks = arrays[0]
        self._check(arrays)
        n_expert, n_out, n_block, _ = blocks.shape
        empty = np.broadcast_to(np.zeros((), np.uint8), (n_expert, n_out // self.n, n_block, BLOCK // 2 + 1))
        return [self._part(empty)] * self.n

    def backward(self, arrays: Sequence[Any]) -> list[c.Array]:
        """Return blocks and scales."""
        rows = np.stack([one.blocks for one in arrays], 2)  # (n_expert, n_out, n, n_block, 17)
        rows = rows.reshape(rows.shape[0], -1, *rows.shape[3:])
        scales, halves = rows[..., 0], rows[..., 1:]
        nibbles = np.concatenate([halves & 15, halves >> 4], -1)
        return [nibbles[..., ::2] | nibbles[..., 1::2] << 4, scales]

    def _check(self, arrays: Sequence[c.Array]) -> None:
        blocks, scales = arrays
        if blocks.ndim != 4 or blocks.shape[-1] != BLOCK // 2 or scales.shape != blocks.shape[:-1]:
            raise ValueError(f"MXFP4 blocks of shape {blocks.shape} with scales of {scales.shape}")
        if blocks.dtype != np.uint8 or scales.dtype != np.uint8 or blocks.shape[1] % self.n:
            raise ValueError(f"MXFP4 blocks of {blocks.dtype} with scales of {scales.dtype}, {blocks.shape[1]} rows")

    @staticmethod
    def _part(packed: c.Array) -> c.Packed:
        n_expert, n_out, n_block, _ = packed.shape
        return c.Packed("MXFP4", (n_expert, n_out, n_block * BLOCK), packed)


def gpt_oss(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``GptOssForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("swiglu_limit", 7.0, default=7.0)
    n_layer = config.integer("num_hidden_layers")
    rope = c.rope(config, c.head_size(config))
    gate, up, down = (f"blk.{{i}}.ffn_{name}_exps" for name in ("gate", "up", "down"))
    return c.Conversion(
        "gpt-oss",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            **windows(config, c.layer_types(config, n_layer, PERIOD), PERIOD),
            "expert_count": config.integer("num_local_experts"),
            "expert_used_count": config.integer("num_experts_per_tok", "experts_per_token"),
            "expert_feed_forward_length": config.integer("intermediate_size"),
        },
        [
            *c.ends(),
            *c.layers({"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}),
            *c.layers({**c.ATTENTION, "ffn_gate_inp": "mlp.router"}),
            c.rule("blk.{i}.attn_sinks.weight", "model.layers.{i}.self_attn.sinks"),
            c.rule(
                (f"{gate}.weight", f"{up}.weight"), f"{EXPERTS}.gate_up_proj", c.Transpose(), c.Deinterleave(2, axis=1)
            ),
            c.rule((f"{gate}.bias", f"{up}.bias"), f"{EXPERTS}.gate_up_proj_bias", c.Deinterleave(2, axis=1)),
            c.rule(f"{down}.weight", f"{EXPERTS}.down_proj", c.Transpose()),
            c.rule(f"{down}.bias", f"{EXPERTS}.down_proj_bias"),
            c.rule(
                (f"{gate}.weight", f"{up}.weight"),
                (f"{EXPERTS}.gate_up_proj_blocks", f"{EXPERTS}.gate_up_proj_scales"),
                Mxfp4(2),
            ),
            c.rule(f"{down}.weight", (f"{EXPERTS}.down_proj_blocks", f"{EXPERTS}.down_proj_scales"), Mxfp4(1)),
        ],
        extra=rope.tensors,
    )
