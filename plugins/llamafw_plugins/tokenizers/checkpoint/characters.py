"""``llama`` or ``gemma4`` from ``tokenizer.json``: BPE of characters with byte fallback, as SentencePiece's.

``llama`` merges by the score of the resulting token, ``gemma4`` by a list of merges. A list is the same as scores if it
has every way to form a token, and all ways to form a token side by side.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llamafw import ModelError
from llamafw_plugins.tokenizers.checkpoint.byte_level import check_affixes, read_pairs
from llamafw_plugins.tokenizers.checkpoint.files import TokenizerFiles
from llamafw_plugins.tokenizers.checkpoint.pipeline import Pipeline
from llamafw_plugins.tokenizers.checkpoint.tokens import BYTE_TEXT, SPACE, Tokens
from llamafw_plugins.tokenizers.metadata_values import PREFIX

_TEXTS = (
    "a",
    "a b",
    "a  b ",
    "x1 2.5, don't!",
    "é中文 ABC",
    "ﬁ²①",
    "a\nb\tc",
    "12345",
    "日本 語\n\n",
    "\u3000x\u00a0y",
)

_GEMMA4_VISIBLE = (
    "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>',
)  # fmt: skip
"""Special tokens of Gemma 4 that chat parsers read."""


def read_characters(files: TokenizerFiles, pipeline: Pipeline) -> dict[str, Any]:
    """Return the metadata of a ``tokenizer.json``."""
    model = files.tokenizer["model"]
    vocabulary, merges = model.get("vocab"), read_pairs(model)
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ModelError("tokenizer.json: model.vocab is not an object with tokens")
    check_affixes(model)
    if model.get("ignore_merges"):
        raise ModelError(
            "tokenizer.json: model.ignore_merges is true, which GGUF cannot say for this kind of tokenizer"
        )
    has_prefix = _adds_prefix(pipeline, vocabulary)
    is_gemma4 = str(files.model_config.get("model_type", "")).startswith("gemma4")
    added = {token.text for token in files.added}
    ranks = None if is_gemma4 else ranks_of_tokens(vocabulary, merges, added)
    if ranks is None and has_prefix:
        raise ModelError(
            "tokenizer.json: model.merges is not the same as scores of tokens, which GGUF needs if texts get a space "
            "at their beginning"
        )

    tokens = Tokens(vocabulary)
    if model.get("byte_fallback"):
        tokens.mark_bytes()
    tokens.mark_unknown(model.get("unk_token"))
    if ranks is not None:
        tokens.scores = {id: -float(ranks.get(text, len(merges))) for text, id in vocabulary.items()}
    tokens.add(files.added, visible=_GEMMA4_VISIBLE if is_gemma4 else ())
    common = tokens.metadata(files.n_vocab, scores=True) | {f"{PREFIX}add_space_prefix": has_prefix}
    if ranks is not None:
        return {f"{PREFIX}model": "llama", f"{PREFIX}pre": "default"} | common
    return {f"{PREFIX}model": "gemma4"} | common | {f"{PREFIX}merges": [f"{left} {right}" for left, right in merges]}


def ranks_of_tokens(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], added: Collection[str] = ()
) -> dict[str, int] | None:
    """Return for each token how many others are merged before it; None if merges are not the same as scores.

    Parameters
    ----------
    vocabulary : mapping
        Text → id.
    merges : sequence of (str, str)
        In order of priority.
    added : collection of str
        Tokens that are found before merging, and never merged.
    """
    ranks: dict[str, int] = {}
    last = None
    for left, right in merges:
        text = left + right
        if text != last and text in ranks:
            return None  # another token comes between two ways to form this one
        last = text
        ranks.setdefault(text, len(ranks))

    ways = set(merges)
    for text in vocabulary:
        if text in added or BYTE_TEXT.fullmatch(text):
            continue
        for middle in range(1, len(text)):
            left, right = text[:middle], text[middle:]
            if (left, right) not in ways and _is_symbol(left, vocabulary) and _is_symbol(right, vocabulary):
                return None
    return ranks


def _is_symbol(text: str, vocabulary: Mapping[str, int]) -> bool:
    """Return whether a text can be one symbol while SentencePiece merges."""
    return len(text) == 1 or text in vocabulary


def _adds_prefix(pipeline: Pipeline, vocabulary: Mapping[str, int]) -> bool:
    """Return whether each text gets a space at its beginning.

    Raises
    ------
    ModelError
        The text is changed in another way, or split at other places than spaces.
    """
    crosses = any(SPACE in text[1:] for text in vocabulary)
    for has_prefix in (True, False):
        if all(_is_as_expected(pipeline, text, has_prefix, crosses) for text in _TEXTS):
            return has_prefix
    text = next(
        text for text in _TEXTS
        if not any(_is_as_expected(pipeline, text, has_prefix, crosses) for has_prefix in (True, False))
    )  # fmt: skip
    raise ModelError(
        f"tokenizer.json: {text!r} is split into {pipeline.words(text)}, which GGUF cannot say for this kind of "
        "tokenizer"
    )


def _is_as_expected(pipeline: Pipeline, text: str, has_prefix: bool, crosses: bool) -> bool:
    words = pipeline.words(text)
    if "".join(words) != (SPACE if has_prefix else "") + text.replace(" ", SPACE):
        return False
    return len(words) == 1 or (not crosses and all(word.startswith(SPACE) for word in words[1:]))
