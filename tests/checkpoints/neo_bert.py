"""Checkpoints of the architecture ``neo-bert``."""

from checkpoints import N_VOCAB, Checkpoint, Shapes, checkpoint, layers
from checkpoints.bert import HEAD, HEADS, N_FF, ranker

KEYS = {
    "block_count": 3,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": N_FF,
    "attention.head_count": HEADS.n,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.causal": False,
    "rope.freq_base": 10000.0,
    "rope.scaling.type": "none",
}
LAYER = {
    **layers.vectors("attn_norm", "ffn_norm"),
    **layers.attention(HEADS, fused=True),
    **layers.gated_ffn(N_FF, fused=True),
}
SHAPES: Shapes = {
    "token_embd.weight": (N_VOCAB, layers.N_EMBD),
    "enc.output_norm.weight": (layers.N_EMBD,),
    **{f"blk.{i}.{role}": shape for i in range(3) for role, shape in LAYER.items()},
}

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint("neo-bert", "neo-bert", KEYS, SHAPES, refused={"rope.scaling.type": "cubic"}, output="hidden"),
    ranker("neo-bert-reranker", "neo-bert", KEYS, {**SHAPES, **HEAD}),
)
