"""Conversion to the architecture ``modern-bert``."""

from __future__ import annotations

from llamafw import checkpoints as c

LAYER = {
    "attn_norm": "attn_norm",
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.Wo",
    "ffn_norm": "mlp_norm",
    "ffn_up": "mlp.Wi",
    "ffn_down": "mlp.Wo",
}
ENDS = {"token_embd": "embeddings.tok_embeddings", "token_embd_norm": "embeddings.norm", "output_norm": "final_norm"}
HEAD = {"cls": "head.dense", "cls.norm": "head.norm", "cls.output": "classifier"}
MASKED_TOKENS = ("decoder.*", "head.*")


def modern_bert(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``ModernBertModel``, or of one that scores texts."""
    n_layer, period = config.integer("num_hidden_layers"), config.integer("global_attn_every_n_layers", default=3)
    default = ["full_attention" if i % period == 0 else "sliding_attention" for i in range(n_layer)]
    types = config.list("layer_types", n=n_layer, default=default)
    full, local = (c.rope_section(config, f"{kind}_attention") for kind in ("full", "sliding"))
    for section in (full, local):
        section.require("rope_type", "default")
    base = full.number("rope_theta", default=config.number("global_rope_theta", default=160_000.0))
    local_base = local.number("rope_theta", default=config.number("local_rope_theta", default=10_000.0))
    is_ranker = any("SequenceClassification" in name for name in config.list("architectures", default=()))
    if is_ranker:
        config.require("classifier_pooling", "mean", default="cls")  # the head of GGUF files scores the mean
        config.require("classifier_activation", "gelu", default="gelu")
    rules = [c.rule(f"{role}.{{part}}", f"{name}.{{part}}") for role, name in ENDS.items()]
    rules += [c.rule(f"{role}.{{part}}", f"{name}.{{part}}") for role, name in HEAD.items()] if is_ranker else []
    return c.Conversion(
        "modern-bert",
        {
            "vocab_size": config.integer("vocab_size"),
            "context_length": config.integer("max_position_embeddings"),
            "embedding_length": config.integer("hidden_size"),
            "block_count": n_layer,
            "feed_forward_length": config.integer("intermediate_size"),
            "attention.head_count": config.integer("num_attention_heads"),
            "attention.layer_norm_epsilon": config.number("norm_eps", default=1e-5),
            "attention.causal": False,
            "attention.sliding_window": config.integer("local_attention", default=128),
            "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in types],
            "rope.freq_base": base,
            "rope.freq_base_swa": local_base,
            "hidden_activation": config.text("hidden_activation", default="gelu"),
            **({"pooling_type": c.POOLING_TYPES["rank"]} if is_ranker else {}),
        },
        [*rules, *c.renames(LAYER, "layers.{i}")],
        {},
        {"model.": ""},
        () if is_ranker else MASKED_TOKENS,
    )
