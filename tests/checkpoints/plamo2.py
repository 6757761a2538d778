"""Checkpoints of the architecture ``plamo2``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

N_RANK, N_STATE, KERNEL, N_MAMBA_HEAD = 64, 16, 4, 6
HEADS = layers.HeadSizes()
N_INNER = N_MAMBA_HEAD * HEADS.size
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": [0, HEADS.n_kv, 0, HEADS.n_kv],
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 5000.0,
    "ssm.conv_kernel": KERNEL,
    "ssm.inner_size": N_INNER,
    "ssm.state_size": N_STATE,
    "ssm.time_step_rank": N_MAMBA_HEAD,
    "ssm.group_count": 0,
}
NORMS: Shapes = {
    **layers.vectors("attn_norm", "ffn_norm"),
    "post_attention_norm": (layers.N_EMBD,),
    "post_ffw_norm": (layers.N_EMBD,),
}
ATTENTION: Shapes = {
    **NORMS,
    **layers.attention(HEADS, fused=True),
    "attn_q_norm.weight": (HEADS.n, HEADS.size),
    "attn_k_norm.weight": (HEADS.n_kv, HEADS.size),
    **layers.gated_ffn(96, fused=True),
}
MAMBA: Shapes = {
    **NORMS,
    "ssm_in.weight": (2 * N_INNER, layers.N_EMBD),
    "ssm_conv1d.weight": (N_INNER, KERNEL),
    "ssm_x.weight": (N_RANK + 2 * N_STATE, N_INNER),
    "ssm_dt.weight": (N_MAMBA_HEAD, N_RANK),
    "ssm_dt.bias": (N_MAMBA_HEAD,),
    "ssm_a": (N_MAMBA_HEAD,),
    "ssm_d": (N_MAMBA_HEAD,),
    "ssm_dt_norm": (N_RANK,),
    "ssm_b_norm": (N_STATE,),
    "ssm_c_norm": (N_STATE,),
    "ssm_out.weight": (layers.N_EMBD, N_INNER),
    **layers.gated_ffn(96, fused=True),
}
RANGES = {"*.ssm_a": (-1.0, -0.05), "*.ssm_d": (0.5, 1.5), "*_norm": (0.5, 1.5)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "plamo2",
        "plamo2",
        KEYS | {"attention.sliding_window": 16, "attention.sliding_window_pattern": [False, True, False, False]},
        layers.model([MAMBA, ATTENTION] * 2, tied=True),
        lengths=(1, 5, 70),
        ranges=RANGES,
        optional=("output.weight",),
        refused={
            "ssm.group_count": 2,
            "ssm.inner_size": 97,
            "attention.value_length": 32,
            "attention.head_count": [0, 3, 0, 4],
            "rope.scaling.type": "cubic",
        },
    ),
    checkpoint(
        "plamo2-untied",  # without windows, as in files of llama.cpp's converter
        "plamo2",
        KEYS | {"block_count": 2, "attention.head_count": [0, HEADS.n], "attention.head_count_kv": [0, HEADS.n_kv]},
        layers.model([MAMBA, ATTENTION]),
        ranges=RANGES,
        optional=("output.weight",),
    ),
)
