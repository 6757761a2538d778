"""Checkpoints of the architecture ``modern-bert``."""

from checkpoints import Checkpoint, Shapes, layers
from checkpoints.bert import HEADS, KEYS, N_FF, N_SCORES, encoder, ranker

MODERN_KEYS = KEYS | {
    "block_count": 7,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.sliding_window": 16,
    "attention.sliding_window_pattern": 3,
    "rope.freq_base": 160000.0,
    "rope.freq_base_swa": 10000.0,
    "rope.scaling.type": "none",
}
LAYER = {
    **layers.vectors("attn_norm", "ffn_norm"),
    **layers.attention(HEADS, fused=True),
    **layers.gated_ffn(N_FF, fused=True),
}
FIRST = {role: shape for role, shape in LAYER.items() if role != "attn_norm.weight"}
HEAD: Shapes = {
    "cls.weight": (layers.N_EMBD, layers.N_EMBD),
    "cls.norm.weight": (layers.N_EMBD,),
    "cls.output.weight": (N_SCORES, layers.N_EMBD),
    "cls.output.bias": (N_SCORES,),
}
SILU = MODERN_KEYS | {"hidden_activation": "silu", "attention.sliding_window_pattern": [True, False] * 3 + [True]}


def shapes(found: list[Shapes]) -> Shapes:
    """Return the shapes of a whole model; the embedding has a norm and there are no logits."""
    return {**layers.model(found, tied=True), "token_embd_norm.weight": (layers.N_EMBD,)}


CHECKPOINTS: tuple[Checkpoint, ...] = (
    encoder(
        "modern-bert",
        "modern-bert",
        MODERN_KEYS,
        shapes([FIRST, *[LAYER] * 6]),
        refused={"hidden_activation": "tanh", "attention.sliding_window": 0},
    ),
    encoder("modern-bert-silu", "modern-bert", SILU, shapes([FIRST, *[LAYER] * 6])),
    ranker("modern-bert-reranker", "modern-bert", MODERN_KEYS, {**shapes([FIRST, *[LAYER] * 6]), **HEAD}),
)
