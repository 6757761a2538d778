"""``plamo2`` from ``tokenizer.jsonl``, the file of PLaMo 2: each line is a list of a token's text, score and type."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llamafw import ModelError
from llamafw_plugins.tokenizers.checkpoint.files import TokenizerFiles
from llamafw_plugins.tokenizers.checkpoint.named_tokens import KEYS
from llamafw_plugins.tokenizers.checkpoint.tokens import Tokens
from llamafw_plugins.tokenizers.metadata_values import PREFIX
from llamafw_plugins.tokenizers.plamo2 import SCALE, round_scores
from llamafw_plugins.tokenizers.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN

FILE = "tokenizer.jsonl"

_TYPES = {"NORMAL": NORMAL, "UNKNOWN": UNKNOWN, "CONTROL": CONTROL, "BYTE": BYTE}
_ROLES = {"unk": "<|plamo:unk|>", "bos": "<|plamo:bos|>", "eos": "<|plamo:eos|>", "pad": "<|plamo:pad|>"}
_TURN = "<|plamo:op|>"  # begins a message, and so ends the one before
_SPLITTING = ("break_around_repeated_chars_threshold", "break_around_consecutive_spaces_threshold")  # of PLaMo 3


def read_plamo2(files: TokenizerFiles) -> dict[str, Any]:
    """Return the metadata of a ``tokenizer.jsonl``."""
    for key in _SPLITTING:
        if files.config.get(key) is not None:
            raise ModelError(f"tokenizer_config.json: {key} is {files.config[key]!r}, which GGUF cannot say")
    ids: dict[str, int] = {}
    scores: list[float] = []
    types: list[int] = []
    for number, (text, score, kind) in enumerate(_read_lines(files.folder / FILE)):
        if ids.setdefault(text, number) != number:
            raise ModelError(f"{FILE}: lines {ids[text] + 1} and {number + 1} have the same token, {text!r:.80}")
        scores.append(score)
        types.append(CONTROL if kind == NORMAL and text.startswith("<|plamo:") and text.endswith("|>") else kind)

    # Rounded here like in the original, scores have the same sums when they are float32.
    rounded = (round_scores(np.array(scores)) / SCALE).tolist()
    tokens = Tokens(ids)
    tokens.types, tokens.scores = dict(enumerate(types)), dict(enumerate(rounded))
    tokens.add(files.added)
    roles = {f"{PREFIX}{KEYS[role]}": ids[text] for role, text in _ROLES.items() if text in ids}
    if _TURN in ids:
        roles[f"{PREFIX}eot_token_id"] = ids[_TURN]
    return {
        f"{PREFIX}model": "plamo2",
        f"{PREFIX}pre": "default",
        **tokens.metadata(files.n_vocab, scores=True),
        **roles,
        f"{PREFIX}add_space_prefix": False,
    }


def _read_lines(path: Path) -> Iterator[tuple[str, float, int]]:
    """Yield the text, the score and the type of each token."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() and number == len(lines):
            return
        try:
            text, score, kind = [*json.loads(line), "NORMAL"][:3]
            is_valid = isinstance(text, str) and type(score) in (int, float)
            found = text, float(score), _TYPES[kind]
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            is_valid = False
        if not is_valid:
            raise ModelError(
                f"{path}: line {number} is {line!r:.80}; it must be a list of a text, a score and a type "
                f"({', '.join(_TYPES)})"
            )
        yield found
