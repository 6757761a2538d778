"""Checkpoints of the architecture ``qwen35moe``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.qwen35 import KEYS, OPTIONAL, RANGES, attention, delta_net, prediction

EXPERTS = {
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
    "expert_shared_feed_forward_length": 64,
}


def experts(*, fused: bool = False, squeezed: bool = True) -> Shapes:
    """Return experts, and one that every token uses with a gate, whose matrix has one row."""
    shared = {name.replace(".", "_shexp."): shape for name, shape in layers.gated_ffn(64).items()}
    gate = (layers.N_EMBD,) if squeezed else (1, layers.N_EMBD)
    return {**layers.experts(8, 32, fused=fused), **shared, "ffn_gate_inp_shexp.weight": gate}


RECURRENT = {**delta_net(6, 16), **experts()}
ATTENTION = {**attention(), **experts(squeezed=False)}
FUSED = {**attention(fused=True), **experts(fused=True)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "qwen35moe",
        "qwen35moe",
        KEYS | EXPERTS | {"block_count": 4},
        layers.model([RECURRENT, RECURRENT, RECURRENT, ATTENTION]),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"expert_gating_func": 9, "expert_used_count": 9},
    ),
    checkpoint(
        "qwen35moe-fused",
        "qwen35moe",
        KEYS | EXPERTS | {"block_count": 3, "nextn_predict_layers": 1, "full_attention_interval": 2},
        layers.model([RECURRENT, FUSED, prediction(FUSED)]),
        ranges=RANGES,
        optional=OPTIONAL,
    ),
)
