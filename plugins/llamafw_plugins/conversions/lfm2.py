"""Conversions to the architectures ``lfm2`` and ``lfm2moe``."""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c

LAYER = {
    "attn_norm": "operator_norm",
    "ffn_norm": "ffn_norm",
    **c.ATTENTION,
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
}
EXPERTS = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}
GATING_SIGMOID = 2


def lfm2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Lfm2ForCausalLM``."""
    return c.Conversion(
        "lfm2", {**_metadata(config), "feed_forward_length": _feed_forward_length(config)}, _rules(config)
    )


def lfm2moe(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Lfm2MoeForCausalLM``."""
    config.require("norm_topk_prob", True, default=True)
    config.require("routed_scaling_factor", 1.0, default=1.0)
    experts = {
        "leading_dense_block_count": config.integer("num_dense_layers", low=0),
        "expert_count": config.integer("num_experts"),
        "expert_used_count": config.integer("num_experts_per_tok"),
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "expert_gating_func": GATING_SIGMOID,
    }
    rules = [
        *c.renames({"ffn_gate_inp": "feed_forward.gate"}),
        c.rule("blk.{i}.exp_probs_b.bias", "model.layers.{i}.feed_forward.expert_bias"),
        *c.experts(EXPERTS, "feed_forward.experts"),
    ]
    return c.Conversion("lfm2moe", {**_metadata(config), **experts}, [*_rules(config), *rules])


def _metadata(config: c.Config) -> dict[str, Any]:
    n_layer = config.integer("num_hidden_layers")
    n_kv = config.integer("num_key_value_heads")
    attends = config.list("full_attn_idxs", default=())
    types = config.list(
        "layer_types", n=n_layer, default=["full_attention" if i in attends else "conv" for i in range(n_layer)]
    )
    rope = c.rope(config, c.head_size(config), base=1e6)
    if rope.tensors:
        config.fail("rope_scaling", "is not supported")
    return {
        **c.decoder_metadata(config),
        **rope.metadata,
        "attention.layer_norm_rms_epsilon": config.number("norm_eps", "block_norm_eps"),
        "attention.head_count_kv": [n_kv if one == "full_attention" else 0 for one in types],
        "shortconv.l_cache": config.integer("conv_L_cache"),
    }


def _rules(config: c.Config) -> list[c.Rule]:
    return [
        *c.ends(),
        c.rule("token_embd_norm.weight", "model.embedding_norm.weight"),
        *c.layers(LAYER),
        c.rule("blk.{i}.shortconv.conv.weight", "model.layers.{i}.conv.conv.weight", c.Squeeze()),
        c.rule("blk.{i}.shortconv.conv.bias", "model.layers.{i}.conv.conv.bias"),
    ]


def _feed_forward_length(config: c.Config) -> int:
    """Return the rows of a feed-forward block, which follow from several values of the config."""
    n_ff = config.integer("block_ff_dim", "intermediate_size")
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return n_ff
    n_ff = int(2 * n_ff / 3)
    n_ff = int(config.number("block_ffn_dim_multiplier", default=1.0) * n_ff)
    multiple = config.integer("block_multiple_of", default=256)
    return -(-n_ff // multiple) * multiple
