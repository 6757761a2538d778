"""Conversion to the architecture ``llama4``, texts only."""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c

LAYER = {
    **c.NORMS,
    **c.ATTENTION,
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
    "ffn_gate_inp": "feed_forward.router",
    "ffn_gate_shexp": "feed_forward.shared_expert.gate_proj",
    "ffn_up_shexp": "feed_forward.shared_expert.up_proj",
    "ffn_down_shexp": "feed_forward.shared_expert.down_proj",
}
N_EXPERT_MAVERICK = 128
PERIOD = 4  # the last layer of so many has no positions


def llama4(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Llama4ForCausalLM``, or of the text part of one with images."""
    text = config.text_section()
    text.require("hidden_act", "silu", default="silu")
    rope, experts = c.rope(text, c.head_size(text), base=500_000.0), "model.layers.{i}.feed_forward.experts"
    gate_up = ("blk.{i}.ffn_gate_exps.weight", "blk.{i}.ffn_up_exps.weight")
    return c.Conversion(
        "llama4",
        {
            **c.decoder_metadata(text),
            **c.rms_eps(text, 1e-5),
            **rope.metadata,
            **_positions(text),
            **_experts(text),
            "feed_forward_length": text.integer("intermediate_size_mlp"),
        },
        [
            *c.ends(),
            *c.layers(LAYER),
            c.rule(gate_up, f"{experts}.gate_up_proj", c.Transpose(), c.Split(2, axis=1)),
            c.rule("blk.{i}.ffn_down_exps.weight", f"{experts}.down_proj", c.Transpose()),
        ],
        rope.tensors,
        c.TEXT_MODEL,
        c.NOT_TEXT,
    )


def _positions(config: c.Config) -> dict[str, Any]:
    """Return the keys of windows and of the queries that grow."""
    n_layer = config.integer("num_hidden_layers")
    default = [int((i + 1) % PERIOD != 0) for i in range(n_layer)]
    is_rotated = config.list("no_rope_layers", default=default) or default
    types = config.list("layer_types", n=n_layer, default=["chunked_attention" if one else "" for one in is_rotated])
    has_chunks = any(one == "chunked_attention" for one in types)
    wanted = default if has_chunks else [1] * n_layer
    if is_rotated[:n_layer] != wanted:
        config.fail("no_rope_layers", f"is {is_rotated!r:.80}, which is not supported")
    if has_chunks and any((one == "chunked_attention") != bool(default[i]) for i, one in enumerate(types)):
        config.fail("layer_types", "has another pattern than three layers with chunks and one without")
    grows = bool(config.get("attn_temperature_tuning", default=True))
    return {
        "attention.sliding_window": config.integer("attention_chunk_size", default=8192) if has_chunks else 0,
        "attention.temperature_scale": config.number("attn_scale", default=0.1) if grows else 0.0,
        "attention.temperature_length": int(config.number("floor_scale", default=8192.0)),
    }


def _experts(config: c.Config) -> dict[str, Any]:
    n_layer, n_expert = config.integer("num_hidden_layers"), config.integer("num_local_experts", low=0)
    step = config.integer("interleave_moe_layer_step", default=1, low=0)
    layers = config.list("moe_layers", default=_every(step, n_layer))
    step = layers[0] + 1 if layers and type(layers[0]) is int else 0
    if layers != _every(step, n_layer):
        config.fail("moe_layers", f"is {layers!r:.80}; they must be every second, every third … layer, or all")
    config.require("use_qk_norm", n_expert != N_EXPERT_MAVERICK, default=True)
    return {
        "expert_count": n_expert,
        "expert_used_count": config.integer("num_experts_per_tok"),
        "expert_feed_forward_length": config.integer("intermediate_size"),
        "interleave_moe_layer_step": step,
    }


def _every(step: int, n_layer: int) -> list[int]:
    """Return the numbers of the layers of which each is the last one of ``step``; none for a step of 0."""
    return list(range(step - 1, n_layer, step)) if step else []
