"""Conversions of Mistral's dense models: to ``mistral3``, or to ``llama`` if queries do not depend on positions."""

from __future__ import annotations

from llamafw import checkpoints as c
from llamafw_plugins.conversions.deepseek2 import mistral4


def ministral3(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Ministral3ForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    rope, section = c.rope(config, c.head_size(config)), c.rope_section(config)
    return c.Conversion(
        "mistral3",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            "context_length": context_length(config),
            **temperature(section),
        },
        [*c.ends(), *c.permuted(config), *c.layers(c.LAYER)],
        extra=rope.tensors,
    )


def mistral(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``MistralForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config))
    return c.Conversion(
        "llama",
        {
            **c.decoder_metadata(config),
            **c.rms_eps(config),
            **rope.metadata,
            "context_length": context_length(config),
        },
        [*c.ends(), *c.permuted(config), *c.layers(c.LAYER)],
        extra=rope.tensors,
    )


def with_images(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Mistral3ForConditionalGeneration``, without its part for images."""
    text = config.text_section()
    made = {"ministral3": ministral3, "mistral4": mistral4}.get(text.text("model_type", default="mistral"), mistral)(
        text
    )
    return c.Conversion(made.architecture, made.metadata, made.rules, made.extra, c.TEXT_MODEL, c.NOT_TEXT)


def context_length(config: c.Config) -> int:
    """Return the longest context; with a window, its length, up to which it has no effect."""
    length = config.integer("max_position_embeddings")
    return min(length, config.integer("sliding_window", default=length))


def temperature(section: c.Config) -> dict[str, float | None]:
    """Return the keys of queries that grow with their position, and of the magnitude of rotated numbers.

    GGUF has the magnitude of `Ministral 3` as a multiplier, which is the config's ``mscale_all_dim``.
    """
    found: dict[str, float | None] = {}
    if section.has("llama_4_scaling_beta"):
        found["attention.temperature_scale"] = section.number("llama_4_scaling_beta")
    if section.has("mscale_all_dim"):
        section.require("mscale", 1, default=1)
        found |= {
            "rope.scaling.yarn_log_multiplier": section.number("mscale_all_dim"),
            "rope.scaling.yarn_attn_factor": None,
        }
    return found
