"""Checkpoints of the architecture ``minicpm3``."""

from checkpoints import Checkpoint, checkpoint, layers

N_HEAD, PLAIN, ROTATED, VALUE, LATENT, LORA_Q = 4, 32, 16, 16, 64, 32
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": N_HEAD,
    "attention.head_count_kv": N_HEAD,
    "attention.key_length": PLAIN + ROTATED,
    "attention.kv_lora_rank": LATENT,
    "attention.q_lora_rank": LORA_Q,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.dimension_count": ROTATED,
}
LONG = {"rope.scaling.original_context_length": 4, "rope.scaling.attn_factor": 2.0}
FACTORS = {f"rope_factors_{length}.weight": (ROTATED // 2,) for length in ("short", "long")}
LAYER = {
    **layers.vectors("attn_norm", "ffn_norm"),
    **layers.vectors("attn_q_a_norm", n=LORA_Q),
    **layers.vectors("attn_kv_a_norm", n=LATENT),
    "attn_q_a.weight": (LORA_Q, layers.N_EMBD),
    "attn_q_b.weight": (N_HEAD * (PLAIN + ROTATED), LORA_Q),
    "attn_kv_a_mqa.weight": (LATENT + ROTATED, layers.N_EMBD),
    "attn_kv_b.weight": (N_HEAD * (PLAIN + VALUE), LATENT),
    "attn_output.weight": (layers.N_EMBD, N_HEAD * VALUE),
    **layers.gated_ffn(96),
}
BIASES = layers.biases(LAYER, "attn_q_a", "attn_kv_a_mqa", "attn_output", "ffn_gate", "ffn_up", "ffn_down")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "minicpm3",
        "minicpm3",
        KEYS | LONG,
        {**layers.model([LAYER] * 4, tied=True), **FACTORS},
        refused={"rope.scaling.type": "cubic", "rope.dimension_count": PLAIN + ROTATED},
        lengths=(1, 4, 5, 40),  # from 5 tokens on with the long factors
    ),
    checkpoint(
        "minicpm3-biases",
        "minicpm3",
        KEYS | {"attention.value_length": VALUE},
        layers.model([{**LAYER, **BIASES}] * 4),
    ),
)
