"""Checkpoints of the architecture ``lfm2``."""

from checkpoints import Checkpoint, Shapes, checkpoint, layers

HEADS = layers.HeadSizes(n=4, n_kv=2, size=16)
KEYS = {
    "block_count": 6,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": HEADS.n,
    "attention.head_count_kv": [0, 0, HEADS.n_kv, 0, HEADS.n_kv, 0],
    "attention.layer_norm_rms_epsilon": 2**-17,
    "rope.freq_base": 50000.0,
    "shortconv.l_cache": 3,
}
OPTIONAL = ("output.weight", "*shortconv*.bias")
NORMS = layers.vectors("attn_norm", "ffn_norm")
ATTENTION = {**NORMS, **layers.attention(HEADS, norms=True)}
FUSED = {**NORMS, **layers.attention(HEADS, norms=True, fused=True)}
FFN = layers.gated_ffn(96)


def short_convolution(kernel: int, n_embd: int = layers.N_EMBD) -> Shapes:
    """Return a short convolution between two products."""
    return {
        **NORMS,
        "shortconv.in_proj.weight": (3 * n_embd, n_embd),
        "shortconv.conv.weight": (n_embd, kernel),
        "shortconv.out_proj.weight": (n_embd, n_embd),
    }


def model(blocks: list[Shapes], *, tied: bool = True) -> Shapes:
    """Return the shapes of a whole model, whose output norm has another name than in other models."""
    found = layers.model(blocks, tied=tied)
    found["token_embd_norm.weight"] = found.pop("output_norm.weight")
    return found


CONV = {**short_convolution(3), **FFN}
WIDE = {**short_convolution(4), **FFN}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "lfm2",
        "lfm2",
        KEYS,
        model([CONV, CONV, {**ATTENTION, **FFN}, CONV, {**ATTENTION, **FFN}, CONV]),
        optional=OPTIONAL,
        refused={"attention.sliding_window": 32, "attention.head_count_kv": [0, 3]},
    ),
    checkpoint(
        "lfm2-biases",
        "lfm2",
        KEYS | {"block_count": 3, "attention.head_count_kv": [0, HEADS.n_kv, 0], "shortconv.l_cache": 4},
        model(
            [
                {**WIDE, **layers.biases(WIDE, "shortconv.in_proj", "shortconv.conv", "shortconv.out_proj")},
                {**FUSED, **FFN},
                {**WIDE, **layers.biases(WIDE, "shortconv.in_proj", "shortconv.conv", "shortconv.out_proj")},
            ],
            tied=False,
        ),
        optional=OPTIONAL,
    ),
)
