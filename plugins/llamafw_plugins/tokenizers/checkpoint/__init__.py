"""Reads the tokenizer of a checkpoint directory, as the metadata that GGUF files have for it.

Files that say the same are tried in this order: ``tokenizer.json``, the model of SentencePiece, ``vocab.txt``,
``vocab.json`` with ``merges.txt``, ``tokenizer.jsonl``. Of a SentencePiece model by BPE, ``tokenizer.model`` comes
first, because it has the scores of tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llamafw import ModelError
from llamafw_plugins.tokenizers.checkpoint.byte_level import is_byte_level, read_byte_level, read_slow_byte_level
from llamafw_plugins.tokenizers.checkpoint.characters import read_characters
from llamafw_plugins.tokenizers.checkpoint.files import TokenizerFiles
from llamafw_plugins.tokenizers.checkpoint.named_tokens import name_tokens
from llamafw_plugins.tokenizers.checkpoint.pipeline import Pipeline
from llamafw_plugins.tokenizers.checkpoint.plamo2 import FILE as PLAMO2
from llamafw_plugins.tokenizers.checkpoint.plamo2 import read_plamo2
from llamafw_plugins.tokenizers.checkpoint.sentencepiece import FILES, read_sentencepiece
from llamafw_plugins.tokenizers.checkpoint.unigram import read_unigram
from llamafw_plugins.tokenizers.checkpoint.wordpiece import read_vocab_txt, read_wordpiece
from llamafw_plugins.tokenizers.metadata_values import PREFIX


def read_checkpoint_tokenizer(folder: Path, n_vocab: int | None = None) -> dict[str, Any] | None:
    """Return the metadata ``tokenizer.ggml.*``; None if the folder has no tokenizer of a known kind.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    n_vocab : int, optional
        Number of tokens that the model has embeddings for. By default what ``config.json`` says.

    Raises
    ------
    ModelError
        A file is damaged, or GGUF cannot say what the tokenizer does.
    """
    files = TokenizerFiles(folder, n_vocab)
    pipeline = Pipeline(files.tokenizer) if files.find("tokenizer.json") else None
    metadata = _read(files, pipeline)
    if metadata is None:
        return None
    n_types = files.model_config.get("type_vocab_size")
    if metadata[f"{PREFIX}model"] in ("bert", "t5") and type(n_types) is int:
        metadata[f"{PREFIX}token_type_count"] = n_types
    return metadata | name_tokens(metadata, files, pipeline)


def _read(files: TokenizerFiles, pipeline: Pipeline | None) -> dict[str, Any] | None:
    """Return the tokens, and what the algorithm needs."""
    sentencepiece = files.find(*FILES)
    if pipeline is not None:
        model = files.tokenizer.get("model")
        kind = model.get("type") if isinstance(model, dict) else None
        if kind is None and isinstance(model, dict) and "merges" in model:
            kind = "BPE"  # old files do not name it
        if kind == "BPE" and is_byte_level(files.tokenizer):
            return read_byte_level(files, pipeline)
        if kind == "BPE":
            return read_sentencepiece(files, sentencepiece) if sentencepiece else read_characters(files, pipeline)
        if kind == "WordPiece":
            return read_wordpiece(files, pipeline)
        if kind == "Unigram":
            return read_unigram(files, pipeline)
        raise ModelError(f"tokenizer.json: the model is of type {kind!r}; BPE, WordPiece and Unigram are supported")
    if sentencepiece:
        return read_sentencepiece(files, sentencepiece)
    if files.find("vocab.txt"):
        return read_vocab_txt(files)
    if files.find("vocab.json") and files.find("merges.txt"):
        return read_slow_byte_level(files)
    if files.find(PLAMO2):
        return read_plamo2(files)
    return None
