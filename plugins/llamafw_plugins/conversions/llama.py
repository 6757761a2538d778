"""Conversions to the architectures ``llama``, ``llama-embed``, ``internlm2`` and ``ernie4_5``."""

from __future__ import annotations

from llamafw import checkpoints as c
from llamafw_plugins.conversions.falcon import QueriesOfKeys

INTERNLM2_LAYER = {
    "attn_norm": "attention_norm",
    "ffn_norm": "ffn_norm",
    "attn_output": "attention.wo",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}
POOLINGS = {"avg": "mean", "cls": "cls", "last": "last"}
MIXTRAL_EXPERTS = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}


def llama(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``LlamaForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "llama",
        {**c.decoder_metadata(config), **c.rms_eps(config), **rope.metadata},
        [*c.ends(), *c.permuted(config), *c.layers(c.LAYER)],
        extra=rope.tensors,
    )


def llama_embed(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``LlamaBidirectionalModel``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("pooling", *POOLINGS, default="avg")
    rope, layer = c.rope(config, c.head_size(config)), "layers.{i}"
    return c.Conversion(
        "llama-embed",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            "attention.causal": False,
            "pooling_type": c.POOLING_TYPES[POOLINGS[config.text("pooling", default="avg")]],
        },
        [*c.ends(root=""), *c.permuted(config, layer), *c.layers(c.LAYER, layer=layer)],
        rope.tensors,
        {"model.": ""},
    )


def mixtral(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``MixtralForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("sliding_window", None)
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "llama",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            "expert_count": config.integer("num_local_experts"),
            "expert_used_count": config.integer("num_experts_per_tok"),
        },
        [
            *c.ends(),
            *c.permuted(config),
            *c.layers({**c.NORMS, **c.ATTENTION}),
            *c.renames({"ffn_gate_inp": "block_sparse_moe.gate"}),
            *c.expert_rules(MIXTRAL_EXPERTS, "block_sparse_moe.experts.{e}"),
        ],
        extra=rope.tensors,
    )


def internlm2(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``InternLM2ForCausalLM``, which has the rows of Q, K and V by key."""
    config.require("hidden_act", "silu", default="silu")
    n_head, size = config.integer("num_attention_heads"), c.head_size(config)
    n_kv, rope = config.integer("num_key_value_heads", default=n_head), c.rope(config, size)
    parts = c.Split((n_head * size, n_kv * size, n_kv * size))
    qkv = ("blk.{i}.attn_q.{part}", "blk.{i}.attn_k.{part}", "blk.{i}.attn_v.{part}")
    permute = c.Each(c.Permute(n_head), c.Permute(n_kv), None)
    return c.Conversion(
        "internlm2",
        {**c.decoder_metadata(config), **c.rms_eps(config), **rope.metadata},
        [
            c.rule("token_embd.weight", "model.tok_embeddings.weight"),
            c.rule("output_norm.weight", "model.norm.weight"),
            c.rule("output.weight", "output.weight"),
            c.rule(qkv, "model.layers.{i}.attention.wqkv.{part}", QueriesOfKeys(n_head, n_kv), parts, permute),
            *c.layers(INTERNLM2_LAYER),
        ],
        extra=rope.tensors,
    )


def ernie4_5(config: c.Config) -> c.Conversion:
    """Return the conversion of an ``Ernie4_5ForCausalLM``, whose rotated pairs are adjacent, too."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "ernie4_5",
        {**c.decoder_metadata(config), **c.rms_eps(config, 1e-5), **rope.metadata},
        [*c.ends(), *c.layers(c.LAYER)],
        extra=rope.tensors,
    )
