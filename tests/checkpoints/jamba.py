"""Checkpoints of the architecture ``jamba``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.mamba import N_INNER, N_RANK, N_STATE, mamba
from checkpoints.nemotron_h import RANGES

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 32,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": [0, HEADS.n_kv, 0, 0],
    "attention.layer_norm_rms_epsilon": 1e-6,
    "ssm.conv_kernel": 4,
    "ssm.inner_size": N_INNER,
    "ssm.state_size": N_STATE,
    "ssm.time_step_rank": N_RANK,
    "expert_count": 4,
    "expert_used_count": 2,
}
NORM = layers.vectors("ffn_norm")
MAMBA = {**mamba(norms=True), **NORM}
ATTENTION = {**layers.vectors("attn_norm"), **NORM, **layers.attention(HEADS)}
DENSE, SPARSE = layers.gated_ffn(32), layers.experts(4, 32)
OPTIONAL = ("output.weight", "*ssm_conv1d.bias")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "jamba",
        "jamba",
        KEYS,
        layers.model([{**MAMBA, **DENSE}, {**ATTENTION, **SPARSE}, {**MAMBA, **DENSE}, {**MAMBA, **SPARSE}], tied=True),
        lengths=(1, 5, 70),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"ssm.conv_kernel": 0, "expert_used_count": 5},
    ),
    checkpoint(
        "jamba-dense",  # like Jamba Reasoning 3B
        "jamba",
        KEYS | {"block_count": 2, "expert_count": 1, "expert_used_count": 1},
        layers.model([{**MAMBA, **DENSE}, {**ATTENTION, **DENSE}]),
        ranges=RANGES,
        optional=OPTIONAL,
    ),
)
