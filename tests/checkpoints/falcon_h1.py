"""Checkpoints of the architecture ``falcon-h1``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.nemotron_h import RANGES, mamba2

HEADS = layers.HeadSizes(n=4, n_kv=2, size=32)
KEYS = {
    "block_count": 3,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 2.0**36,  # about 1e11 as in the real models, and exact in a file
    "ssm.conv_kernel": 4,
    "ssm.group_count": 2,
    "ssm.state_size": 32,
    "ssm.time_step_rank": 3,
    "ssm.inner_size": 96,
}
OPTIONAL = ("output.weight", "*ssm_conv1d.bias", "*attn*.bias", "*ffn*.bias")


def layer(n_head: int = 3, n_group: int = 1) -> Shapes:
    """Return the shapes of a layer."""
    return {
        **layers.vectors("ffn_norm"),
        **mamba2(n_head, 32, n_group=n_group, n_state=32),
        **layers.attention(HEADS),
        **layers.gated_ffn(96),
    }


GROUPED = layer(4, 2)
BIASED = {name: shape for name, shape in layer().items() if name != "ssm_norm.weight"}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "falcon-h1",
        "falcon-h1",
        KEYS | {"ssm.time_step_rank": 4, "ssm.inner_size": 128},
        layers.model([GROUPED] * 3),
        lengths=(1, 5, 70),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"ssm.group_count": 3, "rope.scaling.type": "cubic"},
    ),
    checkpoint(
        "falcon-h1-biases-tied",  # without a norm in Mamba-2
        "falcon-h1",
        KEYS | {"ssm.group_count": 1},
        layers.model(
            [
                {**BIASED, **layers.biases(layers.attention(HEADS)), **layers.biases(layers.gated_ffn(96))},
            ]
            * 3,
            tied=True,
        ),
        ranges=RANGES,
        optional=OPTIONAL,
    ),
)
