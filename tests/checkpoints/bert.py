"""Checkpoints of the architecture ``bert``, which is also RoBERTa."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from checkpoints import N_VOCAB, Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=4, size=16)
N_FF, N_CTX, N_TYPES = 96, 64, 2
KEYS = {
    "block_count": 3,
    "context_length": N_CTX,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": N_FF,
    "attention.head_count": HEADS.n,
    "attention.layer_norm_epsilon": 1e-12,
    "attention.causal": False,
}
PLAIN_FFN: Shapes = {"ffn_up.weight": (N_FF, layers.N_EMBD), "ffn_down.weight": (layers.N_EMBD, N_FF)}


def norms(*roles: str) -> Shapes:
    """Return LayerNorms with biases."""
    return {f"{role}.{part}": (layers.N_EMBD,) for role in roles for part in ("weight", "bias")}


def with_biases(layer: Shapes) -> Shapes:
    """Return a layer and the biases of all its matrices."""
    return {**layer, **layers.biases(layer)}


def shapes(found: Iterable[Shapes], *, positions: bool = False, types: bool = True) -> Shapes:
    """Return the shapes of a whole encoder whose layers are given."""
    n = layers.N_EMBD
    embeddings: Shapes = {"token_embd.weight": (N_VOCAB, n)}
    embeddings |= {"position_embd.weight": (N_CTX, n)} if positions else {}
    embeddings |= {"token_types.weight": (N_TYPES, n)} if types else {}
    embeddings |= norms("token_embd_norm")
    return embeddings | {f"blk.{i}.{role}": shape for i, layer in enumerate(found) for role, shape in layer.items()}


def encoder(name: str, architecture: str, keys: Mapping[str, Any], shapes: Shapes, **options: Any) -> Checkpoint:
    """Return a checkpoint of an encoder, all of which may lack token types."""
    optional = ("*.bias", "token_types.weight", *options.pop("optional", ()))
    return checkpoint(name, architecture, keys, shapes, output="hidden", optional=optional, **options)


NORMS = norms("attn_output_norm", "layer_output_norm")
LAYER = {**with_biases({**layers.attention(HEADS), **PLAIN_FFN}), **NORMS}
FUSED = {**with_biases({**layers.attention(HEADS, fused=True), **PLAIN_FFN}), **NORMS}

N_SCORES = 3
HEAD: Shapes = {
    "cls.weight": (layers.N_EMBD, layers.N_EMBD),
    "cls.bias": (layers.N_EMBD,),
    "cls.output.weight": (N_SCORES, layers.N_EMBD),
    "cls.output.bias": (N_SCORES,),
}


def ranker(name: str, architecture: str, keys: Mapping[str, Any], shapes: Shapes, **options: Any) -> Checkpoint:
    """Return a checkpoint of a model with a rank head, which is not a part of the graph."""
    scored = {"pooling_type": 4, **keys}
    optional = ("*.bias", "token_types.*")
    return checkpoint(
        name, architecture, scored, shapes, output="scores", skipped=("cls.*",), optional=optional, **options
    )


CHECKPOINTS: tuple[Checkpoint, ...] = (
    encoder("bert", "bert", KEYS, shapes([LAYER] * 3, positions=True), refused={"attention.causal": True}),
    encoder("bert-roberta", "bert", KEYS, shapes([FUSED] * 3, positions=True, types=False)),
    ranker("bert-reranker", "bert", KEYS, {**shapes([LAYER] * 3, positions=True), **HEAD}, has_types=True),
    ranker("bert-xlm-reranker", "bert", KEYS, {**shapes([LAYER] * 3, positions=True), **HEAD}),
)
