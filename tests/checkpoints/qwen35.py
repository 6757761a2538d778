"""Checkpoints of the architecture ``qwen35``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=32)
KEYS = {
    "block_count": 8,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 2**-17,
    "rope.freq_base": 50000.0,
    "rope.dimension_count": 16,
    "rope.dimension_sections": [3, 3, 2, 0],
    "ssm.conv_kernel": 4,
    "ssm.group_count": 2,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 6,
    "ssm.inner_size": 6 * 16,
}
WIDE_VALUES = {"ssm.state_size": 16, "ssm.time_step_rank": 4, "ssm.inner_size": 4 * 32}
RANGES = {"*.ssm_a": (-1.0, -0.05)}
OPTIONAL = ("output.weight", "*.nextn.eh_proj.weight", "*.nextn.shared_head_norm.weight")
NORMS = layers.vectors("attn_norm", "post_attention_norm")


def attention(*, fused: bool = False) -> Shapes:
    """Return attention with a gate, whose rows are in ``attn_q``."""
    name, extra = ("attn_qkv" if fused else "attn_q"), HEADS.n * HEADS.size
    found = {**NORMS, **layers.attention(HEADS, fused=fused, norms=True)}
    rows, columns = found[f"{name}.weight"]
    return {**found, f"{name}.weight": (rows + extra, columns)}


def delta_net(n_head: int, size: int, *, n_group: int = 2, n_state: int = 16, kernel: int = 4) -> Shapes:
    """Return a gated delta net."""
    n_qkv = 2 * n_group * n_state + n_head * size
    return {
        **NORMS,
        "attn_qkv.weight": (n_qkv, layers.N_EMBD),
        "attn_gate.weight": (n_head * size, layers.N_EMBD),
        "ssm_conv1d.weight": (n_qkv, kernel),
        "ssm_beta.weight": (n_head, layers.N_EMBD),
        "ssm_alpha.weight": (n_head, layers.N_EMBD),
        "ssm_dt.bias": (n_head,),
        "ssm_a": (n_head,),
        "ssm_norm.weight": (size,),
        "ssm_out.weight": (layers.N_EMBD, n_head * size),
    }


def prediction(layer: Shapes) -> Shapes:
    """Return a block at the end that predicts a second token."""
    norms = layers.vectors("nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")
    return {**layer, **norms, "nextn.eh_proj.weight": (layers.N_EMBD, 2 * layers.N_EMBD)}


FFN = layers.gated_ffn(96)
RECURRENT = {**delta_net(6, 16), **FFN}
ATTENTION = {**attention(), **FFN}
WIDE = {**delta_net(4, 32), **FFN}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "qwen35",
        "qwen35",
        KEYS,
        layers.model([RECURRENT, RECURRENT, RECURRENT, ATTENTION] * 2),
        lengths=(1, 5, 70),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"ssm.group_count": 4, "ssm.inner_size": 100, "rope.scaling.type": "cubic", "nextn_predict_layers": 8},
    ),
    checkpoint(
        "qwen35-mtp-tied",
        "qwen35",
        KEYS | WIDE_VALUES | {"block_count": 5, "nextn_predict_layers": 1, "full_attention_interval": 2},
        layers.model([WIDE, ATTENTION, WIDE, ATTENTION, prediction(ATTENTION)], tied=True),
        ranges=RANGES,
        optional=OPTIONAL,
    ),
    checkpoint(
        "qwen35-listed",
        "qwen35",
        KEYS | {"block_count": 3, "attention.recurrent_layers": [False, True, True]},
        layers.model([ATTENTION, RECURRENT, RECURRENT]),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"attention.recurrent_layers": [True, False]},
    ),
)
