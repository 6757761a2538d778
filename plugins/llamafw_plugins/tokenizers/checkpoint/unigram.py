"""``t5`` from ``tokenizer.json``: SentencePiece's unigram model, as of T5 and XLM-RoBERTa."""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llamafw import ModelError
from llamafw_plugins.tokenizers.checkpoint.files import TokenizerFiles
from llamafw_plugins.tokenizers.checkpoint.pipeline import Pipeline
from llamafw_plugins.tokenizers.checkpoint.tokens import SPACE, Tokens
from llamafw_plugins.tokenizers.metadata_values import PREFIX
from llamafw_plugins.tokenizers.vocabulary import UNKNOWN

log = logging.getLogger(__name__)

_TEXTS = ("a", "a b", "  a  b ", "a   b", " a", "b ", "x.y, don't", "中文 a")


def read_unigram(files: TokenizerFiles, pipeline: Pipeline) -> dict[str, Any]:
    """Return the metadata of a ``tokenizer.json``."""
    model = files.tokenizer["model"]
    pieces = model.get("vocab")
    if not isinstance(pieces, list) or not all(_is_piece(piece) for piece in pieces):
        raise ModelError("tokenizer.json: model.vocab is not a list of texts and scores")
    if model.get("byte_fallback"):
        raise ModelError("tokenizer.json: model.byte_fallback is true, which GGUF cannot say for unigram models")
    unknown = model.get("unk_id")
    if type(unknown) is not int or not 0 <= unknown < len(pieces):
        raise ModelError(f"tokenizer.json: model.unk_id is {unknown!r}; a unigram model needs an unknown token")

    tokens = Tokens(_distinct({id: text for id, (text, _) in enumerate(pieces)}))
    tokens.scores = {id: float(score) for id, (_, score) in enumerate(pieces)}
    tokens.types[unknown] = UNKNOWN
    scores = dict(tokens.scores)
    tokens.add(files.added)
    tokens.scores |= scores  # the lowest score decides what unknown characters cost
    charsmap = _charsmap(files.tokenizer)
    merges_spaces, has_prefix = _recognise_spaces(pipeline)
    if not charsmap and "".join(pipeline.words("a\tb")) != _spaces("a\tb", merges_spaces, has_prefix):
        log.warning("the pre-tokenizer splits texts at other white space than spaces; GGUF cannot say that")
    return unigram_metadata(tokens, files.n_vocab, unknown, merges_spaces, has_prefix, charsmap)


def unigram_metadata(
    tokens: Tokens, n_vocab: int | None, unknown: int, merges_spaces: bool, has_prefix: bool, charsmap: bytes
) -> dict[str, Any]:
    """Return the metadata of a unigram model.

    Parameters
    ----------
    tokens : Tokens
        The vocabulary, with scores.
    n_vocab : int, optional
        Number of tokens of the model.
    unknown : int
        The unknown token.
    merges_spaces : bool
        Whether spaces at both ends are removed and others joined.
    has_prefix : bool
        Whether each text gets a space at its beginning.
    charsmap : bytes
        The table of characters to replace; empty if there is none.
    """
    metadata: dict[str, Any] = {
        f"{PREFIX}model": "t5",
        f"{PREFIX}pre": "default",
        **tokens.metadata(n_vocab, scores=True),
        f"{PREFIX}unknown_token_id": unknown,
        f"{PREFIX}add_space_prefix": has_prefix,
        f"{PREFIX}remove_extra_whitespaces": merges_spaces,
    }
    if charsmap:
        metadata[f"{PREFIX}precompiled_charsmap"] = np.frombuffer(charsmap, np.uint8)
    return metadata


def _is_piece(piece: Any) -> bool:
    return isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str) and type(piece[1]) in (int, float)


def _distinct(texts: Mapping[int, str]) -> dict[str, int]:
    """Return text → id; texts that occur again, as placeholders do, get a number."""
    ids: dict[str, int] = {}
    for id, text in texts.items():
        ids[text if text not in ids else f"[PAD{id}]"] = id
    return ids


def _recognise_spaces(pipeline: Pipeline) -> tuple[bool, bool]:
    """Return whether spaces at both ends are removed and others joined, and whether a text begins with a space."""
    found = {text: "".join(pipeline.words(text)) for text in _TEXTS}
    for merges in (True, False):
        for has_prefix in (True, False):
            expected = {text: _spaces(text, merges, has_prefix) for text in _TEXTS}
            if expected == found:
                return merges, has_prefix
    raise ModelError(
        f"tokenizer.json: the normalizer and the pre-tokenizer make {found} of texts, which GGUF cannot say for "
        "unigram models"
    )


def _spaces(text: str, merges: bool, has_prefix: bool) -> str:
    if merges:
        text = re.sub(" +", " ", text).strip(" ")
    return (SPACE if has_prefix else "") + text.replace(" ", SPACE)


def _charsmap(tokenizer: Mapping[str, Any]) -> bytes:
    """Return the table of characters of the normaliser; empty if there is none."""
    tables = [
        part["precompiled_charsmap"]
        for part in _parts(tokenizer.get("normalizer"))
        if part.get("type") == "Precompiled"
    ]
    if len(tables) > 1:
        raise ModelError("tokenizer.json: the normalizer has two tables of characters")
    try:
        return base64.b64decode(tables[0] or "", validate=True) if tables else b""
    except (binascii.Error, TypeError, ValueError):
        raise ModelError("tokenizer.json: precompiled_charsmap is not base64") from None


def _parts(normalizer: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a normaliser, or those that it consists of."""
    if isinstance(normalizer, dict):
        if isinstance(normalizer.get("normalizers"), list):
            for part in normalizer["normalizers"]:
                yield from _parts(part)
        else:
            yield normalizer
