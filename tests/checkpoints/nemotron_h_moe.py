"""Checkpoints of the architecture ``nemotron_h_moe``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.nemotron_h import ATTENTION, HEADS, KEYS, MAMBA, NORM, OPTIONAL, RANGES, ffn

EXPERTS = {
    "block_count": 4,
    "feed_forward_length": [0, 32, 0, 32],
    "attention.head_count_kv": [0, 0, HEADS.n_kv, 0],
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
    "expert_shared_feed_forward_length": 64,
    "expert_shared_count": 1,
    "expert_weights_scale": 2.5,
    "expert_group_count": 1,
}
LATENT = {
    "moe_latent_size": 32,
    "block_count": 4,
    "nextn_predict_layers": 1,
    "feed_forward_length": [0, 32, 0, 32],
    "attention.head_count_kv": [0, 0, HEADS.n_kv, HEADS.n_kv],
}


def experts(n_in: int) -> Shapes:
    """Return experts without a gate, which compute with rows of ``n_in`` numbers, and one that every token uses."""
    latent = {"ffn_latent_down.weight": (n_in, layers.N_EMBD), "ffn_latent_up.weight": (layers.N_EMBD, n_in)}
    return {
        **NORM,
        "ffn_gate_inp.weight": (8, layers.N_EMBD),
        "exp_probs_b.bias": (8,),
        **(latent if n_in != layers.N_EMBD else {}),
        "ffn_up_exps.weight": (8, 32, n_in),
        "ffn_down_exps.weight": (8, n_in, 32),
        **ffn(64, "_shexp"),
    }


PREDICTION = {
    **ATTENTION,
    **experts(32),
    **layers.vectors("ffn_norm", "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm"),
    "nextn.eh_proj.weight": (layers.N_EMBD, 2 * layers.N_EMBD),
}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "nemotron_h_moe",
        "nemotron_h_moe",
        KEYS | EXPERTS | {"expert_weights_norm": True},
        layers.model([MAMBA, experts(layers.N_EMBD), ATTENTION, experts(layers.N_EMBD)]),
        ranges=RANGES,
        optional=(*OPTIONAL, "*exp_probs_b.bias"),
        refused={"expert_used_count": 9, "expert_group_count": 3},
    ),
    checkpoint(
        "nemotron_h_moe-latent",
        "nemotron_h_moe",
        KEYS | EXPERTS | LATENT,
        layers.model([MAMBA, experts(32), ATTENTION, PREDICTION]),
        ranges=RANGES,
        optional=(*OPTIONAL, "*exp_probs_b.bias", "*ffn_latent_down.weight"),
        skipped=("blk.3.*",),
    ),
)
