"""The search for special tokens gives the same result as a slow search that follows llama.cpp step by step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw_plugins.tokenizers.special_tokens import SpecialTokens
from llamafw_plugins.tokenizers.vocabulary import read_vocabulary


def search_slowly(texts: dict[int, str], text: str, left: set[int], right: set[int]) -> list[str | int]:
    """Search for one token after another, the longest first, in the text that is left over."""
    parts: list[str | int] = [text] if text else []
    for token in sorted(texts, key=lambda token: (-len(texts[token].encode()), token)):
        next_parts: list[str | int] = []
        for part in parts:
            while isinstance(part, str) and texts[token] in part:
                before, _, part = part.partition(texts[token])
                before = before.rstrip(" \t\n\v\f\r") if token in left else before
                part = part.lstrip(" \t\n\v\f\r") if token in right else part
                next_parts += [before, token] if before else [token]
            next_parts += [part] if part != "" else []
        parts = next_parts
    return parts


SHORT_TEXTS = st.text("ab <é\n", min_size=1, max_size=4)


@given(
    texts=st.lists(SHORT_TEXTS, unique=True, max_size=8),
    text=st.text("ab <é\n", max_size=30),
    left=st.sets(st.integers(0, 7)),
    right=st.sets(st.integers(0, 7)),
)
def test_split_equals_a_slow_search(texts: list[str], text: str, left: set[int], right: set[int]) -> None:
    by_id = dict(enumerate(texts))
    assert SpecialTokens(by_id, left, right).split(text) == search_slowly(by_id, text, left, right)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("none", ["none"]),
        ("<a>x<a><ab>", [0, "x", 0, 1]),
        ("<<ab>", ["<", 1]),
        ("<a b>", ["<a b>"]),
    ],
)
def test_known_texts_are_split_as_expected(text: str, parts: list[str | int]) -> None:
    assert SpecialTokens({0: "<a>", 1: "<ab>"}).split(text) == parts


def test_the_longest_token_wins_even_if_a_shorter_one_begins_earlier() -> None:
    assert SpecialTokens({0: "abc", 1: "bcde"}).split("abcde") == ["a", 1]


def test_tokens_with_long_common_prefixes_are_found() -> None:
    texts = {n: "x" * n for n in range(1, 400)}
    assert SpecialTokens(texts).split("x" * 1000 + "y") == [399, 399, 202, "y"]


def test_without_special_tokens_all_text_is_plain() -> None:
    assert SpecialTokens({}).split("<s>") == ["<s>"]


@pytest.mark.parametrize(
    ("texts", "keys", "fim"),
    [
        (["a", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"], {}, {"pre": 1, "suf": 2, "mid": 3}),
        (["a", "b", "c"], {"fim_pre_token_id": 1}, {"pre": 1}),
        (
            ["a", "b", "c"],
            {"prefix_token_id": 0, "suffix_token_id": 1, "middle_token_id": 2},
            {"pre": 0, "suf": 1, "mid": 2},
        ),
        (["a", "b", "c"], {"prefix_token_id": 0, "fim_pre_token_id": 2}, {"pre": 2}),
    ],
    ids=["texts", "key", "old keys", "new key before old key"],
)
def test_fim_tokens_are_found_by_text_and_key(texts: list[str], keys: dict[str, int], fim: dict[str, int]) -> None:
    metadata = {"tokenizer.ggml.tokens": texts, **{f"tokenizer.ggml.{key}": value for key, value in keys.items()}}
    assert dict(read_vocabulary(metadata).fim) == fim
