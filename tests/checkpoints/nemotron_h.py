"""Checkpoints of the architecture ``nemotron_h``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=32)
KEYS = {
    "block_count": 6,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": [0, 96, 0, 0, 0, 96],
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": [0, 0, 0, HEADS.n_kv, 0, 0],
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 2**-17,
    "ssm.conv_kernel": 4,
    "ssm.group_count": 2,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 4,
    "ssm.inner_size": 4 * 32,
}
RANGES = {"*.ssm_a": (-1.0, -0.05), "*.ssm_d": (0.5, 1.5)}
OPTIONAL = ("output.weight", "*ssm_conv1d.bias", "*ssm_in.bias", "*ssm_out.bias", "*ffn*.bias")
NORM = layers.vectors("attn_norm")


def mamba2(n_head: int, size: int, *, n_group: int = 2, n_state: int = 16, kernel: int = 4) -> Shapes:
    """Return a Mamba-2 block."""
    n_inner, n_keys = n_head * size, n_group * n_state
    return {
        **NORM,
        "ssm_in.weight": (2 * n_inner + 2 * n_keys + n_head, layers.N_EMBD),
        "ssm_conv1d.weight": (n_inner + 2 * n_keys, kernel),
        "ssm_conv1d.bias": (n_inner + 2 * n_keys,),
        "ssm_dt.bias": (n_head,),
        "ssm_a": (n_head, 1),
        "ssm_d": (n_head, 1),
        "ssm_norm.weight": (n_group, n_inner // n_group),
        "ssm_out.weight": (layers.N_EMBD, n_inner),
    }


def ffn(n_ff: int, suffix: str = "") -> Shapes:
    """Return a feed-forward block without a gate."""
    return {f"ffn_up{suffix}.weight": (n_ff, layers.N_EMBD), f"ffn_down{suffix}.weight": (layers.N_EMBD, n_ff)}


MAMBA = mamba2(4, 32)
ATTENTION = {**NORM, **layers.attention(HEADS)}
FFN = {**NORM, **ffn(96)}
WIDE = mamba2(8, 16, n_state=32, kernel=3)

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "nemotron_h",
        "nemotron_h",
        KEYS,
        layers.model([MAMBA, FFN, MAMBA, ATTENTION, MAMBA, FFN]),
        lengths=(1, 5, 70),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"ssm.group_count": 3, "ssm.inner_size": 130, "attention.value_length": 16},
    ),
    checkpoint(
        "nemotron_h-biases-tied",
        "nemotron_h",
        KEYS
        | {
            "block_count": 3,
            "feed_forward_length": [0, 96, 0],
            "attention.head_count_kv": [0, 0, HEADS.n_kv],
            "ssm.conv_kernel": 3,
            "ssm.state_size": 32,
            "ssm.time_step_rank": 8,
        },
        layers.model(
            [{**WIDE, **layers.biases(WIDE, "ssm_in", "ssm_out")}, {**FFN, **layers.biases(FFN)}, ATTENTION], tied=True
        ),
        ranges=RANGES,
        optional=OPTIONAL,
    ),
)
