"""The tokens of a GGUF file and what is special about them. It knows nothing of how text is cut into tokens.

GGUF gives each token a text and a type, and names a few (BOS, EOS …). More is known from the texts alone: models end
their turns with tokens that their metadata does not name, and mark some control tokens as normal text. The texts
below are those llama.cpp (src/llama-vocab.cpp) goes by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import ModelError
from llamafw_plugins.tokenizers import metadata as read

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type

ENDS = (
    "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>", "[EOS]", "<end_of_utterance>",
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<EOT>", "_<EOT>", "[EOT]",
    "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|tool_response>", "[e~[",
)  # fmt: skip
"""Texts of tokens that end a generation, whatever the metadata says."""

FILL_IN_MIDDLE = {
    "fim_pre_token_id": (
        "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
        "<|code_prefix|>", "<|prefix|>",
    ),
    "fim_suf_token_id": (
        "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
        "<|code_suffix|>", "<|suffix|>",
    ),
    "fim_mid_token_id": (
        "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
        "<|code_middle|>", "<|middle|>",
    ),
    "fim_pad_token_id": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep_token_id": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep_token_id": ("<|file_sep|>",),
}  # fmt: skip
"""Tokens for filling in the middle: metadata key → texts to go by in a model without that key."""

FILL_IN_MIDDLE_ENDS = ("fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")  # these end a generation, too

OLDER_NAMES = {
    "fim_pre_token_id": "prefix_token_id", "fim_suf_token_id": "suffix_token_id", "fim_mid_token_id": "middle_token_id",
}  # fmt: skip
"""What files from before 2024-10 call these keys."""

ALWAYS_RENDERED = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
"""gpt-oss: control tokens that structure the answer, so the client must see them."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a model. Ids are positions in ``texts``."""

    texts: list[str]
    types: list[int]
    ids: Mapping[str, int]  # by text; tokens without text are left out
    control: frozenset[int]  # control and unknown tokens: read from text only on request, rendered only on request
    user_defined: frozenset[int]  # always read from text, before anything else
    rendered: frozenset[int]  # control tokens that are rendered nevertheless
    eog: frozenset[int]
    fim: Mapping[str, int]  # for filling in the middle: "pre", "suf", "mid", "pad", "rep", "sep"
    bos: int | None
    eos: int | None
    unknown: int | None


def read_vocabulary(
    metadata: Mapping[str, Any], *, bos: int | None = None, eos: int | None = None, unknown: int | None = None
) -> Vocabulary:
    """Return the vocabulary in ``metadata``; ModelError names the key at fault.

    Parameters
    ----------
    bos, eos, unknown : int, optional
        What holds if the metadata does not name them, and the vocabulary is that large.
    """
    texts = read.strings(metadata, "tokens")
    n = len(texts)
    if not n:
        raise ModelError(f"{read.PREFIX}tokens is empty")
    ids = {text: token for token, text in enumerate(texts) if text}
    if len(ids) + texts.count("") != n:
        twice = next(token for token, text in enumerate(texts) if text and ids[text] != token)
        raise ModelError(f"{read.PREFIX}tokens has {texts[twice]!r} twice, at {twice} and {ids[texts[twice]]}")
    types = _types(metadata, n)

    def named(key: str, default: int | None = None) -> int | None:
        found = read.token_id(metadata, key, n)
        return found if found is not None else default if default is not None and default < n else None

    def by_text(wanted: Iterable[str]) -> set[int]:
        return {ids[text] for text in wanted if text in ids}

    bos, eos = named("bos_token_id", bos), named("eos_token_id", eos)
    control = {token for token, kind in enumerate(types) if kind in (CONTROL, UNKNOWN)}
    eog = by_text(ENDS)
    control |= eog
    fim: dict[str, int] = {}
    for key, known in FILL_IN_MIDDLE.items():
        token = named(key, named(OLDER_NAMES.get(key, "")))
        if token is None and (found := by_text(known)):
            token = min(found)
            control.add(token)
        if token is not None:
            fim[key.split("_")[1]] = token
        if token is not None and key in FILL_IN_MIDDLE_ENDS:
            eog.add(token)
    eog.update(token for token in (eos, named("eot_token_id"), named("eom_token_id")) if token is not None)
    user_defined = {token for token, kind in enumerate(types) if kind == USER_DEFINED} - control
    rendered = by_text(ALWAYS_RENDERED)
    if _end_is_of_a_message(ids):
        end = by_text(["<|end|>"])
        eog, rendered = eog - end, rendered | end
    return Vocabulary(
        texts=texts,
        types=types,
        ids=ids,
        control=frozenset(control),
        user_defined=frozenset(user_defined),
        rendered=frozenset(rendered),
        eog=frozenset(eog),
        fim=fim,
        bos=bos,
        eos=eos,
        unknown=named("unknown_token_id", unknown),
    )


def _types(metadata: Mapping[str, Any], n: int) -> list[int]:
    found = read.numbers(metadata, "token_type", n)
    if found is None:
        return [NORMAL] * n
    if not np.issubdtype(found.dtype, np.integer):
        raise ModelError(f"{read.PREFIX}token_type is no array of integers")
    types: list[int] = found.tolist()
    return types


def _end_is_of_a_message(ids: Mapping[str, int]) -> bool:
    """In the formats of gpt-oss and Solar, ``<|end|>`` ends one of the several messages that make up an answer."""
    return ("<|call|>" in ids or "<|calls|>" in ids) and ("<|return|>" in ids or "<|flush|>" in ids)
