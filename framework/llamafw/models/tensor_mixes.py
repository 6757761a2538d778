"""Choose the type of each tensor in a file of one of llama.cpp's file types.

Some tensors lose more by rounding than others, so they get a larger type. The rules are those of llama.cpp
(https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp). Independent of files and of how weights are
rounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw.models.file_types import FileType
from llamafw.types import Model

Shape = tuple[int, ...]

_NEVER_ROUNDED = (
    *("_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj"),
    *("ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "attn_rel_b.weight"),
    *(f"time_mix_{name}.weight" for name in ("first", "lerp_fused", "decay_w1", "decay_w2")),
    *(f"time_mix_{name}.weight" for name in ("w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2")),
    *(".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger"),
    *("a.rvq.codebook", "mm.a.code_embd"),
)
"""Parts of the names of tensors that keep their type: they are small, or decide something."""

_NEVER_ROUNDED_NAMES = "position_embd.weight", "token_types.weight"

_ROLES = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight", "attn_k.weight", "attn_output.weight", "ffn_down")

_FALLBACKS = {"IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"} | dict.fromkeys(
    ("Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"
)
"""The types with blocks of 32 that take the place of those with blocks of 256."""

_LAYERS_OF_70B = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}


def may_be_rounded(name: str, shape: Shape) -> bool:
    """Return whether a tensor is a matrix, or several, that no rule excludes."""
    while shape and shape[0] == 1:
        shape = shape[1:]
    if len(shape) < 2 or not name.endswith("weight") or name in _NEVER_ROUNDED_NAMES:
        return False
    return not any(part in name for part in _NEVER_ROUNDED)


def fallback(type_name: str, n_columns: int, block_size: int) -> str:
    """Return a type for rows that are not whole blocks of ``type_name``, whose blocks have ``block_size`` weights."""
    if n_columns % block_size == 0:
        return type_name
    other = _FALLBACKS.get(type_name)
    return other if other is not None and n_columns % 32 == 0 else "F16"


def by_layer(names: Iterable[str]) -> list[str]:
    """Return names of tensors ordered by layer, then by name: the order in which the rules count."""
    return sorted(names, key=lambda name: (_layer(name) if _layer(name) is not None else -1, name))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the rules ask about a model."""

    architecture: str
    n_layer: int
    n_expert: int  # 0: no experts
    n_gqa: int  # heads that share a key; 0: no keys
    n_attn_v: int  # tensors that compute values, alone or together with queries and keys
    is_tied: bool  # the embedding of tokens is also the output matrix
    is_70b: bool

    @classmethod
    def of(cls, model: Model) -> ModelFacts:
        """Return the facts about a model file."""
        metadata, names = model.metadata, model.tensors
        architecture = str(metadata.get("general.architecture", ""))
        n_layer = _integer(metadata.get(f"{architecture}.block_count"))
        n_head = _integer(metadata.get(f"{architecture}.attention.head_count"))
        n_kv = _integer(metadata.get(f"{architecture}.attention.head_count_kv", n_head))
        is_large = n_layer == _LAYERS_OF_70B.get(architecture)
        return cls(
            architecture=architecture,
            n_layer=n_layer,
            n_expert=_integer(metadata.get(f"{architecture}.expert_count")),
            n_gqa=n_head // n_kv if n_kv else 0,
            n_attn_v=sum(_role(name) in _ROLES[:3] for name in names),
            is_tied="output.weight" not in names,
            is_70b=is_large and (architecture != "llama" or n_head != n_kv),
        )


class TensorMix:
    """Chooses the types of a model's tensors.

    Ask it once about each tensor, in the order of `by_layer`.

    Parameters
    ----------
    facts : ModelFacts
        The model.
    file_type : FileType
        The type of the file.
    has_importance : bool
        Whether weights are rounded with an importance matrix.
    """

    def __init__(self, facts: ModelFacts, file_type: FileType, *, has_importance: bool) -> None:
        self._facts, self._type, self._has_importance = facts, file_type, has_importance
        self._n_attn_v = self._n_ffn_down = 0  # tensors that were asked about

    def choose(self, name: str, shape: Shape, block_size: int) -> str:
        """Return the type of a tensor that `may_be_rounded`, before any `fallback`.

        Parameters
        ----------
        name : str
            Name of the tensor.
        shape : tuple of int
            Outermost dimension first.
        block_size : int
            Weights per block of the file's most common type.
        """
        file_type, facts, role = self._type, self._facts, _role(name)
        if file_type.number is None or file_type.name in ("F32", "F16", "BF16"):
            return file_type.base
        is_embedding = name in ("token_embd.weight", "per_layer_token_embd.weight")
        if name == "output.weight" or (facts.is_tied and is_embedding):
            if file_type.name == "MXFP4_MOE" or facts.architecture == "falcon" or shape[-1] % block_size:
                return "Q8_0"
            return "Q8_0" if file_type.base == "Q8_0" else "Q6_K"
        if file_type.name == "MXFP4_MOE":
            return "MXFP4" if len(shape) > 2 and shape[-3] > 1 else "Q8_0"
        if is_embedding:
            return "Q4_K" if file_type.base in ("TQ1_0", "TQ2_0") else file_type.base
        if role in _ROLES[:3]:
            return self._values()
        if role == "attn_k.weight":
            return "Q8_0" if facts.n_expert == 8 else file_type.base
        if role == "attn_output.weight":
            return self._attention_output()
        return self._ffn_down(name) if role == "ffn_down" else file_type.base

    def _values(self) -> str:
        """Return the type of a matrix that computes values."""
        facts, chosen, i = self._facts, self._type.base, self._n_attn_v
        self._n_attn_v += 1
        is_shared = facts.n_gqa >= 4
        match self._type.name:
            case "Q2_K":
                chosen = "Q4_K" if is_shared else "Q3_K"
            case "Q2_K_S" if is_shared:
                chosen = "Q4_K"
            case "Q3_K_M":
                chosen = "Q5_K" if i < 2 else "Q4_K"
            case "Q3_K_L":
                chosen = "Q5_K"
            case "IQ4_NL" | "IQ4_XS" if is_shared:
                chosen = "Q5_K"
            case "Q4_K_M" | "Q5_K_M" if _is_sensitive(i, facts.n_attn_v):
                chosen = "Q6_K"
            case "Q4_K_S" if i < 4:
                chosen = "Q5_K"
        if facts.is_70b and chosen in ("Q3_K", "Q4_K"):
            chosen = "Q5_K"
        return "Q8_0" if facts.n_expert == 8 else chosen

    def _ffn_down(self, name: str) -> str:
        """Return the type of the last matrix of a feed-forward network."""
        facts, n, i = self._facts, self._facts.n_layer, self._n_ffn_down
        self._n_ffn_down += 1
        layer = _layer(name)
        if facts.n_expert > 1 and layer is not None:
            i = layer
        is_falcon, is_early = facts.architecture == "falcon", i < n // 8
        match self._type.name:
            case "Q2_K":
                return "Q3_K"
            case "Q2_K_S" if is_early:
                return "Q4_K"
            case "Q3_K_M":
                if i < n // 16:
                    return "Q5_K"
                return "Q4_K" if not is_falcon or _is_sensitive(i, n) else "Q3_K"
            case "Q3_K_L":
                return "Q4_K" if is_falcon else "Q5_K"
            case "Q4_K_M" if is_falcon:
                return "Q6_K" if i < n // 16 else "Q5_K" if _is_sensitive(i, n) else "Q4_K"
            case "Q4_K_M" | "Q5_K_M" if _is_sensitive(i, n):
                return "Q6_K"
            case "IQ4_NL" | "IQ4_XS" if is_early and not self._has_importance:
                return "Q5_K"
            case "Q4_K_S" if is_early and not is_falcon:
                return "Q5_K"
            case "Q4_0" | "Q5_0" if is_early and self._has_importance:
                return self._type.base[:-1] + "1"
        return self._type.base

    def _attention_output(self) -> str:
        """Return the type of the last matrix of attention."""
        name, base = self._type.name, self._type.base
        if self._facts.architecture == "falcon":
            return "Q4_K" if name == "Q3_K_L" else base
        if self._facts.n_expert == 8:
            gets_more = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_NL", "IQ4_XS")
            return "Q5_K" if name in gets_more else base
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(name, base)


def _is_sensitive(i: int, n: int) -> bool:
    """Return whether layer ``i`` of ``n`` is among the first or last, or every third of the others."""
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def _role(name: str) -> str | None:
    return next((role for role in _ROLES if role in name), None)


def _layer(name: str) -> int | None:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else None


def _integer(value: Any) -> int:
    """Return a number of the metadata, or the first of several; 0 if it is missing."""
    numbers = np.atleast_1d(np.asarray(0 if value is None else value))
    return int(numbers[0]) if numbers.size and numbers.dtype.kind in "iu" else 0
