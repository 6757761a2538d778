"""The tokens with a role, and those that are added to each text, as GGUF's metadata."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from llamafw_plugins.tokenizers.checkpoint.files import TokenizerFiles
from llamafw_plugins.tokenizers.checkpoint.pipeline import Pipeline
from llamafw_plugins.tokenizers.metadata_values import PREFIX
from llamafw_plugins.tokenizers.vocabulary import END_OF_GENERATION_TEXTS

log = logging.getLogger(__name__)

KEYS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "sep": "seperator_token_id",
    "pad": "padding_token_id", "cls": "cls_token_id", "mask": "mask_token_id",
}  # fmt: skip
"""Role → key; the spelling of the separator is GGUF's."""

FAIRSEQ = "sentencepiece.bpe.model"  # the file of XLM-RoBERTa, which was trained with fairseq

_SIMILAR = {"bos": "cls", "eos": "sep"}  # what encoders call them


def name_tokens(metadata: Mapping[str, Any], files: TokenizerFiles, pipeline: Pipeline | None) -> dict[str, Any]:
    """Return the roles of tokens, and whether BOS, EOS and a separator are added to texts.

    Parameters
    ----------
    metadata : mapping
        The tokens.
    files : TokenizerFiles
        The files.
    pipeline : Pipeline, optional
        Of ``tokenizer.json``, if the checkpoint has it.
    """
    ids = {text: id for id, text in enumerate(metadata[f"{PREFIX}tokens"])}
    kind = metadata[f"{PREFIX}model"]
    roles = _roles(metadata, ids, files)
    if pipeline is None:
        added = _added_by_default(kind, files.find(FAIRSEQ) is not None)
    else:
        before, after = pipeline.around_one()
        between = pipeline.between_two()
        added = _added(before, after, between, ids, roles)
    for name, flag in added.items():
        configured = files.config.get(f"add_{name}_token")
        if isinstance(configured, bool) and kind in ("gpt2", "llama", "gemma4", "plamo2"):
            flag = configured  # as in the classes of transformers for such tokenizers
        added[name] = flag and (name == "sep" or name in roles)

    named = {f"{PREFIX}{KEYS[role]}": id for role, id in roles.items()}
    flags = {f"{PREFIX}add_{name}_token": flag for name, flag in added.items()}
    return named | _other_ends(metadata, files, roles) | flags


def _roles(metadata: Mapping[str, Any], ids: Mapping[str, int], files: TokenizerFiles) -> dict[str, int]:
    """Return role → token, by the tokenizer's files, or else by the algorithm or the model's files."""
    n = len(ids)
    roles = {role: metadata[f"{PREFIX}{key}"] for role, key in KEYS.items() if f"{PREFIX}{key}" in metadata}
    roles |= {role: ids[text] for role, text in files.named.items() if text in ids}
    for role, other in _SIMILAR.items():
        if role not in roles and other in roles:
            roles[role] = roles[other]
    if "eos" not in roles and files.eos_ids and files.eos_ids[0] < n:
        roles["eos"] = files.eos_ids[0]
    for role in KEYS:
        id = files.model_config.get(f"{role}_token_id")
        if role not in roles and type(id) is int and 0 <= id < n:
            roles[role] = id
    return roles


def _added(
    before: list[str], after: list[str], between: list[str], ids: Mapping[str, int], roles: dict[str, int]
) -> dict[str, bool]:
    """Return whether BOS, EOS and a separator are added; the tokens that are added take these roles in ``roles``."""
    for role, texts in (("bos", before), ("eos", after)):
        if len(texts) > 1:
            log.warning("the tokenizer adds %s to texts; GGUF can only add one token, so none is added", texts)
        elif texts and texts[0] in ids and roles.get(role) != ids[texts[0]]:
            roles[role] = ids[texts[0]]
    has_eos = len(after) == 1 and after[0] in ids
    return {
        "bos": len(before) == 1 and before[0] in ids,
        "eos": has_eos,
        "sep": len(between) - has_eos - (len(before) if between[-len(before) :] == before and before else 0) > 0,
    }


def _added_by_default(kind: str, is_fairseq: bool) -> dict[str, bool]:
    """Return what is added if no ``tokenizer.json`` says it, by the algorithm."""
    if kind == "bert":
        return {"bos": True, "eos": True, "sep": False}
    if kind == "t5":
        return {"bos": is_fairseq, "eos": True, "sep": is_fairseq}
    return {"bos": kind == "llama", "eos": False, "sep": False}


def _other_ends(metadata: Mapping[str, Any], files: TokenizerFiles, roles: Mapping[str, int]) -> dict[str, int]:
    """Return the tokens that end a generation besides EOS, if readers of GGUF files do not know them by their texts."""
    texts = metadata[f"{PREFIX}tokens"]
    keys = [key for name in ("eot", "eom") if (key := f"{PREFIX}{name}_token_id") not in metadata]
    known = {roles.get("eos"), metadata.get(f"{PREFIX}eot_token_id")}
    others = [
        id for id in files.eos_ids
        if id not in known and id < len(texts) and texts[id] not in END_OF_GENERATION_TEXTS
    ]  # fmt: skip
    if len(others) > len(keys):
        left_out = [texts[id] for id in others[len(keys) :]]
        log.warning("GGUF can only name three tokens that end a generation; %s do not", left_out)
    return dict(zip(keys, others, strict=False))
