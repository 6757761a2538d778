"""Recognises a pre-tokenizer by what it does to texts: which value of ``tokenizer.ggml.pre`` splits them like it.

Names in a checkpoint do not say it, and regular expressions can be written in many ways.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from typing import Any

from tokenizers import Regex, pre_tokenizers

from llamafw import ModelError
from llamafw_plugins.tokenizers.pre_tokenizers import PRE_TOKENIZERS

log = logging.getLogger(__name__)

_PREFERRED = ("gpt-2", "smollm", "llama-bpe", "qwen2", "gpt-4o", "deepseek-v3")
"""Names that are tried first; several names mean the same."""

_COMMON = (
    "Hello world, it's 9 o'clock.", "I've said HELLO! DON'T they'RE we'll x'y 'tis", "1234567 12 3 3.14 1,000,000",
    "  two  spaces   three", "tab\tend\n\nline\r\n  indented\n \n\t\tx", "camelCase HTTPServer snake_case don't",
    "f(x) == {y: [1, 2]}; // ok!!", "a+b=c $5 <x> ~z ^2 `q` |p|", "Ünder Αθήνα привет Мир ÉCOLE",
    "日本語の文章、中文。カタカナ 한국어", "中文abc日本123", "ends with spaces   ", "\n\n\n", "   ", "a\n", "a \n b",
    "don't can't I'M YOU'D", "x/y//z\n/", "...\n\n", " -- ?!\n", "naïve café", "#include <a.h>\n\n\tint x=10;",
    "\t\tif x:\n\t\t\treturn 123456", "😀 👍🏽 ok", "snake_Case99x 9x9 x9", "the (very) \"odd\" 'quotes'",
    "http://a.b/c?d=e&f=1#g", "A.B.C. U.S.A", "٣٤٥ १२३४ ⅷ", "การทดสอบ हिन्दी", "ab\u0301c \u0301x",
)  # fmt: skip
"""Texts that have to be split in the same way."""

_ALPHABET = (
    "a", "B", "é", "É", "ǅ", "ʰ", "中", "の", "ひ", "カ", "한", "ก", "д", "\u0301", "ि", "1", "2", "२", "²", "Ⅷ", ".",
    ",", "!", "'", "'s", "'LL", "/", "(", "_", "$", "+", "~", "`", "。", "，", "…", "“", " ", "  ", "\t", "\n", "\r\n",
    "\u3000", "\u00a0", "😀", "\u200d", "ß", "ㄅ", "ㅏ",
)  # fmt: skip
"""Parts of texts of which each may be split in a way of its own."""


@cache
def _rare_texts() -> tuple[str, ...]:
    """Return texts in which every two characters of the alphabet are neighbours, in several surroundings."""
    pairs = [left + right for left, right in product(_ALPHABET, repeat=2)]
    return tuple(f"a{pair}b {pair}12  {pair}{pair} " for pair in pairs)


def recognise(
    split: Callable[[str], list[str]], ignores_merges: bool, is_whole: Callable[[], bool], source: Any
) -> str:
    """Return the name of the pre-tokenizer that splits texts like ``split``.

    Parameters
    ----------
    split : callable
        Returns the parts of a text.
    ignores_merges : bool
        Whether words that are tokens become these tokens without merging.
    is_whole : callable
        Returns whether merging leads to every token, so that ``ignores_merges`` makes no difference.
    source : Any
        What the checkpoint says about its pre-tokenizer, for the error message.

    Raises
    ------
    ModelError
        No pre-tokenizer splits texts like this one.
    """
    expected = {text: split(text) for text in _COMMON}
    fitting: dict[tuple[str, ...], str] = {}
    others: dict[tuple[str, ...], str] = {}
    for name in (*_PREFERRED, *PRE_TOKENIZERS):
        family = PRE_TOKENIZERS[name]
        group = fitting if family.ignore_merges == ignores_merges else others
        if family.patterns not in group and _agrees(family.patterns, expected):
            group[family.patterns] = name
    if not fitting and others and is_whole():
        fitting = others
    if not fitting:
        raise ModelError(
            "the pre-tokenizer splits texts like none of those that GGUF has names for (tokenizer.ggml.pre): "
            f"{str(source)[:2000]}"
        )

    rare = {text: split(text) for text in _rare_texts()}
    differences = {
        name: sum(_split(patterns, text) != parts for text, parts in rare.items()) for patterns, name in fitting.items()
    }
    best = min(differences, key=differences.__getitem__)
    if differences[best]:
        n, n_rare = differences[best], len(rare)
        log.warning(
            "the pre-tokenizer %s splits %d of %d rare texts differently from the checkpoint's", best, n, n_rare
        )
    return best


def _agrees(patterns: tuple[str, ...], expected: Mapping[str, list[str]]) -> bool:
    return all(_split(patterns, text) == parts for text, parts in expected.items())


def _split(patterns: tuple[str, ...], text: str) -> list[str]:
    return [word for word, _ in _splitter(patterns).pre_tokenize_str(text)]


@cache
def _splitter(patterns: tuple[str, ...]) -> Any:
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns])
