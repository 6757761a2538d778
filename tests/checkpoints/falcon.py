"""Checkpoints of the architecture ``falcon``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.gpt2 import model
from checkpoints.nemotron_h import ffn

N_FF = 4 * layers.N_EMBD
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": N_FF,
    "attention.head_count": 4,
    "attention.head_count_kv": 1,
    "attention.layer_norm_epsilon": 1e-5,
}


def layer(n_kv: int, *norms: str) -> Shapes:
    """Return the shapes of a layer."""
    weights = layers.vectors(*norms)
    attention = layers.attention(layers.HeadSizes(n_kv=n_kv), fused=True)
    return {**weights, **layers.norm_biases(weights), **attention, **ffn(N_FF)}


BIASED = layer(2, "attn_norm")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "falcon",  # like 7B
        "falcon",
        KEYS,
        model([layer(1, "attn_norm")] * 4, tied=True),
        refused={"rope.scaling.type": "cubic"},
    ),
    checkpoint(
        "falcon-two-norms",  # like 40B
        "falcon",
        KEYS | {"attention.head_count_kv": 2},
        model([layer(2, "attn_norm", "attn_norm_2")] * 4),
    ),
    checkpoint(
        "falcon-biases",  # like 11B, whose base is another one
        "falcon",
        KEYS | {"attention.head_count_kv": 2, "block_count": 2, "rope.freq_base": 500042.0},
        model([{**BIASED, **layers.biases(BIASED)}] * 2, tied=True),
    ),
)
