"""Checkpoints of the architecture ``jina-bert-v3``."""

from checkpoints import Checkpoint
from checkpoints.bert import FUSED, KEYS, encoder, shapes

V3_KEYS = KEYS | {"rope.freq_base": 20000.0}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    encoder("jina-bert-v3", "jina-bert-v3", V3_KEYS, shapes([FUSED] * 3), refused={"rope.scaling.type": "cubic"}),
)
