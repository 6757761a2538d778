"""SentencePiece BPE on small vocabularies, compared with a simple implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import ModelError, RequestError
from llamafw.testing import vocabularies
from llamafw_plugins.tokenizers import make_llama

BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
FIRST = 3 + 256  # the first token that is neither a special token nor a byte token


def metadata(pieces: dict[str, float], **fields: Any) -> dict[str, Any]:
    """Return metadata with <unk>, <s>, </s>, 256 byte tokens, and ``pieces`` with scores; None removes a field."""
    defaults = {
        "tokens": ["<unk>", "<s>", "</s>", *BYTE_TOKENS, *pieces],
        "scores": np.array([0.0] * FIRST + list(pieces.values()), np.float32),
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "add_space_prefix": False,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (defaults | fields).items() if value is not None}


def merge_simply(text: str, pieces: dict[str, float]) -> list[str]:
    """Merge the leftmost neighbours with the highest score until none are left.

    This is simple, but takes O(n²) steps.
    """
    symbols = list(text)
    while True:
        neighbours = [a + b for a, b in zip(symbols, symbols[1:], strict=False)]
        candidates = [(-pieces[pair], i) for i, pair in enumerate(neighbours) if pair in pieces]
        if not candidates:
            break
        i = min(candidates)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]

    tokens: list[str] = []
    for symbol in symbols:
        tokens += [symbol] if symbol in pieces else [f"<0x{byte:02X}>" for byte in symbol.encode()]
    return tokens


PIECES = st.dictionaries(st.text("ab▁é", min_size=1, max_size=5), st.integers(-4, 0).map(float), max_size=25)


@given(pieces=PIECES, text=st.text("ab é😀", max_size=30))
def test_merges_equal_a_simple_implementation(pieces: dict[str, float], text: str) -> None:
    fields = metadata(pieces)
    texts = fields["tokenizer.ggml.tokens"]
    assert [texts[token] for token in make_llama(fields).encode(text)] == merge_simply(text.replace(" ", "▁"), pieces)


@given(pieces=PIECES, text=st.text("ab▁", min_size=65, max_size=200))
def test_merges_of_long_words_equal_a_simple_implementation(pieces: dict[str, float], text: str) -> None:
    pieces |= {"ab": -1.0, "ba": -1.0, "aa": -2.0, "bb": -2.0}
    fields = metadata(pieces)
    texts = fields["tokenizer.ggml.tokens"]
    assert [texts[token] for token in make_llama(fields).encode(text)] == merge_simply(text, pieces)


def test_without_scores_the_leftmost_pair_is_merged_first() -> None:
    tokenizer = make_llama(metadata({"a": 0, "b": 0, "ab": -9, "ba": 0}, scores=None))
    assert tokenizer.encode("aba") == [FIRST + 2, FIRST]


@pytest.mark.parametrize("text", ["<unk>", "<s>", "</s>", "<0x41>"])
def test_plain_text_is_not_merged_into_a_special_token(text: str) -> None:
    steps = {text[:n]: 0.0 for n in range(1, len(text))} | dict.fromkeys(text, 0.0)
    tokenizer = make_llama(metadata(steps))
    tokens = tokenizer.encode(text, parse_special=False)
    assert min(tokens) >= FIRST
    assert tokenizer.decode(tokens) == text


TINY = make_llama(vocabularies.spm())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decode_reverses_encode(text: str) -> None:
    """Only "▁" does not survive: it becomes the space that it stands for."""
    tokens = TINY.encode(text, parse_special=False)
    assert all(4 < token < TINY.n_vocab for token in tokens)
    plain = text.replace("▁", " ")
    assert TINY.decode(tokens) == plain
    assert TINY.decode(TINY.encode(text, add_special=True, parse_special=False)) == plain
    assert b"".join(map(TINY.piece, tokens)) == (" " + plain if plain else "").encode()


def test_a_space_is_added_before_text_and_removed_by_decode() -> None:
    the, space = TINY.encode("the"), TINY.encode("")
    assert [TINY.piece(token) for token in the] == [b" the"]
    assert space == []
    # As in llama.cpp, text after every special token gets a space.
    assert TINY.encode("<|im_start|>the<|im_end|>the") == [3, *the, 4, *the]
    assert TINY.decode([*the, *the]) == "the the"
    assert TINY.decode([1, *the]) == "the"
    assert TINY.decode([1, *the], special=True) == "<s> the"
    assert TINY.decode([]) == ""
    bare = make_llama(vocabularies.spm() | {"tokenizer.ggml.add_space_prefix": False})
    assert [bare.piece(token) for token in bare.encode("the")] == [b"the"]
    assert bare.decode(the) == " the"


def test_special_tokens_are_parsed_and_rendered_on_request() -> None:
    assert (TINY.bos, TINY.eos, TINY.eog) == (1, 2, frozenset({2, 4}))
    assert TINY.encode("", add_special=True) == [1]
    assert TINY.encode("<s>") == [1]
    assert TINY.piece(1) == b""
    assert TINY.piece(1, special=True) == b"<s>"


def test_user_defined_tokens_are_always_parsed_and_rendered() -> None:
    tokenizer = make_llama(metadata({"a": 0, "▁x": 0}, token_type=[2, 3, 3] + [6] * 256 + [1, 4]))
    assert tokenizer.encode("a▁xa", parse_special=False) == [FIRST, FIRST + 1, FIRST]
    assert tokenizer.piece(FIRST + 1) == "▁x".encode()


def test_missing_bos_and_eos_ids_have_defaults() -> None:
    tokenizer = make_llama(metadata({"a": 0}))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.add_bos) == (1, 2, True)


def test_bytes_without_a_token_become_the_unknown_token() -> None:
    fields = metadata({"a": 0, "b": 0})
    fields["tokenizer.ggml.tokens"][3 + 0xC3] = "other"
    fields["tokenizer.ggml.token_type"][3 + 0xC3] = 1
    assert make_llama(fields).encode("aé") == [FIRST, 0, 3 + 0xA9]


def test_incomplete_utf8_is_decoded_as_a_replacement_character() -> None:
    assert TINY.decode([5 + 0xE4, 5 + 0xBD]) == "\ufffd"
    assert TINY.decode([5 + 0xE4, 5 + 0xBD, 5 + 0xA0]) == "你"
    assert TINY.piece(5 + 0xE4) == b"\xe4"


def test_nul_characters_are_kept() -> None:
    assert TINY.decode(TINY.encode("a\0b")) == "a\0b"


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(RequestError, match="lone surrogate, U\\+DC80, at character 1"):
        TINY.encode("a\udc80")


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"tokens": None}, "tokens"),
        ({"scores": [0.0]}, "scores"),
        ({"scores": "high"}, "scores"),
        ({"scores": [float("nan")] * (FIRST + 1)}, "scores"),
        ({"token_type": [1]}, "token_type"),
        ({"token_type": [6] * (FIRST + 1)}, "token_type"),
        ({"unknown_token_id": FIRST + 1}, "unknown_token_id"),
        ({"add_space_prefix": "no"}, "add_space_prefix"),
    ],
)
def test_errors_in_metadata_name_the_key(fields: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError, match=f"tokenizer.ggml.{key}"):
        make_llama(metadata({"a": 0.0}, **fields))
