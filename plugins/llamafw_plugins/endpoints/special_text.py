"""Keep the names of control tokens in clients' texts from becoming these tokens.

Before a template renders a text, a marker that occurs in no text is put into each name. The tokenizer then does not
recognise the name. The tokens of the marker are removed afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from llamafw import Tokenizer

MARKER = "\ufdd0"  # a noncharacter of Unicode: it is never in a text that is exchanged
REPLACEMENT = "\ufffd"
_MARKER_BYTES = MARKER.encode()


@lru_cache(maxsize=4)  # of the models of this process
def control_names(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """Return a pattern for the names of a model's control tokens; None if it has none."""
    names = set()
    for token in range(tokenizer.n_vocab):
        name = tokenizer.piece(token, special=True)
        if len(name) > 1 and tokenizer.piece(token) != name:
            names.add(name.decode("utf-8", "replace"))
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if names else None


def whole_characters(text: str) -> str:
    """Return a text without lone surrogates and markers; U+FFFD replaces them."""
    if text.isascii():
        return text
    return text.replace(MARKER, REPLACEMENT).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def mark_control_names(text: str, tokenizer: Tokenizer) -> str:
    """Return a text with a marker in each name of a control token."""
    text = whole_characters(text)
    names = control_names(tokenizer)  # type: ignore[arg-type]  # tokenizers are immutable, so they are hashable
    return names.sub(lambda match: match[0][0] + MARKER + match[0][1:], text) if names else text


def without_markers(prompt: str) -> str:
    """Return a prompt as a reader sees it."""
    return prompt.replace(MARKER, "")


def encode_marked(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a prompt; names with a marker become plain text."""
    tokens = tokenizer.encode(prompt, parse_special=True)
    return _drop_markers(tokens, prompt, tokenizer) if MARKER in prompt else tokens


def _drop_markers(tokens: Sequence[int], prompt: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens without those of markers, which never share a token with other characters."""
    kept: list[int] = []
    pending: list[int] = []  # tokens that may be the beginning of a marker
    held = b""
    for token in tokens:
        pending.append(token)
        held += tokenizer.piece(token, special=True)
        if held == _MARKER_BYTES:
            pending, held = [], b""
        elif not _MARKER_BYTES.startswith(held):
            if _MARKER_BYTES in held:  # a token has more than the marker: tokenize the parts apart
                return _encode_apart(prompt, tokenizer)
            first, *rest = pending
            kept.append(first)
            pending, held = _restart(rest, tokenizer, kept)
    return kept + pending


def _restart(rest: Sequence[int], tokenizer: Tokenizer, kept: list[int]) -> tuple[list[int], bytes]:
    """Return the tokens at the end of ``rest`` that may begin a marker; the others are kept."""
    for start in range(len(rest)):
        held = b"".join(tokenizer.piece(token, special=True) for token in rest[start:])
        if _MARKER_BYTES.startswith(held):
            return list(rest[start:]), held
        kept.append(rest[start])
    return [], b""


def _encode_apart(prompt: str, tokenizer: Tokenizer) -> list[int]:
    return [token for part in prompt.split(MARKER) for token in tokenizer.encode(part, parse_special=True)]
