"""``llama``: SentencePiece's BPE (Kudo and Richardson, arXiv:1808.06226), which merges by score, not by rank.

Of all neighbours that together are a token, the pair whose token has the highest score is merged first, the leftmost of
equals. Characters that are no token become byte tokens. Done by hand because `tokenizers` cannot break ties that way.
It knows nothing of special tokens, which `GgufTokenizer` finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from heapq import heapify, heappop, heappush
from operator import add
from typing import Any

import numpy as np

from llamafw import ModelError
from llamafw_plugins.tokenizers import metadata as read
from llamafw_plugins.tokenizers.base import GgufTokenizer, byte_of
from llamafw_plugins.tokenizers.vocabulary import BYTE, NORMAL, Vocabulary, read_vocabulary

_SPACE = "\u2581"  # ▁, which stands for a space in tokens
_CACHED = 64  # characters; longer words are rarely seen again


class LlamaTokenizer(GgufTokenizer):
    """SentencePiece BPE with byte fallback."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        vocabulary = read_vocabulary(metadata, bos=1, eos=2, unknown=0)
        super().__init__(metadata, vocabulary, add_bos=True)
        self._space_prefix = read.flag(metadata, "add_space_prefix", True)
        self._ids = {  # what text may become: no control token, and no byte token by its name
            text: token
            for text, token in vocabulary.ids.items()
            if token not in vocabulary.control and vocabulary.types[token] != BYTE
        }
        ranks = _ranks(metadata, self.n_vocab)
        self._rank = {text: ranks[token] for text, token in self._ids.items() if len(text) > 1}
        self._size_limit = 1 + max(map(len, self._rank), default=0)
        joined = "\0".join(self._rank)
        self._inside = frozenset(map(add, joined, joined[1:]))  # pairs of characters that occur within a token
        self._byte_tokens = _byte_tokens(vocabulary)
        self._cached = lru_cache(1 << 16)(self._merge)

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ``tokens``, without the space that `encode` puts before it."""
        pieces = (self.piece(token, special=special) for token in tokens)
        return b"".join(self._without_prefix(pieces)).decode("utf-8", "replace")

    def _without_prefix(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        shown = filter(None, pieces)
        if self._space_prefix:
            yield next(shown, b"").removeprefix(b" ")
        yield from shown

    def _encode_parts(self, parts: Sequence[str | int]) -> list[int]:
        tokens: list[int] = []
        prefix = self._space_prefix
        for part in parts:
            if isinstance(part, str):
                for word in self._words((" " + part if prefix else part).replace(" ", _SPACE)):
                    tokens += self._cached(word) if len(word) <= _CACHED else self._merge(word)
                prefix = False
            else:
                tokens.append(part)
                prefix = self._space_prefix
        return tokens

    def _words(self, text: str) -> Iterator[str]:
        """Cut ``text`` between characters that are neighbours in no token: no merge can cross there."""
        inside = self._inside
        start = 0
        for end, pair in enumerate(map(add, text, text[1:]), 1):
            if pair not in inside:
                yield text[start:end]
                start = end
        yield text[start:]

    def _merge(self, word: str) -> tuple[int, ...]:
        """Return the tokens of ``word``, in O(n log n).

        A symbol is a stretch of ``word``, known by where it starts: ``end[start]`` is where it ends (0: merged into
        another) and the next symbol starts, ``previous[start]`` where the one before it starts.
        """
        n, limit, rank = len(word), self._size_limit, self._rank
        end = list(range(1, n + 1))
        previous = list(range(-1, n))
        # One integer orders and describes a candidate: rank, then start, then size.
        first = (rank.get(word[start : start + 2]) for start in range(n - 1))
        heap = [(found * n + start) * limit + 2 for start, found in enumerate(first) if found is not None]
        heapify(heap)
        while heap:
            rest, size = divmod(heappop(heap), limit)
            left = rest % n
            middle = end[left]
            if not middle or middle == n or end[middle] - left != size:
                continue  # one of the two has been merged since
            right = left + size
            end[left], end[middle] = right, 0
            if right < n:
                previous[right] = left
                if (found := rank.get(word[left : end[right]])) is not None:
                    heappush(heap, (found * n + left) * limit + end[right] - left)
            if left and (found := rank.get(word[(before := previous[left]) : right])) is not None:
                heappush(heap, (found * n + before) * limit + right - before)
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

    def _piece(self, text: str, kind: int) -> bytes:
        if kind == NORMAL:
            return text.replace(_SPACE, " ").encode("utf-8", "surrogateescape")
        return byte_of(text) if kind == BYTE else b""


def _ranks(metadata: Mapping[str, Any], n: int) -> list[int]:
    """Return for each token how many distinct scores are higher; all alike without scores."""
    scores = read.numbers(metadata, "scores", n)
    if scores is None:
        return [0] * n
    scores = scores.astype(np.float32)
    if np.isnan(scores).any():
        raise ModelError(f"{read.PREFIX}scores has {np.count_nonzero(np.isnan(scores))} entries that are no numbers")
    ranks: list[int] = np.unique(-scores, return_inverse=True)[1].tolist()
    return ranks


def _byte_tokens(vocabulary: Vocabulary) -> list[int]:
    """Return the token of each byte, ``<0x00>`` to ``<0xFF>``; the unknown token where there is none."""
    tokens = [vocabulary.ids.get(f"<0x{byte:02X}>", vocabulary.unknown) for byte in range(256)]
    found = [token for token in tokens if token is not None]
    if len(found) < 256:
        missing = f"<0x{tokens.index(None):02X}>"
        raise ModelError(f"{read.PREFIX}tokens lacks {missing}, and there is no {read.PREFIX}unknown_token_id")
    return found
