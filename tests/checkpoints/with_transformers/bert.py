"""The architecture ``bert`` as transformers' BERT and RoBERTa."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, load, rename, split_rows

NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
PAD = 1  # RoBERTa counts positions from the one after it


def config_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config that encoders like BERT have."""
    return {
        "vocab_size": checkpoint.shapes["token_embd.weight"][0],
        "hidden_size": checkpoint.key("embedding_length"),
        "intermediate_size": checkpoint.key("feed_forward_length"),
        "num_hidden_layers": checkpoint.key("block_count"),
        "num_attention_heads": checkpoint.key("attention.head_count"),
        "max_position_embeddings": checkpoint.key("context_length"),
        "layer_norm_eps": checkpoint.key("attention.layer_norm_epsilon"),
        "type_vocab_size": checkpoint.shapes.get("token_types.weight", (1,))[0],
    }


def with_types(tensors: Tensors) -> Tensors:
    """Return the tensors, with a type of tokens that adds nothing if there is none."""
    n_embd = tensors["token_embd.weight"].shape[1]
    return {"token_types.weight": torch.zeros(1, n_embd), **tensors}


def split_qkv(tensors: Tensors) -> Tensors:
    """Return the tensors with ``attn_qkv`` divided into three."""
    n_embd = tensors["token_embd.weight"].shape[1]
    return split_rows(tensors, "attn_qkv", dict.fromkeys(("attn_q", "attn_k", "attn_v"), n_embd))


HEADS = {
    "bert-reranker": {"cls": "bert.pooler.dense", "cls.output": "classifier"},
    "bert-xlm-reranker": {"cls": "classifier.dense", "cls.output": "classifier.out_proj"},
}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    is_ranker, is_bert = checkpoint.output == "scores", checkpoint.name in ("bert", "bert-reranker")
    tensors, fields = with_types(split_qkv(tensors)), config_fields(checkpoint)
    head = {name: tensors.pop(name) for name in list(tensors) if name.startswith("cls.")}
    state = rename(tensors, NAMES, prefix="")
    state = {
        name.replace("layers.", "encoder.layer."): tensor for name, tensor in state.items() if "lm_head" not in name
    }
    if not is_bert:
        positions = "embeddings.position_embeddings.weight"
        state[positions] = torch.cat([torch.full((PAD + 1, fields["hidden_size"]), 9.0), state[positions]])
        fields["max_position_embeddings"] += PAD + 1
        fields["pad_token_id"] = PAD

    config = (BertConfig if is_bert else XLMRobertaConfig)(**fields)
    if not is_ranker:
        return load(BertModel if is_bert else XLMRobertaModel, config, state, add_pooling_layer=False)
    prefix, config.num_labels = "bert." if is_bert else "roberta.", len(head["cls.output.bias"])
    state = {f"{prefix}{name}": tensor for name, tensor in state.items()} | head_state(head, HEADS[checkpoint.name])
    return load(BertForSequenceClassification if is_bert else XLMRobertaForSequenceClassification, config, state)


def head_state(head: Tensors, names: Mapping[str, str]) -> Tensors:
    """Return the parameters of a rank head by the names of transformers."""
    stems = {name: name.rpartition(".") for name in head}
    return {f"{names[stem]}.{part}": head[name] for name, (stem, _, part) in stems.items()}
