"""Pre-tokenizers split text as expected, and rewritten expressions split it like the original ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from llamafw_plugins.tokenizers.pre_tokenizers import PRE_TOKENIZERS


def split(patterns: tuple[str, ...], text: str) -> list[str]:
    """Return the words of ``text``."""
    splits = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns])
    return [word for word, _ in splits.pre_tokenize_str(text)]


TEXTS = st.text("aAbBéÉ日ʰǅ\u0301 \t\n\r1२.,'’sS/$\u3000中ไ😀", max_size=25)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUBLISHED = {  # from the tokenizer.json of the models; Kimi's from its tokenization_kimi.py
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "qwen35": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "gpt-4o": (O200K,),
    "tiny_aya": (r"\d{1,3}(?=(?:\d{3})*\b)", O200K),
    "kimi-k2": (
        r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "tekken": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    "bailingmoe": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    ),
    "deepseek-llm": tuple(
        r"\s+$" if pattern.endswith("$") else pattern for pattern in PRE_TOKENIZERS["deepseek-llm"].patterns
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
@given(text=TEXTS)
def test_rewritten_expressions_split_like_the_published_ones(name: str, text: str) -> None:
    assert split(PRE_TOKENIZERS[name].patterns, text) == split(PUBLISHED[name], text)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
@given(text=TEXTS)
def test_splitting_keeps_all_characters(name: str, text: str) -> None:
    assert "".join(split(PRE_TOKENIZERS[name].patterns, text)) == text


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gpt-2", "Don't stop 1234  now", ["Don", "'t", " stop", " 1234", " ", " now"]),
        ("smollm", "x 12", ["x", " ", "1", "2"]),
        ("starcoder", "x 12", ["x", " ", "1", "2"]),
        ("command-r", "x 12", ["x", " ", "1", "2"]),
        ("llama-bpe", "1234567\n\n x", ["123", "456", "7", "\n\n", " x"]),
        ("qwen2", "DON'T 12", ["DON", "'T", " ", "1", "2"]),
        ("qwen35", "cafe\u0301s 12", ["cafe\u0301s", " ", "1", "2"]),
        ("lfm2", "Don't 1234", ["Don", "'t", " ", "123", "4"]),
        ("deepseek-v3", "abc1234日本", ["abc", "123", "4", "日本"]),
        ("deepseek-coder", "x, 12\n", ["x", ",", " ", "1", "2", "\n"]),
        ("deepseek-llm", "Ünder Αθήνα, 12", ["Ü", "nder", " Αθήνα", ",", " ", "12"]),
        ("falcon", "a+b 12345", ["a", "+", "b", " ", "123", "45"]),
        ("tekken", "HelloWorld don't", ["Hello", "World", " don", "'t"]),
        ("gpt-4o", "HelloWorld don't", ["Hello", "World", " don't"]),
        ("kimi-k2", "aBc中文X日 1234/", ["a", "Bc", "中文", "X", "日", " ", "123", "4", "/"]),
        ("youtu", "A中文，가나ab 12", ["A", "中文", "，", "가나", "ab", " ", "1", "2"]),
        ("tiny_aya", "x1234567 12 123abc", ["x", "1", "234", "567", " ", "12", " ", "123", "abc"]),
        ("default", "a$b 1234", ["a", "$", "b", " ", "123", "4"]),
    ],
)
def test_text_is_split_as_expected(name: str, text: str, words: list[str]) -> None:
    assert split(PRE_TOKENIZERS[name].patterns, text) == words


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
@pytest.mark.timeout(60)  # quadratic time would take much longer
def test_long_repetitions_are_split_in_linear_time(name: str) -> None:
    n = 200_000
    for text in (
        " " * n + "1",
        " " * n + "x",
        "\t" * n + "中",
        "A" * n,
        "日" + "A" * n,
        "\u0301" * n,
        "\n" * n + " ",
        "1" * n,
    ):
        assert "".join(split(PRE_TOKENIZERS[name].patterns, text)) == text
