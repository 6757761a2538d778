"""Pre-tokenizers: how byte-level BPE splits text into words before merging, by the value of ``tokenizer.ggml.pre``.

A pre-tokenizer is a list of regular expressions. The first one splits the text into its matches and the text between
them; the next one splits these parts further, and so on. Merges never cross the boundary of a part.

The expressions are those that the models were trained with (the pre-tokenizers of their ``tokenizer.json``), in the
syntax of Oniguruma. An expression that could backtrack over a long text, which takes quadratic time or more steps than
Oniguruma allows, is replaced by an equivalent one that does not; the original is in a comment.

llama.cpp approximates a few expressions, because std::regex does not support Unicode: it treats ``\\p{Lu}`` and
``\\p{Ll}`` as "a letter not in a-z" and "a letter not in A-Z". Where that differs from the model, this table follows
the model. It matters for Tekken and the GPT-4o family (combining marks and case changes outside ASCII) and for DeepSeek
LLM and Coder (spaces outside ASCII).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How one family of models splits text into words."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a word that is a token becomes that token, even if no merges lead to it
    add_bos: bool = False  # the default if the metadata has no add_bos_token


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES = r"(?:[^\S\r\n]*+[\r\n]++)++"  # \s*[\r\n]+
_SPACE = rf"{_LINES}|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _cl100k(digits: str) -> str:
    return rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"


def _o200k(contraction: str, digits: str, *, without: str = "", behind_symbols: str = r"\r\n/") -> str:
    """Return the expression of o200k; ``without`` excludes characters from letters."""
    before, upper, other = r"[^\r\n\p{L}\p{N}]?", r"[\p{Lu}\p{Lt}]", rf"[\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    lower = rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]"
    up_to_other = f"(?:{upper}*+{other}++)"
    small = rf"(?:{up_to_other}*+{upper}*+\p{{Ll}}{lower}*+|{up_to_other}++)"  # (upper|other)*(lower|other)+
    capital = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{without}]+{lower}*"
    return (
        rf"{before}{small}{contraction}|{before}{capital}{contraction}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[{behind_symbols}]*|{_SPACE}"
    )


_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"  # the ranges of DeepSeek, odd as they are
_HAN_KANA = "[\u4e00-\u9fa5\u3040-\u30ff]+"
_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK_V3 = (
    rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACE}"
)
_CASED_LETTERS = (  # of DeepSeek LLM: the letters with case in an older version of Unicode
    "A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377"
    "\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556"
    "\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_PUNCTUATION = "!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002"
_WORDS_BY_PUNCTUATION = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"

_gpt2 = PreTokenizer((_GPT2,))
_digits_gpt2 = PreTokenizer((r"\p{N}", _GPT2))
_llama3 = PreTokenizer((_cl100k(r"\p{N}{1,3}"),))
_llama3_whole_words = PreTokenizer((_cl100k(r"\p{N}{1,3}"),), ignore_merges=True)
_llama3_whole_words_bos = PreTokenizer((_cl100k(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_qwen2 = PreTokenizer((_cl100k(r"\p{N}"),))
_deepseek_v3 = PreTokenizer((r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK_V3))
_gpt4o = PreTokenizer((_o200k(f"{_CONTRACTION}?", r"\p{N}{1,3}"),))
_bloom = PreTokenizer((_WORDS_BY_PUNCTUATION,))
_bailing = PreTokenizer((
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|" + _SPACE,
))  # fmt: skip

DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
"""For files without a pre-tokenizer, or with an unknown one."""

_FAMILIES: dict[str, PreTokenizer] = {
    "default": DEFAULT,
    "gpt-2 phi-2 mpt olmo jais gigachat a.x-4.0 mellum exaone4 trillion granite-docling modern-bert roberta-bpe "
    "jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code": _gpt2,
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": _digits_gpt2,
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": _llama3_whole_words_bos,
    "glm4 glm5": _llama3_whole_words,
    "dbrx smaug-bpe chatglm-bpe": _llama3,
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": _qwen2,
    "gpt-4o llama4 kanana2 talkie minimax-m2": _gpt4o,
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": _deepseek_v3,
    "bloom poro-chat gpt3-finnish": _bloom,
    "bailingmoe bailingmoe2 llada-moe": _bailing,
    "deepseek-llm": PreTokenizer((
        r"[\r\n]", rf"\s?[{_CASED_LETTERS}]+", rf"\s?[{_DEEPSEEK_PUNCTUATION}]+",
        r"(?<!\s)\s++$",  # \s+$
        _CJK, r"\p{N}+",
    )),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "tekken": PreTokenizer((_o200k("", r"\p{N}"),), ignore_merges=True, add_bos=True),
    "qwen35": PreTokenizer((
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}",
    )),
    "kimi-k2": PreTokenizer((
        r"\p{Han}+|"
        + _o200k(f"{_CONTRACTION}?", r"\p{N}{1,3}", without=r"&&[^\p{Han}]", behind_symbols=r"\r\n"),
    )),
    "tiny_aya cohere2moe": PreTokenizer((
        # \d{1,3}(?=(?:\d{3})*\b): digits at the end of a word, then groups of three from their end
        r"(?<!\d)\d++\b",
        r"\A(?=\d++\z)(?:\d{1,2}(?=(?:\d{3})++\z)|\d{3})|(?!\A)\G\d{3}",
        _o200k(f"{_CONTRACTION}?", r"\p{N}{1,3}"),
    )),
    "youtu": PreTokenizer((
        "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
        "|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        _o200k(f"{_CONTRACTION}?", r"\p{N}"),
    )),
    "viking": PreTokenizer((_WORDS_BY_PUNCTUATION, r"\p{N}")),
    "seed-coder": PreTokenizer((
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACE}",
    )),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", _cl100k(r"\p{N}+")), ignore_merges=True),
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", _cl100k(r"\p{N}"))),
    "ufakzeka": PreTokenizer((rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}",)),
}  # fmt: skip

PRE_TOKENIZERS = {name: family for names, family in _FAMILIES.items() for name in names.split()}
