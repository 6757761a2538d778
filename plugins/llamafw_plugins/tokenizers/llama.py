"""``llama``: SentencePiece's BPE (Kudo and Richardson, arXiv:1808.06226), which merges by score.

Of all neighbours that together form a token, the pair with the highest score is merged first; if scores are equal, the
leftmost pair. Characters without a token become byte tokens. `tokenizers` cannot break ties that way, so the merging is
implemented here. Special tokens are found by `GgufTokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from operator import add
from typing import Any

import numpy as np

from llamafw import ModelError
from llamafw_plugins.tokenizers.gguf_tokenizer import GgufTokenizer, parse_byte_token
from llamafw_plugins.tokenizers.metadata_values import PREFIX, read_flag, read_numbers
from llamafw_plugins.tokenizers.vocabulary import BYTE, NORMAL, Vocabulary, read_vocabulary

_SPACE = "\u2581"  # ▁, the space in the texts of tokens
_MAX_CACHED_LENGTH = 64  # characters; longer words rarely occur again


class LlamaTokenizer(GgufTokenizer):
    """A SentencePiece BPE tokenizer with byte fallback."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        vocabulary = read_vocabulary(metadata, bos=1, eos=2, unknown=0)
        super().__init__(metadata, vocabulary, add_bos=True)
        self._space_prefix = read_flag(metadata, "add_space_prefix", True)
        self._ids = {  # without tokens that plain text must not merge into: control tokens, and byte tokens by name
            text: token
            for text, token in vocabulary.ids.items()
            if token not in vocabulary.control and vocabulary.types[token] != BYTE
        }

        ranks = _ranks(metadata, self.n_vocab)
        self._rank = {text: ranks[token] for text, token in self._ids.items() if len(text) > 1}
        self._size_limit = 1 + max(map(len, self._rank), default=0)
        joined = "\0".join(self._rank)
        self._inner_pairs = frozenset(map(add, joined, joined[1:]))  # neighbouring characters within tokens
        self._byte_tokens = _byte_tokens(vocabulary)
        self._merge_cached = lru_cache(1 << 16)(self._merge)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens`` without the space that `encode` adds at its beginning."""
        pieces = (self.piece(token, special=special) for token in tokens)
        return b"".join(self._without_prefix(pieces)).decode("utf-8", "replace")

    def _without_prefix(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        visible = filter(None, pieces)
        if self._space_prefix:
            yield next(visible, b"").removeprefix(b" ")
        yield from visible

    def _encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        tokens: list[int] = []
        add_space = self._space_prefix
        for part in parts:
            if isinstance(part, str):
                for word in self._split_words((" " + part if add_space else part).replace(" ", _SPACE)):
                    tokens += self._merge_cached(word) if len(word) <= _MAX_CACHED_LENGTH else self._merge(word)
                add_space = False
            else:
                tokens.append(part)
                add_space = self._space_prefix
        return tokens

    def _split_words(self, text: str) -> Iterator[str]:
        """Split ``text`` between characters that are not neighbours in any token, where nothing can be merged."""
        inner_pairs = self._inner_pairs
        start = 0
        for end, pair in enumerate(map(add, text, text[1:]), 1):
            if pair not in inner_pairs:
                yield text[start:end]
                start = end
        yield text[start:]

    def _merge(self, word: str) -> tuple[int, ...]:
        """Return the tokens of ``word`` in O(n log n).

        A symbol is a part of ``word``, identified by its start. ``end[start]`` is its end, where the next symbol
        starts, or 0 if the symbol has been merged into the one before it; ``previous[start]`` is the start of the
        symbol before it.
        """
        n, limit, rank = len(word), self._size_limit, self._rank
        end = list(range(1, n + 1))
        previous = list(range(-1, n))

        # A candidate is one integer, made of rank, start and size, so that candidates sort in this order.
        pair_ranks = (rank.get(word[start : start + 2]) for start in range(n - 1))
        heap = [
            (pair_rank * n + start) * limit + 2 for start, pair_rank in enumerate(pair_ranks) if pair_rank is not None
        ]
        heapify(heap)

        while heap:
            rest, size = divmod(heappop(heap), limit)
            left = rest % n
            middle = end[left]
            if not middle or middle == n or end[middle] - left != size:
                continue  # outdated: one of the two symbols has been merged with another
            right = left + size
            end[left], end[middle] = right, 0
            if right < n:
                previous[right] = left
                if (new_rank := rank.get(word[left : end[right]])) is not None:
                    heappush(heap, (new_rank * n + left) * limit + end[right] - left)
            if left and (new_rank := rank.get(word[(before := previous[left]) : right])) is not None:
                heappush(heap, (new_rank * n + before) * limit + right - before)

        tokens: list[int] = []
        start = 0
        while start < n:
            token = self._ids.get(word[start : end[start]])
            if token is not None:
                tokens.append(token)
            else:
                tokens += [self._byte_tokens[byte] for byte in word[start : end[start]].encode()]
            start = end[start]
        return tuple(tokens)

    def _make_piece(self, text: str, token_type: int) -> bytes:
        if token_type == NORMAL:
            return text.replace(_SPACE, " ").encode("utf-8", "surrogateescape")
        return parse_byte_token(text) if token_type == BYTE else b""


def _ranks(metadata: Mapping[str, Any], n: int) -> list[int]:
    """Return for each token how many distinct scores are higher than its own; 0 if the model has no scores."""
    scores = read_numbers(metadata, "scores", n)
    if scores is None:
        return [0] * n
    scores = scores.astype(np.float32)
    if np.isnan(scores).any():
        raise ModelError(f"{PREFIX}scores has {np.count_nonzero(np.isnan(scores))} entries that are not numbers")
    ranks: list[int] = np.unique(-scores, return_inverse=True)[1].tolist()
    return ranks


def _byte_tokens(vocabulary: Vocabulary) -> list[int]:
    """Return the token of each byte, ``<0x00>`` to ``<0xFF>``, or the unknown token for bytes without a token."""
    tokens = [vocabulary.ids.get(f"<0x{byte:02X}>", vocabulary.unknown) for byte in range(256)]
    existing = [token for token in tokens if token is not None]
    if len(existing) < 256:
        missing = f"<0x{tokens.index(None):02X}>"
        raise ModelError(f"{PREFIX}tokens lacks {missing}, and there is no {PREFIX}unknown_token_id")
    return existing
