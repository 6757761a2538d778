"""Checkpoints of the architecture ``granitemoe``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.granite import HEADS, KEYS, NORMS

EXPERTS = {"expert_count": 8, "expert_used_count": 3, "feed_forward_length": 32}
ATTENTION = {**NORMS, **layers.attention(HEADS)}


def shared(n_ff: int) -> Shapes:
    """Return an expert that every token uses."""
    return {name.replace(".", "_shexp."): shape for name, shape in layers.gated_ffn(n_ff).items()}


CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "granitemoe",
        "granitemoe",
        KEYS | EXPERTS,
        layers.model([{**ATTENTION, **layers.experts(8, 32)}] * 4),
        refused={"expert_gating_func": 9, "expert_used_count": 9},
    ),
    checkpoint(
        "granitemoe-shared",
        "granitemoe",
        KEYS | EXPERTS | {"expert_shared_feed_forward_length": 64},
        layers.model([{**ATTENTION, **layers.experts(8, 32, fused=True), **shared(64)}] * 4),
        optional=("output.weight", "*_shexp.weight"),
    ),
)
