"""Checkpoints of the architecture ``nomic-bert``."""

from checkpoints import Checkpoint, layers
from checkpoints.bert import HEADS, KEYS, N_FF, NORMS, encoder, shapes

NOMIC_KEYS = KEYS | {"rope.freq_base": 1000.0}
LAYER = {**layers.attention(HEADS, fused=True), **layers.gated_ffn(N_FF), **NORMS}
SEPARATE = {**layers.attention(HEADS), **layers.gated_ffn(N_FF, fused=True), **NORMS}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    encoder("nomic-bert", "nomic-bert", NOMIC_KEYS, shapes([LAYER] * 3), refused={"attention.causal": True}),
    encoder("nomic-bert-separate", "nomic-bert", NOMIC_KEYS, shapes([SEPARATE] * 3, types=False)),
)
