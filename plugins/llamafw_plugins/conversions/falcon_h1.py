"""Conversion to the architecture ``falcon-h1``, whose factors are multiplied into matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import checkpoints as c

LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "pre_ff_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
}
BLOCK = "model.layers.{i}"


@dataclass(frozen=True, slots=True)
class Multiply(c.EachAlone):
    """Multiply by factors: of each part of the rows, given their numbers of rows, or a single one of all numbers."""

    factors: tuple[float, ...]
    rows: tuple[int, ...] = ()

    def change(self, array: c.Array) -> c.Array:
        """Multiply, in float32."""
        return _as_float(array) * self._of(array)

    def undo(self, array: c.Array) -> c.Array:
        """Divide."""
        return _as_float(array) / self._of(array)

    def describe(self, arrays: Sequence[c.Array]) -> list[c.Array]:
        """Return arrays of float32 whose shapes stay the same."""
        if any(self.rows and len(array) != sum(self.rows) for array in arrays):
            raise ValueError(f"it has {len(arrays[0])} rows, not {sum(self.rows)}")
        return [np.broadcast_to(_as_float(array[:1, ...][..., :1]), array.shape) for array in arrays]

    def _of(self, array: c.Array) -> c.Array:
        if not self.rows:
            return np.array(self.factors[0], _as_float(array[:1]).dtype)
        factors = np.repeat(self.factors, self.rows).astype(_as_float(array[:1]).dtype)
        return factors.reshape(-1, *[1] * (array.ndim - 1))


def falcon_h1(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``FalconH1ForCausalLM``."""
    config.require("hidden_act", "silu", default="silu")
    config.require("mamba_proj_bias", False, default=False)
    config.require("time_step_limit", [0.0, math.inf], (0.0, math.inf), default=[0.0, math.inf])
    if config.flag("mamba_rms_norm", default=False):
        config.require("mamba_norm_before_gate", False, default=True)
    rope, n_head = c.rope(config, c.head_size(config)), config.integer("mamba_n_heads")
    inner = config.integer("mamba_expand", default=2) * config.integer("hidden_size")
    metadata = {
        **c.decoder_metadata(config),
        **c.rms_eps(config, 1e-5),
        **rope.metadata,
        "ssm.conv_kernel": config.integer("mamba_d_conv", default=4),
        "ssm.group_count": config.integer("mamba_n_groups", default=1),
        "ssm.state_size": config.integer("mamba_d_state"),
        "ssm.time_step_rank": n_head,
        "ssm.inner_size": config.integer("mamba_d_ssm", default=inner),
    }
    rules = [
        *_ends(config),
        *_factors(config, metadata),
        *c.mamba2_rules(f"{BLOCK}.mamba", metadata["ssm.group_count"]),
        *c.layers(LAYER),
    ]
    return c.Conversion("falcon-h1", metadata, rules, extra=rope.tensors)


def _ends(config: c.Config) -> list[c.Rule]:
    """Return the rules for embedding and output, each with its factor."""
    embedding, output = (config.number(f"{name}_multiplier", default=1.0) for name in ("embedding", "lm_head"))
    if config.flag("tie_word_embeddings", default=False) and (embedding, output) != (1.0, 1.0):
        config.fail("tie_word_embeddings", "is true, which is not supported if the embedding has a factor")
    return [
        c.rule("token_embd.weight", "model.embed_tokens.weight", Multiply((embedding,))),
        c.rule("output_norm.weight", "model.final_layernorm.weight"),
        c.rule("output.weight", "lm_head.weight", Multiply((output,))),
    ]


def _factors(config: c.Config, metadata: dict[str, Any]) -> list[c.Rule]:
    """Return the rules for the parameters of a layer that have factors, weights and biases apart."""
    of_input, of_output, key = (
        config.number(f"{name}_multiplier", default=1.0) for name in ("attention_in", "attention_out", "key")
    )
    ssm_in, ssm_out = (config.number(f"ssm_{name}_multiplier", default=1.0) for name in ("in", "out"))
    gate, down = _numbers(config, "mlp_multipliers", 2)
    of_parts = tuple(one * ssm_in for one in _numbers(config, "ssm_multipliers", 5))
    inner, n_keys = metadata["ssm.inner_size"], metadata["ssm.group_count"] * metadata["ssm.state_size"]
    parts = (inner, inner, n_keys, n_keys, metadata["ssm.time_step_rank"])

    weights = {"attn_q": of_input, "attn_k": of_input * key, "attn_v": of_input}
    both = {"attn_output": of_output, "ffn_gate": gate, "ffn_down": down}
    return [
        *(_rule(f"{role}.weight", factor) for role, factor in weights.items()),
        _rule("attn_k.bias", key),
        *(_rule(f"{role}.{{part}}", factor) for role, factor in both.items()),
        c.rule("blk.{i}.ssm_in.weight", f"{BLOCK}.mamba.in_proj.weight", Multiply(of_parts, parts)),
        c.rule("blk.{i}.ssm_out.{part}", f"{BLOCK}.mamba.out_proj.{{part}}", Multiply((ssm_out,))),
    ]


def _numbers(config: c.Config, name: str, n: int) -> list[float]:
    """Return so many numbers; ones if the config has none."""
    values = config.list(name, n=n, default=[1.0] * n)
    if any(type(one) not in (int, float) or not math.isfinite(one) for one in values):
        config.fail(name, f"is {values!r:.80}; it must have {n} finite numbers")
    return [float(one) for one in values]


def _rule(name: str, factor: float) -> c.Rule:
    role, _, part = name.partition(".")
    return c.rule(f"blk.{{i}}.{name}", f"{BLOCK}.{LAYER[role]}.{part}", Multiply((factor,)))


def _as_float(array: c.Array) -> c.Array:
    return array if array.dtype == np.float64 else array.astype(np.float32)
