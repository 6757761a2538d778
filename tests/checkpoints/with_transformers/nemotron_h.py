"""The architectures ``nemotron_h`` and ``nemotron_h_moe`` as transformers' Nemotron-H."""

from __future__ import annotations

from typing import Any

import torch
from transformers import NemotronHConfig, NemotronHForCausalLM

from checkpoints import Checkpoint
from checkpoints.with_transformers import Tensors, common, load_folder


def build(checkpoint: Checkpoint, tensors: Tensors) -> torch.nn.Module:
    """Return the model with the parameters of the checkpoint."""
    config = NemotronHConfig(
        **fields(checkpoint),
        use_bias="blk.0.ssm_in.bias" in tensors,
        mlp_bias="blk.1.ffn_up.bias" in tensors,
        time_step_min=1e-30,  # no limit, as in files
    )
    tensors.setdefault("output.weight", tensors["token_embd.weight"])  # the model has an output matrix in any case
    return load_folder(NemotronHForCausalLM, config, checkpoint, tensors)


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
