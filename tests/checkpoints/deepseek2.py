"""Checkpoints of the architecture ``deepseek2``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

N_HEAD, PLAIN, ROTATED, VALUE, LATENT, LORA_Q = 4, 32, 16, 32, 64, 32
KEYS = {
    "block_count": 4,
    "context_length": 8192,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": N_HEAD,
    "attention.head_count_kv": 1,
    "attention.key_length": LATENT + ROTATED,
    "attention.value_length": LATENT,
    "attention.key_length_mla": PLAIN + ROTATED,
    "attention.value_length_mla": VALUE,
    "attention.kv_lora_rank": LATENT,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 5000.0,
    "rope.dimension_count": ROTATED,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
    "leading_dense_block_count": 1,
}
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 32.0,
    "rope.scaling.original_context_length": 256,
    "rope.scaling.yarn_log_multiplier": 0.0625,
}
V3 = {
    "attention.q_lora_rank": LORA_Q,
    "expert_gating_func": 2,
    "expert_weights_norm": True,
    "expert_weights_scale": 2.5,
    "expert_group_count": 4,
    "expert_group_used_count": 2,
    "expert_shared_count": 1,
}
V2 = {
    "attention.q_lora_rank": LORA_Q,
    "expert_weights_norm": False,
    "expert_weights_scale": 4.0,
    "expert_group_count": 4,
    "expert_group_used_count": 2,
    "expert_shared_count": 2,
}
OLD = {  # like files of DeepSeek-V2-Lite before llama.cpp had the halves of attn_kv_b
    "attention.head_count_kv": N_HEAD,
    "attention.key_length": PLAIN + ROTATED,
    "attention.value_length": VALUE,
    "expert_shared_count": 2,
}


def layer(
    *, n_shared: int = 0, bias: bool = False, lora_q: bool = True, old: bool = False, dense: bool = False
) -> Shapes:
    """Return the shapes of a layer."""
    queries: Shapes = {"attn_q.weight": (N_HEAD * (PLAIN + ROTATED), layers.N_EMBD)}
    if lora_q:
        queries = {
            "attn_q_a.weight": (LORA_Q, layers.N_EMBD),
            "attn_q_a_norm.weight": (LORA_Q,),
            "attn_q_b.weight": (N_HEAD * (PLAIN + ROTATED), LORA_Q),
        }
    key_value: Shapes = {"attn_k_b.weight": (N_HEAD, LATENT, PLAIN), "attn_v_b.weight": (N_HEAD, VALUE, LATENT)}
    if old:
        key_value = {"attn_kv_b.weight": (N_HEAD * (PLAIN + VALUE), LATENT)}
    shared = {
        f"{name.removesuffix('.weight')}_shexp.weight": shape for name, shape in layers.gated_ffn(32 * n_shared).items()
    }
    experts = {**layers.experts(8, 32), **(shared if n_shared else {}), **({"exp_probs_b.bias": (8,)} if bias else {})}
    return {
        **layers.vectors("attn_norm", "ffn_norm"),
        **queries,
        "attn_kv_a_mqa.weight": (LATENT + ROTATED, layers.N_EMBD),
        "attn_kv_a_norm.weight": (LATENT,),
        **key_value,
        "attn_output.weight": (layers.N_EMBD, N_HEAD * VALUE),
        **(layers.gated_ffn(96) if dense else experts),
    }


DENSE = layer(dense=True)
NEXTN: Shapes = {
    "nextn.eh_proj.weight": (layers.N_EMBD, 2 * layers.N_EMBD),
    **layers.vectors("nextn.enorm", "nextn.hnorm"),
}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "deepseek2-v3",
        "deepseek2",
        KEYS | YARN | V3,
        layers.model([DENSE, *[layer(n_shared=1, bias=True)] * 3]),
        ranges={"*exp_probs_b.bias": (-0.1, 0.1)},
        refused={
            "rope.scaling.type": "cubic",
            "expert_gating_func": 9,
            "expert_group_count": 3,
            "rope.dimension_count": 48,
        },
    ),
    checkpoint("deepseek2-v2", "deepseek2", KEYS | YARN | V2, layers.model([DENSE, *[layer(n_shared=2)] * 3])),
    checkpoint(
        "deepseek2-glm",  # like GLM-4.7-Flash
        "deepseek2",
        {key: value for key, value in (KEYS | V3).items() if "group" not in key} | {"block_count": 3},
        layers.model([DENSE, *[layer(n_shared=1, bias=True)] * 2]),
        ranges={"*exp_probs_b.bias": (-0.1, 0.1)},
    ),
    checkpoint(
        "deepseek2-old-tied",
        "deepseek2",
        {key: value for key, value in (KEYS | OLD).items() if not key.endswith("_mla")},
        layers.model(
            [layer(lora_q=False, old=True, dense=True), *[layer(n_shared=2, lora_q=False, old=True)] * 3], tied=True
        ),
    ),
    checkpoint(
        "deepseek2-dense-mtp",  # like Youtu, with a block for multi-token prediction
        "deepseek2",
        {**KEYS, "attention.q_lora_rank": LORA_Q, "leading_dense_block_count": 3, "nextn_predict_layers": 1},
        layers.model([*[DENSE] * 3, {**DENSE, **NEXTN}]),
        optional=("output.weight", "*.nextn.eh_proj.weight"),
    ),
)
