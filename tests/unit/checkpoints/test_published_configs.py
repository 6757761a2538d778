"""Configs as published on Hugging Face, most of them older than transformers 5, against the metadata of GGUF files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints.folders import conversions
from llamafw import ModelError
from llamafw.checkpoints import Config, Conversion, find_conversion

CONFIGS: dict[str, dict[str, Any]] = {  # keys that matter
    "meta-llama/Llama-3.2-1B": {
        "architectures": ["LlamaForCausalLM"],
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    },
    "mistralai/Mistral-7B-v0.1": {
        "architectures": ["MistralForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 32000,
    },
    "google/gemma-3-4b-it": {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    },
    "google/gemma-2-2b": {
        "architectures": ["Gemma2ForCausalLM"],
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "max_position_embeddings": 8192,
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "deepseek-ai/DeepSeek-V2-Lite": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "rope_theta": 10000,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "topk_group": 1,
        "topk_method": "greedy",
        "v_head_dim": 128,
        "vocab_size": 102400,
    },
    "CohereLabs/c4ai-command-r7b-12-2024": {
        "architectures": ["Cohere2ForCausalLM"],
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "layer_norm_eps": 1e-05,
        "layer_switch": 4,
        "logit_scale": 0.25,
        "max_position_embeddings": 8192,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rope_scaling": None,
        "rope_theta": 50000,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "LiquidAI/LFM2-1.2B": {
        "architectures": ["Lfm2ForCausalLM"],
        "block_auto_adjust_ff_dim": True,
        "block_ff_dim": 12288,
        "block_ffn_dim_multiplier": 1.0,
        "block_multiple_of": 256,
        "conv_L_cache": 3,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        "hidden_size": 2048,
        "intermediate_size": 12288,
        "max_position_embeddings": 128000,
        "norm_eps": 1e-05,
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "rope_theta": 1000000.0,
        "vocab_size": 65536,
    },
    "microsoft/Phi-3-mini-128k-instruct": {
        "architectures": ["Phi3ForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": [2.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "vocab_size": 32064,
    },
    "chandar-lab/NeoBERT": {
        "architectures": ["NeoBERTLMHead"],
        "dim_head": 64,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "max_length": 4096,
        "norm_eps": 1e-05,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "vocab_size": 30522,
    },
    "nvidia/llama-embed-nemotron-8b": {
        "architectures": ["LlamaBidirectionalModel"],
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "pooling": "avg",
        "rms_norm_eps": 1e-05,
        "rope_theta": 500000.0,
        "vocab_size": 128256,
    },
}

EXPECTED: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-3.2-1B": {
        "llama.attention.head_count_kv": 8,
        "llama.context_length": 131072,
        "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 500000.0,
    },
    "mistralai/Mistral-7B-v0.1": {"llama.context_length": 4096, "llama.rope.freq_base": 10000.0},  # up to its window
    "google/gemma-3-4b-it": {
        "gemma3.attention.head_count": 8,
        "gemma3.attention.head_count_kv": 4,
        "gemma3.attention.key_length": 256,
        "gemma3.attention.sliding_window": 1024,
        "gemma3.attention.sliding_window_pattern": None,  # the usual one
        "gemma3.context_length": 131072,
        "gemma3.rope.freq_base": 1000000.0,
        "gemma3.rope.freq_base_swa": 10000.0,
        "gemma3.rope.scaling.factor": 8.0,
        "gemma3.rope.scaling.type": "linear",
    },
    "google/gemma-2-2b": {
        "gemma2.attention.sliding_window": 4096,
        "gemma2.attention.sliding_window_pattern": None,
        "gemma2.attn_logit_softcapping": 50.0,
    },
    "deepseek-ai/DeepSeek-V2-Lite": {
        "deepseek2.attention.head_count_kv": 1,
        "deepseek2.attention.key_length": 576,
        "deepseek2.attention.key_length_mla": 192,
        "deepseek2.attention.value_length": 512,
        "deepseek2.attention.value_length_mla": 128,
        "deepseek2.expert_gating_func": 1,
        "deepseek2.expert_shared_count": 2,
        "deepseek2.leading_dense_block_count": 1,
        "deepseek2.rope.dimension_count": 64,
        "deepseek2.rope.scaling.original_context_length": 4096,
        "deepseek2.rope.scaling.yarn_log_multiplier": 0.0707,
    },
    "CohereLabs/c4ai-command-r7b-12-2024": {
        "cohere2.attention.sliding_window_pattern": None,
        "cohere2.logit_scale": 0.25,
        "cohere2.rope.scaling.type": "none",
    },
    "LiquidAI/LFM2-1.2B": {
        "lfm2.attention.head_count_kv": [0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0],
        "lfm2.feed_forward_length": 8192,
        "lfm2.rope.freq_base": 1000000.0,
    },
    "microsoft/Phi-3-mini-128k-instruct": {
        "phi3.attention.sliding_window": 262144,
        "phi3.rope.dimension_count": 96,
        "phi3.rope.scaling.attn_factor": math.sqrt(1 + math.log(32) / math.log(4096)),
        "phi3.rope.scaling.original_context_length": 4096,
    },
    "chandar-lab/NeoBERT": {
        "neo-bert.context_length": 4096,
        "neo-bert.feed_forward_length": 2048,
        "neo-bert.pooling_type": 2,
    },
    "nvidia/llama-embed-nemotron-8b": {
        "llama-embed.attention.causal": False,
        "llama-embed.context_length": 131072,
        "llama-embed.pooling_type": 1,
    },
}


def convert(values: dict[str, Any]) -> Conversion:
    """Return the conversion of a config."""
    return find_conversion(Config(Path("config.json"), values), conversions())[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_published_config_has_the_metadata_of_gguf_files(name: str) -> None:
    metadata = convert(CONFIGS[name]).gguf_metadata()
    for key, value in EXPECTED[name].items():
        found = metadata.get(key)
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == pytest.approx(value), key


def test_llama3_factors_leave_fast_frequencies_and_divide_slow_ones() -> None:
    factors = convert(CONFIGS["meta-llama/Llama-3.2-1B"]).extra["rope_freqs.weight"]
    assert factors.shape == (32,)
    assert factors[0] == 1
    assert factors[-1] == 32
    assert (np.diff(factors) >= 0).all()


def test_gemma4_rotates_a_share_of_the_numbers() -> None:
    rope = {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}}
    values = {
        "architectures": ["Gemma4ForCausalLM"],
        "global_head_dim": 512,
        "head_dim": 256,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "layer_types": ["sliding_attention", "full_attention"],
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rope_parameters": rope,
        "sliding_window": 512,
        "vocab_size": 262144,
    }
    factors = convert(values).extra["rope_freqs.weight"]
    assert factors.tolist() == [1.0] * 64 + [np.float32(1e30)] * 192


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("meta-llama/Llama-3.2-1B", {"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "rope_type is 'dynamic'"),
        ("google/gemma-2-2b", {"query_pre_attn_scalar": 224}, "query_pre_attn_scalar is 224"),
        ("microsoft/Phi-3-mini-128k-instruct", {"rope_scaling": {"type": "longrope"}}, "short_factor is missing"),
        ("deepseek-ai/DeepSeek-V2-Lite", {"scoring_func": "tanh"}, "scoring_func is 'tanh'"),
        ("nvidia/llama-embed-nemotron-8b", {"pooling": "weighted_avg"}, 'pooling is "weighted_avg"'),
        ("LiquidAI/LFM2-1.2B", {"layer_types": ["conv"]}, "layer_types has 1 values; it must have 16"),
    ],
)
def test_unsupported_values_are_named(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        convert(CONFIGS[name] | changes)
