"""The tokenizer.json of a tokenizer gives the same tokens, and the same text, in Hugging Face's library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Library

from llamafw.models.gguf import read_gguf
from llamafw.testing import vocabularies
from llamafw_plugins.tokenizers import make_gemma4, make_gpt2
from support.gguf_models import QUANTS

TEXTS = (
    "Hello, world! It's 12345 o'clock,  isn't it?\n\n\tdef f(x):\n        return x ** 2",
    "Grüße aus Köln – 日本語 🎉  ",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    " leading, and trailing ",
    "",
)
PREFIX = "tokenizer.ggml."
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def assert_same(metadata: Mapping[str, Any], make: Any) -> None:
    """Compare the tokens of texts, with and without those that are added, and the text of the tokens."""
    ours = make(metadata)
    theirs = Library.from_str(ours.to_json())
    assert theirs.get_vocab_size() == ours.n_vocab
    for text in TEXTS:
        for special in (True, False):
            tokens = ours.encode(text, add_special=special)
            assert theirs.encode(text, add_special_tokens=special).ids == tokens
            assert theirs.decode(tokens, skip_special_tokens=False) == ours.decode(tokens, special=True)
            assert theirs.decode(tokens, skip_special_tokens=True) == ours.decode(tokens)


@pytest.mark.parametrize("added", [{}, {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}])
def test_byte_level_tokenizer(added: dict[str, bool]) -> None:
    tokens = [*vocabularies.byte_level_alphabet(), "He", "ll", "Hell", "Ġw", "<|im_start|>", "<|im_end|>", "<|tool|>"]
    metadata = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "merges": ["H e", "l l", "He ll", "Ġ w"],
        "token_type": np.array([1] * 260 + [3, 3, 4], np.int32),
        "bos_token_id": 260,
        "eos_token_id": 261,
    }
    assert_same({PREFIX + name: value for name, value in (metadata | added).items()}, make_gpt2)


def test_tokenizer_of_characters() -> None:
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>", "<|im_end|>", *BYTES, *"▁Helo,wrd", "ll", "▁w"]
    metadata = {
        "tokens": tokens,
        "merges": ["l l", "▁ w"],
        "token_type": np.array([3, 3, 3, 2, 3, 4] + [6] * 256 + [1] * 11, np.int32),
        "bos_token_id": 2,
        "eos_token_id": 1,
    }
    assert_same({PREFIX + name: value for name, value in metadata.items()}, make_gemma4)


def test_tokenizer_of_the_default_model(real_model: Path) -> None:
    assert_same(read_gguf(real_model, QUANTS, ()).metadata, make_gpt2)
