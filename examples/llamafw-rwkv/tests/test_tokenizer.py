"""Tests of the tokenizer against a direct implementation of its rule, and in a server."""

import random
from typing import Any

import pytest
from llamafw_rwkv.tokenizer import make_tokenizer

from llamafw import ModelError
from llamafw.testing.conformance import PluginConformance, TokenizerConformance

WORDS = [
    "Hello",
    " world",
    " wor",
    "He",
    "the",
    " the",
    "\n\n",
    "\r\n",
    "'",
    '"',
    "\\",
    "é",
    "世界",
    "世",
    "😀",
    "aaaa",
    "aa",
]
BYTES = [*(bytes([byte]) for byte in range(256)), *(word.encode() for word in WORDS), "世界".encode()[:4]]
METADATA = {
    "tokenizer.ggml.model": "rwkv",
    "tokenizer.ggml.tokens": ["<s>", *(repr(token)[2:-1] for token in BYTES), *(f"[PAD{i}]" for i in range(26))],
    "tokenizer.ggml.token_type": [3, *[1] * len(BYTES), *[5] * 26],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.eot_token_id": 1 + BYTES.index(b"\n\n"),
}


def encode_by_rule(data: bytes) -> list[int]:
    """Return the tokens, searching the whole vocabulary for the longest match at each position."""
    tokens = []
    while data:
        best = max((token for token in BYTES if data.startswith(token)), key=len)
        tokens.append(1 + BYTES.index(best))
        data = data[len(best) :]
    return tokens


def test_encode_takes_the_longest_token() -> None:
    tokenizer, rng = make_tokenizer(METADATA), random.Random(0)
    for _ in range(300):
        text = "".join(
            rng.choice([*WORDS, " ", "\t", "x", "\u0416", "\U0001f601", "\0"]) for _ in range(rng.randrange(12))
        )
        tokens = tokenizer.encode(text, parse_special=False)
        assert tokens == encode_by_rule(text.encode())
        assert tokenizer.decode(tokens) == text


def test_special_tokens_are_parsed_or_plain() -> None:
    tokenizer = make_tokenizer(METADATA)
    assert tokenizer.encode("<s>a") == [0, 1 + ord("a")]
    assert len(tokenizer.encode("<s>", parse_special=False)) == 3
    assert tokenizer.piece(0) == b""
    assert tokenizer.piece(0, special=True) == b"<s>"
    assert tokenizer.eog == {0, METADATA["tokenizer.ggml.eot_token_id"]}


def test_vocabulary_without_all_bytes_is_refused() -> None:
    with pytest.raises(ModelError, match="no token for the byte 0x00"):
        make_tokenizer({"tokenizer.ggml.tokens": ["<s>", "a"]})


async def test_server_uses_the_tokenizer(serve: Any, write_model: Any) -> None:
    async with serve(model=write_model(tokenizer=None, n_vocab=301, metadata=METADATA)) as client:
        tokens = (await client.post("/tokenize", json={"content": "Hello 世界"})).json()["tokens"]
        assert tokens == encode_by_rule("Hello 世界".encode())
        assert (await client.post("/detokenize", json={"tokens": tokens})).json() == {"content": "Hello 世界"}
        body = {"prompt": "Hello", "n_predict": 16}
        assert (await client.post("/completion", json=body)).json()["tokens_evaluated"] == 1


class TestRwkv(TokenizerConformance):
    name = "rwkv"
    metadata = METADATA


class TestPlugin(PluginConformance):
    name = "llamafw-rwkv"
