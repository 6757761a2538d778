"""BPE of characters with byte fallback, compared with the library's own tokenizer and a simple implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from llamafw import ModelError
from llamafw_plugins.tokenizers import make_gemma4

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", '<|"|>']
CHARACTERS = [*"\n▁abcdeéhlorw.,!123日"]
MERGES = [
    "\n \n",
    "\n\n \n\n",
    "h e",
    "l l",
    "he ll",
    "hell o",
    "▁ hello",
    "▁ w",
    "o r",
    "▁w or",
    "▁ ▁",
    "a b",
    "ab ▁",
    "ab▁ c",
]

FIRST_CHARACTER = len(SPECIAL) + len(BYTES)


def metadata(**fields: Any) -> dict[str, Any]:
    """Return the metadata of a small vocabulary; None removes a field."""
    merged = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*SPECIAL, *BYTES, *CHARACTERS, *merged]
    types = [3] * 6 + [4] + [6] * 256 + [1] * (len(CHARACTERS) + len(merged))
    types[3] = 2
    defaults: dict[str, Any] = {"tokens": tokens, "merges": MERGES, "token_type": np.array(types, np.int32)}
    return {f"tokenizer.ggml.{name}": value for name, value in (defaults | fields).items() if value is not None}


def published() -> Library:
    """Return a tokenizer built like the tokenizer.json of Gemma 4."""
    ids = {text: token for token, text in enumerate(metadata()["tokenizer.ggml.tokens"])}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in MERGES)]
    library = Library(models.BPE(vocab=ids, merges=merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    library.normalizer = normalizers.Replace(" ", "▁")
    library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return library


TOKENIZER, PUBLISHED = make_gemma4(metadata()), published()


@given(st.text("ab cdeéhlowr.,\n1日中😀\u0301", max_size=30))
def test_text_becomes_the_tokens_of_the_published_tokenizer(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert tokens == PUBLISHED.encode(text).ids
    assert TOKENIZER.decode(tokens) == text == PUBLISHED.decode(tokens)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("hello world", ["hello", " wor", "l", "d"]),
        ("  hello", [" ", " hello"]),
        ("ab c", ["ab c"]),  # merges cross words
        ("\n\n\n\n\n", ["\n\n\n\n", "\n"]),
        ("<0x41>", [*"<0x41>"]),
    ],
)
def test_merges_follow_their_priorities(text: str, pieces: list[str]) -> None:
    assert [TOKENIZER.piece(token).decode() for token in TOKENIZER.encode(text)] == pieces


def test_characters_without_a_token_become_byte_tokens() -> None:
    tokens = TOKENIZER.encode("é中")
    assert [TOKENIZER.piece(token) for token in tokens] == ["é".encode(), b"\xe4", b"\xb8", b"\xad"]


def test_special_tokens_are_parsed_on_request() -> None:
    assert TOKENIZER.encode("<|turn>a", add_special=True) == [2, 4, FIRST_CHARACTER + CHARACTERS.index("a")]
    assert 4 not in TOKENIZER.encode("<|turn>a", parse_special=False)
    assert 6 in TOKENIZER.encode('<|"|>', parse_special=False)  # user-defined


def test_roles_have_gemmas_defaults() -> None:
    assert (TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.add_bos) == (2, 1, True)
    assert TOKENIZER.eog == {1, 5}


def test_the_end_of_struck_html_is_text() -> None:
    fields = metadata()
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    added = {"tokens": [*tokens, "<|tool_response>", "</s>"], "token_type": np.append(types, [4, 1])}
    tokenizer = make_gemma4(metadata(**added))
    assert tokenizer.eog == {1, 5, len(tokens)}
    assert tokenizer.piece(len(tokens) + 1) == b"</s>"


def test_of_tokens_with_the_same_text_the_last_one_is_used() -> None:
    fields = metadata()
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    repeated = make_gemma4(metadata(tokens=[*tokens, "a"], token_type=np.append(types, 1)))
    assert repeated.encode("a") == [len(tokens)]
    assert repeated.decode([FIRST_CHARACTER + CHARACTERS.index("a"), len(tokens)]) == "aa"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"merges": ["q z"]}, "has 'q z', which does not merge two tokens into a third"),
        ({"merges": None}, "the model has no tokenizer.ggml.merges"),
        ({"tokens": []}, "tokenizer.ggml.tokens is empty"),
    ],
)
def test_invalid_metadata_is_a_model_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_gemma4(metadata(**fields))


def test_long_texts_take_little_time() -> None:
    text = "hello world ab c\n\n" * 20_000
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
