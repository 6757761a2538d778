"""Checkpoints of the architecture ``bitnet``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes()
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
    "rope.scaling.type": "linear",
    "rope.scaling.factor": 1.0,
}
BLOCKS = {**layers.attention(HEADS), **layers.gated_ffn(96)}
LAYER: Shapes = {
    **layers.vectors("attn_norm", "ffn_norm", "attn_sub_norm"),
    **layers.vectors("ffn_sub_norm", n=96),
    **BLOCKS,
}
SCALES: Shapes = {name.replace(".weight", ".scale"): (1,) for name in BLOCKS}
OPTIONAL = ("*.bias", "*.scale", "output.weight")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "bitnet",
        "bitnet",
        KEYS,
        layers.model([{**LAYER, **SCALES}] * 4, tied=True),
        optional=OPTIONAL,
        refused={"rope.scaling.type": "cubic"},
        has_config=False,  # its scales are part of the matrices there
    ),
    checkpoint("bitnet-untied", "bitnet", KEYS | {"block_count": 2}, layers.model([LAYER] * 2)),
)
