"""Llama models as Hugging Face stores them: config.json, tokenizer.json, *.safetensors. No conversion, no copy on disk.

The config becomes the metadata that a GGUF file would have, tensors get GGUF's names and stay in their files, mapped
into memory. Only Q and K are rearranged: GGUF has the pairs that RoPE turns side by side, Hugging Face in the two
halves of a head.

Formats: https://github.com/huggingface/safetensors#format, and `transformers`' LlamaConfig.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamafw import Bytes, Model, ModelError, Register, Settings, Tensor, Tokenizer, hookimpl

requires_api = ">=1.0,<2"
TYPES = {"F32": 4, "F16": 2, "BF16": 2}  # safetensors' names are ggml's; bytes per weight
GLOBAL = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MAX_HEADER = 100_000_000  # bytes, as in the format's description


def open_folder(folder: Path) -> Model:
    """Return the model in a folder; ModelError if it is no Llama model or a part of it is missing."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != "llama":
        raise ModelError(f"{folder}: the model is {config.get('model_type')!r}; Llama models can be opened")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: there is no .safetensors file")
    try:
        metadata, factors = describe(folder, config), list(rope_factors(config))
    except KeyError as error:
        raise ModelError(f"{folder / 'config.json'} has no {error}") from None
    heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config.get("num_key_value_heads", config["num_attention_heads"]),
    }
    tensors = {tensor.name: tensor for file in files for tensor in read_tensors(file, heads)}
    tensors |= {tensor.name: tensor for tensor in factors}
    if config.get("tie_word_embeddings"):
        tensors.pop("output.weight", None)
    metadata |= describe_tokenizer(folder, len_of(tensors, folder))
    return Model(folder, metadata, tensors, sum(tensor.data.nbytes for tensor in tensors.values()))


def describe(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a GGUF file would say of the model."""
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ModelError(f"{folder}: the rope_scaling {kind!r} is not supported")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{folder}: the hidden_act {config['hidden_act']!r} is not supported")
    n_head, n_embd = config["num_attention_heads"], config["hidden_size"]
    size = config.get("head_dim") or n_embd // n_head
    return {
        "general.architecture": "llama",
        "general.name": folder.name,
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": n_embd,
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": n_head,
        "llama.attention.head_count_kv": config.get("num_key_value_heads", n_head),
        "llama.attention.key_length": size,
        "llama.attention.value_length": size,
        "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "llama.rope.dimension_count": size,
        "llama.rope.freq_base": float(config.get("rope_theta", 10_000.0)),
        "llama.rope.scaling.factor": float(scaling["factor"]) if kind == "linear" else 1.0,
    }


def rope_factors(config: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield what Llama 3.1 divides its frequencies by, as GGUF files have it, ``(n_rot // 2,)`` float32.

    Slow frequencies are divided by the factor, fast ones stay, and between the two it goes over smoothly:
    https://github.com/meta-llama/llama-models, ``apply_scaling``.
    """
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequencies = float(config.get("rope_theta", 10_000.0)) ** (-np.arange(0, size, 2) / size)
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    factors = (1 / (kept + (1 - kept) / scaling["factor"])).astype(np.float32)
    yield Tensor("rope_freqs.weight", factors.shape, "F32", factors.view(np.uint8))


def describe_tokenizer(folder: Path, n_vocab: int) -> dict[str, Any]:
    """Return the metadata from which the tokenizer and the chat format are made."""
    path = folder / "tokenizer.json"
    parsed, text = read_json(path), read_text(path)
    if parsed["model"].get("type") != "BPE":
        raise ModelError(f"{path}: the tokenizer is {parsed['model'].get('type')!r}; BPE is supported")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    ids: dict[str, int] = dict(parsed["model"]["vocab"]) | {one["content"]: one["id"] for one in parsed["added_tokens"]}
    texts = [f"[PAD{i}]" for i in range(n_vocab)]  # embeddings may have more rows than there are tokens
    for token, number in ids.items():
        if number >= n_vocab:
            raise ModelError(f"{path}: the token {token!r} is {number}, and the model has {n_vocab}")
        texts[number] = token
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "tokenizer.json",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.json": text,
    }
    for name in ("bos", "eos"):
        given = config.get(f"{name}_token")
        if given is not None:
            metadata[f"tokenizer.ggml.{name}_token_id"] = ids[given["content"] if isinstance(given, dict) else given]
    if config.get("chat_template"):
        metadata["tokenizer.chat_template"] = config["chat_template"]
    return metadata


def read_tensors(file: Path, heads: Mapping[str, int]) -> Iterator[Tensor]:
    """Yield the tensors of one file, under GGUF's names.

    Parameters
    ----------
    heads : mapping
        Number of heads of the matrices whose rows are to be rearranged.
    """
    if not file.stat().st_size:  # nothing that could be mapped
        raise ModelError(f"{file}: this is no safetensors file")
    data: Bytes = np.memmap(file, np.uint8, "r")
    n_header = int.from_bytes(data[:8].tobytes(), "little")
    if not 0 < n_header <= min(MAX_HEADER, len(data) - 8):
        raise ModelError(f"{file}: this is no safetensors file")
    try:
        header = json.loads(data[8 : 8 + n_header].tobytes())
    except ValueError:
        raise ModelError(f"{file}: this is no safetensors file") from None
    for theirs, facts in header.items():
        if theirs == "__metadata__" or theirs.endswith("rotary_emb.inv_freq"):  # which follows from the config
            continue
        name, role = gguf_name(theirs, file)
        kind, shape, (start, end) = facts["dtype"], tuple(facts["shape"]), facts["data_offsets"]
        if kind not in TYPES or end - start != math.prod(shape) * TYPES[kind] or 8 + n_header + end > len(data):
            raise ModelError(f"{file}: the tensor {theirs!r} is {kind} of {end - start} bytes; its shape is {shape}")
        weights = data[8 + n_header + start : 8 + n_header + end]
        if role in heads:
            rows = weights.reshape(heads[role], 2, shape[0] // heads[role] // 2, -1)
            weights = np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(-1)
        yield Tensor(name, shape, kind, weights)


def gguf_name(name: str, file: Path) -> tuple[str, str]:
    """Return a tensor's name in GGUF files, and its role."""
    if name in GLOBAL:
        return GLOBAL[name], GLOBAL[name].split(".")[0]
    parts = name.removeprefix("model.layers.").split(".", 1)
    stem, _, kind = parts[-1].rpartition(".")
    if (
        not name.startswith("model.layers.")
        or not parts[0].isdigit()
        or stem not in LAYER
        or kind not in ("weight", "bias")
    ):
        raise ModelError(f"{file}: the tensor {name!r} has no place in a Llama model")
    return f"blk.{parts[0]}.{LAYER[stem]}.{kind}", LAYER[stem]


def len_of(tensors: Mapping[str, Tensor], folder: Path) -> int:
    """Return the number of rows of the embedding."""
    if "token_embd.weight" not in tensors:
        raise ModelError(f"{folder}: the tensor 'model.embed_tokens.weight' is missing")
    return tensors["token_embd.weight"].shape[0]


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file."""
    try:
        found: dict[str, Any] = json.loads(read_text(path))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}") from None
    return found


def read_text(path: Path) -> str:
    """Return the text of a file; ModelError if it is not there."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None


@hookimpl
def open_model(path: Path, settings: Settings) -> Model | None:
    """Open ``-m FOLDER``."""
    return open_folder(path) if path.is_dir() and (path / "config.json").is_file() else None


@hookimpl
def register_tokenizers(register: Register) -> None:
    """Read the ``tokenizer.json`` of such folders."""
    register("tokenizer.json", make_tokenizer)


def make_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer; the library is imported only now."""
    from llamafw_safetensors.tokenizer import FileTokenizer

    return FileTokenizer(metadata)
