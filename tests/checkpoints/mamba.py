"""Checkpoints of the architecture ``mamba``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.mamba2 import KEYS as KEYS_OF_MAMBA2
from checkpoints.nemotron_h import OPTIONAL, RANGES

N_INNER, N_STATE, N_RANK = 2 * layers.N_EMBD, 16, 32
KEYS = {key: value for key, value in KEYS_OF_MAMBA2.items() if key != "ssm.group_count"} | {
    "ssm.state_size": N_STATE,
    "ssm.time_step_rank": N_RANK,
}


def mamba(*, norms: bool = False) -> Shapes:
    """Return a Mamba-1 block, with norms of steps, keys and queries or without."""
    return {
        **layers.vectors("attn_norm"),
        "ssm_in.weight": (2 * N_INNER, layers.N_EMBD),
        "ssm_conv1d.weight": (N_INNER, 4),
        "ssm_conv1d.bias": (N_INNER,),
        "ssm_x.weight": (N_RANK + 2 * N_STATE, N_INNER),
        "ssm_dt.weight": (N_INNER, N_RANK),
        "ssm_dt.bias": (N_INNER,),
        "ssm_a": (N_INNER, N_STATE),
        "ssm_d": (N_INNER,),
        "ssm_out.weight": (layers.N_EMBD, N_INNER),
        **(layers.vectors("ssm_dt_norm", n=N_RANK) if norms else {}),
        **(layers.vectors("ssm_b_norm", "ssm_c_norm", n=N_STATE) if norms else {}),
    }


LAYER = mamba()

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "mamba",
        "mamba",
        KEYS,
        layers.model([LAYER] * 4, tied=True),
        lengths=(1, 5, 70),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"ssm.dt_b_c_rms": 2, "ssm.conv_kernel": 0},
    ),
    checkpoint(
        "mamba-falcon",  # like Falcon-Mamba
        "mamba",
        KEYS | {"block_count": 2, "ssm.dt_b_c_rms": True},
        layers.model([{**LAYER, **layers.biases(LAYER, "ssm_in", "ssm_out")}] * 2),
        ranges=RANGES,
        optional=OPTIONAL,
    ),
)
