"""Checkpoints of the architecture ``mamba2``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.nemotron_h import OPTIONAL, RANGES, mamba2

KEYS = {
    "block_count": 4,
    "context_length": 2**20,  # as in files of the real models, which have no limit
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 0,
    "attention.head_count": 0,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "ssm.conv_kernel": 4,
    "ssm.group_count": 2,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 2 * layers.N_EMBD,
}
LAYER = mamba2(4, 32, n_state=32)

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "mamba2",
        "mamba2",
        KEYS,
        layers.model([LAYER] * 4, tied=True),
        lengths=(1, 5, 70),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"ssm.group_count": 3, "ssm.inner_size": 130},
    ),
    checkpoint(
        "mamba2-biases",
        "mamba2",
        KEYS | {"block_count": 2},
        layers.model([{**LAYER, **layers.biases(LAYER, "ssm_in", "ssm_out")}] * 2),
        ranges=RANGES,
        optional=OPTIONAL,
    ),
)
