"""The architectures ``nemotron_h`` and ``nemotron_h_moe`` as transformers' Nemotron-H."""

from __future__ import annotations

from typing import Any

import torch
from transformers import NemotronHConfig, NemotronHForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load, rename

NAMES = {
    "token_embd": "embeddings",
    "output_norm": "norm_f",
    "attn_norm": "norm",
    "attn_q": "mixer.q_proj",
    "attn_k": "mixer.k_proj",
    "attn_v": "mixer.v_proj",
    "attn_output": "mixer.o_proj",
    "ssm_in": "mixer.in_proj",
    "ssm_conv1d": "mixer.conv1d",
    "ssm_dt_bias": "mixer.dt_bias",
    "ssm_a": "mixer.A_log",
    "ssm_d": "mixer.D",
    "ssm_norm": "mixer.norm",
    "ssm_out": "mixer.out_proj",
    "ffn_up": "mixer.up_proj",
    "ffn_down": "mixer.down_proj",
    "ffn_gate_inp": "mixer.gate",
    "exp_probs_b": "mixer.gate.e_score_correction_bias",
    "ffn_up_exps": "mixer.experts.up_proj",
    "ffn_down_exps": "mixer.experts.down_proj",
    "ffn_up_shexp": "mixer.shared_experts.up_proj",
    "ffn_down_shexp": "mixer.shared_experts.down_proj",
    "ffn_latent_down": "mixer.fc1_latent_proj",
    "ffn_latent_up": "mixer.fc2_latent_proj",
}
WITHOUT_SUFFIX = ("exp_probs_b.bias", "ffn_up_exps.weight", "ffn_down_exps.weight")


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = NemotronHConfig(
        **fields(checkpoint),
        use_bias="blk.0.ssm_in.bias" in tensors,
        mlp_bias="blk.1.ffn_up.bias" in tensors,
        time_step_min=1e-30,  # no limit, as in files
    )
    return load(NemotronHForCausalLM, config, state_of(checkpoint, tensors))


def fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the fields of a config."""
    keys = {key.partition(".")[2]: value for key, value in checkpoint.metadata.items()}
    n_layer = keys["block_count"] - keys.get("nextn_predict_layers", 0)
    n_head, n_ff, n_kv = keys["ssm.time_step_rank"], keys["feed_forward_length"], keys["attention.head_count_kv"]
    ffn = "moe" if "expert_count" in keys else "mlp"
    found = common(checkpoint) | {
        "num_hidden_layers": n_layer,
        "intermediate_size": max(n_ff),
        "num_key_value_heads": max(n_kv),
        "layers_block_type": [
            ffn if n_ff[i] else "full_attention" if n_kv[i] else "linear_attention" for i in range(n_layer)
        ],
        "layer_norm_epsilon": keys["attention.layer_norm_rms_epsilon"],
        "ssm_state_size": keys["ssm.state_size"],
        "mamba_num_heads": n_head,
        "mamba_head_dim": keys["ssm.inner_size"] // n_head,
        "n_groups": keys["ssm.group_count"],
        "conv_kernel": keys["ssm.conv_kernel"],
    }
    if ffn == "mlp":
        return found
    return found | {
        "n_routed_experts": keys["expert_count"],
        "num_experts_per_tok": keys["expert_used_count"],
        "moe_intermediate_size": keys["expert_feed_forward_length"],
        "moe_shared_expert_intermediate_size": keys["expert_shared_feed_forward_length"],
        "moe_latent_size": keys.get("moe_latent_size"),
        "norm_topk_prob": keys.get("expert_weights_norm", False),
        "routed_scaling_factor": keys["expert_weights_scale"],
    }


def state_of(checkpoint: Checkpoint, tensors: Tensors) -> Tensors:
    """Return the parameters by transformers' names."""
    n_layer, found = fields(checkpoint)["num_hidden_layers"], {}
    for name, tensor in tensors.items():
        if name.startswith("blk.") and int(name.split(".")[1]) >= n_layer:
            continue
        role = name.split(".", 2)[-1]
        if role == "ssm_a":
            tensor = torch.log(-tensor)
        if role in ("ssm_a", "ssm_d", "ssm_norm.weight"):
            tensor = tensor.flatten()
        if role == "ssm_conv1d.weight":
            tensor = tensor[:, None]
        name = name.replace("ssm_dt.bias", "ssm_dt_bias")
        found[name.rpartition(".")[0] if role in WITHOUT_SUFFIX else name] = tensor
    return rename(found, NAMES)
