"""Describe models of the architecture ``llama``: Llama 1 to 3, Mistral, SmolLM2 and others with the same computation.

They have RMSNorm, rotary position embeddings on adjacent pairs (GGUF files have Q and K permuted for them),
grouped-query attention, a SiLU-gated feed-forward, and an output matrix that may be the embedding. The metadata keys
begin with ``llama.``, see https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

A feature of the file that the description cannot express is an error, because a model that runs without it would give
wrong answers. Independent of how models are run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from llamafw import Decoder, Model, ModelError
from llamafw_plugins.architectures.metadata import Metadata
from llamafw_plugins.architectures.rope import rope

GLOBAL = {"token_embd": "token_embd.weight", "output_norm": "output_norm.weight", "output": "output.weight"}
LAYER = {
    role: f"blk.{{layer}}.{role}.weight"
    for role in (
        "attn_norm",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_norm",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    )
}
OPTIONAL_BIASES = {
    f"{role}_bias": f"blk.{{layer}}.{role}.bias" for role in ("attn_q", "attn_k", "attn_v", "attn_output")
}
"""Tensor roles and their GGUF names, as in `Decoder.tensors`. Biases are described if the file has them."""

RANK_HEAD = tuple(f"{name}.{part}" for name in ("cls", "cls.output") for part in ("weight", "bias"))
"""Tensors of rerankers that score the hidden states. They are not part of the decoder."""


def describe(model: Model) -> Decoder:
    """Return the description of ``model`` for backends.

    Raises
    ------
    ModelError
        A metadata key or a tensor is missing or invalid (the message names it), or the model has an unsupported
        feature: experts, values of another size than keys, or an unknown RoPE scaling.
    """
    metadata = Metadata(model, "llama")
    if metadata.integer("expert_count", 0, low=0):
        raise ModelError(f"{model.path}: mixtures of experts (llama.expert_count) are not supported")

    n_embd = metadata.integer("embedding_length")
    n_head = metadata.integer("attention.head_count")
    n_head_kv = metadata.integer("attention.head_count_kv", n_head)
    if n_head % n_head_kv:
        raise ModelError(f"{model.path}: {n_head} heads cannot be divided evenly among {n_head_kv} KV heads")
    n_embd_head = metadata.integer("attention.key_length", n_embd // n_head)
    if metadata.integer("attention.value_length", n_embd_head) != n_embd_head:
        raise ModelError(
            f"{model.path}: values of another size than keys (llama.attention.value_length) are not supported"
        )
    n_rot = metadata.integer("rope.dimension_count", n_embd_head)
    if n_rot != n_embd_head or n_rot % 2:
        raise ModelError(
            f"{model.path}: llama.rope.dimension_count is {n_rot}; "
            f"it must be even and equal to the head size, {n_embd_head}"
        )

    n_ctx_train = metadata.integer("context_length")
    frequencies, magnitude = rope(metadata, n_rot, n_ctx_train)
    decoder = Decoder(
        n_vocab=_n_vocab(model),
        n_ctx_train=n_ctx_train,
        n_embd=n_embd,
        n_layer=metadata.integer("block_count"),
        n_head=n_head,
        n_head_kv=n_head_kv,
        n_embd_head=n_embd_head,
        n_ff=metadata.integer("feed_forward_length"),
        norm_eps=metadata.number("attention.layer_norm_rms_epsilon", low=0),
        rope_frequencies=frequencies,
        rope_magnitude=magnitude,
        rope_interleaved=True,
        attention_scale=1 / math.sqrt(n_embd_head),
        activation="silu",
        tensors=_roles(model),
    )
    _check_tensors(model, decoder)
    return decoder


def _n_vocab(model: Model) -> int:
    """Return the number of rows of the embedding, which must equal the tokenizer's number of tokens."""
    embedding = model.tensors.get(GLOBAL["token_embd"])
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{model.path}: the matrix {GLOBAL['token_embd']!r} is missing")
    tokens = model.metadata.get("tokenizer.ggml.tokens")
    if tokens is not None and len(tokens) != embedding.shape[0]:
        raise ModelError(f"{model.path}: {embedding.name!r} has {embedding.shape[0]} rows for {len(tokens)} tokens")
    return embedding.shape[0]


def _roles(model: Model) -> dict[str, str]:
    """Return the names of the tensors that this model has or must have, by role."""
    roles = (
        GLOBAL | LAYER | {role: name for role, name in OPTIONAL_BIASES.items() if name.format(layer=0) in model.tensors}
    )
    if GLOBAL["output"] not in model.tensors:
        roles["output"] = GLOBAL["token_embd"]
    return roles


def _shapes(decoder: Decoder) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of tensors, outermost dimension first, by role."""
    n_embd, n_ff, n_vocab = decoder.n_embd, decoder.n_ff, decoder.n_vocab
    n_q, n_kv = decoder.n_head * decoder.n_embd_head, decoder.n_head_kv * decoder.n_embd_head
    return {
        "token_embd": (n_vocab, n_embd),
        "output_norm": (n_embd,),
        "output": (n_vocab, n_embd),
        "attn_norm": (n_embd,),
        "attn_q": (n_q, n_embd),
        "attn_k": (n_kv, n_embd),
        "attn_v": (n_kv, n_embd),
        "attn_output": (n_embd, n_q),
        "attn_q_bias": (n_q,),
        "attn_k_bias": (n_kv,),
        "attn_v_bias": (n_kv,),
        "attn_output_bias": (n_embd,),
        "ffn_norm": (n_embd,),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }


def _check_tensors(model: Model, decoder: Decoder) -> None:
    """Raise ModelError unless the file has every tensor with the right shape, and no other tensors."""
    shapes = _shapes(decoder)
    used = {"rope_freqs.weight", *RANK_HEAD}
    for role, pattern in decoder.tensors.items():
        for layer in range(decoder.n_layer if "{layer}" in pattern else 1):
            name = pattern.format(layer=layer)
            tensor = model.tensors.get(name)
            if tensor is None:
                raise ModelError(f"{model.path}: the tensor {name!r} is missing")
            if tensor.shape != shapes[role]:
                raise ModelError(f"{model.path}: the tensor {name!r} has shape {tensor.shape}, not {shapes[role]}")
            used.add(name)

    for name in model.tensors:
        # attn_rot_embd: old converters wrote the frequencies of every layer, which follow from the metadata
        if name not in used and not name.endswith(".attn_rot_embd.weight"):
            raise ModelError(f"{model.path}: the tensor {name!r} is not part of the llama architecture")
