"""Checkpoints of the architecture ``apertus``."""

from dataclasses import replace

from checkpoints import Checkpoint, checkpoint, layers
from checkpoints.seed_oss import HEADS, SIZES
from checkpoints.smollm3 import KEYS, NORMS

XIELU = {  # numbers that float32 has; the keys have no prefix
    "xielu.alpha_p": [-0.75, 0.25, 1.5],
    "xielu.alpha_n": [0.5, -1.25, -0.125],
    "xielu.beta": [0.5, 0.25, 0.75],
    "xielu.eps": [-(2.0**-20)] * 3,
}
REFUSED = {
    "xielu.alpha_p": [0.5],
    "xielu.beta": [0.5, 0.5, float("inf")],
    "xielu.eps": [0.0, 0.0, -1e-3],
}
ATTENTION = layers.attention(HEADS, norms=True)
LAYER = {**NORMS, **ATTENTION, "ffn_up.weight": (96, layers.N_EMBD), "ffn_down.weight": (layers.N_EMBD, 96)}
PLAIN = checkpoint(
    "apertus",
    "apertus",
    KEYS | SIZES | {"block_count": 3},
    layers.model([LAYER] * 3),
    refused={"rope.scaling.type": "cubic"},
)
BIASES = checkpoint(
    "apertus-biases-tied",  # with scaled frequencies
    "apertus",
    KEYS | SIZES | {"block_count": 2},
    layers.model([{**LAYER, **layers.biases(ATTENTION)}] * 2, tied=True) | {"rope_freqs.weight": (16,)},
    has_config=False,
)

CHECKPOINTS: tuple[Checkpoint, ...] = (
    replace(PLAIN, metadata={**PLAIN.metadata, **XIELU}, refused={**PLAIN.refused, **REFUSED}),
    replace(BIASES, metadata={**BIASES.metadata, **{key: values[:2] for key, values in XIELU.items()}}),
)
