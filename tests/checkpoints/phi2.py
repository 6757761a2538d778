"""Checkpoints of the architecture ``phi2``."""

from checkpoints import N_VOCAB, Checkpoint, Shapes, checkpoint, layers
from checkpoints.gpt2 import model
from checkpoints.nemotron_h import ffn

HEADS = layers.HeadSizes(n_kv=4)
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 4 * layers.N_EMBD,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_epsilon": 1e-5,
    "rope.dimension_count": 8,
}


def layer(*, fused: bool) -> Shapes:
    """Return the shapes of a layer, with fused Q, K and V or without."""
    norm = layers.vectors("attn_norm")
    blocks = {**layers.attention(HEADS, fused=fused), **ffn(4 * layers.N_EMBD)}
    return {**norm, **layers.norm_biases(norm), **blocks, **layers.biases(blocks)}


BIAS: Shapes = {"output.bias": (N_VOCAB,)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "phi2",
        "phi2",
        KEYS,
        {**model([layer(fused=False)] * 4), **BIAS},
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": 7},
    ),
    checkpoint("phi2-fused", "phi2", KEYS | {"block_count": 2}, {**model([layer(fused=True)] * 2), **BIAS}),
)
