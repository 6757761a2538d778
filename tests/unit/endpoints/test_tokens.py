"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

import pytest

from support.toy_model import BOS, EOS, EURO_HEAD, HELLO, ToyTokenizer
from unit.endpoints.conftest import Open, Post

pytestmark = pytest.mark.asyncio(loop_scope="module")


class TildeIsSpecial(ToyTokenizer):
    """Adds BOS and EOS to texts, and reads ``~`` as a special token."""

    add_bos = add_eos = True

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        tokens = [HELLO if parse_special and byte == ord("~") else byte for byte in text.encode()]
        return [BOS, *tokens, EOS] if add_special else tokens


@pytest.mark.inventory("E-140", "R-20")
@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"content": "ab"}, [97, 98]),
        ({"content": ""}, []),
        ({"content": []}, []),
        ({"content": ["a", 5, "b"]}, [97, 5, 98]),
        ({"content": "~"}, [HELLO]),
        ({"content": "~", "parse_special": False}, [126]),
        ({"content": "a", "add_special": True}, [BOS, 97, EOS]),
        ({"content": ["a", 5], "add_special": True}, [BOS, 97, 5, EOS]),
        ({"content": [5, "a"], "add_special": True}, [5, 97, EOS]),
        ({"content": "a" * 5000, "with_pieces": None}, [97] * 5000),
    ],
)
async def test_tokenize_returns_token_ids(opened: Open, fields: dict[str, Any], tokens: list[int]) -> None:
    async with opened(tokenizer=TildeIsSpecial()) as client:
        assert (await client.post("/tokenize", json=fields)).json() == {"tokens": tokens}


@pytest.mark.inventory("E-141")
async def test_pieces_that_are_not_utf8_are_bytes(post: Post) -> None:
    rows = (await post("/tokenize", content=["é", HELLO, EURO_HEAD], with_pieces=True))["tokens"]
    assert [row["piece"] for row in rows] == [[195], [169], "Hello", [226, 130]]
    assert [row["id"] for row in rows] == [195, 169, HELLO, EURO_HEAD]


@pytest.mark.inventory("E-142")
async def test_detokenize_returns_text(post: Post) -> None:
    assert await post("/detokenize", tokens=[HELLO, 33, 195, 169]) == {"content": "Hello!é"}
    assert await post("/detokenize", tokens=[]) == {"content": ""}
    assert await post("/detokenize", tokens=[EURO_HEAD]) == {"content": "\ufffd"}
    assert await post("/detokenize", tokens=[97] * 20000) == {"content": "a" * 20000}


@pytest.mark.inventory("E-140", "E-142", "R-20", "D-20")
@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": ["a", 999]}, "content.1"),
        ("/tokenize", {"content": "a", "add_special": 1}, "add_special"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "ab"}, "tokens"),
        ("/detokenize", {"tokens": [1, 99999999]}, "tokens.1"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0"),
        ("/detokenize", {"tokens": [1.5]}, "tokens.0"),
    ],
)
async def test_invalid_requests_are_400(refused: Post, path: str, fields: dict[str, Any], param: str) -> None:
    assert (await refused(path, **fields))[:2] == (400, param)
