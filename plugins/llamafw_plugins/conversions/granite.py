"""Conversions to the architectures ``granite``, ``granitemoe``, ``granitehybrid`` and ``minicpm``."""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c

LAYER = {**c.NORMS, **c.ATTENTION}


def granite(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``GraniteForCausalLM``."""
    rules = [*c.ends(), *c.permuted(config), *c.layers({**LAYER, **c.FEED_FORWARD})]
    return _conversion(config, "granite", {}, rules)


def granitemoe(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``GraniteMoeForCausalLM`` or ``GraniteMoeSharedForCausalLM``."""
    rules = [*c.ends(), *c.permuted(config), *c.layers(LAYER), *_experts(), *_shared("_shexp")]
    return _conversion(config, "granitemoe", _expert_metadata(config), rules)


def granitehybrid(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``GraniteMoeHybridForCausalLM``; without experts the shared one is the dense block."""
    n_layer, n_group = config.integer("num_hidden_layers"), config.integer("mamba_n_groups", default=1)
    types = config.list("layer_types", "layers_block_type", n=n_layer)
    n_kv = config.integer("num_key_value_heads", default=config.integer("num_attention_heads"))
    n_head, has_experts = config.integer("mamba_n_heads"), config.integer("num_local_experts", default=0, low=0) > 0
    inner = n_head * config.integer("mamba_d_head", default=_inner_size(config) // n_head)
    metadata = {
        "attention.head_count_kv": [n_kv if one in ("attention", "full_attention") else 0 for one in types],
        "rope.scaling.finetuned": config.get("position_embedding_type") == "rope",
        "ssm.conv_kernel": config.integer("mamba_d_conv"),
        "ssm.group_count": n_group,
        "ssm.state_size": config.integer("mamba_d_state"),
        "ssm.time_step_rank": n_head,
        "ssm.inner_size": inner,
        **(_expert_metadata(config) if has_experts else {}),
    }
    if not has_experts:
        metadata["feed_forward_length"] = config.integer("shared_intermediate_size")
    rules = [
        *c.ends(),
        *c.permuted(config),
        *c.layers(LAYER),
        *c.mamba2_rules("model.layers.{i}.mamba", n_group),
        *(_experts() if has_experts else []),
        *_shared("_shexp" if has_experts else ""),
    ]
    return _conversion(config, "granitehybrid", metadata, rules)


def minicpm(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``MiniCPMForCausalLM``."""
    config.require("num_experts", None, 0)
    n_layer, n_embd = config.integer("num_hidden_layers"), config.integer("hidden_size")
    factors = {
        "attention.scale": None,
        "embedding_scale": config.number("scale_emb"),
        "residual_scale": config.number("scale_depth") / n_layer**0.5,
        "logit_scale": n_embd / config.integer("dim_model_base"),
    }
    rules = [*c.ends(), *c.permuted(config), *c.layers({**LAYER, **c.FEED_FORWARD})]
    return _conversion(config, "minicpm", factors, rules)


def _conversion(config: c.Config, architecture: str, more: dict[str, Any], rules: list[c.Rule]) -> c.Conversion:
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    metadata = {
        **c.decoder_metadata(config),
        **c.rms_eps(config),
        **rope.metadata,
        "attention.scale": config.number("attention_multiplier", default=1.0),
        "embedding_scale": config.number("embedding_multiplier", default=1.0),
        "residual_scale": config.number("residual_multiplier", default=1.0),
        "logit_scale": config.number("logits_scaling", default=1.0),
    }
    return c.Conversion(architecture, metadata | more, rules, extra=rope.tensors)


def _expert_metadata(config: c.Config) -> dict[str, Any]:
    return {
        "expert_count": config.integer("num_local_experts"),
        "expert_used_count": config.integer("num_experts_per_tok"),
        "expert_shared_feed_forward_length": config.integer("shared_intermediate_size", default=0, low=0) or None,
    }


def _experts() -> list[c.Rule]:
    """Return the rules for experts in one tensor, gate and up as one."""
    block = "model.layers.{i}.block_sparse_moe"
    gate_up = ("blk.{i}.ffn_gate_exps.weight", "blk.{i}.ffn_up_exps.weight")
    return [
        c.rule("blk.{i}.ffn_gate_inp.weight", f"{block}.router.layer.weight"),
        c.rule(gate_up, f"{block}.input_linear.weight", c.Split(2, axis=1)),
        c.rule("blk.{i}.ffn_down_exps.weight", f"{block}.output_linear.weight"),
    ]


def _shared(suffix: str) -> list[c.Rule]:
    """Return the rules for the expert that every token uses."""
    gate_up = (f"blk.{{i}}.ffn_gate{suffix}.weight", f"blk.{{i}}.ffn_up{suffix}.weight")
    return [
        c.rule(gate_up, "model.layers.{i}.shared_mlp.input_linear.weight", c.Split(2)),
        c.rule(f"blk.{{i}}.ffn_down{suffix}.weight", "model.layers.{i}.shared_mlp.output_linear.weight"),
    ]


def _inner_size(config: c.Config) -> int:
    return config.integer("mamba_expand", default=2) * config.integer("hidden_size")
