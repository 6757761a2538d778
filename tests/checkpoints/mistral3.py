"""Checkpoints of the architecture ``mistral3``."""

from checkpoints import Checkpoint, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=32)
KEYS = {
    "block_count": 4,
    "context_length": 128,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.temperature_scale": 0.125,
    "rope.freq_base": 5000.0,
    "rope.dimension_count": HEADS.size,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 16.0,
    "rope.scaling.original_context_length": 8,
    "rope.scaling.yarn_beta_fast": 4.0,
    "rope.scaling.yarn_beta_slow": 0.25,
    "rope.scaling.yarn_log_multiplier": 1.0,
}
PLAIN = {key: value for key, value in KEYS.items() if "scaling" not in key and "temperature" not in key}
LAYER = {**layers.vectors("attn_norm", "ffn_norm"), **layers.attention(HEADS), **layers.gated_ffn(96)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "mistral3",
        "mistral3",
        KEYS,
        layers.model([LAYER] * 4),
        refused={"rope.scaling.type": "cubic", "attention.temperature_scale": "high"},
    ),
    checkpoint(
        "mistral3-multiplier", "mistral3", KEYS | {"rope.scaling.yarn_log_multiplier": 0.5}, layers.model([LAYER] * 4)
    ),
    checkpoint("mistral3-plain-tied", "mistral3", PLAIN, layers.model([LAYER] * 4, tied=True)),
)
