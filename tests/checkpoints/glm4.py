"""Checkpoints of the architecture ``glm4``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
    "rope.dimension_count": HEADS.size // 2,
}
NORMS = layers.vectors("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
BLOCKS = {**layers.attention(HEADS), **layers.gated_ffn(96, fused=True)}
LAYER = {**NORMS, **BLOCKS, **layers.biases(BLOCKS, "attn_q", "attn_k", "attn_v")}
PLAIN = {**NORMS, **BLOCKS}


def prediction(layer: Shapes) -> Shapes:
    """Return a block that predicts the token after the next, which the graph does not use."""
    norms = layers.vectors("nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")
    return {**layer, **norms, "nextn.eh_proj.weight": (layers.N_EMBD, 2 * layers.N_EMBD)}


CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "glm4",
        "glm4",
        KEYS,
        layers.model([LAYER] * 4),
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": 7, "nextn_predict_layers": 4},
    ),
    checkpoint(
        "glm4-sections-tied",  # like GLM-OCR
        "glm4",
        KEYS | {"block_count": 3, "nextn_predict_layers": 1, "rope.dimension_sections": [2, 1, 1, 0]},
        layers.model([PLAIN, PLAIN, prediction(PLAIN)], tied=True),
        skipped=("blk.2.*",),
        has_config=False,  # of a model for images, from which Q and K are permuted
    ),
)
