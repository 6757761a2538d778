"""Checkpoints of the architecture ``nomic-bert-moe``."""

from checkpoints import Checkpoint, layers
from checkpoints.bert import HEADS, KEYS, N_FF, NORMS, PLAIN_FFN, encoder, shapes, with_biases

N_EXPERT = 6
MOE_KEYS = KEYS | {
    "block_count": 4,
    "rope.freq_base": 10000.0,
    "expert_count": N_EXPERT,
    "expert_used_count": 2,
    "moe_every_n_layers": 2,
}
ATTENTION = {**with_biases(layers.attention(HEADS, fused=True)), **NORMS}
EXPERTS = {
    "ffn_gate_inp.weight": (N_EXPERT, layers.N_EMBD),
    "ffn_up_exps.weight": (N_EXPERT, N_FF, layers.N_EMBD),
    "ffn_down_exps.weight": (N_EXPERT, layers.N_EMBD, N_FF),
}
LAYERS = [{**ATTENTION, **with_biases(PLAIN_FFN)}, {**ATTENTION, **EXPERTS}] * 2

CHECKPOINTS: tuple[Checkpoint, ...] = (
    encoder(
        "nomic-bert-moe",
        "nomic-bert-moe",
        MOE_KEYS,
        shapes(LAYERS),
        refused={"expert_used_count": 7, "expert_count": 0},
    ),
)
