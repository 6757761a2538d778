"""Conversion to the architecture ``neo-bert``.

Checkpoints have the rows of Q, K and V by head. GGUF files have all of Q first, then K and V, as llama.cpp's graph
reads them.
"""

from __future__ import annotations

from llamafw import checkpoints as c
from llamafw_plugins.conversions.falcon import QueriesOfKeys

BLOCK = "transformer_encoder.{i}"
LAYER = {
    "attn_norm": "attention_norm",
    "attn_output": "wo",
    "ffn_norm": "ffn_norm",
    "ffn_up": "ffn.w12",
    "ffn_down": "ffn.w3",
}
ENDS = {"token_embd": "encoder", "enc.output_norm": "layer_norm"}
HEAD = {"cls": "dense", "cls.output": "classifier"}


def neo_bert(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``NeoBERT``, with or without a head."""
    n_head, n_embd = config.integer("num_attention_heads"), config.integer("hidden_size")
    config.require("dim_head", n_embd // n_head, default=n_embd // n_head)
    is_ranker = "NeoBERTForSequenceClassification" in config.list("architectures", default=())
    names = {**ENDS, **(HEAD if is_ranker else {})}
    return c.Conversion(
        "neo-bert",
        {
            "vocab_size": config.integer("vocab_size"),
            "context_length": config.integer("max_length", default=1024),
            "embedding_length": n_embd,
            "block_count": config.integer("num_hidden_layers"),
            "feed_forward_length": -(int(2 * config.integer("intermediate_size") / 3) // -8) * 8,  # as in the model
            "attention.head_count": n_head,
            "attention.layer_norm_rms_epsilon": config.number("norm_eps", default=1e-6),
            "attention.causal": False,
            "rope.freq_base": 10_000.0,
            "pooling_type": c.POOLING_TYPES["rank" if is_ranker else "cls"],
        },
        [
            *(c.rule(f"{role}.{{part}}", f"{name}.{{part}}") for role, name in names.items()),
            *c.renames({"attn_qkv": "qkv"}, BLOCK, QueriesOfKeys(n_head, n_head)),
            *c.layers(LAYER, layer=BLOCK),
        ],
        aliases={"model.": ""},
        skipped=("decoder.*",),
    )
