"""Checkpoints of the architecture ``starcoder2``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.gpt2 import model
from checkpoints.nemotron_h import ffn

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
}
NORMS = layers.vectors("attn_norm", "ffn_norm")
NORMS_WITH_BIASES = {**NORMS, **layers.norm_biases(NORMS)}
BLOCKS = {**layers.attention(HEADS), **ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "starcoder2",
        "starcoder2",
        KEYS,
        model([{**NORMS_WITH_BIASES, **BLOCKS, **layers.biases(BLOCKS)}] * 4, tied=True),
        refused={"rope.scaling.type": "cubic", "attention.sliding_window": -1},
    ),
    checkpoint(
        "starcoder2-window",
        "starcoder2",
        KEYS | {"attention.sliding_window": 16},
        model([{**NORMS_WITH_BIASES, **BLOCKS}] * 4),
    ),
)
