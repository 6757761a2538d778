"""Conversions to the architectures ``qwen3`` and ``qwen3moe``."""

from __future__ import annotations

from dataclasses import replace

from llamafw import checkpoints as c

WITHOUT_MODEL = {"embed_tokens.": "model.embed_tokens.", "layers.": "model.layers.", "norm.": "model.norm."}
"""Names of embedding models, whose output matrix is missing and whose other tensors lack the prefix."""


def qwen3_ranker(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Qwen3ForSequenceClassification``, whose head has one score or several."""
    base = qwen3(config)
    metadata = {**base.metadata, "pooling_type": c.POOLING_TYPES["rank"]}
    rules = [*base.rules, c.rule("cls.output.{part}", "score.{part}")]
    return replace(base, metadata=metadata, rules=rules)


def qwen3(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Qwen3ForCausalLM`` or ``Qwen3Model``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("use_sliding_window", False, default=False)
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "qwen3",
        {**c.decoder_metadata(config), **c.rms_eps(config), **rope.metadata},
        [*c.ends(), *c.layers({**c.LAYER, **c.HEAD_NORMS})],
        extra=rope.tensors,
        aliases=WITHOUT_MODEL,
    )


def qwen3moe(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Qwen3MoeForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("norm_topk_prob", True)
    config.require("decoder_sparse_step", 1, default=1)
    config.require("mlp_only_layers", None, [], default=[])
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "qwen3moe",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            "expert_count": config.integer("num_experts", "num_local_experts"),
            "expert_used_count": config.integer("num_experts_per_tok"),
            "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        },
        [
            *c.ends(),
            *c.layers({**c.NORMS, **c.ATTENTION, **c.HEAD_NORMS, "ffn_gate_inp": "mlp.gate"}),
            *c.experts(),
        ],
        extra=rope.tensors,
    )
