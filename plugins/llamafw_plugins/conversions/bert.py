"""Conversions to ``bert``, ``nomic-bert``, ``nomic-bert-moe``, ``jina-bert-v2`` and ``jina-bert-v3``.

Heads that score a text become ``cls`` and ``cls.output``, those that predict masked tokens are left out. RoBERTa's
positions begin after that of the padding, whose row and those before it have no counterpart.
"""

from __future__ import annotations

from typing import Any

from llamafw import checkpoints as c

LAYER = "encoder.layer.{i}"
EMBEDDINGS = {"token_embd": "word_embeddings", "token_types": "token_type_embeddings", "token_embd_norm": "LayerNorm"}
ATTENTION = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
}
FEED_FORWARD = {"ffn_up": "intermediate.dense", "ffn_down": "output.dense", "layer_output_norm": "output.LayerNorm"}
NEW_LAYER = {
    **c.ATTENTION,
    "attn_output_norm": "post_attention_layernorm",
    "layer_output_norm": "post_mlp_layernorm",
}
JINA_V2_LAYER = {
    **ATTENTION,
    "attn_q_norm": "attention.self.layer_norm_q",
    "attn_k_norm": "attention.self.layer_norm_k",
    "attn_norm_2": "layer_norm_1",
    "ffn_up": "mlp.gated_layers",
    "ffn_down": "mlp.wo",
    "layer_output_norm": "mlp.layernorm",
}
ALIASES = {"bert.": "", "roberta.": "", "camembert.": "", "xlm-roberta.": "", "nomic_bert.": "", "model.": ""}
SKIPPED = ("*embeddings.position_ids", "*embeddings.token_type_ids", "cls.*", "lm_head.*", "*.lora_A", "*.lora_B")
POOLER = ("*pooler.*",)
RANK = {"pooling_type": c.POOLING_TYPES["rank"]}
"""The key of a model that scores texts."""


def bert(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``BertModel``, with or without a head."""
    _require_encoder(config)
    return c.Conversion("bert", _metadata(config), _bert_rules(0), {}, ALIASES, (*SKIPPED, *POOLER))


def bert_ranker(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``BertForSequenceClassification``, whose pooler is a part of the head."""
    _require_encoder(config)
    rules = [*_bert_rules(0), c.rule("cls.{part}", "pooler.dense.{part}"), *_output_rules("classifier")]
    return c.Conversion("bert", _metadata(config) | RANK, rules, {}, ALIASES, SKIPPED)


def roberta(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``RobertaModel`` or ``XLMRobertaModel``, with or without a head."""
    _require_encoder(config)
    offset = config.integer("pad_token_id", default=1, low=0) + 1
    rules = [
        *_bert_rules(offset),
        c.rule("cls.{part}", "classifier.dense.{part}"),
        *_output_rules("classifier.out_proj"),
    ]
    is_ranker = any("SequenceClassification" in name for name in config.list("architectures", default=()))
    metadata = _metadata(config, offset) | (RANK if is_ranker else {})
    return c.Conversion("bert", metadata, rules, {}, ALIASES, (*SKIPPED, *POOLER))


def nomic_bert(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``NomicBertModel``: of transformers, or of the model's own code."""
    if config.has("n_layer"):
        return _nomic_of_own_code(config)
    config.require("hidden_act", "silu", default="silu")
    rope = c.rope(config, c.head_size(config), base=1000.0)
    rules = [*_embedding_rules(), *c.layers({**NEW_LAYER, **c.FEED_FORWARD}, layer="layers.{i}")]
    metadata = _metadata(config, function="silu") | rope.metadata
    return c.Conversion("nomic-bert", metadata, rules, rope.tensors, ALIASES, (*SKIPPED, *POOLER))


def jina_bert_v2(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``JinaBertModel``: of the first models, with GeGLU."""
    config.require("position_embedding_type", "alibi")
    config.require("feed_forward_type", "geglu")
    rules = [*_embedding_rules("embeddings."), *c.renames(JINA_V2_LAYER, LAYER)]
    return c.Conversion("jina-bert-v2", _metadata(config, function=None), rules, {}, ALIASES, (*SKIPPED, *POOLER))


def jina_bert_v3(config: c.Config) -> c.Conversion:
    """Return the conversion of a ``JinaEmbeddingsV3Model``, without the adapters for tasks."""
    rope = c.rope(config, c.head_size(config), base=20_000.0)
    names = {**NEW_LAYER, "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}
    rules = [*_embedding_rules(), *c.layers(names, layer="layers.{i}")]
    metadata = _metadata(config) | rope.metadata
    return c.Conversion("jina-bert-v3", metadata, rules, rope.tensors, ALIASES, (*SKIPPED, *POOLER))


def _nomic_of_own_code(config: c.Config) -> c.Conversion:
    """Return the conversion of Nomic's own checkpoints, whose configs are like GPT-2's."""
    is_moe = bool(config.integer("moe_every_n_layers", default=0, low=0))
    config.require("activation_function", "gelu" if is_moe else "swiglu")
    for key, value in (("prenorm", False), ("causal", False), ("rotary_emb_fraction", 1.0)):
        config.require(key, value)
    config.require("rotary_emb_interleaved", False, default=False)
    config.require("rotary_emb_scale_base", None)
    n_ctx, n_embd = config.integer("n_positions"), config.integer("n_embd")
    if config.integer("max_trained_positions", default=2048) == 2048:  # the config has the length of an extension
        n_ctx = {8192: 2048, 2048: 512}.get(n_ctx, n_ctx)
    metadata: dict[str, Any] = {
        "vocab_size": config.integer("vocab_size"),
        "context_length": n_ctx,
        "embedding_length": n_embd,
        "block_count": config.integer("n_layer"),
        "feed_forward_length": config.integer("n_inner"),
        "attention.head_count": config.integer("n_head"),
        "attention.layer_norm_epsilon": config.number("layer_norm_epsilon"),
        "attention.causal": False,
        "rope.freq_base": config.number("rotary_emb_base", default=10_000.0),
    }
    layer = "encoder.layers.{i}"
    names = {
        "attn_qkv": "attn.Wqkv",
        "attn_output": "attn.out_proj",
        "attn_output_norm": "norm1",
        "layer_output_norm": "norm2",
        "ffn_down": "mlp.fc2",
        **({"ffn_up": "mlp.fc1", "ffn_gate_inp": "mlp.router.layer"} if is_moe else {}),
        **({} if is_moe else {"ffn_up": "mlp.fc11", "ffn_gate": "mlp.fc12"}),
    }
    rules = [
        *(
            c.rule(f"{role}.{{part}}", f"embeddings.{EMBEDDINGS[role]}.{{part}}")
            for role in ("token_embd", "token_types")
        ),
        c.rule("token_embd_norm.{part}", "emb_ln.{part}"),
        *c.renames(names, layer),
    ]
    if not is_moe:
        return c.Conversion("nomic-bert", metadata, rules, {}, ALIASES, (*SKIPPED, *POOLER))

    n_expert = config.integer("num_experts", "num_local_experts")
    metadata |= {
        "expert_count": n_expert,
        "expert_used_count": config.integer("moe_top_k"),
        "moe_every_n_layers": config.integer("moe_every_n_layers"),
    }
    by_expert = c.Reshape((n_expert, -1, n_embd), (-1, n_embd))
    rules += [
        c.rule("blk.{i}.ffn_up_exps.weight", f"{layer}.mlp.experts.mlp.w1", by_expert),
        c.rule("blk.{i}.ffn_down_exps.weight", f"{layer}.mlp.experts.mlp.w2", by_expert, c.Transpose()),
    ]
    return c.Conversion("nomic-bert-moe", metadata, rules, {}, ALIASES, (*SKIPPED, *POOLER, "*.mlp.experts.bias"))


def _require_encoder(config: c.Config) -> None:
    """Raise ModelError if tokens do not see the whole text, or positions have other embeddings than one for each."""
    config.require("position_embedding_type", "absolute", default="absolute")
    config.require("is_decoder", False, default=False)


def _metadata(config: c.Config, offset: int = 0, function: str | None = "gelu") -> dict[str, Any]:
    """Return the keys of an encoder whose config is like BERT's; ``function`` is the one that is required."""
    if function is not None:
        config.require("hidden_act", function, default=function)
    return {
        "vocab_size": config.integer("vocab_size"),
        "context_length": config.integer("max_position_embeddings") - offset,
        "embedding_length": config.integer("hidden_size"),
        "block_count": config.integer("num_hidden_layers"),
        "feed_forward_length": config.integer("intermediate_size"),
        "attention.head_count": config.integer("num_attention_heads"),
        "attention.layer_norm_epsilon": config.number("layer_norm_eps", default=1e-12),
        "attention.causal": False,
    }


def _embedding_rules(prefix: str = "embeddings.") -> list[c.Rule]:
    return [c.rule(f"{role}.{{part}}", f"{prefix}{name}.{{part}}") for role, name in EMBEDDINGS.items()]


def _output_rules(name: str) -> list[c.Rule]:
    return [c.rule("cls.output.{part}", f"{name}.{{part}}")]


def _bert_rules(offset: int) -> list[c.Rule]:
    """Return the rules of BERT; ``offset`` is the number of positions before that of the first token."""
    norms = {**EMBEDDINGS, "position_embd": "position_embeddings"}
    rules = []
    for role, name in norms.items():
        changes = [c.DropRows(offset)] if role == "position_embd" and offset else []
        rules.append(c.rule(f"{role}.{{part}}", f"embeddings.{name}.{{part}}", *changes))
    rules += c.renames({**ATTENTION, **FEED_FORWARD}, LAYER)
    for part, old in (("weight", "gamma"), ("bias", "beta")):  # TensorFlow's names
        rules.append(c.rule(f"token_embd_norm.{part}", f"embeddings.LayerNorm.{old}"))
        for role in ("attn_output_norm", "layer_output_norm"):
            name = {**ATTENTION, **FEED_FORWARD}[role]
            rules.append(c.rule(f"blk.{{i}}.{role}.{part}", f"{LAYER}.{name}.{old}"))
    return rules
