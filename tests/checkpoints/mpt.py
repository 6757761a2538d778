"""Checkpoints of the architecture ``mpt``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.gpt2 import NORMS
from checkpoints.nemotron_h import ffn

HEADS = layers.HeadSizes(n_kv=4)
WIDE = layers.HeadSizes(n=6, n_kv=6)  # not a power of two
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 4 * layers.N_EMBD,
    "attention.head_count": HEADS.n,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.clamp_kqv": 1.0,
    "attention.max_alibi_bias": 8.0,
}
LAYER = {**NORMS, **layers.attention(HEADS, fused=True), **ffn(4 * layers.N_EMBD)}
WIDE_LAYER = {
    **layers.vectors("attn_norm", "ffn_norm", n=96),
    **layers.attention(WIDE, fused=True, n_embd=96),
    "ffn_up.weight": (4 * 96, 96),
    "ffn_down.weight": (96, 4 * 96),
}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "mpt",
        "mpt",
        KEYS,
        layers.model([LAYER] * 4, tied=True),
        refused={"attention.max_alibi_bias": 0.0, "attention.clamp_kqv": -1.0},
    ),
    checkpoint(
        "mpt-norms",  # like SEA-LION
        "mpt",
        KEYS | {"block_count": 2},
        layers.model([{**LAYER, **layers.vectors("attn_q_norm", "attn_k_norm")}] * 2, tied=True),
    ),
    checkpoint(
        "mpt-six-heads",
        "mpt",
        {key: value for key, value in KEYS.items() if key != "attention.clamp_kqv"}
        | {"embedding_length": 96, "feed_forward_length": 4 * 96, "attention.head_count": 6, "block_count": 2},
        layers.model([WIDE_LAYER] * 2, tied=True, n_embd=96),
    ),
)
