"""Checkpoints of the architecture ``stablelm``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.gpt2 import model

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_epsilon": 1e-5,
    "rope.dimension_count": 4,
    "use_parallel_residual": True,  # as converters write it for all models
}
NORMS = layers.vectors("attn_norm", "ffn_norm")
ONE_NORM = layers.vectors("attn_norm")
BLOCKS = {**layers.attention(HEADS), **layers.gated_ffn(96)}
HEAD_NORMS: Shapes = {
    "attn_q_norm.weight": (HEADS.n, HEADS.size),
    "attn_k_norm.weight": (HEADS.n_kv, HEADS.size),
}
BIASES = layers.biases(BLOCKS, "attn_q", "attn_k", "attn_v")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "stablelm",
        "stablelm",
        KEYS,
        model([{**NORMS, **layers.norm_biases(NORMS), **BLOCKS, **BIASES}] * 4),
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": 5},
    ),
    checkpoint(
        "stablelm-parallel",  # like StableLM 2 12B
        "stablelm",
        KEYS,
        model([{**ONE_NORM, **layers.norm_biases(ONE_NORM), **BLOCKS, **HEAD_NORMS}] * 4, tied=True),
    ),
)
