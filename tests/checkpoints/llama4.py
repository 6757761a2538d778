"""Checkpoints of the architecture ``llama4``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.granitemoe import shared

HEADS = layers.HeadSizes(n=4, n_kv=2, size=32)
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.sliding_window": 16,
    "attention.temperature_scale": 0.5,
    "attention.temperature_length": 8,
    "rope.dimension_count": HEADS.size,
    "rope.freq_base": 5000.0,
    "expert_count": 8,
    "expert_used_count": 1,
    "expert_feed_forward_length": 32,
    "interleave_moe_layer_step": 1,
}
ATTENTION = {**layers.vectors("attn_norm", "ffn_norm"), **layers.attention(HEADS)}
DENSE = {**ATTENTION, **layers.gated_ffn(96)}
SPARSE = {**ATTENTION, **layers.experts(8, 32), **shared(32)}
MAVERICK = {**ATTENTION, **layers.experts(128, 32), **shared(32)}
FACTORS = {"rope_freqs.weight": (HEADS.size // 2,)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "llama4",  # like Scout, with two experts per token
        "llama4",
        KEYS | {"expert_used_count": 2},
        layers.model([SPARSE] * 4),
        lengths=(1, 5, 16, 40),
        refused={"rope.scaling.type": "cubic", "expert_count": 0, "attention.temperature_length": 0},
    ),
    checkpoint(
        "llama4-maverick",
        "llama4",
        KEYS | {"expert_count": 128, "interleave_moe_layer_step": 2},
        layers.model([DENSE, MAVERICK] * 2),
    ),
    checkpoint(
        "llama4-dense-tied",  # like MobileLLM, with positions in all layers
        "llama4",
        KEYS | {"attention.sliding_window": 0, "interleave_moe_layer_step": 0},
        {**layers.model([DENSE] * 4, tied=True), **FACTORS},
        has_config=False,  # random factors
    ),
)
