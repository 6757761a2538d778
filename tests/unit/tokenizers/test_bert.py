"""WordPiece, compared with the library's tokenizer as BERT publishes it and with a simple implementation."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers

from llamafw import ModelError
from llamafw.testing import vocabularies
from llamafw_plugins.tokenizers import make_bert

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["hello", "he", "h", "the", "t", "a", "e", "ä", "é", "H", "É", "中", "!", "[", "]", "unk", "##"]
PARTS = ["llo", "l", "o", "h", "e", "a", "é", "É", "n", "k"]
TEXT = st.text("heloHÄäéÉe\u0301 tank\t\n\x00\u00a0\u200b中国!#[]▁😀", max_size=40)


def metadata(**fields: Any) -> dict[str, Any]:
    """Return the metadata of a small vocabulary; None removes a field."""
    tokens = [*SPECIAL, *(f"▁{word}" for word in WORDS), *PARTS]
    types = [3, 2, 3, 3, 3] + [1] * (len(tokens) - 5)
    defaults: dict[str, Any] = {
        "tokens": tokens,
        "token_type": np.array(types, np.int32),
        "bos_token_id": 2,
        "eos_token_id": 3,
        "unknown_token_id": 1,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (defaults | fields).items() if value is not None}


def published(*, lowercase: bool) -> Library:
    """Return a tokenizer built like the tokenizer.json of BERT."""
    texts = [*SPECIAL, *WORDS, *(f"##{part}" for part in PARTS)]
    library = Library(models.WordPiece(vocab={text: token for token, text in enumerate(texts)}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return library


UNCASED = make_bert(metadata())
CASED = make_bert(metadata(**{"normalizer.lowercase": False}))


@pytest.mark.parametrize(("tokenizer", "lowercase"), [(UNCASED, True), (CASED, False)])
@given(text=TEXT)
def test_text_becomes_the_tokens_of_the_published_tokenizer(tokenizer: Any, lowercase: bool, text: str) -> None:
    assert tokenizer.encode(text, parse_special=False) == published(lowercase=lowercase).encode(text).ids


@given(text=TEXT)
def test_text_becomes_the_tokens_of_a_simple_implementation(text: str) -> None:
    plain = "".join(c for c in text if c not in "\x00\u200b").lower()
    plain = "".join(c for c in unicodedata.normalize("NFD", plain) if unicodedata.category(c) != "Mn")
    spaced = "".join(f" {c} " if c in "中国!#[]" else c for c in plain)
    starts = {word: 5 + i for i, word in enumerate(WORDS)}
    inner = {part: 5 + len(WORDS) + i for i, part in enumerate(PARTS)}

    expected: list[int] = []
    for word in spaced.split():
        found: list[int] = []
        while word:
            ids = inner if found else starts
            end = next((n for n in range(len(word), 0, -1) if word[:n] in ids), 0)
            if not end:
                found = [1]
                break
            found.append(ids[word[:end]])
            word = word[end:]
        expected += found
    assert UNCASED.encode(text, parse_special=False) == expected


def test_each_text_gets_cls_and_sep_even_if_the_metadata_say_no() -> None:
    tokenizer = make_bert(metadata(add_bos_token=False, add_eos_token=False))
    assert tokenizer.encode("the", add_special=True) == [2, *tokenizer.encode("the"), 3]
    assert (tokenizer.bos, tokenizer.eos, tokenizer.add_bos, tokenizer.add_eos) == (2, 3, True, True)


@pytest.mark.parametrize("separator", ["seperator_token_id", "separator_token_id"])
def test_older_files_name_cls_and_the_separator_by_other_keys(separator: str) -> None:
    fields: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "cls_token_id": 2, separator: 3}
    tokenizer = make_bert(metadata(**fields))
    assert (tokenizer.bos, tokenizer.eos) == (2, 3)


def test_special_tokens_are_parsed_on_request() -> None:
    the = UNCASED.encode("the")
    assert UNCASED.encode("the[SEP]the") == [*the, 3, *the]
    assert not {0, 2, 3, 4} & set(UNCASED.encode("the[SEP]the[CLS][MASK]", parse_special=False))


def test_words_of_more_than_a_hundred_characters_are_unknown() -> None:
    assert UNCASED.encode("a" * 100) != [1]
    assert UNCASED.encode("a" * 101) == [1]


def test_decoded_words_are_separated_by_spaces() -> None:
    tokens = UNCASED.encode("Hello, the HÉLLO!", add_special=True)
    assert UNCASED.decode(tokens) == "hello the hello !"
    assert UNCASED.decode(tokens, special=True) == "[CLS] hello[UNK] the hello ![SEP]"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": []}, "tokenizer.ggml.tokens is empty"),
        ({"unknown_token_id": None}, "the model has no tokenizer.ggml.unknown_token_id"),
        ({"bos_token_id": None}, "there is no tokenizer.ggml.bos_token_id"),
        ({"eos_token_id": 1000}, "eos_token_id is 1000, but tokens are numbered 0 to"),
        ({"normalizer.lowercase": 1}, "normalizer.lowercase is 1, not true or false"),
    ],
)
def test_invalid_metadata_is_a_model_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_bert(metadata(**fields))


@pytest.mark.parametrize("unit", ["the ", "a", "!", "中", "é", "\u0301", " "])
@pytest.mark.timeout(60)  # quadratic time would take hours
def test_long_texts_take_linear_time(unit: str) -> None:
    tiny = make_bert(vocabularies.wordpiece())
    assert len(tiny.encode(unit * 200_000)) <= 200_000
