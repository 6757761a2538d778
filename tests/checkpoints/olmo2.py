"""Checkpoints of the architecture ``olmo2``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 5000.0,
}
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}


def joint_norms(heads: layers.HeadSizes) -> Shapes:
    """Return norms over all heads of Q, and over all heads of K."""
    return {"attn_q_norm.weight": (heads.n * heads.size,), "attn_k_norm.weight": (heads.n_kv * heads.size,)}


NORMS = layers.vectors("post_attention_norm", "post_ffw_norm")
LAYER = {**NORMS, **layers.attention(HEADS), **joint_norms(HEADS), **layers.gated_ffn(96)}
BIASES = layers.biases(LAYER, "attn_q", "attn_k", "attn_v", "attn_output")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "olmo2",
        "olmo2",
        KEYS,
        layers.model([LAYER] * 4),
        refused={"rope.scaling.type": "cubic", "attention.sliding_window": -1},
    ),
    checkpoint(
        "olmo2-windows-yarn",  # like OLMo 3
        "olmo2",
        KEYS | YARN | {"block_count": 8, "attention.sliding_window": 16},
        layers.model([{**LAYER, **BIASES}] * 8, tied=True),
    ),
    checkpoint(
        "olmo2-windows-listed",
        "olmo2",
        KEYS
        | YARN
        | {"attention.sliding_window": 8, "attention.sliding_window_pattern": [False, True, True, False]}
        | {"rope.freq_base_swa": 20000.0},
        layers.model([LAYER] * 4),
    ),
)
