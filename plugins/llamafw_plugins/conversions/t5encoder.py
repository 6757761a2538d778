"""Conversion to the architecture ``t5encoder``; of models with a decoder, the encoder is converted."""

from __future__ import annotations

from llamafw import checkpoints as c

BLOCK = "encoder.block.{i}"
LAYER = {
    "attn_norm": "layer.0.layer_norm",
    "attn_q": "layer.0.SelfAttention.q",
    "attn_k": "layer.0.SelfAttention.k",
    "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "ffn_norm": "layer.1.layer_norm",
    "ffn_down": "layer.1.DenseReluDense.wo",
}
PLAIN = {"ffn_up": "layer.1.DenseReluDense.wi"}
GATED = {"ffn_gate": "layer.1.DenseReluDense.wi_0", "ffn_up": "layer.1.DenseReluDense.wi_1"}


def t5encoder(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``T5EncoderModel``, ``T5Model`` or ``T5ForConditionalGeneration``."""
    config.require("feed_forward_proj", "relu", "gated-gelu", default="relu")
    config.require("relative_attention_max_distance", 128, default=128)
    is_gated = config.get("feed_forward_proj") == "gated-gelu"
    size, eps = config.integer("d_kv"), config.number("layer_norm_epsilon", default=1e-6)
    names = {**LAYER, **(GATED if is_gated else PLAIN)}
    return c.Conversion(
        "t5encoder",
        {
            "vocab_size": config.integer("vocab_size"),
            "context_length": config.integer("n_positions", default=512),
            "embedding_length": config.integer("d_model"),
            "block_count": config.integer("num_layers"),
            "feed_forward_length": config.integer("d_ff"),
            "attention.head_count": config.integer("num_heads"),
            "attention.key_length": size,
            "attention.value_length": size,
            "attention.layer_norm_epsilon": eps,
            "attention.layer_norm_rms_epsilon": eps,
            "attention.relative_buckets_count": config.integer("relative_attention_num_buckets", default=32),
        },
        [
            c.rule("token_embd.weight", "shared.weight"),
            c.rule("enc.output_norm.weight", "encoder.final_layer_norm.weight"),
            *(c.rule(f"enc.blk.{{i}}.{role}.weight", f"{BLOCK}.{name}.weight") for role, name in names.items()),
        ],
        aliases={"encoder.embed_tokens.": "shared."},
        skipped=("decoder.*", "lm_head.*"),
    )
