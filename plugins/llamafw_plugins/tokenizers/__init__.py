"""Tokenizers of GGUF files, by the value of ``tokenizer.ggml.model``.

* ``gpt2``  byte-level BPE: GPT-2, Llama 3, Qwen, DeepSeek, SmolLM, StarCoder …
* ``llama`` SentencePiece BPE with scores and byte fallback: Llama 1 and 2, Mistral 7B, Phi-3, Gemma 1 to 3 …
* ``gemma4`` BPE of characters with byte fallback: Gemma 4
"""

from collections.abc import Mapping
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


@hookimpl
def register_tokenizers(register: Register) -> None:
    """Register the tokenizers."""
    register("gpt2", make_gpt2)
    register("llama", make_llama)
    register("gemma4", make_gemma4)
