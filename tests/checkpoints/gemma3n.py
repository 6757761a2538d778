"""Checkpoints of the architecture ``gemma3n``."""

import math

from checkpoints import N_VOCAB, Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=16)
N_STREAMS, PER_LAYER, RANK = 4, 32, 32
PATTERN = [True, True, False, True, False]  # like the real models, but one layer in two or three instead of five
N_OWN = 3
KEYS = {
    "block_count": len(PATTERN),
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": [96] * len(PATTERN),
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.shared_kv_layers": len(PATTERN) - N_OWN,
    "attention.sliding_window": 16,
    "attention.sliding_window_pattern": PATTERN,
    "embedding_length_per_layer_input": PER_LAYER,
    "altup.num_inputs": N_STREAMS,
    "altup.active_idx": 0,
    "activation_sparsity_scale": [1.5, 1.5, -math.inf, 0.5, -math.inf],
    "final_logit_softcapping": 30.0,
    "rope.freq_base": 100000.0,
    "rope.freq_base_swa": 5000.0,
}
LAYER: Shapes = {
    **layers.vectors("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
    **layers.attention(HEADS, norms=True),
    **layers.gated_ffn(96),
    "inp_gate.weight": (PER_LAYER, layers.N_EMBD),
    "proj.weight": (layers.N_EMBD, PER_LAYER),
    "laurel_l.weight": (RANK, layers.N_EMBD),
    "laurel_r.weight": (layers.N_EMBD, RANK),
    "altup_router.weight": (N_STREAMS, layers.N_EMBD),
    "altup_predict_coef.weight": (N_STREAMS**2, N_STREAMS),
    "altup_correct_coef.weight": (N_STREAMS, N_STREAMS),
    "altup_correct_scale.weight": (layers.N_EMBD,),
    **layers.vectors("post_norm", "altup_router_norm", "laurel_post_norm"),
}
WHOLE: Shapes = {
    "altup_proj.weight": (N_STREAMS - 1, layers.N_EMBD, layers.N_EMBD),
    "altup_unembd_proj.weight": (N_STREAMS - 1, layers.N_EMBD, layers.N_EMBD),
    "per_layer_token_embd.weight": (N_VOCAB, len(PATTERN) * PER_LAYER),
    "per_layer_model_proj.weight": (len(PATTERN) * PER_LAYER, layers.N_EMBD),
    "per_layer_proj_norm.weight": (PER_LAYER,),
}
RANGES = {"*altup_correct_scale.weight": (0.5, 1.5), "*altup_router.weight": (-8.0, 8.0)}
UNUSED = tuple(f"blk.{i}.attn_{name}.weight" for i in range(N_OWN, len(PATTERN)) for name in ("k", "v", "k_norm"))

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "gemma3n",
        "gemma3n",
        KEYS,
        {**layers.model([LAYER] * len(PATTERN), tied=True), **WHOLE},
        ranges=RANGES,
        skipped=UNUSED,
        refused={"attention.shared_kv_layers": 4, "altup.active_idx": 4, "activation_sparsity_scale": [1.5]},
    ),
    checkpoint(
        "gemma3n-second",  # where the second stream is the active one, and all layers have their own keys and values
        "gemma3n",
        KEYS | {"altup.active_idx": 1, "attention.shared_kv_layers": 0},
        {**layers.model([LAYER] * len(PATTERN)), **WHOLE},
        ranges=RANGES,
    ),
)
