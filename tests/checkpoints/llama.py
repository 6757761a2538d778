"""Checkpoints of the architecture ``llama``."""

from checkpoints import N_VOCAB, Checkpoint, Shapes, checkpoint

N_LAYER, N_EMBD, N_FF, N_HEAD, N_HEAD_KV, SIZE = 4, 64, 96, 4, 2, 16

KEYS = {
    "block_count": N_LAYER,
    "context_length": 256,
    "embedding_length": N_EMBD,
    "feed_forward_length": N_FF,
    "attention.head_count": N_HEAD,
    "attention.head_count_kv": N_HEAD_KV,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "rope.freq_base": 5000.0,
    "rope.dimension_count": SIZE,
}
REFUSED = {"rope.scaling.type": "cubic"}


def shapes(*, size: int = SIZE, tied: bool = False, fused: bool = False, biases: bool = False) -> Shapes:
    """Return the tensors' shapes."""
    n_q, n_kv = N_HEAD * size, N_HEAD_KV * size
    layer = {
        "attn_norm": (N_EMBD,),
        **({"attn_qkv": (n_q + 2 * n_kv, N_EMBD)} if fused else {}),
        **({} if fused else {"attn_q": (n_q, N_EMBD), "attn_k": (n_kv, N_EMBD), "attn_v": (n_kv, N_EMBD)}),
        "attn_output": (N_EMBD, n_q),
        "ffn_norm": (N_EMBD,),
        "ffn_gate": (N_FF, N_EMBD),
        "ffn_up": (N_FF, N_EMBD),
        "ffn_down": (N_EMBD, N_FF),
    }
    found: Shapes = {"token_embd.weight": (N_VOCAB, N_EMBD), "output_norm.weight": (N_EMBD,)}
    if not tied:
        found["output.weight"] = (N_VOCAB, N_EMBD)
    for i in range(N_LAYER):
        found |= {f"blk.{i}.{role}.weight": shape for role, shape in layer.items()}
        if biases:
            found |= {f"blk.{i}.{role}.bias": shape[:1] for role, shape in layer.items() if "norm" not in role}
    return found


CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint("llama", "llama", KEYS, shapes(), refused=REFUSED),
    checkpoint("llama-biases-tied", "llama", KEYS, shapes(biases=True, tied=True)),
    checkpoint("llama-fused", "llama", KEYS, shapes(fused=True, biases=True)),
)
