"""The architecture ``modern-bert`` as transformers' ModernBERT."""

from __future__ import annotations

import torch
from transformers import ModernBertConfig, ModernBertForSequenceClassification, ModernBertModel

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, layer_types, load, rename
from checkpoints.with_transformers.bert import config_fields, head_state

NAMES = {
    "token_embd": "embeddings.tok_embeddings",
    "token_embd_norm": "embeddings.norm",
    "output_norm": "final_norm",
    "attn_norm": "attn_norm",
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.Wo",
    "ffn_norm": "mlp_norm",
    "ffn_up": "mlp.Wi",
    "ffn_down": "mlp.Wo",
}
HEAD = {"cls": "head.dense", "cls.norm": "head.norm", "cls.output": "classifier"}


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    head = {name: tensors.pop(name) for name in list(tensors) if name.startswith("cls.")}
    state = rename(tensors, NAMES, prefix="")
    del state["lm_head.weight"]
    fields, keys = config_fields(checkpoint), checkpoint.metadata
    pattern = checkpoint.key("attention.sliding_window_pattern")
    bases = {"full_attention": "rope.freq_base", "sliding_attention": "rope.freq_base_swa"}
    config = ModernBertConfig(
        **{name: value for name, value in fields.items() if name not in ("type_vocab_size", "layer_norm_eps")},
        pad_token_id=0,
        norm_eps=fields["layer_norm_eps"],
        local_attention=checkpoint.key("attention.sliding_window"),
        layer_types=layer_types(checkpoint) if isinstance(pattern, list) else None,
        hidden_activation=keys.get("modern-bert.hidden_activation", "gelu"),
        rope_parameters={
            kind: {"rope_type": "default", "rope_theta": checkpoint.key(base)} for kind, base in bases.items()
        },
    )
    if not head:
        return load(ModernBertModel, config, state)
    config.num_labels, config.classifier_pooling = len(head["cls.output.bias"]), "mean"
    state = {f"model.{name}": tensor for name, tensor in state.items()} | head_state(head, HEAD)
    return load(ModernBertForSequenceClassification, config, state)
