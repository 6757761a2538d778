"""Conversions to the architectures ``gemma3``, texts only, and ``gemma-embedding``."""

from __future__ import annotations

from collections.abc import Mapping

from llamafw import checkpoints as c
from llamafw_plugins.conversions.gemma2 import LAYER, check_scale, windows

N_LAYER_OF_27B = 62
PERIOD = 6
ROPE_BASE = 1e6
DEFAULTS = {  # of Gemma3TextConfig; configs of models with images have only what differs
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}


def gemma3(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Gemma3ForCausalLM``, or of the text part of one with images."""
    text = config.text_section().with_defaults(**DEFAULTS)
    text.require("use_bidirectional_attention", None, False)
    return _gemma3("gemma3", text, c.ends(c.Add()), c.TEXT_MODEL, c.NOT_TEXT)


def gemma_embedding(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Gemma3TextModel``: EmbeddingGemma."""
    config.require("use_bidirectional_attention", True)
    rules = c.ends(c.Add(), root="")
    return _gemma3("gemma-embedding", config, rules, {"model.": ""}, ("lm_head.*",), layer="layers.{i}")


def _gemma3(
    architecture: str,
    text: c.Config,
    ends: list[c.Rule],
    aliases: Mapping[str, str],
    skipped: tuple[str, ...],
    layer: str = "model.layers.{i}",
) -> c.Conversion:
    text.require("attn_logit_softcapping", None)
    check_scale(text, N_LAYER_OF_27B)
    n_layer, period = text.integer("num_hidden_layers"), text.integer("sliding_window_pattern", default=PERIOD)
    rope = c.rope(text, c.head_size(text), "full_attention", base=ROPE_BASE)
    local = c.rope_section(text, "sliding_attention")
    metadata = c.decoder_metadata(text) | c.rms_eps(text) | rope.metadata
    return c.Conversion(
        architecture,
        {
            **metadata,
            **windows(text, c.layer_types(text, n_layer, period), PERIOD),
            "rope.freq_base_swa": text.number("rope_local_base_freq", default=local.number("rope_theta", default=1e4)),
            "final_logit_softcapping": text.get("final_logit_softcapping"),
        },
        [*ends, *c.layers({**LAYER, **c.HEAD_NORMS}, c.Add(), layer=layer)],
        rope.tensors,
        aliases,
        skipped,
    )
