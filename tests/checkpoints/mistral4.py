"""Checkpoints of the architecture ``mistral4``."""

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.deepseek2 import KEYS, LORA_Q, layer

ROPE = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 128.0,
    "rope.scaling.original_context_length": 8,
    "rope.scaling.yarn_log_multiplier": 0.125,
}
EXPERTS = {"expert_weights_norm": True, "expert_weights_scale": 1.0, "expert_shared_count": 1}
GROWING = {"attention.temperature_scale": 0.125, "attention.temperature_length": 8, "context_length": 1024}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "mistral4",
        "mistral4",
        KEYS | ROPE | EXPERTS | GROWING | {"attention.q_lora_rank": LORA_Q, "leading_dense_block_count": 0},
        layers.model([layer(n_shared=1)] * 4),
        refused={"rope.scaling.type": "cubic", "expert_gating_func": 9, "attention.temperature_scale": "high"},
    ),
)
