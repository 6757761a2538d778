"""Conversion to the architecture ``ernie4_5-moe``."""

from __future__ import annotations

from llamafw import checkpoints as c

LAYER = {
    **c.LAYER,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
BIAS = "moe_statics.e_score_correction_bias"
PREDICTION = ("model.mtp_block.*", "model.mtp_emb_norm.*", "model.mtp_hidden_norm.*", "model.mtp_linear_proj.*")


def ernie4_5_moe(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``Ernie4_5_MoeForCausalLM``, whose rotated pairs are adjacent, too."""
    config.require("hidden_act", "silu", default="silu")
    n_layer = config.integer("num_hidden_layers")
    config.require("moe_layer_end_index", -1, n_layer - 1, default=-1)
    rope, size = c.rope(config, c.head_size(config), base=500_000.0), config.integer("moe_intermediate_size")
    n_shared = config.integer("moe_num_shared_experts", default=2, low=0)
    return c.Conversion(
        "ernie4_5-moe",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config, 1e-5),
            **rope.metadata,
            "expert_count": config.integer("moe_num_experts", "num_experts"),
            "expert_used_count": config.integer("moe_k", "num_experts_per_tok"),
            "expert_feed_forward_length": size,
            "expert_shared_count": n_shared,
            "expert_shared_feed_forward_length": size * n_shared,
            "interleave_moe_layer_step": config.integer("moe_layer_interval", default=1),
            "leading_dense_block_count": config.integer("moe_layer_start_index", default=1, low=0),
        },
        [
            *c.ends(),
            *c.layers(LAYER),
            *(
                c.rule("blk.{i}.exp_probs_b.bias", f"model.layers.{{i}}.mlp.{prefix}{BIAS}", c.Reshape((-1,), (1, -1)))
                for prefix in ("", "gate.")
            ),
            *c.experts(),
        ],
        extra=rope.tensors,
        skipped=PREDICTION,
    )
