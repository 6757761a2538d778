"""Checkpoints of the architecture ``gemma4``."""

from checkpoints import N_VOCAB, Checkpoint, Shapes, checkpoint, layers

WINDOWED = layers.HeadSizes(n=4, n_kv=2, size=16)
FULL = layers.HeadSizes(n=4, n_kv=1, size=32)
PER_LAYER = 32
PATTERN = [True, True, False, True, True, False]  # like the real models, but one layer in three instead of five or six
KEYS = {
    "block_count": len(PATTERN),
    "context_length": 256,
    "embedding_length": layers.N_EMBD,
    "feed_forward_length": 96,
    "attention.head_count": FULL.n,
    "attention.head_count_kv": [WINDOWED.n_kv if one else FULL.n_kv for one in PATTERN],
    "attention.key_length": FULL.size,
    "attention.value_length": FULL.size,
    "attention.key_length_swa": WINDOWED.size,
    "attention.value_length_swa": WINDOWED.size,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "attention.shared_kv_layers": 0,
    "attention.sliding_window": 16,
    "attention.sliding_window_pattern": PATTERN,
    "embedding_length_per_layer_input": 0,
    "final_logit_softcapping": 30.0,
    "rope.dimension_count": FULL.size,
    "rope.dimension_count_swa": WINDOWED.size,
    "rope.freq_base": 100000.0,
    "rope.freq_base_swa": 5000.0,
}
N_FF = [96, 96, 96, 192, 192, 192]  # those that use the keys and values of earlier layers are twice as wide
EFFECTIVE = {  # like E2B and E4B
    "attention.head_count_kv": 2,
    "attention.shared_kv_layers": 3,
    "embedding_length_per_layer_input": PER_LAYER,
    "feed_forward_length": N_FF,
}
EXPERTS = {"expert_count": 8, "expert_used_count": 3, "expert_feed_forward_length": 32}
FREQUENCIES: Shapes = {"rope_freqs.weight": (FULL.size // 2,)}


def layer(heads: layers.HeadSizes, n_ff: int = 96, *, has_values: bool = True, more: Shapes | None = None) -> Shapes:
    """Return the shapes of a layer."""
    attention = layers.attention(heads, norms=True)
    if not has_values:
        del attention["attn_v.weight"]
    return {
        **layers.vectors("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"),
        **attention,
        **layers.gated_ffn(n_ff),
        "layer_output_scale.weight": (1,),
        **(more or {}),
    }


PLAIN = [layer(WINDOWED) if one else layer(FULL, has_values=False) for one in PATTERN]
PER_LAYER_BLOCK: Shapes = {
    "inp_gate.weight": (PER_LAYER, layers.N_EMBD),
    "proj.weight": (layers.N_EMBD, PER_LAYER),
    **layers.vectors("post_norm"),
}
PER_LAYER_INPUTS: Shapes = {
    "per_layer_token_embd.weight": (N_VOCAB, len(PATTERN) * PER_LAYER),
    "per_layer_model_proj.weight": (len(PATTERN) * PER_LAYER, layers.N_EMBD),
    "per_layer_proj_norm.weight": (PER_LAYER,),
}


def effective_layers() -> list[Shapes]:
    """Return layers like those of E2B, of which the last three have unused keys and values."""
    heads = [WINDOWED if one else FULL._replace(n_kv=2) for one in PATTERN]
    return [layer(heads[i], N_FF[i], more=PER_LAYER_BLOCK) for i in range(len(PATTERN))]


def expert_layers(*, fused: bool) -> list[Shapes]:
    """Return layers like those of 26B-A4B."""
    block: Shapes = {
        **layers.experts(8, 32, fused=fused),
        "ffn_gate_inp.scale": (layers.N_EMBD,),
        "ffn_down_exps.scale": (8,),
        **layers.vectors("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2"),
    }
    return [{**one, **block} for one in PLAIN]


def model(blocks: list[Shapes], **options: bool) -> Shapes:
    """Return the shapes of a whole model."""
    return {**layers.model(blocks, **options), **FREQUENCIES}


RANGES = {"*layer_output_scale.weight": (0.5, 1.5)}
OPTIONAL = ("output.weight", "*_exps.scale")

CHECKPOINTS: tuple[Checkpoint, ...] = (
    checkpoint(
        "gemma4",  # like 31B
        "gemma4",
        KEYS,
        model(PLAIN, tied=True),
        ranges=RANGES,
        optional=OPTIONAL,
        refused={"rope.scaling.type": "cubic", "attention.value_length_swa": 32, "attention.shared_kv_layers": 5},
    ),
    checkpoint(
        "gemma4-per-layer-shared",
        "gemma4",
        KEYS | EFFECTIVE,
        {**model(effective_layers(), tied=True), **PER_LAYER_INPUTS},
        ranges=RANGES,
        optional=OPTIONAL,
        skipped=tuple(f"blk.{i}.attn_{name}.weight" for i in (3, 4, 5) for name in ("k", "v", "k_norm")),
    ),
    checkpoint(
        "gemma4-experts", "gemma4", KEYS | EXPERTS, model(expert_layers(fused=True)), ranges=RANGES, optional=OPTIONAL
    ),
    checkpoint(
        "gemma4-experts-split",
        "gemma4",
        KEYS | EXPERTS | {"final_logit_softcapping": 0.0},
        model(expert_layers(fused=False), tied=True),
        ranges=RANGES,
        optional=OPTIONAL,
    ),
)
