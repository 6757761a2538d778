"""Tokenizers that are trained on a small text, each in the style of a family, as their ``tokenizer.json``.

The parts around the vocabulary are those of the family's published files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = (
    "The quick brown fox jumps over the lazy dog. It's 9 o'clock; they're late, aren't they? HELLO World! "
    "camelCase snake_case HTTPServer 1234567 3.14159 x=10; return f(x)\n\n\tif (a == b) { c += 1; }\r\n"
    "Ünder Ökonomie naïve café привет мир Αθήνα 日本語の文章 中文字符 한국어 문장 emoji 😀👍🏽 — “quotes” …   spaces\n"
).split("\n") * 3  # fmt: skip

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)


def _train(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def _byte_level(*patterns: str, special: tuple[str, ...], ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not patterns)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes]) if splits else to_bytes
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained = _train(tokenizer, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    trained.add_special_tokens(list(special))
    return trained


def _template(tokenizer: Tokenizer, single: str, pair: str) -> Tokenizer:
    names = {text.partition(":")[0] for text in f"{single} {pair}".split() if not text.startswith("$")}
    ids = [(name, tokenizer.token_to_id(name)) for name in sorted(names)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    return tokenizer


def gpt2() -> Tokenizer:
    """GPT-2: byte-level BPE with the first published expression."""
    return _byte_level(special=("<|endoftext|>",))


def llama3() -> Tokenizer:
    """Llama 3: words that are tokens are not merged, and BOS begins each text."""
    tokenizer = _byte_level(LLAMA3, special=("<|begin_of_text|>", "<|eot_id|>"), ignore_merges=True)
    return _template(tokenizer, "<|begin_of_text|> $A", "<|begin_of_text|> $A <|begin_of_text|> $B")


def qwen2() -> Tokenizer:
    """Qwen 2: single digits, and texts in the normal form C."""
    tokenizer = _byte_level(QWEN2, special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return tokenizer


def deepseek() -> Tokenizer:
    """DeepSeek V3: three expressions one after another."""
    special = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>")
    return _template(_byte_level(*DEEPSEEK, special=special), f"{special[0]} $A", f"{special[0]} $A {special[0]} $B")


def tekken() -> Tokenizer:
    """Mistral's Tekken: words begin at capital letters."""
    tokenizer = _byte_level(TEKKEN, special=("<s>", "</s>", "[INST]"), ignore_merges=True)
    return _template(tokenizer, "<s> $A", "<s> $A <s> $B")


def starcoder() -> Tokenizer:
    """StarCoder: digits one by one, by a pre-tokenizer of its own."""
    tokenizer = _byte_level(special=("<|endoftext|>",))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


def roberta() -> Tokenizer:
    """RoBERTa: byte-level BPE between BOS and EOS."""
    tokenizer = _byte_level(special=("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    eos, bos = ((text, tokenizer.get_vocab()[text]) for text in ("</s>", "<s>"))
    tokenizer.post_processor = processors.RobertaProcessing(eos, bos, add_prefix_space=False)
    return tokenizer


def _characters(special: tuple[str, ...]) -> Tokenizer:
    """Return a BPE tokenizer of characters with byte tokens, whose merges are all ways to form its tokens.

    Converters of SentencePiece's models write such lists of merges.
    """
    base = Tokenizer(models.BPE(unk_token="<unk>"))
    base.pre_tokenizer = pre_tokenizers.Metaspace()
    _train(base, trainers.BpeTrainer(vocab_size=360, special_tokens=list(special), show_progress=False))
    trained = json.loads(base.to_str())["model"]
    words = sorted(set(trained["vocab"]) - set(special), key=trained["vocab"].__getitem__)
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = {text: id for id, text in enumerate(tokens)}
    merges = [
        (text[:middle], text[middle:])
        for text in words
        for middle in range(1, len(text))
        if text[:middle] in vocabulary and text[middle:] in vocabulary
    ]
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def llama2() -> Tokenizer:
    """Llama 2: SentencePiece's BPE, and a space at the beginning of each text."""
    tokenizer = _characters(("<unk>", "<s>", "</s>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _template(tokenizer, "<s> $A", "<s> $A <s> $B")


def gemma() -> Tokenizer:
    """Gemma: SentencePiece's BPE without a space at the beginning."""
    tokenizer = _characters(("<pad>", "<eos>", "<bos>", "<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_tokens([AddedToken("<start_of_turn>", normalized=False)])
    return _template(tokenizer, "<bos> $A", "<bos> $A <bos> $B")


def gemma4() -> Tokenizer:
    """Gemma 4: merges of their own, here only one way to form each token."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>"]
    base = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    base.normalizer = normalizers.Replace(" ", "▁")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *bytes_], show_progress=False)
    trained = json.loads(_train(base, trainer).to_str())
    trained["added_tokens"] = [one for one in trained["added_tokens"] if one["content"] in special]
    return _template(Tokenizer.from_str(json.dumps(trained)), "<bos> $A", "<bos> $A <bos> $B")


def bert() -> Tokenizer:
    """BERT: WordPiece, in lower case and without accents."""
    return _wordpiece(lowercase=True)


def bert_cased() -> Tokenizer:
    """BERT with case and accents."""
    return _wordpiece(lowercase=False)


def _wordpiece(lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    _train(tokenizer, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    return _template(tokenizer, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")


@cache
def sentencepiece_model(model_type: str, **options: Any) -> bytes:
    """Return a model of SentencePiece: "bpe" or "unigram"."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in TEXT if line),
        model_writer=model,
        model_type=model_type,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def _unigram(special: tuple[str, ...]) -> Tokenizer:
    """Return a unigram tokenizer with SentencePiece's table of characters, as converters write it."""
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    proto.ParseFromString(sentencepiece_model("unigram", vocab_size=300))
    pieces = [(text, 0.0) for text in special] + [(one.piece, one.score) for one in proto.pieces if one.type == 1]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=special.index("<unk>"), byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def t5() -> Tokenizer:
    """T5: a unigram model with EOS at the end of each text."""
    return _template(_unigram(("<pad>", "</s>", "<unk>")), "$A </s>", "$A </s> $B </s>")


def xlm_roberta() -> Tokenizer:
    """XLM-RoBERTa: a unigram model between BOS and EOS."""
    tokenizer = _unigram(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    return _template(tokenizer, "<s> $A </s>", "<s> $A </s> </s> $B </s>")


FAMILIES: Mapping[str, Callable[[], Tokenizer]] = {
    one.__name__: one
    for one in (
        gpt2, llama3, qwen2, deepseek, tekken, starcoder, roberta, llama2, gemma, gemma4, bert, bert_cased, t5,
        xlm_roberta,
    )
}  # fmt: skip


@cache
def trained(family: str) -> Tokenizer:
    """Return the tokenizer of a family."""
    return FAMILIES[family]()
