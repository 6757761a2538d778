"""Open Llama models in Hugging Face format: config.json, tokenizer.json and *.safetensors.

The config is translated to the metadata of a GGUF file, and tensors get GGUF's names. Weights are mapped into memory.
Only the rows of Q and K are reordered, in memory: GGUF stores the pairs that RoPE rotates next to each other, Hugging
Face in the two halves of a head.

The formats are described at https://github.com/huggingface/safetensors#format and by LlamaConfig of `transformers`.
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
TYPES = {"F32": 4, "F16": 2, "BF16": 2}  # bytes per weight; ggml has the same names
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
MAX_HEADER = 100_000_000  # bytes; the limit of the format


def open_folder(folder: Path) -> Model:
    """Return the model in a folder; ModelError if it is not a complete Llama model."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != "llama":
        raise ModelError(f"{folder}: model_type is {config.get('model_type')!r}; only 'llama' is supported")

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no .safetensors file")

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

    metadata |= describe_tokenizer(folder, n_embeddings(tensors, folder))
    return Model(folder, metadata, tensors, sum(tensor.data.nbytes for tensor in tensors.values()))


def describe(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that a GGUF file of the model would have."""
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
    """Yield the divisors of Llama 3.1's RoPE frequencies as a GGUF tensor, ``(n_rot // 2,)`` float32.

    Low frequencies are divided by the factor, high ones by 1, and those between by a value in between: see
    ``apply_scaling`` in https://github.com/meta-llama/llama-models. Yields nothing for other models.
    """
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") != "llama3":
        return

    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    frequencies = float(config.get("rope_theta", 10_000.0)) ** (-np.arange(0, size, 2) / size)
    n_turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((n_turns - low) / (high - low), 0, 1)
    factors = (1 / (kept + (1 - kept) / scaling["factor"])).astype(np.float32)
    yield Tensor("rope_freqs.weight", factors.shape, "F32", factors.view(np.uint8))


def describe_tokenizer(folder: Path, n_vocab: int) -> dict[str, Any]:
    """Return the metadata of the tokenizer and the chat template."""
    path = folder / "tokenizer.json"
    parsed, text = read_json(path), read_text(path)
    if parsed["model"].get("type") != "BPE":
        raise ModelError(f"{path}: the tokenizer is {parsed['model'].get('type')!r}; only BPE is supported")

    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    added = {token["content"]: token["id"] for token in parsed["added_tokens"]}
    ids: dict[str, int] = dict(parsed["model"]["vocab"]) | added
    texts = [f"[PAD{i}]" for i in range(n_vocab)]  # the embedding may have more rows than there are tokens
    for token, number in ids.items():
        if number >= n_vocab:
            raise ModelError(f"{path}: the token {token!r} has the id {number}; the model has {n_vocab} tokens")
        texts[number] = token

    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "tokenizer.json",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.json": text,
    }
    for name in ("bos", "eos"):
        special = config.get(f"{name}_token")
        if special is not None:
            content = special["content"] if isinstance(special, dict) else special
            metadata[f"tokenizer.ggml.{name}_token_id"] = ids[content]
    if config.get("chat_template"):
        metadata["tokenizer.chat_template"] = config["chat_template"]
    return metadata


def read_tensors(file: Path, heads: Mapping[str, int]) -> Iterator[Tensor]:
    """Yield the tensors of one file with GGUF's names.

    Parameters
    ----------
    file : Path
        A safetensors file.
    heads : mapping
        The number of heads of each matrix whose rows must be reordered.
    """
    if not file.stat().st_size:  # an empty file cannot be mapped
        raise ModelError(f"{file}: this is not a safetensors file")
    data: Bytes = np.memmap(file, np.uint8, "r")
    n_header = int.from_bytes(data[:8].tobytes(), "little")
    if not 0 < n_header <= min(MAX_HEADER, len(data) - 8):
        raise ModelError(f"{file}: this is not a safetensors file")
    try:
        header = json.loads(data[8 : 8 + n_header].tobytes())
    except ValueError:
        raise ModelError(f"{file}: this is not a safetensors file") from None

    for original, entry in header.items():
        if original == "__metadata__" or original.endswith("rotary_emb.inv_freq"):  # computed from the config
            continue
        name, role = gguf_name(original, file)
        kind, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if kind not in TYPES or end - start != math.prod(shape) * TYPES[kind] or 8 + n_header + end > len(data):
            raise ModelError(
                f"{file}: the tensor {original!r} of type {kind} and shape {shape} does not fit its {end - start} bytes"
            )

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
        raise ModelError(f"{file}: the tensor {name!r} is not part of a Llama model")
    return f"blk.{parts[0]}.{LAYER[stem]}.{kind}", LAYER[stem]


def n_embeddings(tensors: Mapping[str, Tensor], folder: Path) -> int:
    """Return the number of rows of the embedding."""
    if "token_embd.weight" not in tensors:
        raise ModelError(f"{folder}: the tensor 'model.embed_tokens.weight' is missing")
    return tensors["token_embd.weight"].shape[0]


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    try:
        value: dict[str, Any] = json.loads(read_text(path))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    return value


def read_text(path: Path) -> str:
    """Return the text of a file; ModelError if it cannot be read."""
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
    """Register the tokenizer of ``tokenizer.json`` files."""
    register("tokenizer.json", make_tokenizer)


def make_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer; imports the `tokenizers` library only when it is needed."""
    from llamafw_safetensors.tokenizer import FileTokenizer

    return FileTokenizer(metadata)
