"""Conversion to the architecture ``gemma4``, texts only."""

from __future__ import annotations

from typing import Any

import numpy as np

from llamafw import checkpoints as c
from llamafw_plugins.conversions.gemma2 import LAYER as LAYER_OF_GEMMA2

LAYER = {
    **LAYER_OF_GEMMA2,
    **c.HEAD_NORMS,
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
    "ffn_gate_inp": "router.proj",
}
NOT_ROTATED = 1e30  # divisor of the frequencies of numbers that are not rotated


def gemma4(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Gemma4ForCausalLM``, or of the text part of one with images."""
    text = config.text_section()
    n_layer = text.integer("num_hidden_layers")
    types = [str(one) for one in text.list("layer_types", n=n_layer)]
    layer = "model.layers.{i}"
    return c.Conversion(
        "gemma4",
        _metadata(text, types),
        [
            *c.ends(),
            *c.layers(LAYER),
            c.rule("per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight"),
            c.rule("per_layer_model_proj.weight", "model.per_layer_model_projection.weight"),
            c.rule("per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight"),
            c.rule("blk.{i}.layer_output_scale.weight", f"{layer}.layer_scalar"),
            c.rule("blk.{i}.ffn_gate_inp.scale", f"{layer}.router.scale"),
            c.rule("blk.{i}.ffn_down_exps.scale", f"{layer}.router.per_expert_scale"),
            *c.fused_experts("experts"),
        ],
        {"rope_freqs.weight": _factors(text, _sizes(text, types)[1])},
        c.TEXT_MODEL,
        c.NOT_TEXT,
    )


def _metadata(config: c.Config, types: list[str]) -> dict[str, Any]:
    local_size, size = _sizes(config, types)
    n_kv = config.integer("num_key_value_heads")
    n_kv_full = _of_full(config, types, "num_key_value_heads", "num_global_key_value_heads", n_kv)
    full, local = (c.rope_section(config, f"{kind}_attention") for kind in ("full", "sliding"))
    n_shared = config.integer("num_kv_shared_layers", default=0, low=0)
    n_ff, n_own = config.integer("intermediate_size"), len(types) - n_shared
    is_wide = config.flag("use_double_wide_mlp", default=False)
    found = {
        **c.decoder_metadata(config),
        **c.rms_eps(config),
        "feed_forward_length": [2 * n_ff if is_wide and i >= n_own else n_ff for i in range(len(types))],
        "attention.head_count_kv": [n_kv if one == "sliding_attention" else n_kv_full for one in types],
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.key_length_swa": local_size,
        "attention.value_length_swa": local_size,
        "attention.shared_kv_layers": n_shared,
        "attention.sliding_window": config.integer("sliding_window"),
        "attention.sliding_window_pattern": [one == "sliding_attention" for one in types],
        "embedding_length_per_layer_input": config.integer("hidden_size_per_layer_input", default=0, low=0),
        "final_logit_softcapping": config.number("final_logit_softcapping", default=0.0),
        "rope.dimension_count": size,
        "rope.dimension_count_swa": local_size,
        "rope.freq_base": full.number("rope_theta", default=1e6),
        "rope.freq_base_swa": local.number("rope_theta", default=1e4),
    }
    if config.flag("enable_moe_block", default=False):
        found |= {
            "expert_count": config.integer("num_experts"),
            "expert_used_count": config.integer("top_k_experts"),
            "expert_feed_forward_length": config.integer("moe_intermediate_size", "expert_intermediate_size"),
        }
    return found


def _sizes(config: c.Config, types: list[str]) -> tuple[int, int]:
    """Return the sizes of heads in layers with a window, and in those that see all tokens."""
    local = config.integer("head_dim")
    return local, _of_full(config, types, "head_dim", "global_head_dim", local)


def _of_full(config: c.Config, types: list[str], name: str, name_of_full: str, default: int) -> int:
    """Return a number for layers that see all tokens, which may stand in a section for each of them."""
    if "full_attention" in types:
        section = config.section("per_layer_config").section(str(types.index("full_attention")))
        default = section.integer(name, default=default)
    return config.integer(name_of_full, default=default)


def _factors(config: c.Config, size: int) -> c.Array:
    """Return the divisors of the frequencies of layers that see all tokens, ``(size // 2,)`` float32."""
    section = c.rope_section(config, "full_attention")
    section.require("rope_type", "default", "proportional")
    share = section.number("partial_rotary_factor", default=1.0) if section.get("rope_type") == "proportional" else 1.0
    factors = np.ones(size // 2, np.float32)
    factors[int(share * size // 2) :] = NOT_ROTATED
    return factors
