"""What the configs and names of most decoders have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafw.checkpoints.changes import Change, Permute, Split
from llamafw.checkpoints.config import Config
from llamafw.checkpoints.rules import Rule, expert_rules, renames, rule

ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
"""GGUF's names of the parameters of an attention block, and those of transformers."""
NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
"""GGUF's names of the parameters of the norms of a layer, and those of transformers."""
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
"""GGUF's names of the parameters of the norms of queries and keys, and those of transformers."""
FEED_FORWARD = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
"""GGUF's names of the parameters of a gated feed-forward block, and those of transformers."""
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
"""GGUF's names of the parameters of the experts of a layer, and those of transformers."""
LAYER = {**NORMS, **ATTENTION, **FEED_FORWARD}
"""GGUF's names of the parameters of a layer, and those of most decoders of transformers."""


def head_size(config: Config) -> int:
    """Return the size of a head."""
    return config.integer("head_dim", default=config.integer("hidden_size") // config.integer("num_attention_heads"))


def decoder_metadata(config: Config) -> dict[str, Any]:
    """Return the keys of a decoder of layers that are alike, without those of norms and rotations."""
    n_head = config.integer("num_attention_heads", "n_head")
    size = config.get("head_dim")
    return {
        "vocab_size": config.integer("vocab_size"),
        "context_length": config.integer("max_position_embeddings"),
        "embedding_length": config.integer("hidden_size"),
        "block_count": config.integer("num_hidden_layers"),
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": n_head,
        "attention.head_count_kv": config.integer("num_key_value_heads", default=n_head),
        "attention.key_length": size,
        "attention.value_length": size,
    }


def rms_eps(config: Config, default: float = 1e-6) -> dict[str, Any]:
    """Return the key of RMSNorms."""
    return {"attention.layer_norm_rms_epsilon": config.number("rms_norm_eps", default=default)}


def ends(*changes: Change, root: str = "model.", embedding: str = "embed_tokens", norm: str = "norm") -> list[Rule]:
    """Return the rules for embedding, last norm and output; ``changes`` are those of the norm."""
    return [
        rule("token_embd.{part}", f"{root}{embedding}.{{part}}"),
        rule("output_norm.{part}", f"{root}{norm}.{{part}}", *changes),
        rule("output.{part}", "lm_head.{part}"),
    ]


def layers(names: Mapping[str, str], *norm_changes: Change, layer: str = "model.layers.{i}") -> list[Rule]:
    """Return the rules for a layer's parameters; ``norm_changes`` are those of parameters called ``*_norm``."""
    norms = {role: name for role, name in names.items() if role.endswith("_norm")}
    rest = {role: name for role, name in names.items() if role not in norms}
    return renames(norms, layer, *norm_changes) + renames(rest, layer)


def permuted(config: Config, layer: str = "model.layers.{i}") -> list[Rule]:
    """Return the rules for Q and K whose rotated pairs are adjacent in GGUF and halves in the checkpoint."""
    n_head = config.integer("num_attention_heads")
    n_kv = config.integer("num_key_value_heads", default=n_head)
    return [
        *renames({"attn_q": ATTENTION["attn_q"]}, layer, Permute(n_head)),
        *renames({"attn_k": ATTENTION["attn_k"]}, layer, Permute(n_kv)),
    ]


def experts(
    names: Mapping[str, str] = EXPERTS, block: str = "mlp.experts", layer: str = "model.layers.{i}"
) -> list[Rule]:
    """Return the rules for experts: with a tensor for each, and with one for all, which has gate and up in it.

    Parameters
    ----------
    names : mapping
        GGUF's names, and those of each expert's own parameters.
    block : str
        What precedes them, without the number of the expert.
    layer : str
        What precedes the names of a layer.
    """
    return [*expert_rules(names, f"{block}.{{e}}", layer), *fused_experts(block, layer)]


def fused_experts(block: str = "mlp.experts", layer: str = "model.layers.{i}", suffix: str = "") -> list[Rule]:
    """Return the rules for experts in one tensor ``(n_expert, …)``, gate and up as one."""
    return [
        rule(
            ("blk.{i}.ffn_gate_exps.weight", "blk.{i}.ffn_up_exps.weight"),
            f"{layer}.{block}.gate_up_proj{suffix}",
            Split(2, axis=1),
        ),
        rule("blk.{i}.ffn_down_exps.weight", f"{layer}.{block}.down_proj{suffix}"),
    ]


def layer_types(config: Config, n_layer: int, period: int) -> list[str]:
    """Return the type of each layer: ``"sliding_attention"`` or ``"full_attention"``, or what ``layer_types`` says.

    Parameters
    ----------
    config : Config
        The config.
    n_layer : int
        Number of layers.
    period : int
        Without ``layer_types``, one layer of so many, the last one, sees all tokens.
    """
    default = ["full_attention" if (i + 1) % period == 0 else "sliding_attention" for i in range(n_layer)]
    return [str(one) for one in config.list("layer_types", n=n_layer, default=default)]


TEXT_MODEL = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}
"""`Conversion.aliases` of models for texts and images."""

NOT_TEXT = (
    "vision_tower.*",
    "model.vision_tower.*",
    "vision_model.*",
    "model.visual.*",
    "visual.*",
    "multi_modal_projector.*",
    "model.multi_modal_projector.*",
    "audio_tower.*",
    "model.audio_tower.*",
    "model.embed_vision.*",
    "model.embed_audio.*",
)
"""`Conversion.skipped` of models for texts and images: only texts are supported."""
