"""Checkpoints of the architecture ``gpt2``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.nemotron_h import ffn

HEADS = layers.HeadSizes(n_kv=4)
N_CTX = 128
KEYS = {
    "block_count": 4,
    "context_length": N_CTX,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 4 * layers.N_EMBD,
    "attention.head_count": HEADS.n,
    "attention.layer_norm_epsilon": 1e-5,
}
NORMS = layers.vectors("attn_norm", "ffn_norm")
BLOCKS = {**layers.attention(HEADS, fused=True), **ffn(4 * layers.N_EMBD)}
LAYER = {**NORMS, **BLOCKS, **layers.biases(BLOCKS), **layers.norm_biases(NORMS)}


def model(blocks: list[Shapes], **options: bool) -> Shapes:
    """Return the shapes of a whole model, whose last norm has a bias."""
    return {**layers.model(blocks, **options), "output_norm.bias": (layers.N_EMBD,)}


POSITIONS: Shapes = {"position_embd.weight": (N_CTX, layers.N_EMBD)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "gpt2",
        "gpt2",
        KEYS,
        {**model([LAYER] * 4, tied=True), **POSITIONS},
        refused={"attention.head_count": 0, "attention.layer_norm_epsilon": -1.0},
    ),
    checkpoint("gpt2-untied", "gpt2", KEYS | {"block_count": 2}, {**model([LAYER] * 2), **POSITIONS}),
)
