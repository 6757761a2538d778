"""How byte-level BPE cuts text into words before merging, by ``tokenizer.ggml.pre``. A table, and nothing else.

Each name stands for a list of regular expressions. The first cuts the text into its matches and what is between them;
the next cuts each of these pieces further, and so on. Merges never cross a cut. The expressions are those that the
models were trained with (the pre-tokenizers of their ``tokenizer.json``), in the syntax of Oniguruma.

llama.cpp approximates a few of them, because std::regex knows no Unicode: it takes ``\\p{Lu}`` and ``\\p{Ll}`` for "a
letter not in a-z" and "a letter not in A-Z". Where the two differ (case changes outside ASCII, combining marks; Tekken
and the GPT-4o family), this table is with the model.
"""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How one family of models cuts text into words."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a word that is a token is that token, whatever the merges say
    add_bos: bool = False  # if the metadata does not say


_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _cl100k(digits: str) -> str:
    return rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}"


def _o200k(contraction: str, digits: str) -> str:
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    before = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{before}{upper}*{lower}+{contraction}|{before}{upper}+{lower}*{contraction}"
        rf"|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACE}"
    )


_CJK = "[一-龥\u0800-一가-\ud7ff]+"  # DeepSeek's own, odd ranges
_HAN_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"
_ASCII_PUNCTUATION = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_DEEPSEEK_V3 = (
    rf"{_ASCII_PUNCTUATION}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACE}"
)
_CASED_LETTERS = (  # DeepSeek LLM: the letters that have case, as of some version of Unicode
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌ"
    "ῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ"
    "𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_WORDS_BY_PUNCTUATION = r" ?[^(\s|.,!?…。，、।۔،)]+"

_gpt2 = PreTokenizer((_GPT2,))
_digits_gpt2 = PreTokenizer((r"\p{N}", _GPT2))
_llama3 = PreTokenizer((_cl100k(r"\p{N}{1,3}"),))
_llama3_whole_words = PreTokenizer((_cl100k(r"\p{N}{1,3}"),), ignore_merges=True)
_llama3_whole_words_bos = PreTokenizer((_cl100k(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_qwen2 = PreTokenizer((_cl100k(r"\p{N}"),))
_deepseek_v3 = PreTokenizer((r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK_V3))
_gpt4o = PreTokenizer((_o200k(f"{_CONTRACTION}?", r"\p{N}{1,3}"),))
_tiny_aya = PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _o200k(f"{_CONTRACTION}?", r"\p{N}{1,3}")))
_bloom = PreTokenizer((_WORDS_BY_PUNCTUATION,))
_bailing = PreTokenizer((
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
))  # fmt: skip

DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
"""For files that name no pre-tokenizer, or one that is not in the table."""

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
    "tiny_aya cohere2moe": _tiny_aya,
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": _deepseek_v3,
    "bloom poro-chat gpt3-finnish": _bloom,
    "bailingmoe bailingmoe2 llada-moe": _bailing,
    "deepseek-llm": PreTokenizer((
        r"[\r\n]", rf"\s?[{_CASED_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", r"\s+$", _CJK, r"\p{N}+",
    )),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}")),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "tekken": PreTokenizer((_o200k("", r"\p{N}"),), ignore_merges=True, add_bos=True),
    "qwen35": PreTokenizer((
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACE}",
    )),
    "viking": PreTokenizer((_WORDS_BY_PUNCTUATION, r"\p{N}")),
    "seed-coder": PreTokenizer((
        rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACE}",
    )),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", _cl100k(r"\p{N}+")), ignore_merges=True),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", _cl100k(r"\p{N}"))),
    "ufakzeka": PreTokenizer((rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}",)),
}  # fmt: skip

PRE_TOKENIZERS = {name: family for names, family in _FAMILIES.items() for name in names.split()}
