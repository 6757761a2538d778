"""The tokens of a GGUF file and their special roles.

Independent of how text is split into tokens.

GGUF gives each token a text and a type, and names a few tokens (BOS, EOS …). That is not enough: many models end their
turns with tokens that the metadata does not name, or mark control tokens as normal. The tables below list the texts by
which llama.cpp (src/llama-vocab.cpp) recognises such tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import ModelError
from llamafw_plugins.tokenizers.metadata_values import PREFIX, read_numbers, read_strings, read_token_id

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type

END_OF_GENERATION_TEXTS = (
    "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>", "[EOS]", "<end_of_utterance>",
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<turn|>", "<EOT>", "_<EOT>", "[EOT]",
    "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|tool_response>", "[e~[",
)  # fmt: skip
"""Texts of tokens that end a generation, even if the metadata does not name them."""

TEXTS_OF_HTML_MODELS = ("<|tool_response>", "<|plamo:eos|>")
"""Tokens of Gemma 4 and PLaMo 2, in which ``</s>`` ends struck text in HTML, and not a generation."""

FIM_TEXTS = {
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
"""Tokens for filling in the middle: metadata key → texts of the token in models without that key."""

FIM_END_KEYS = ("fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id")  # tokens that also end a generation

OLD_FIM_KEYS = {
    "fim_pre_token_id": "prefix_token_id", "fim_suf_token_id": "suffix_token_id", "fim_mid_token_id": "middle_token_id",
}  # fmt: skip
"""Keys of fill-in-the-middle tokens in files from before October 2024."""

ALWAYS_RENDERED = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
"""Control tokens of gpt-oss that structure the response. Clients need to see them."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a model.

    The id of a token is its index in ``texts``.
    """

    texts: list[str]
    types: list[int]
    ids: Mapping[str, int]  # text → token, for all tokens with a text
    control: frozenset[int]  # control and unknown tokens: parsed and rendered only on request
    user_defined: frozenset[int]  # always parsed, before other tokens
    rendered: frozenset[int]  # control tokens that are always rendered
    eog: frozenset[int]  # end-of-generation tokens
    fim: Mapping[str, int]  # tokens for filling in the middle: "pre", "suf", "mid", "pad", "rep", "sep"
    bos: int | None
    eos: int | None
    unknown: int | None


def read_vocabulary(
    metadata: Mapping[str, Any],
    *,
    bos: int | None = None,
    eos: int | None = None,
    unknown: int | None = None,
    may_repeat: bool = False,
) -> Vocabulary:
    """Return the vocabulary in ``metadata``; ModelError with the key if the metadata is invalid.

    Parameters
    ----------
    bos, eos, unknown : int, optional
        Defaults for tokens that the metadata does not name, ignored if the vocabulary is too small for them.
    may_repeat : bool
        Whether several tokens may have the same text; text then becomes the last of them.
    """
    texts = read_strings(metadata, "tokens")
    n = len(texts)
    if not n:
        raise ModelError(f"{PREFIX}tokens is empty")
    ids = {text: token for token, text in enumerate(texts) if text}
    if not may_repeat and len(ids) + texts.count("") != n:
        first = next(token for token, text in enumerate(texts) if text and ids[text] != token)
        raise ModelError(f"{PREFIX}tokens has {texts[first]!r} twice, as tokens {first} and {ids[texts[first]]}")
    types = _read_types(metadata, n)

    def named(key: str, default: int | None = None) -> int | None:
        token = read_token_id(metadata, key, n)
        return token if token is not None else default if default is not None and default < n else None

    def by_text(candidates: Iterable[str]) -> set[int]:
        return {ids[text] for text in candidates if text in ids}

    bos, eos = named("bos_token_id", bos), named("eos_token_id", eos)
    control = {token for token, token_type in enumerate(types) if token_type in (CONTROL, UNKNOWN)}
    eog = by_text(END_OF_GENERATION_TEXTS)
    if by_text(TEXTS_OF_HTML_MODELS):
        eog -= by_text(["</s>"])
    control |= eog

    fim: dict[str, int] = {}
    for key, fim_texts in FIM_TEXTS.items():
        token = named(key, named(OLD_FIM_KEYS.get(key, "")))
        if token is None and (matches := by_text(fim_texts)):
            token = min(matches)
            control.add(token)
        if token is not None:
            fim[key.split("_")[1]] = token
            if key in FIM_END_KEYS:
                eog.add(token)

    eog.update(token for token in (eos, named("eot_token_id"), named("eom_token_id")) if token is not None)
    user_defined = {token for token, token_type in enumerate(types) if token_type == USER_DEFINED} - control
    rendered = by_text(ALWAYS_RENDERED)
    if _end_token_ends_a_message(ids):
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


def _read_types(metadata: Mapping[str, Any], n: int) -> list[int]:
    """Return the type of each token; NORMAL if the metadata has no types."""
    array = read_numbers(metadata, "token_type", n)
    if array is None:
        return [NORMAL] * n
    if not np.issubdtype(array.dtype, np.integer):
        raise ModelError(f"{PREFIX}token_type is not an array of integers")
    types: list[int] = array.tolist()
    return types


def _end_token_ends_a_message(ids: Mapping[str, int]) -> bool:
    """Return whether ``<|end|>`` only ends one of several messages in a response, as in gpt-oss and Solar."""
    return ("<|call|>" in ids or "<|calls|>" in ids) and ("<|return|>" in ids or "<|flush|>" in ids)
