"""Conversions to the architectures ``qwen35``, ``qwen35moe`` and ``qwen3next``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import checkpoints as c

NET = "model.layers.{i}.linear_attn"
NORMS = {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm", **c.HEAD_NORMS}
SHARED = {
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
NOT_USED = ("mtp.layers.[1-9]*",)
"""Blocks after the first one that predict further tokens."""
RECURRENT = "attention.recurrent_layers"
PREDICTION_VALUES = {RECURRENT: False}
"""The block for multi-token prediction has attention. llama.cpp expects a value for it."""


@dataclass(frozen=True)
class SplitGroups(c.Change):
    """The inputs of Qwen3-Next's delta nets: queries, keys, values and gates of a group side by side.

    GGUF has those of all groups one after the other, and gates in a tensor of their own.
    """

    n_group: int
    sizes: tuple[int, int, int, int]  # rows of each part of a group

    def forward(self, arrays: Sequence[c.Array]) -> list[c.Array]:
        """Return queries, keys and values as one, and the gates."""
        groups = arrays[0].reshape(self.n_group, sum(self.sizes), -1)
        ends = np.cumsum(self.sizes)[:-1].tolist()
        *inputs, gates = (part.reshape(-1, groups.shape[-1]) for part in np.split(groups, ends, axis=1))
        return [np.concatenate(inputs), gates]

    def backward(self, arrays: Sequence[c.Array]) -> list[c.Array]:
        """Return all as one."""
        inputs, gates = arrays
        ends = (self.n_group * np.cumsum(self.sizes)[:2]).tolist()
        parts = [part.reshape(self.n_group, -1, part.shape[-1]) for part in (*np.split(inputs, ends), gates)]
        joined = np.concatenate(parts, 1)
        return [joined.reshape(-1, joined.shape[-1])]


def qwen35(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Qwen3_5ForCausalLM``, or of the text part of one with images."""
    text = config.text_section()
    return c.Conversion(
        "qwen35",
        _metadata(text),
        _with_prediction(text, [*_rules(text), *_separate_inputs(text), *c.layers(c.FEED_FORWARD)]),
        aliases=c.TEXT_MODEL,
        skipped=(*NOT_USED, *c.NOT_TEXT),
        prediction_values=PREDICTION_VALUES,
    )


def qwen35moe(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Qwen3_5MoeForCausalLM``, or of the text part of one with images."""
    text = config.text_section()
    return c.Conversion(
        "qwen35moe",
        {**_metadata(text), **expert_metadata(text)},
        _with_prediction(text, [*_rules(text), *_separate_inputs(text), *expert_rules()]),
        aliases=c.TEXT_MODEL,
        skipped=(*NOT_USED, *c.NOT_TEXT),
        prediction_values=PREDICTION_VALUES,
    )


def qwen3next(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``Qwen3NextForCausalLM``."""
    config.require("decoder_sparse_step", 1, default=1)
    config.require("mlp_only_layers", None, [], default=[])
    config.require("norm_topk_prob", True, default=True)
    n_group, n_head, key, value = _heads(config)
    rows = n_head // n_group * value
    groups = SplitGroups(n_group, (key, key, rows, rows))
    inputs = f"{NET}.in_proj_qkvz.weight"
    rules = [
        c.rule(("blk.{i}.attn_qkv.weight", "blk.{i}.attn_gate.weight"), inputs, groups),
        c.rule("blk.{i}.ssm_in.weight", inputs),  # in old GGUF files
        c.rule("blk.{i}.ssm_ba.weight", f"{NET}.in_proj_ba.weight"),
        c.rule("blk.{i}.ssm_conv1d.weight", f"{NET}.conv1d.weight", c.Squeeze()),
        c.rule("blk.{i}.ssm_dt.bias", f"{NET}.dt_bias"),
        c.rule("blk.{i}.ssm_a", f"{NET}.A_log", c.NegativeExp()),
        c.rule("blk.{i}.ssm_out.weight", f"{NET}.out_proj.weight"),
    ]
    return c.Conversion(
        "qwen3next",
        {**_metadata(config), **expert_metadata(config)},
        _with_prediction(config, [*_rules(config), *rules, *expert_rules()]),
        skipped=NOT_USED,
        prediction_values=PREDICTION_VALUES,
    )


def _metadata(config: c.Config) -> dict[str, Any]:
    config.require("hidden_act", "silu", default="silu")
    config.require("attention_bias", False, default=False)
    n_group, n_head, key, value = _heads(config)
    rope = c.rope(config, c.head_size(config))
    if rope.tensors:
        config.fail("rope_scaling", "is not supported")
    return {
        **c.decoder_metadata(config),
        "feed_forward_length": config.integer("intermediate_size", "moe_intermediate_size"),
        **c.rms_eps(config),
        **rope.metadata,
        "ssm.conv_kernel": config.integer("linear_conv_kernel_dim"),
        "ssm.group_count": n_group,
        "ssm.state_size": key,
        "ssm.time_step_rank": n_head,
        "ssm.inner_size": n_head * value,
        **_kinds(config),
    }


def _kinds(config: c.Config) -> dict[str, Any]:
    """Return the key that says which layers are delta nets: the distance of the others, or a list."""
    n_layer, interval = config.integer("num_hidden_layers"), config.integer("full_attention_interval", default=4)
    regular = ["full_attention" if (i + 1) % interval == 0 else "linear_attention" for i in range(n_layer)]
    types = config.list("layer_types", n=n_layer, default=regular)
    if types == regular:
        return {"full_attention_interval": interval}
    return {RECURRENT: [one == "linear_attention" for one in types]}


def _heads(config: c.Config) -> tuple[int, int, int, int]:
    """Return the number of groups, of heads of values, and the sizes of keys and values."""
    names = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")
    n_group, n_head, key, value = (config.integer(f"linear_{name}") for name in names)
    if n_head % n_group:
        config.fail("linear_num_value_heads", f"is {n_head}; it must be a multiple of linear_num_key_heads, {n_group}")
    return n_group, n_head, key, value


def _rules(config: c.Config) -> list[c.Rule]:
    """Return the rules that all three have; norms multiply by 1 + weight, except those of delta nets."""
    return [
        *c.ends(c.Add()),
        *c.layers(NORMS, c.Add()),
        *c.layers(c.ATTENTION),
        c.rule("blk.{i}.ssm_norm.weight", f"{NET}.norm.weight"),
    ]


def _with_prediction(config: c.Config, rules: list[c.Rule]) -> list[c.Rule]:
    """Return rules with those for the block for multi-token prediction, which is a layer with attention."""
    layers = [one for one in rules if "model.layers.{i}" in one.sources[0]]
    return [*c.prediction_module(config.integer("num_hidden_layers"), layers, c.Add()), *rules]


def _separate_inputs(config: c.Config) -> list[c.Rule]:
    """Return the rules for Qwen3.5's delta nets, whose heads of values are in another order in GGUF."""
    n_group, n_head, key, _ = _heads(config)
    heads = c.Regroup(n_group, n_head // n_group)
    after_keys = c.Regroup(n_group, n_head // n_group, start=2 * n_group * key)
    return [
        c.rule("blk.{i}.attn_qkv.weight", f"{NET}.in_proj_qkv.weight", after_keys),
        c.rule("blk.{i}.attn_gate.weight", f"{NET}.in_proj_z.weight", heads),
        c.rule("blk.{i}.ssm_beta.weight", f"{NET}.in_proj_b.weight", heads),
        c.rule("blk.{i}.ssm_alpha.weight", f"{NET}.in_proj_a.weight", heads),
        c.rule("blk.{i}.ssm_conv1d.weight", f"{NET}.conv1d.weight", c.Squeeze(), after_keys),
        c.rule("blk.{i}.ssm_dt.bias", f"{NET}.dt_bias", heads),
        c.rule("blk.{i}.ssm_a", f"{NET}.A_log", c.NegativeExp(), heads),
        c.rule("blk.{i}.ssm_out.weight", f"{NET}.out_proj.weight", c.Regroup(n_group, n_head // n_group, axis=1)),
    ]


def expert_metadata(config: c.Config) -> dict[str, Any]:
    """Return the keys of experts, one of which every token uses."""
    return {
        "expert_count": config.integer("num_experts", "num_local_experts"),
        "expert_used_count": config.integer("num_experts_per_tok"),
        "expert_feed_forward_length": config.integer("moe_intermediate_size"),
        "expert_shared_feed_forward_length": config.integer("shared_expert_intermediate_size"),
    }


def expert_rules() -> list[c.Rule]:
    """Return the rules for experts, one of which every token uses with a gate."""
    return [
        *c.renames({"ffn_gate_inp": "mlp.gate", **SHARED}),
        c.rule(
            "blk.{i}.ffn_gate_inp_shexp.weight",
            "model.layers.{i}.mlp.shared_expert_gate.weight",
            c.Reshape((-1,), (1, -1)),
        ),
        *c.experts(),
    ]
