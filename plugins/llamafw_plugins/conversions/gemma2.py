"""Conversion to the architecture ``gemma2``."""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c

LAYER = {
    **c.LAYER,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
N_LAYER_OF_27B = 46
PERIOD = 2


def gemma2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Gemma2ForCausalLM``; norms multiply by 1 + weight."""
    rope, n_layer = c.rope(config, c.head_size(config)), config.integer("num_hidden_layers")
    check_scale(config, N_LAYER_OF_27B)
    return c.Conversion(
        "gemma2",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            **windows(config, c.layer_types(config, n_layer, PERIOD), PERIOD),
            "attn_logit_softcapping": config.number("attn_logit_softcapping", default=50.0),
            "final_logit_softcapping": config.number("final_logit_softcapping", default=30.0),
        },
        [*c.ends(c.Add()), *c.layers(LAYER, c.Add())],
        extra=rope.tensors,
    )


def windows(config: c.Config, types: list[str], period: int | None = None) -> dict[str, Any]:
    """Return the keys of windows.

    Parameters
    ----------
    config : Config
        The config.
    types : list of str
        The type of each layer.
    period : int, optional
        The pattern that the architecture knows: the last layer of so many sees all tokens. Others are listed.
    """
    is_windowed = [one == "sliding_attention" for one in types]
    is_usual = period is not None and is_windowed == [(i + 1) % period != 0 for i in range(len(types))]
    return {
        "attention.sliding_window": config.integer("sliding_window"),
        "attention.sliding_window_pattern": None if is_usual else is_windowed,
    }


def check_scale(config: c.Config, n_layer_of_27b: int) -> None:
    """Refuse a scale of scores that the architecture does not have: it knows that of 27B by its number of layers."""
    size = c.head_size(config)
    if config.integer("num_hidden_layers") == n_layer_of_27b:
        size = config.integer("hidden_size") // config.integer("num_attention_heads")
    config.require("query_pre_attn_scalar", size, default=size)
