"""Checkpoints of the architecture ``t5encoder``."""

from checkpoints import N_VOCAB, Checkpoint, Shapes, checkpoint, layers

N_LAYER, N_FF, N_BUCKET = 3, 96, 32
HEADS = layers.HeadSizes(n=6, n_kv=6, size=16)  # together more than an embedding has, as in Flan-T5
KEYS = {
    "block_count": N_LAYER,
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": N_FF,
    "attention.head_count": HEADS.n,
    "attention.key_length": HEADS.size,
    "attention.value_length": HEADS.size,
    "attention.layer_norm_epsilon": 1e-6,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.relative_buckets_count": N_BUCKET,
}
ATTENTION = {role.replace("attn_output", "attn_o"): shape for role, shape in layers.attention(HEADS).items()}
LAYER = {**layers.vectors("attn_norm", "ffn_norm"), **ATTENTION}
PLAIN: Shapes = {"ffn_up.weight": (N_FF, layers.N_EMBD), "ffn_down.weight": (layers.N_EMBD, N_FF)}


def shapes(ffn: Shapes) -> Shapes:
    """Return the shapes of a whole encoder whose feed-forward blocks are given."""
    return {
        "token_embd.weight": (N_VOCAB, layers.N_EMBD),
        "enc.output_norm.weight": (layers.N_EMBD,),
        "enc.blk.0.attn_rel_b.weight": (N_BUCKET, HEADS.n),
        **{f"enc.blk.{i}.{role}": shape for i in range(N_LAYER) for role, shape in {**LAYER, **ffn}.items()},
    }


def encoder(name: str, ffn: Shapes) -> Checkpoint:
    """Return a checkpoint, with a text in which distances are longer than those that buckets tell apart."""
    return checkpoint(
        name,
        "t5encoder",
        KEYS,
        shapes(ffn),
        ranges={"*.attn_rel_b.weight": (-2.0, 2.0)},
        lengths=(1, 5, 200),
        refused={"attention.relative_buckets_count": 2},
        optional=("*.ffn_gate.weight",),
        output="hidden",
    )


CHECKPOINTS: tuple[Checkpoint, ...] = (
    encoder("t5encoder", PLAIN),
    encoder("t5encoder-gated", layers.gated_ffn(N_FF)),
)
