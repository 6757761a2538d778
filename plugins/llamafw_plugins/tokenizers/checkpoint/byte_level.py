"""``gpt2`` from ``tokenizer.json``, or from ``vocab.json`` and ``merges.txt``: byte-level BPE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import models

from llamafw import ModelError, checkpoints
from llamafw_plugins.tokenizers.checkpoint.files import TokenizerFiles
from llamafw_plugins.tokenizers.checkpoint.pipeline import Pipeline
from llamafw_plugins.tokenizers.checkpoint.recognise import recognise
from llamafw_plugins.tokenizers.checkpoint.tokens import Tokens
from llamafw_plugins.tokenizers.metadata_values import PREFIX

_SLOW_CLASSES = {
    "GPT2Tokenizer": "gpt-2",
    "RobertaTokenizer": "gpt-2",
    "Qwen2Tokenizer": "qwen2",
    "CodeGenTokenizer": "gpt-2",
}
"""``tokenizer_class`` of checkpoints without ``tokenizer.json`` → its pre-tokenizer."""

_COMPOSED = ("é", "한국", "Å")  # the normal form C leaves them as they are
_NOT_NORMALIZED = ("  Ab1!\n\t x ", "ﬁ²①", "ÀÉ", "▁x", "\u3000x\u00a0")


def is_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    """Return whether a ``tokenizer.json`` with a BPE model writes bytes as characters, as GPT-2 does."""
    return Pipeline({"pre_tokenizer": tokenizer.get("pre_tokenizer")}).words("é")[-1:] == ["Ã©"]


def read_byte_level(files: TokenizerFiles, pipeline: Pipeline) -> dict[str, Any]:
    """Return the metadata of a ``tokenizer.json``."""
    model = files.tokenizer["model"]
    vocabulary, merges = _read_vocabulary(model), read_pairs(model)
    check_affixes(model)
    _check_normalizer(pipeline)
    if pipeline.words("x")[:1] == ["Ġx"]:
        raise ModelError(
            "tokenizer.json: the pre-tokenizer adds a space before each text (add_prefix_space), which GGUF cannot say"
        )

    def is_whole() -> bool:
        bpe = models.BPE(vocab=dict(vocabulary), merges=merges)
        return all(len(bpe.tokenize(text)) == 1 for text in vocabulary if text)

    source = files.tokenizer.get("pre_tokenizer")
    name = recognise(pipeline.parts, bool(model.get("ignore_merges")), is_whole, source)
    return _metadata(files, vocabulary, [f"{left} {right}" for left, right in merges], name)


def read_slow_byte_level(files: TokenizerFiles) -> dict[str, Any]:
    """Return the metadata of ``vocab.json`` and ``merges.txt``."""
    name = files.config.get("tokenizer_class")
    if name not in _SLOW_CLASSES:
        known = ", ".join(_SLOW_CLASSES)
        raise ModelError(
            f"{files.folder} has no tokenizer.json, and the pre-tokenizer of {name!r} (tokenizer_class in "
            f"tokenizer_config.json) is not known; known are {known}"
        )
    vocabulary = checkpoints.read_json(files.folder / "vocab.json")
    path = files.folder / "merges.txt"
    try:
        lines = path.read_text("utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    merges = [line for line in lines if line and not line.startswith("#version")]
    return _metadata(files, vocabulary, merges, _SLOW_CLASSES[name])


def read_pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the merges of a ``tokenizer.json`` in order of priority.

    Raises
    ------
    ModelError
        They are not pairs of texts, or a text has a space, which GGUF uses to separate them.
    """
    merges = model.get("merges")
    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in _as_list(merges)]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(text, str) and " " not in text for text in pair):
            raise ModelError(f"tokenizer.json: {pair!r:.80} in model.merges is not a pair of tokens without spaces")
    return [(left, right) for left, right in pairs]


def check_affixes(model: Mapping[str, Any]) -> None:
    """Raise ModelError if a BPE model marks tokens within or at the end of words, which GGUF cannot say."""
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ModelError(f"tokenizer.json: model.{key} is {model[key]!r}, which GGUF cannot say")


def _metadata(files: TokenizerFiles, vocabulary: Mapping[str, int], merges: Sequence[str], name: str) -> dict[str, Any]:
    tokens = Tokens(vocabulary)
    tokens.add(files.added)
    return {
        f"{PREFIX}model": "gpt2",
        f"{PREFIX}pre": name,
        **tokens.metadata(files.n_vocab),
        f"{PREFIX}merges": list(merges),
    }


def _read_vocabulary(model: Mapping[str, Any]) -> Mapping[str, int]:
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ModelError("tokenizer.json: model.vocab is not an object with tokens")
    return vocabulary


def _check_normalizer(pipeline: Pipeline) -> None:
    """Raise ModelError if the text is changed before it is split; GGUF files cannot say that.

    The normal form C, as of Qwen, is left out, as in llama.cpp: texts nearly always have it.
    """
    for text in (*_COMPOSED, *_NOT_NORMALIZED):
        if (changed := pipeline.normalize(text)) != text:
            raise ModelError(
                f"tokenizer.json: the normalizer makes {changed!r} of {text!r}, which GGUF cannot say for BPE"
            )


def _as_list(merges: Any) -> list[Any]:
    if not isinstance(merges, list) or not all(isinstance(merge, str | list) for merge in merges):
        raise ModelError("tokenizer.json: model.merges is not a list of pairs")
    return merges
