"""Conversions to the architectures ``gpt2``, ``gptneox``, ``bloom`` and ``mpt``."""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c

GPT2 = {"attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj", "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
NORMS_OF_GPT2 = {"attn_norm": "ln_1", "ffn_norm": "ln_2"}
FEED_FORWARD = {"ffn_up": "mlp.dense_h_to_4h", "ffn_down": "mlp.dense_4h_to_h"}
NEOX = {**c.NORMS, "attn_output": "attention.dense", **FEED_FORWARD}
BLOOM = {**c.NORMS, "attn_output": "self_attention.dense", **FEED_FORWARD}
MPT = {
    "attn_norm": "norm_1",
    "ffn_norm": "norm_2",
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.out_proj",
    "ffn_up": "ffn.up_proj",
    "ffn_down": "ffn.down_proj",
}
MPT_NORMS = {"attn_q_norm": "attn.q_ln", "attn_k_norm": "attn.k_ln"}
LAYER = "transformer.h.{i}"


def gpt2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``GPT2LMHeadModel``, whose matrices have one column per output."""
    config.require("activation_function", "gelu_new", "gelu_pytorch_tanh", default="gelu_new")
    config.require("scale_attn_weights", True, default=True)
    config.require("scale_attn_by_inverse_layer_idx", False, default=False)
    config.require("add_cross_attention", False, default=False)
    n_embd = config.integer("n_embd")
    return c.Conversion(
        "gpt2",
        {
            **_metadata(config, n_embd, "n_layer", "n_head"),
            "context_length": config.integer("n_positions", "n_ctx"),
            "feed_forward_length": config.integer("n_inner", default=4 * n_embd),
            "attention.layer_norm_epsilon": config.number("layer_norm_epsilon", default=1e-5),
        },
        [
            *c.ends(root="transformer.", embedding="wte", norm="ln_f"),
            c.rule("position_embd.weight", "transformer.wpe.weight"),
            *c.renames(NORMS_OF_GPT2, LAYER),
            *c.renames(GPT2, LAYER, c.Transpose()),
        ],
        aliases={f"{name}.": f"transformer.{name}." for name in ("wte", "wpe", "h", "ln_f")},
        skipped=("*.attn.bias",),  # the causal mask of old checkpoints
    )


def gptneox(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``GPTNeoXForCausalLM``."""
    config.require("hidden_act", "gelu", default="gelu")
    n_embd, n_head = config.integer("hidden_size"), config.integer("num_attention_heads")
    layer = "gpt_neox.layers.{i}"
    return c.Conversion(
        "gptneox",
        {
            **_metadata(config, n_embd, "num_hidden_layers", "num_attention_heads"),
            **_rope_of_gptneox(config, n_embd // n_head),
            "context_length": config.integer("max_position_embeddings"),
            "feed_forward_length": config.integer("intermediate_size"),
            "attention.layer_norm_epsilon": config.number("layer_norm_eps", default=1e-5),
            "use_parallel_residual": config.flag("use_parallel_residual", default=True),
        },
        [
            c.rule("output.{part}", "embed_out.{part}"),
            *c.ends(root="gpt_neox.", embedding="embed_in", norm="final_layer_norm"),
            *c.layers(NEOX, layer=layer),
            *c.renames({"attn_qkv": "attention.query_key_value"}, layer, c.Regroup(n_head, 3)),
        ],
        skipped=("*.attention.bias", "*.attention.masked_bias"),
    )


def bloom(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``BloomForCausalLM``."""
    config.require("apply_residual_connection_post_layernorm", False, default=False)
    n_embd, n_head = config.integer("hidden_size", "n_embed"), config.integer("n_head", "num_attention_heads")
    names = ("word_embeddings", "word_embeddings_layernorm", "h", "ln_f")
    return c.Conversion(
        "bloom",
        {
            **_metadata(config, n_embd, "n_layer", "n_head"),
            "attention.head_count_kv": n_head,
            "context_length": config.integer("seq_length", default=2048),
            "feed_forward_length": 4 * n_embd,
            "attention.layer_norm_epsilon": config.number("layer_norm_epsilon", default=1e-5),
        },
        [
            *c.ends(root="transformer.", embedding="word_embeddings", norm="ln_f"),
            c.rule("token_embd_norm.{part}", "transformer.word_embeddings_layernorm.{part}"),
            *c.layers(BLOOM, layer=LAYER),
            *c.renames({"attn_qkv": "self_attention.query_key_value"}, LAYER, c.Regroup(n_head, 3)),
        ],
        aliases={f"{name}.": f"transformer.{name}." for name in names},
    )


def mpt(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``MptForCausalLM`` or ``MPTForCausalLM``."""
    config.require("no_bias", True, default=True)
    config.require("logit_scale", None)
    how = config.section("attn_config")
    how.require("alibi", True, default=True)
    how.require("attn_type", "multihead_attention", default="multihead_attention")
    how.require("prefix_lm", False, default=False)
    how.require("softmax_scale", None)
    n_embd, norms = config.integer("d_model"), MPT_NORMS if how.flag("qk_ln", default=False) else {}
    return c.Conversion(
        "mpt",
        {
            **_metadata(config, n_embd, "n_layers", "n_heads"),
            "context_length": config.integer("max_seq_len"),
            "feed_forward_length": config.integer("expansion_ratio", default=4) * n_embd,
            "attention.layer_norm_epsilon": config.number("layer_norm_epsilon", default=1e-5),
            "attention.clamp_kqv": how.number("clip_qkv") if how.has("clip_qkv") else None,
            "attention.max_alibi_bias": how.number("alibi_bias_max", default=8.0),
        },
        [
            *c.ends(root="transformer.", embedding="wte", norm="norm_f"),
            *c.layers({**MPT, **norms}, layer="transformer.blocks.{i}"),
        ],
    )


def _metadata(config: c.Config, n_embd: int, layers: str, heads: str) -> dict[str, Any]:
    """Return the keys of all four, given the names of the numbers of layers and heads."""
    return {
        "vocab_size": config.integer("vocab_size"),
        "embedding_length": n_embd,
        "block_count": config.integer(layers, "num_hidden_layers"),
        "attention.head_count": config.integer(heads, "num_attention_heads"),
    }


def _rope_of_gptneox(config: c.Config, size: int) -> dict[str, Any]:
    """Return the keys of rotations, which older configs give as ``rotary_pct`` and ``rotary_emb_base``."""
    section = c.rope_section(config)
    section.require("rope_type", "default")
    share = section.number("partial_rotary_factor", default=config.number("rotary_pct", default=0.25))
    base = section.number("rope_theta", default=config.number("rotary_emb_base", default=10_000.0))
    return {"rope.dimension_count": int(share * size), "rope.freq_base": base}
