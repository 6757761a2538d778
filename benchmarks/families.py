"""Compare the speed of forward passes on models of several families: random weights, sizes as in real models.

``python benchmarks/families.py [--type Q4_0] [--rounds 5] [--threads 1,2] [--only NAME,…]`` writes the models into the
cache folder once (about 1 GB), runs ``llamafw bench`` and llama.cpp's ``llama-bench`` in turn, and prints a Markdown
table of medians. Both programs multiply matrices of the types Q4_0 and Q4_1 without conversion; llama.cpp reads whole
prompts faster with Q4_0. Small tensors are F32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from platformdirs import user_cache_path

from llamafw.testing import vocabularies
from llamafw.testing.gguf_file import write_gguf
from llamafw.testing.random_tensors import random_tensor
from passes import compare

Shapes = dict[str, tuple[int, ...]]
Family = tuple[str, Mapping[str, Any], Shapes]
"""The architecture, its metadata without prefix, and the shapes of the tensors, outermost dimension first."""

N_VOCAB = 32_000
_NAMES = ("dense", "experts", "hybrid", "windows")


def attention(n_embd: int, n_head: int, n_head_kv: int, size: int, *, gated: bool = False) -> Shapes:
    """Return an attention block with norms of single heads."""
    return {
        "attn_norm.weight": (n_embd,),
        "attn_q.weight": ((1 + gated) * n_head * size, n_embd),
        "attn_k.weight": (n_head_kv * size, n_embd),
        "attn_v.weight": (n_head_kv * size, n_embd),
        "attn_q_norm.weight": (size,),
        "attn_k_norm.weight": (size,),
        "attn_output.weight": (n_embd, n_head * size),
    }


def gated_ffn(n_embd: int, n_ff: int) -> Shapes:
    """Return a gated feed-forward block without its norm."""
    return {
        "ffn_gate.weight": (n_ff, n_embd),
        "ffn_up.weight": (n_ff, n_embd),
        "ffn_down.weight": (n_embd, n_ff),
    }


def delta_net(n_embd: int, n_head: int, n_group: int, size: int) -> Shapes:
    """Return a gated delta net."""
    n_qkv = (2 * n_group + n_head) * size
    return {
        "attn_norm.weight": (n_embd,),
        "attn_qkv.weight": (n_qkv, n_embd),
        "attn_gate.weight": (n_head * size, n_embd),
        "ssm_conv1d.weight": (n_qkv, 4),
        "ssm_beta.weight": (n_head, n_embd),
        "ssm_alpha.weight": (n_head, n_embd),
        "ssm_dt.bias": (n_head,),
        "ssm_a": (n_head,),
        "ssm_norm.weight": (size,),
        "ssm_out.weight": (n_embd, n_head * size),
    }


def model(layers: list[Shapes], n_embd: int) -> Shapes:
    """Return the shapes of a whole model whose output matrix is the embedding."""
    shapes: Shapes = {"token_embd.weight": (N_VOCAB, n_embd), "output_norm.weight": (n_embd,)}
    for i, layer in enumerate(layers):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def _common(n_embd: int, n_layer: int, n_head: int, n_head_kv: int, size: int, n_ff: int) -> dict[str, Any]:
    return {
        "block_count": n_layer,
        "context_length": 4096,
        "embedding_length": n_embd,
        "feed_forward_length": n_ff,
        "attention.head_count": n_head,
        "attention.head_count_kv": n_head_kv,
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
    }


def dense() -> Family:
    """Return a model of Qwen3's kind with 0.45 billion weights."""
    n_embd, n_layer, n_ff = 1024, 28, 3072
    layer = {**attention(n_embd, 16, 8, 128), "ffn_norm.weight": (n_embd,), **gated_ffn(n_embd, n_ff)}
    return "qwen3", _common(n_embd, n_layer, 16, 8, 128, n_ff), model([layer] * n_layer, n_embd)


def experts() -> Family:
    """Return a model of Qwen3's kind with 8 experts of 0.1 billion weights, two of which are used per token."""
    n_embd, n_layer, n_ff = 1024, 16, 2048
    layer = {
        **attention(n_embd, 16, 4, 64),
        "ffn_norm.weight": (n_embd,),
        "ffn_gate_inp.weight": (8, n_embd),
        "ffn_gate_exps.weight": (8, n_ff, n_embd),
        "ffn_up_exps.weight": (8, n_ff, n_embd),
        "ffn_down_exps.weight": (8, n_embd, n_ff),
    }
    keys = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": n_ff}
    return "qwen3moe", _common(n_embd, n_layer, 16, 4, 64, n_ff) | keys, model([layer] * n_layer, n_embd)


def hybrid() -> Family:
    """Return a model of Qwen3.5's kind with 0.5 billion weights, three in four layers gated delta nets."""
    n_embd, n_layer, n_ff, n_state = 1024, 24, 3584, 128
    ffn = {"post_attention_norm.weight": (n_embd,), **gated_ffn(n_embd, n_ff)}
    recurrent = {**delta_net(n_embd, 16, 16, n_state), **ffn}
    full = {**attention(n_embd, 8, 2, 256, gated=True), **ffn}
    keys = {
        "rope.dimension_count": 64,
        "rope.dimension_sections": [11, 11, 10, 0],
        "ssm.conv_kernel": 4,
        "ssm.group_count": 16,
        "ssm.state_size": n_state,
        "ssm.time_step_rank": 16,
        "ssm.inner_size": 16 * n_state,
    }
    layers = [recurrent, recurrent, recurrent, full] * (n_layer // 4)
    return "qwen35", _common(n_embd, n_layer, 8, 2, 256, n_ff) | keys, model(layers, n_embd)


def windows() -> Family:
    """Return a model of Gemma 3's kind with 0.5 billion weights, five in six layers with a window of 512 tokens."""
    n_embd, n_layer, n_ff = 1152, 26, 3456
    layer = {
        **attention(n_embd, 4, 1, 256),
        "post_attention_norm.weight": (n_embd,),
        "ffn_norm.weight": (n_embd,),
        **gated_ffn(n_embd, n_ff),
        "post_ffw_norm.weight": (n_embd,),
    }
    keys = {"attention.sliding_window": 512}
    return "gemma3", _common(n_embd, n_layer, 4, 1, 256, n_ff) | keys, model([layer] * n_layer, n_embd)


FAMILIES: dict[str, Callable[[], Family]] = dict(zip(_NAMES, (dense, experts, hybrid, windows), strict=True))


HEADS = {"Q4_0": 1, "Q4_1": 2, "Q5_0": 1, "Q5_1": 2, "Q8_0": 1}
"""The types whose blocks begin with a scale, and perhaps a minimum."""


def random_rows(rng: np.random.Generator, shape: tuple[int, ...], type_name: str) -> npt.NDArray[np.generic]:
    """Return random weights of any type, whose products of inputs of size 1 are about as large."""
    std = shape[-1] ** -0.5
    if type_name not in HEADS:
        return random_tensor(rng, shape, type_name, std)
    block_size, type_size = GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    n_values = 256 if type_name == "Q8_0" else 2 ** int(type_name[1])
    scale = std * 12**0.5 / n_values  # equally likely numbers
    head = np.array([scale, -(n_values - 1) / 2 * scale], "<f2")[: HEADS[type_name]].view(np.uint8)
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // block_size, type_size), dtype=np.uint8)
    blocks[:, : len(head)] = head
    return blocks.reshape(*shape[:-1], -1)


def write(name: str, path: Path, type_of: Callable[[str], str]) -> None:
    """Write a model with random weights; ``type_of`` returns the type of a matrix by its name."""
    architecture, keys, shapes = FAMILIES[name]()
    rng = np.random.default_rng(0)
    metadata = {**vocabularies.gpt2(N_VOCAB), **{f"{architecture}.{key}": value for key, value in keys.items()}}
    tensors: dict[str, tuple[npt.NDArray[np.generic], str]] = {}
    for tensor, shape in shapes.items():
        if tensor.endswith("ssm_a"):
            tensors[tensor] = rng.uniform(-1, -0.05, shape).astype(np.float32), "F32"
        elif len(shape) == 1 or "conv1d" in tensor or "gate_inp" in tensor:
            tensors[tensor] = rng.uniform(0.8, 1.2, shape).astype(np.float32), "F32"
        else:
            tensors[tensor] = random_rows(rng, shape, type_of(tensor)), type_of(tensor)
    write_gguf(path, architecture, metadata, tensors)


def find(name: str, file_type: str, type_of: Callable[[str], str] | None = None) -> Path:
    """Return the file of a family's model, which is written if it does not exist.

    Parameters
    ----------
    name : str
        The family.
    file_type : str
        The type of all matrices, or a name for what ``type_of`` chooses.
    type_of : callable, optional
        Returns the type of a matrix by its name.
    """
    path = user_cache_path("llamafw") / "benchmarks" / f"{name}-{file_type}-1.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        write(name, part, type_of or (lambda tensor: file_type))
        part.replace(path)
    return path


def main() -> None:
    """Run both programs on each model and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--type", default="Q4_1", choices=("Q4_0", "Q4_1"), help="type of the matrices")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tolerance", type=float, default=0.1, help="see passes.py")
    parser.add_argument("--only", default=",".join(FAMILIES))
    args = parser.parse_args()
    models = {name: str(find(name, args.type)) for name in args.only.split(",")}
    compare(models, [int(n) for n in args.threads.split(",")], args.rounds, args.tolerance)


if __name__ == "__main__":
    main()
