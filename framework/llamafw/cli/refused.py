"""Flags of llama-server that are refused, each with the reason.

Ignoring them would give unexpected results.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamafw.errors import SettingsError

_ADAPTERS = "LoRA adapters are not supported yet; merge the adapter into the model"
_VECTORS = "control vectors are not supported yet"
_SELF_EXTEND = "self-extend is not supported; extend the context with --rope-scaling yarn and --rope-scale"
_DEFRAG = "not supported: the KV cache of a slot is contiguous, so there is nothing to defragment"
_DRAFT = "speculative decoding is not supported yet"
_MULTIMODAL = "images and audio are not supported yet"

REFUSED_FLAGS: dict[str, str] = {
    "-gan": _SELF_EXTEND,
    "--grp-attn-n": _SELF_EXTEND,
    "-gaw": _SELF_EXTEND,
    "--grp-attn-w": _SELF_EXTEND,
    "-dt": _DEFRAG,
    "--defrag-thold": _DEFRAG,
    "--lora": _ADAPTERS,
    "--lora-scaled": _ADAPTERS,
    "--lora-init-without-apply": _ADAPTERS,
    "--control-vector": _VECTORS,
    "--control-vector-scaled": _VECTORS,
    "--control-vector-layer-range": _VECTORS,
    "--rpc": "not supported; write a backend plugin that calls the other machine (docs/plugins/backend.md)",
    "-md": _DRAFT,
    "--model-draft": _DRAFT,
    "-hfd": _DRAFT,
    "--hf-repo-draft": _DRAFT,
    "-mm": _MULTIMODAL,
    "--mmproj": _MULTIMODAL,
    "-mmu": _MULTIMODAL,
    "--mmproj-url": _MULTIMODAL,
}

REFUSED_VARIABLES: dict[str, str] = {
    "LLAMA_ARG_GRP_ATTN_N": "-gan",
    "LLAMA_ARG_GRP_ATTN_W": "-gaw",
    "LLAMA_ARG_DEFRAG_THOLD": "-dt",
    "LLAMA_ARG_RPC": "--rpc",
    "LLAMA_ARG_MODEL_DRAFT": "-md",
    "LLAMA_ARG_HFD_REPO": "-hfd",
    "LLAMA_ARG_MMPROJ": "--mmproj",
    "LLAMA_ARG_MMPROJ_URL": "--mmproj-url",
}
"""Environment variables of these flags."""


def check_environment(environ: Mapping[str, str]) -> None:
    """Raise SettingsError for the first variable whose flag is refused."""
    for name, flag in REFUSED_VARIABLES.items():
        if environ.get(name):
            raise SettingsError(f"{name}: {REFUSED_FLAGS[flag]}")
