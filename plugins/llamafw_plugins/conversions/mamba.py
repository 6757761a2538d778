"""Conversions to the architectures ``mamba`` and ``mamba2``."""

from __future__ import annotations

import math
from typing import Any

from llamafw import checkpoints as c

N_CTX = 2**20
"""Context of files, in positions; the models have no limit."""

LAYER = "backbone.layers.{i}"


def mamba(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``MambaForCausalLM``."""
    return _mamba(config, {})


def falcon_mamba(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``FalconMambaForCausalLM``, whose steps, keys and queries are normalised."""
    config.require("mixer_rms_eps", 1e-6, default=1e-6)
    return _mamba(config, {"ssm.dt_b_c_rms": True})


def mamba2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Mamba2ForCausalLM``."""
    config.require("time_step_limit", [0.0, math.inf], (0.0, math.inf), default=[0.0, math.inf])
    n_head, n_group = config.integer("num_heads"), config.integer("n_groups")
    metadata = {
        **_metadata(config),
        "ssm.group_count": n_group,
        "ssm.time_step_rank": n_head,
        "ssm.inner_size": n_head * config.integer("head_dim"),
    }
    return c.Conversion("mamba2", metadata, [*_rules(), *c.mamba2_rules(f"{LAYER}.mixer", n_group)], aliases=ALIASES)


def _mamba(config: c.Config, more: dict[str, Any]) -> c.Conversion:
    n_embd = config.integer("hidden_size")
    inner = config.integer("expand", default=2) * n_embd
    metadata = {
        **_metadata(config),
        "ssm.time_step_rank": time_step_rank(config, "time_step_rank"),
        "ssm.inner_size": config.integer("intermediate_size", default=inner),
        **more,
    }
    return c.Conversion("mamba", metadata, [*_rules(), *c.mamba_rules(f"{LAYER}.mixer")], aliases=ALIASES)


ALIASES = {"backbone.embedding.": "backbone.embeddings."}


def time_step_rank(config: c.Config, name: str) -> int:
    """Return the number of which the steps of all channels are computed: a sixteenth of an embedding for ``"auto"``."""
    if config.get(name, default="auto") == "auto":
        return math.ceil(config.integer("hidden_size") / 16)
    return config.integer(name)


def _metadata(config: c.Config) -> dict[str, Any]:
    config.require("hidden_act", "silu", default="silu")
    return {
        "vocab_size": config.integer("vocab_size"),
        "context_length": N_CTX,
        "embedding_length": config.integer("hidden_size"),
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "block_count": config.integer("num_hidden_layers"),
        "attention.layer_norm_rms_epsilon": config.number("layer_norm_epsilon"),
        "ssm.conv_kernel": config.integer("conv_kernel"),
        "ssm.state_size": config.integer("state_size"),
    }


def _rules() -> list[c.Rule]:
    return [
        *c.ends(root="backbone.", embedding="embeddings", norm="norm_f"),
        *c.layers({"attn_norm": "norm"}, layer=LAYER),
    ]
