"""Checkpoints of the architecture ``phimoe``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=16)
KEYS = {
    "block_count": 4,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 32,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": HEADS.n_kv,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.sliding_window": 0,
    "rope.dimension_count": HEADS.size,
    "rope.freq_base": 10000.0,
    "rope.scaling.original_context_length": 256,
    "expert_count": 8,
    "expert_used_count": 2,
}
LONG = {
    "rope.scaling.original_context_length": 4,
    "rope.scaling.attn_factor": 1.25,  # not the factor that follows from the lengths
}
FACTORS = {f"rope_factors_{length}.weight": (HEADS.size // 2,) for length in ("short", "long")}
OPTIONAL = ("*.attn_[qkvo]*.bias", "output.weight", "output.bias")  # the biases of norms are required

CLOSE = {"*.ffn_gate_inp.weight": (0.98, 1.02)}
"""A router whose numbers are close to each other, so that several experts compete with the chosen ones."""


def model(*, fused: bool, biases: bool) -> Shapes:
    """Return the shapes of a whole model, with biases of all matrices, or only of the norms and a tied output."""
    attention = layers.attention(HEADS, fused=fused)
    norms = layers.vectors("attn_norm", "ffn_norm")
    layer = {**norms, **_biases(norms), **attention, **layers.experts(8, 32, fused=fused)}
    found = layers.model([{**layer, **(layers.biases(attention) if biases else {})}] * 4, tied=not biases)
    output = {"output.bias": found["output.weight"][:1]} if biases else {}
    return {**found, **output, **_biases(layers.vectors("output_norm"))}


def _biases(norms: Shapes) -> Shapes:
    return {name.replace(".weight", ".bias"): shape for name, shape in norms.items()}


CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "phimoe",
        "phimoe",
        KEYS | {"attention.sliding_window": 16},
        model(fused=False, biases=True),
        ranges=CLOSE,
        refused={"rope.scaling.type": "cubic", "expert_used_count": 3, "expert_gating_func": 9},
        optional=OPTIONAL,
    ),
    checkpoint(
        "phimoe-longrope",
        "phimoe",
        KEYS | LONG,
        {**model(fused=True, biases=False), **FACTORS},
        lengths=(1, 4, 5, 40),  # from 5 tokens on with the long factors
        optional=OPTIONAL,
    ),
)
