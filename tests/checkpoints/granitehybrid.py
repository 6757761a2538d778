"""Checkpoints of the architecture ``granitehybrid``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.granite import HEADS, KEYS
from checkpoints.granitemoe import EXPERTS, shared
from checkpoints.nemotron_h import OPTIONAL, RANGES, mamba2

HYBRID = {
    "attention.head_count_kv": [0, HEADS.n_kv, 0, 0],
    "rope.scaling.finetuned": False,
    "ssm.conv_kernel": 4,
    "ssm.group_count": 1,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 2 * layers.N_EMBD,
}
NORM = layers.vectors("ffn_norm")
MAMBA = {**mamba2(4, 32, n_group=1, n_state=32), **NORM}
ATTENTION = {**layers.vectors("attn_norm"), **NORM, **layers.attention(HEADS)}
DENSE, SPARSE = layers.gated_ffn(96), {**layers.experts(8, 32), **shared(64)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "granitehybrid",
        "granitehybrid",
        KEYS | HYBRID,
        layers.model([{**one, **DENSE} for one in (MAMBA, ATTENTION, MAMBA, MAMBA)]),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"ssm.inner_size": 130, "ssm.group_count": 3, "rope.scaling.finetuned": 2},
    ),
    checkpoint(
        "granitehybrid-experts",
        "granitehybrid",
        KEYS
        | HYBRID
        | EXPERTS
        | {"block_count": 2, "expert_shared_feed_forward_length": 64, "rope.scaling.finetuned": True},
        layers.model([{**one, **SPARSE} for one in (MAMBA, ATTENTION)], tied=True),
        ranges=RANGES,
        optional=(*OPTIONAL, "*_shexp.weight"),
    ),
)
