"""Write checkpoints as Hugging Face has them, with the conversions of the plugins.

The config of each is stored beside its logits, as transformers wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from checkpoints import Checkpoint, golden_path, tensors
from llamafw.checkpoints import Config, Conversion, Convert, Split, find_conversion, to_checkpoint
from llamafw.plugins import Plugins
from llamafw.testing import vocabularies

Doubles = npt.NDArray[np.float64]


@cache
def conversions() -> Mapping[str, Convert]:
    """Return all conversions, by class."""
    return Plugins().registry("conversion")


def config_path(name: str) -> Path:
    """Return the path of the file with a checkpoint's config."""
    return golden_path(name).with_suffix(".json")


def config_json(config: Any, kind: type) -> dict[str, Any]:
    """Return what ``config.json`` says about a model, given its config and class of transformers."""
    labels = ("id2label", "label2id") if config.num_labels == 2 else ()  # 2 is the default
    unused = ("_name_or_path", "dtype", "transformers_version", *labels)
    values = {key: value for key, value in config.to_dict().items() if key not in unused}
    return values | {"architectures": [kind.__name__]}


def write_folder(
    checkpoint: Checkpoint,
    folder: Path,
    config: Mapping[str, Any] | None = None,
    arrays: Mapping[str, Doubles] | None = None,
) -> Path:
    """Write a checkpoint as ``config.json``, ``model.safetensors`` and ``tokenizer.json``; return ``folder``.

    Parameters
    ----------
    checkpoint : Checkpoint
        The checkpoint.
    folder : Path
        The folder, which is created.
    config : mapping, optional
        The config; by default the one that is stored.
    arrays : mapping, optional
        The tensors by GGUF's names; by default those of the checkpoint.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    values = dict(config) if config is not None else json.loads(config_path(checkpoint.name).read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(values["vocab_size"])), "utf-8")
    if arrays is None:
        arrays = {name: array.astype(np.float64) for name, array in tensors(checkpoint).items()}
    written = checkpoint_tensors(checkpoint, values, arrays)
    save_file({name: np.array(array, order="C") for name, array in written.items()}, folder / "model.safetensors")
    return folder


def checkpoint_tensors(
    checkpoint: Checkpoint, config: Mapping[str, Any], arrays: Mapping[str, Doubles]
) -> dict[str, Doubles]:
    """Return tensors by the names that Hugging Face has for them; ``arrays`` are by GGUF's names."""
    _, conversion = find_conversion(Config(Path("config.json"), config), conversions())
    n_layer = conversion.metadata["block_count"]
    projection = f"blk.{n_layer}.nextn.eh_proj.weight"
    n_kept = n_layer + any(rule.match(projection, gguf=True) is not None for rule in conversion.rules)
    kept = {name: array for name, array in arrays.items() if not _is_extra(name, n_kept)}
    for key in conversion.layer_numbers:
        kept |= {f"blk.{i}.{key}": np.array([number]) for i, number in enumerate(checkpoint.metadata[key])}
    return to_checkpoint(conversion, split_fused(checkpoint, conversion, kept))


def _is_extra(name: str, n_kept: int) -> bool:
    """Return whether a tensor follows from the config, or belongs to a layer after the first ones."""
    if name.startswith(("rope_freqs.", "rope_factors_")):
        return True
    return name.startswith("blk.") and int(name.split(".")[1]) >= n_kept


def split_fused(checkpoint: Checkpoint, conversion: Conversion, arrays: Mapping[str, Doubles]) -> dict[str, Doubles]:
    """Return the tensors with those divided that only some GGUF files have fused."""
    targets = " ".join(target for one in conversion.rules for target in one.targets)
    found: dict[str, Doubles] = {}
    for name, array in arrays.items():
        is_attention = name.replace("attn_qkv", "attn_q_norm") in arrays or ".attn_qkv." not in targets
        if ".attn_qkv." in name and is_attention and ".attn_q." in targets:
            rows = _rows_of_keys(checkpoint)
            parts = Split((len(array) - 2 * rows, rows, rows)).forward([array])
            roles = ("attn_q", "attn_k", "attn_v")
            found |= {name.replace("attn_qkv", role): part for role, part in zip(roles, parts, strict=True)}
        elif ".attn_kv_b." in name and ".attn_kv_b." not in targets:
            n_head, n_key, n_value = (
                checkpoint.key(key)
                for key in ("attention.head_count", "attention.key_length", "attention.value_length")
            )
            heads = array.reshape(n_head, -1, array.shape[-1])
            n_key = heads.shape[1] - n_value
            found[name.replace("kv_b", "k_b")] = heads[:, :n_key].swapaxes(1, 2)
            found[name.replace("kv_b", "v_b")] = heads[:, n_key:]
        elif ".ffn_gate_up_exps." in name:
            gate, up = Split(2, axis=1).forward([array])
            found |= {name.replace("gate_up", "gate"): gate, name.replace("gate_up", "up"): up}
        else:
            found[name] = array
    return found


def _rows_of_keys(checkpoint: Checkpoint) -> int:
    """Return the number of rows of a matrix that makes keys."""
    n_head = checkpoint.key("attention.head_count")
    n_kv = checkpoint.metadata.get(f"{checkpoint.architecture}.attention.head_count_kv", n_head)
    usual = checkpoint.key("embedding_length") // n_head
    size = checkpoint.metadata.get(f"{checkpoint.architecture}.attention.key_length", usual)
    return int(size) * int(np.max(n_kv))


def tokenizer_json(n_vocab: int) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of a vocabulary of bytes."""
    keys = vocabularies.gpt2(n_vocab)
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": text, "special": True}
            for i, text in enumerate(keys["tokenizer.ggml.tokens"])
            if keys["tokenizer.ggml.token_type"][i] == vocabularies.CONTROL
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {text: i for i, text in enumerate(keys["tokenizer.ggml.tokens"])},
            "merges": keys["tokenizer.ggml.merges"],
        },
    }
