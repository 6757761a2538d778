"""``bert`` from ``tokenizer.json`` or ``vocab.txt``: WordPiece with BERT's normaliser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import normalizers, pre_tokenizers

from llamafw import ModelError
from llamafw_plugins.tokenizers.checkpoint.files import AddedToken, TokenizerFiles
from llamafw_plugins.tokenizers.checkpoint.named_tokens import KEYS
from llamafw_plugins.tokenizers.checkpoint.pipeline import Pipeline
from llamafw_plugins.tokenizers.checkpoint.tokens import SPACE, Tokens
from llamafw_plugins.tokenizers.metadata_values import PREFIX
from llamafw_plugins.tokenizers.vocabulary import NORMAL

_CONTINUATION = "##"  # how WordPiece marks tokens within a word
_ROLES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_TEXTS = (
    "Hello World", "ÀÉÎ naïve Ünder İstanbul ß", "中文abc 日本 한국어", "a.b,c!d'e",
    "tab\tnew\nline\r\x00x\u200b\ufffd", "  two  spaces ", "Αθήνα Ελληνικά ΣΊΣΥΦΟΣ", "e\u0301 A\u030a",
    "ﬁ ² ①", "$a+b=c`^|~<>", "“quotes” … —", "\u00a0x\u3000y", "𠀀 😀",
)  # fmt: skip


_CLASSES = frozenset(
    f"{name}Tokenizer"
    for name in (
        "Bert",
        "DistilBert",
        "Electra",
        "Funnel",
        "LayoutLM",
        "Lxmert",
        "MPNet",
        "MobileBert",
        "Splinter",
        "SqueezeBert",
    )  # fmt: skip
)
"""Classes of transformers that make BERT's normaliser themselves, whatever ``tokenizer.json`` says."""

_MODEL_TYPES = frozenset(
    {"bert", "distilbert", "electra", "ernie", "megatron-bert", "mobilebert", "mpnet", "nomic_bert", "squeezebert"}
)
"""Types of models that have one of these classes if ``tokenizer_config.json`` names none."""


def read_wordpiece(files: TokenizerFiles, pipeline: Pipeline) -> dict[str, Any]:
    """Return the metadata of a ``tokenizer.json``."""
    model = files.tokenizer["model"]
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ModelError("tokenizer.json: model.vocab is not an object with tokens")
    prefix, longest = model.get("continuing_subword_prefix"), model.get("max_input_chars_per_word", 100)
    if (prefix, longest) != (_CONTINUATION, 100):
        raise ModelError(
            f"tokenizer.json: continuing_subword_prefix is {prefix!r} and max_input_chars_per_word {longest!r}; GGUF "
            "has only '##' and 100"
        )
    lowercase, strip_accents = _configured(files) if _makes_normalizer(files) else _recognise(pipeline)
    return _metadata(files, vocabulary, model.get("unk_token"), lowercase, strip_accents)


def read_vocab_txt(files: TokenizerFiles) -> dict[str, Any]:
    """Return the metadata of ``vocab.txt``, with one token per line."""
    path = files.folder / "vocab.txt"
    try:
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    vocabulary: dict[str, int] = {}
    for id, line in enumerate(lines):
        if vocabulary.setdefault(line.rstrip("\r"), id) != id:
            raise ModelError(f"{path}: line {id + 1} repeats the token {line!r}")
    return _metadata(files, vocabulary, files.named.get("unk", "[UNK]"), *_configured(files))


def _metadata(
    files: TokenizerFiles, vocabulary: Mapping[str, int], unknown: str | None, lowercase: bool, strip_accents: bool
) -> dict[str, Any]:
    tokens = Tokens(vocabulary)
    added = {token.id: token for token in files.added}
    for role, default in _ROLES.items():  # checkpoints with vocab.txt alone do not list them
        text = files.named.get(role, default)
        if text in vocabulary:
            added.setdefault(vocabulary[text], AddedToken(vocabulary[text], text, special=True))
    tokens.add(added.values())
    for id, text in tokens.texts.items():
        if tokens.types[id] == NORMAL:
            is_inner = text.startswith(_CONTINUATION)
            tokens.texts[id] = text[len(_CONTINUATION) :] if is_inner else SPACE + text

    metadata = {f"{PREFIX}model": "bert", f"{PREFIX}pre": "default", **tokens.metadata(files.n_vocab)}
    metadata |= {f"{PREFIX}{KEYS[role]}": vocabulary[text] for role, text in _ROLES.items() if text in vocabulary}
    if unknown is not None and unknown in vocabulary:
        metadata[f"{PREFIX}{KEYS['unk']}"] = vocabulary[unknown]
    metadata[f"{PREFIX}normalizer.lowercase"] = lowercase
    metadata[f"{PREFIX}normalizer.strip_accents"] = strip_accents
    return metadata


def _makes_normalizer(files: TokenizerFiles) -> bool:
    """Return whether the class of the tokenizer in transformers ignores the normalizer of ``tokenizer.json``."""
    name = files.config.get("tokenizer_class")
    if isinstance(name, str):
        return name.removesuffix("Fast") in _CLASSES
    return files.model_config.get("model_type") in _MODEL_TYPES


def _configured(files: TokenizerFiles) -> tuple[bool, bool]:
    """Return what `_recognise` does, from ``tokenizer_config.json``."""
    if files.config.get("tokenize_chinese_chars") is False:
        raise ModelError("tokenizer_config.json: tokenize_chinese_chars is false, which GGUF cannot say")
    lowercase = files.config.get("do_lower_case", True) is not False
    strip_accents = files.config.get("strip_accents")
    return lowercase, lowercase if strip_accents is None else bool(strip_accents)


def _recognise(pipeline: Pipeline) -> tuple[bool, bool]:
    """Return whether text becomes lower case, and whether accents are removed."""
    words = pre_tokenizers.BertPreTokenizer()
    for lowercase in (True, False):
        for strip_accents in (lowercase, not lowercase):
            normalizer = normalizers.BertNormalizer(
                clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase
            )
            if all(
                [word for word, _ in words.pre_tokenize_str(normalizer.normalize_str(text))] == pipeline.words(text)
                for text in _TEXTS
            ):
                return lowercase, strip_accents
    raise ModelError(
        "tokenizer.json: the normalizer and the pre-tokenizer are not those of BERT, and GGUF has no others for "
        "WordPiece"
    )
