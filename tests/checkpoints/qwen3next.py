"""Checkpoints of the architecture ``qwen3next``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers
from checkpoints.qwen35 import KEYS as QWEN35_KEYS
from checkpoints.qwen35 import OPTIONAL, RANGES, attention, delta_net
from checkpoints.qwen35moe import EXPERTS, experts

KEYS = {key: value for key, value in QWEN35_KEYS.items() if key != "rope.dimension_sections"}


def recurrent(*, fused: bool) -> Shapes:
    """Return a gated delta net with one matrix for β and α, and one for queries, keys, values and z in old files."""
    found = {**delta_net(6, 16), **experts(), "ssm_ba.weight": (12, layers.N_EMBD)}
    if fused:
        rows = found.pop("attn_qkv.weight")[0] + found.pop("attn_gate.weight")[0]
        found["ssm_in.weight"] = (rows, layers.N_EMBD)
    return {role: shape for role, shape in found.items() if role not in ("ssm_beta.weight", "ssm_alpha.weight")}


ATTENTION = {**attention(), **experts()}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "qwen3next",
        "qwen3next",
        KEYS | EXPERTS | {"block_count": 4},
        layers.model([recurrent(fused=False)] * 3 + [ATTENTION]),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"expert_gating_func": 9, "ssm.group_count": 4},
    ),
    checkpoint(
        "qwen3next-fused",
        "qwen3next",
        KEYS | EXPERTS | {"block_count": 2, "full_attention_interval": 2},
        layers.model([recurrent(fused=True), ATTENTION]),
        ranges=RANGES,
        optional=OPTIONAL,
    ),
)
