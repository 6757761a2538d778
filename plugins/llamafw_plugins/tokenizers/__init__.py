"""Tokenizers of GGUF files, by the value of ``tokenizer.ggml.model``.

* ``gpt2``  byte-level BPE: GPT-2, Llama 3, Qwen, DeepSeek, SmolLM, StarCoder …
* ``llama`` SentencePiece BPE with scores and byte fallback: Llama 1 and 2, Mistral 7B, Phi-3, Gemma 1 to 3 …
* ``gemma4`` BPE of characters with byte fallback: Gemma 4
* ``bert``  WordPiece: BERT, MiniLM, BGE, nomic-embed and other encoders
* ``t5``    SentencePiece's unigram model: T5, XLM-RoBERTa, BGE-M3, multilingual E5
* ``plamo2`` a unigram model with byte fallback: PLaMo 2
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llamafw import Register, Tokenizer, hookimpl


def make_gpt2(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the byte-level BPE tokenizer that ``metadata`` describes; ModelError if the metadata is invalid."""
    from llamafw_plugins.tokenizers.gpt2 import Gpt2Tokenizer

    return Gpt2Tokenizer(metadata)


def make_llama(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the SentencePiece tokenizer that ``metadata`` describes; ModelError if the metadata is invalid."""
    from llamafw_plugins.tokenizers.llama import LlamaTokenizer

    return LlamaTokenizer(metadata)


def make_gemma4(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the BPE tokenizer of characters that ``metadata`` describes; ModelError if the metadata is invalid."""
    from llamafw_plugins.tokenizers.gemma4 import Gemma4Tokenizer

    return Gemma4Tokenizer(metadata)


def make_bert(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the WordPiece tokenizer that ``metadata`` describes; ModelError if the metadata is invalid."""
    from llamafw_plugins.tokenizers.bert import BertTokenizer

    return BertTokenizer(metadata)


def make_t5(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the unigram tokenizer that ``metadata`` describes; ModelError if the metadata is invalid."""
    from llamafw_plugins.tokenizers.t5 import T5Tokenizer

    return T5Tokenizer(metadata)


def make_plamo2(metadata: Mapping[str, Any]) -> Tokenizer:
    """Return the unigram tokenizer of PLaMo 2 that ``metadata`` describes; ModelError if the metadata is invalid."""
    from llamafw_plugins.tokenizers.plamo2 import Plamo2Tokenizer

    return Plamo2Tokenizer(metadata)


@hookimpl
def register_tokenizers(register: Register) -> None:
    """Register the tokenizers."""
    register("gpt2", make_gpt2)
    register("llama", make_llama)
    register("gemma4", make_gemma4)
    register("bert", make_bert)
    register("t5", make_t5)
    register("plamo2", make_plamo2)


@hookimpl
def read_tokenizer(path: Path, n_vocab: int) -> Mapping[str, Any] | None:
    """Return the metadata of the tokenizer in a checkpoint's folder."""
    from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer

    return read_checkpoint_tokenizer(path, n_vocab)
