"""Checkpoints of the architecture ``jina-bert-v2``."""

from checkpoints import Checkpoint, layers
from checkpoints.bert import HEADS, KEYS, N_FF, NORMS, PLAIN_FFN, encoder, norms, shapes, with_biases


def ffn(*, fused: bool) -> dict[str, tuple[int, ...]]:
    """Return a gated feed-forward block, of which only the last matrix has a bias."""
    block = layers.gated_ffn(N_FF, fused=fused)
    return {**block, **layers.biases(block, "ffn_down")}


ATTENTION = {**with_biases(layers.attention(HEADS)), **NORMS}
CODE = {
    **ATTENTION,
    **norms("attn_q_norm", "attn_k_norm", "attn_norm_2"),
}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    encoder(
        "jina-bert-v2",
        "jina-bert-v2",
        KEYS,
        shapes([{**ATTENTION, **ffn(fused=True)}] * 3),
        refused={"attention.causal": True},
    ),
    encoder("jina-bert-v2-code", "jina-bert-v2", KEYS, shapes([{**CODE, **ffn(fused=False)}] * 3)),
    encoder("jina-bert-v2-plain", "jina-bert-v2", KEYS, shapes([{**ATTENTION, **with_biases(PLAIN_FFN)}] * 3)),
)
