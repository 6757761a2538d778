"""Checkpoints of the architecture ``gptneox``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.gpt2 import NORMS, model
from checkpoints.nemotron_h import ffn

HEADS = layers.HeadSizes(n=2, n_kv=2, size=32)
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 128,
    "attention.head_count": HEADS.n,
    "attention.layer_norm_epsilon": 1e-5,
    "rope.dimension_count": HEADS.size // 4,
    "use_parallel_residual": True,
}
BLOCKS = {**layers.attention(HEADS, fused=True), **ffn(128)}
LAYER = {**NORMS, **BLOCKS, **layers.biases(BLOCKS), **layers.norm_biases(NORMS)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "gptneox",
        "gptneox",
        KEYS,
        model([LAYER] * 4),
        refused={"rope.scaling.type": "cubic", "use_parallel_residual": 2},
    ),
    checkpoint(
        "gptneox-sequential",
        "gptneox",
        KEYS | {"block_count": 2, "use_parallel_residual": False, "rope.dimension_count": HEADS.size},
        model([{**NORMS, **BLOCKS, **layers.biases(ffn(128)), **layers.norm_biases(NORMS)}] * 2, tied=True),
    ),
)
