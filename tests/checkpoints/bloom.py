"""Checkpoints of the architecture ``bloom``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.gpt2 import NORMS, model
from checkpoints.nemotron_h import ffn

HEADS = layers.HeadSizes(n_kv=4)
N_FF = 4 * layers.N_EMBD
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": N_FF,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n,
    "attention.layer_norm_epsilon": 1e-5,
}


def layer(heads: layers.HeadSizes) -> Shapes:
    """Return the shapes of a layer."""
    blocks = {**layers.attention(heads, fused=True), **ffn(N_FF)}
    return {**NORMS, **blocks, **layers.biases(blocks), **layers.norm_biases(NORMS)}


EMBEDDING_NORM: Shapes = {"token_embd_norm.weight": (layers.N_EMBD,), "token_embd_norm.bias": (layers.N_EMBD,)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "bloom",
        "bloom",
        KEYS,
        {**model([layer(HEADS)] * 4, tied=True), **EMBEDDING_NORM},
        refused={"attention.head_count": 0, "attention.layer_norm_epsilon": -1.0},
    ),
)
