"""Checkpoints of the architecture ``lfm2moe``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.lfm2 import ATTENTION, CONV, KEYS, OPTIONAL, model, short_convolution

EXPERTS = {"expert_count": 8, "expert_used_count": 3, "expert_feed_forward_length": 32, "leading_dense_block_count": 1}
FFN = {**layers.experts(8, 32), "exp_probs_b.bias": (8,)}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "lfm2moe",
        "lfm2moe",
        KEYS | EXPERTS | {"block_count": 4, "expert_gating_func": 2},
        model([CONV, {**short_convolution(3), **FFN}, {**ATTENTION, **FFN}, {**short_convolution(3), **FFN}]),
        optional=(*OPTIONAL, "*exp_probs_b.bias"),
        tolerance=1e-5,  # transformers adds 1e-6 to the sum of the weights
        refused={"expert_gating_func": 9},
    ),
)
