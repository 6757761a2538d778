"""Special tokens in a text, against a slow search that does literally what llama.cpp documents."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw_plugins.tokenizers.special import SpecialTokens


def search(texts: dict[int, str], text: str, left: set[int], right: set[int]) -> list[str | int]:
    """One token after another, the longest first, in the stretches of text that are left."""
    parts: list[str | int] = [text] if text else []
    for token in sorted(texts, key=lambda token: (-len(texts[token].encode()), token)):
        cut: list[str | int] = []
        for part in parts:
            while isinstance(part, str) and texts[token] in part:
                before, _, part = part.partition(texts[token])
                before = before.rstrip(" \t\n\v\f\r") if token in left else before
                part = part.lstrip(" \t\n\v\f\r") if token in right else part
                cut += [before, token] if before else [token]
            cut += [part] if part != "" else []
        parts = cut
    return parts


SMALL = st.text("ab <é\n", min_size=1, max_size=4)


@given(
    texts=st.lists(SMALL, unique=True, max_size=8),
    text=st.text("ab <é\n", max_size=30),
    left=st.sets(st.integers(0, 7)),
    right=st.sets(st.integers(0, 7)),
)
def test_as_a_slow_search(texts: list[str], text: str, left: set[int], right: set[int]) -> None:
    by_id = dict(enumerate(texts))
    assert SpecialTokens(by_id, left, right).split(text) == search(by_id, text, left, right)


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
def test_by_hand(text: str, parts: list[str | int]) -> None:
    assert SpecialTokens({0: "<a>", 1: "<ab>"}).split(text) == parts


def test_the_longest_wins_even_where_a_shorter_one_begins_earlier() -> None:
    assert SpecialTokens({0: "abc", 1: "bcde"}).split("abcde") == ["a", 1]


def test_long_common_beginnings() -> None:
    texts = {n: "x" * n for n in range(1, 400)}
    assert SpecialTokens(texts).split("x" * 1000 + "y") == [399, 399, 202, "y"]


def test_no_special_tokens() -> None:
    assert SpecialTokens({}).split("<s>") == ["<s>"]


def test_tokens_for_filling_in_are_found_by_key_and_by_text() -> None:
    from llamafw_plugins.tokenizers.vocabulary import read_vocabulary

    def fim(texts: list[str], **keys: int) -> dict[str, int]:
        metadata = {"tokenizer.ggml.tokens": texts, **{f"tokenizer.ggml.{key}": value for key, value in keys.items()}}
        return dict(read_vocabulary(metadata).fim)

    assert fim(["a", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]) == {"pre": 1, "suf": 2, "mid": 3}
    assert fim(["a", "b", "c"], fim_pre_token_id=1) == {"pre": 1}
    older = {"prefix_token_id": 0, "suffix_token_id": 1, "middle_token_id": 2}
    assert fim(["a", "b", "c"], **older) == {"pre": 0, "suf": 1, "mid": 2}
    assert fim(["a", "b", "c"], prefix_token_id=0, fim_pre_token_id=2) == {"pre": 2}
