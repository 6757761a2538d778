"""Tokens are assigned to the text that they are part of."""

from __future__ import annotations

import pytest

from llamafw import GeneratedToken
from llamafw_plugins.responses.token_ranges import TokenRanges


def ranges(*pieces: bytes) -> TokenRanges:
    result = TokenRanges()
    result.add([GeneratedToken(i, piece) for i, piece in enumerate(pieces)])
    return result


def ids(tokens: list[GeneratedToken]) -> list[int]:
    return [token.id for token in tokens]


@pytest.mark.parametrize(
    ("pieces", "text", "taken", "rest"),
    [
        ([b"a", b"b", b"c"], "ab", [0, 1], [2]),
        ([b"<t>", b"hm", b"</t>"], "hm", [1], [2]),
        ([b"<t", b">hm", b"</t>"], "hm", [1], [2]),
        ([b"ab", b"cd"], "bc", [0, 1], []),
        ([b"\xe2\x82", b"\xac", b"!"], "€", [0, 1], [2]),
        ([b"", b"a", b"", b"b"], "a", [1], [2, 3]),
        ([b"a", b"b"], "changed", [0, 1], []),
    ],
)
def test_tokens_of_a_text_are_taken(pieces: list[bytes], text: str, taken: list[int], rest: list[int]) -> None:
    found = ranges(*pieces)
    assert ids(found.take(text)) == taken
    assert ids(found.take("no part of the tokens")) == rest


def test_dropped_tokens_belong_to_no_text() -> None:
    found = ranges(b"a", b"b")
    found.drop()
    found.add([GeneratedToken(7, b"c")])
    assert ids(found.take("c")) == [7]
