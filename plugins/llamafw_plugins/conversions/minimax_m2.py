"""Conversion to the architecture ``minimax-m2``."""

from __future__ import annotations

from llamafw import checkpoints as c

LAYER = {**c.NORMS, **c.ATTENTION, **c.HEAD_NORMS, "ffn_gate_inp": "block_sparse_moe.gate"}
EXPERTS = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}
GATING_SIGMOID = 2


def minimax_m2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``MiniMaxM2ForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("scoring_func", "sigmoid", default="sigmoid")
    rope, n_ff = c.rope(config, c.head_size(config), base=5e6), config.integer("intermediate_size")
    return c.Conversion(
        "minimax-m2",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            "rope.dimension_count": config.integer("rotary_dim", default=rope.metadata["rope.dimension_count"]),
            "expert_count": config.integer("num_local_experts", "num_experts"),
            "expert_used_count": config.integer("num_experts_per_tok"),
            "expert_feed_forward_length": n_ff,
            "expert_gating_func": GATING_SIGMOID,
        },
        [
            *c.ends(),
            *c.layers(LAYER),
            c.rule("blk.{i}.exp_probs_b.bias", "model.layers.{i}.block_sparse_moe.e_score_correction_bias"),
            *c.experts(EXPERTS, "block_sparse_moe.experts"),
        ],
        extra=rope.tensors,
    )
