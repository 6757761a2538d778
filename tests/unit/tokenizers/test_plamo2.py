"""The tokenizer of PLaMo 2, compared with a simple search for the best way to split a text."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import inf, isfinite, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import ModelError
from llamafw.testing import vocabularies
from llamafw_plugins.tokenizers import make_plamo2

N_FIXED = 261  # special tokens and bytes
FIELDS = vocabularies.plamo2()
IDS = {text: id for id, text in enumerate(FIELDS["tokenizer.ggml.tokens"])}
TOKENIZER = make_plamo2(FIELDS)
ALPHABET = "ab😀"
COMMON_SCORES = [-1.0, -2.0, -3.0, 0.0, 1.0]
RARE_SCORES = [-2.00004, -2.00006, -999.9999, -1000.5, -1999.0, -2000.0, -2500.0, -inf, nan]
VOCABULARIES = st.dictionaries(
    st.text(ALPHABET, min_size=1, max_size=4),
    st.sampled_from(COMMON_SCORES) | st.sampled_from([*COMMON_SCORES, *RARE_SCORES]),
    max_size=16,
)
LONG_TEXT = 5000  # characters; the library gets texts of this length in another way


def metadata(**fields: Any) -> dict[str, Any]:
    """Return the metadata of the tiny vocabulary; None removes a field."""
    found = FIELDS | {f"tokenizer.ggml.{name}": value for name, value in fields.items()}
    return {name: value for name, value in found.items() if value is not None}


def with_pieces(pieces: Mapping[str, float]) -> dict[str, Any]:
    """Return the metadata of a vocabulary with other tokens after special ones and bytes."""
    return metadata(
        tokens=[*FIELDS["tokenizer.ggml.tokens"][:N_FIXED], *pieces],
        token_type=[*FIELDS["tokenizer.ggml.token_type"][:N_FIXED], *[1] * len(pieces)],
        scores=np.array([0.0] * N_FIXED + list(pieces.values()), np.float32),
    )


def expected(text: str, pieces: Mapping[str, float]) -> list[int]:
    """Return the tokens of the split with the highest sum; of several, that with the longest first tokens.

    Scores are rounded to four digits, a score of -2000 or less counts as none, and a character can always become bytes
    at a score of -1000.
    """
    ids = {piece: N_FIXED + i for i, piece in enumerate(pieces)}
    units = {piece: round(float(np.float32(score)) * 10_000) for piece, score in pieces.items() if isfinite(score)}

    @cache
    def best(rest: str) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Return the sum, the lengths of the parts, and the tokens."""
        if not rest:
            return 0, (), ()
        total, lengths, tokens = best(rest[1:])
        options = [(total - 10_000_000, (1, *lengths), (*(5 + byte for byte in rest[0].encode()), *tokens))]
        for piece, unit in units.items():
            if rest.startswith(piece) and unit > -20_000_000:
                total, lengths, tokens = best(rest[len(piece) :])
                options.append((total + unit, (len(piece), *lengths), (ids[piece], *tokens)))
        return max(options)

    return list(best(text)[2])


@given(st.text(ALPHABET, max_size=12), VOCABULARIES)
def test_tokens_are_those_with_the_highest_sum_of_scores(text: str, pieces: dict[str, float]) -> None:
    assert make_plamo2(with_pieces(pieces)).encode(text) == expected(text, pieces)


@pytest.mark.parametrize(
    ("pieces", "text", "tokens"),
    [
        ({"a": -1.0, "b": -1.0, "ab": -2.0}, "ab", ["ab"]),  # of equal sums, the longest first token
        ({"a": -1.0, "b": -1.0, "c": -1.0, "ab": -1.0, "bc": -1.0}, "abc", ["ab", "c"]),
        ({"a": -1.0, "bc": -1.0, "ab": -1.5, "c": -1.5}, "abc", ["a", "bc"]),
        ({"ab": -1900.0}, "ab", ["ab"]),
        ({"a": -999.9998, "ab": -1999.9999}, "ab", ["a", "<0x62>"]),
        ({"ab": -2000.0}, "ab", ["<0x61>", "<0x62>"]),
        ({"a": -1100.0}, "a", ["<0x61>"]),
        ({"a": -1.0}, "aé日😀", ["a", *(f"<0x{byte:02X}>" for byte in "é日😀".encode())]),
        ({}, "<0x41>", [f"<0x{byte:02X}>" for byte in b"<0x41>"]),  # the name of a byte is text
    ],
)
def test_examples(pieces: dict[str, float], text: str, tokens: list[str]) -> None:
    fields = with_pieces(pieces)
    assert [fields["tokenizer.ggml.tokens"][token] for token in make_plamo2(fields).encode(text)] == tokens


@given(st.text("the nation </s>\n日😀\ufeff\uffff\0", max_size=40) | st.text(st.characters(exclude_categories=["Cs"])))
def test_decoding_reverses_encoding(text: str) -> None:
    tokens = TOKENIZER.encode(text, parse_special=False)
    assert TOKENIZER.decode(tokens) == text
    assert b"".join(TOKENIZER.piece(token) for token in tokens) == text.encode()


@pytest.mark.parametrize("text", ["the 日nation", "ab\n"])
def test_long_texts_have_the_tokens_of_their_parts(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.encode(text * LONG_TEXT) == tokens * LONG_TEXT


def test_special_tokens_are_parsed_on_request() -> None:
    the = TOKENIZER.encode("the")
    assert the == [IDS["the"]]
    assert TOKENIZER.encode("the<|plamo:op|>the") == [*the, 4, *the]
    assert TOKENIZER.decode(TOKENIZER.encode("a<|plamo:op|>")) == "a"
    assert not set(range(5)) & set(TOKENIZER.encode("<|plamo:op|><|plamo:unk|>", parse_special=False))


def test_flags_choose_the_tokens_around_a_text() -> None:
    the = TOKENIZER.encode("the")
    assert TOKENIZER.encode("the", add_special=True) == [1, *the]
    assert make_plamo2(metadata(add_bos_token=None)).encode("the", add_special=True) == the
    both = make_plamo2(metadata(add_eos_token=True))
    assert both.encode("the", add_special=True) == [1, *the, 2]


def test_end_of_struck_html_is_text() -> None:
    """In other models, a token with this text ends a generation."""
    token = IDS["</s>"]
    assert TOKENIZER.eog == {2, 4}
    assert TOKENIZER.encode("</s>", parse_special=False) == [token]
    assert TOKENIZER.piece(token) == b"</s>"


@pytest.mark.parametrize("kind", [3, 5])  # control, unused
def test_tokens_that_text_cannot_become(kind: int) -> None:
    types = list(FIELDS["tokenizer.ggml.token_type"])
    types[IDS["the"]] = kind
    assert IDS["the"] not in make_plamo2(metadata(token_type=types)).encode("the", parse_special=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": []}, "tokenizer.ggml.tokens is empty"),
        ({"scores": None}, "the model has no tokenizer.ggml.scores"),
        ({"scores": [1.0]}, "scores has 1 entries"),
        ({"token_type": [1] * len(IDS)}, "tokenizer.ggml.tokens lacks <0x00>"),
        ({"token_type": [6] * len(IDS)}, r"token_type marks '<\|plamo:unk\|>' as a byte token"),
    ],
)
def test_invalid_metadata_is_a_model_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_plamo2(metadata(**fields))


@pytest.mark.parametrize("unit", ["the ", "z", "世", " ", "</s>"])
@pytest.mark.timeout(60)  # quadratic time would take hours
def test_long_texts_take_linear_time(unit: str) -> None:
    assert len(TOKENIZER.encode(unit * 200_000)) <= 600_000
