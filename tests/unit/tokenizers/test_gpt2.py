"""Byte-level BPE on small vocabularies, compared with a simple implementation."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import ModelError, RequestError
from llamafw.testing import vocabularies
from llamafw_plugins.tokenizers import make_gpt2
from llamafw_plugins.tokenizers.pre_tokenizers import PRE_TOKENIZERS

BYTES = vocabularies.byte_level_alphabet()


def metadata(merges: list[str], /, *control: str, **fields: Any) -> dict[str, Any]:
    """Return metadata with 256 byte tokens, one token per merge, and ``control`` tokens; None removes a field."""
    tokens = [*BYTES, *dict.fromkeys(merge.replace(" ", "") for merge in merges), *control]
    defaults: dict[str, Any] = {"pre": "gpt-2", "tokens": tokens, "merges": merges}
    defaults["token_type"] = np.array([1] * (len(tokens) - len(control)) + [3] * len(control), np.int32)
    return {f"tokenizer.ggml.{name}": value for name, value in (defaults | fields).items() if value is not None}


def merge_simply(word: str, merges: list[str]) -> list[str]:
    """Apply the first possible merge, at its leftmost position, until none is possible.

    This is simple, but takes O(n²) steps.
    """
    symbols = list(word)
    while True:
        candidates = [
            (merges.index(f"{a} {b}"), i)
            for i, (a, b) in enumerate(zip(symbols, symbols[1:], strict=False))
            if f"{a} {b}" in merges
        ]
        if not candidates:
            return symbols
        i = min(candidates)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


@st.composite
def random_merges(draw: st.DrawFn) -> list[str]:
    known, merges = ["a", "b", "c"], []
    for _ in range(draw(st.integers(0, 12))):
        left, right = draw(st.sampled_from(known)), draw(st.sampled_from(known))
        merges.append(f"{left} {right}")
        known.append(left + right)
    return list(dict.fromkeys(merges))


@given(merges=random_merges(), word=st.text("abc", max_size=20))
def test_merges_equal_a_simple_implementation(merges: list[str], word: str) -> None:
    fields = metadata(merges)
    tokens = fields["tokenizer.ggml.tokens"]
    assert [tokens[token] for token in make_gpt2(fields).encode(word)] == merge_simply(word, merges)


def test_a_repeated_merge_keeps_its_first_rank() -> None:
    tokenizer = make_gpt2(metadata(["a b", "b c", "a b"]))
    assert tokenizer.encode("abc") == [256, BYTES.index("c")]


def test_ignore_merges_encodes_a_whole_word_as_its_token() -> None:
    fields = metadata(["a b", "b c"], token_type=None)
    fields["tokenizer.ggml.tokens"].append("abc")
    assert make_gpt2(fields).encode("abc") == [256, BYTES.index("c")]
    assert make_gpt2(fields | {"tokenizer.ggml.pre": "glm4"}).encode("abc") == [258]


def test_plain_text_is_not_merged_into_a_control_token() -> None:
    fields = metadata(["s y", "sy s"], eos_token_id=257)
    fields["tokenizer.ggml.token_type"][257] = 3
    tokenizer = make_gpt2(fields)
    assert tokenizer.encode("sys", parse_special=False) == [256, BYTES.index("s")]
    assert tokenizer.encode("sys") == [257]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_decode_reverses_encode(text: str) -> None:
    tokens = TINY.encode(text, parse_special=False)
    assert all(2 < token < TINY.n_vocab for token in tokens)
    assert TINY.decode(tokens) == text
    assert b"".join(map(TINY.piece, tokens)) == text.encode()


TINY = make_gpt2(vocabularies.gpt2())


def test_special_tokens_are_parsed_and_rendered_on_request() -> None:
    assert TINY.encode("<|im_start|>") == [1]
    assert not {0, 1, 2} & set(TINY.encode("<|im_start|><|im_end|><|endoftext|>", parse_special=False))
    assert TINY.piece(2) == b""
    assert TINY.piece(2, special=True) == b"<|im_end|>"
    assert TINY.eog == {0, 2}


def test_a_long_text_with_many_special_tokens_is_encoded() -> None:
    text = "<|im_start|>user\nthe inn<|im_end|>\n" * 500
    tokens = TINY.encode("<|im_start|>user\nthe inn<|im_end|>\n")
    assert TINY.encode(text) == tokens * 500


def test_user_defined_tokens_are_always_parsed() -> None:
    tokenizer = make_gpt2(metadata([], "  ", token_type=[1] * 256 + [4]))
    assert tokenizer.encode("a  b", parse_special=False) == [BYTES.index("a"), 256, BYTES.index("b")]
    assert tokenizer.piece(256) == b"  "


@pytest.mark.parametrize(("bos", "eos", "tokens"), [(False, False, []), (True, False, [256]), (True, True, [256, 257])])
def test_bos_and_eos_are_added_with_add_special(bos: bool, eos: bool, tokens: list[int]) -> None:
    fields = metadata([], "<s>", "</s>", bos_token_id=256, eos_token_id=257, add_bos_token=bos, add_eos_token=eos)
    assert make_gpt2(fields).encode("", add_special=True) == tokens
    assert make_gpt2(fields).encode("") == []


def test_byte_unused_and_empty_tokens_have_the_right_pieces() -> None:
    tokenizer = make_gpt2(metadata([], "<0x0A>", "[PAD1]", "", token_type=[1] * 256 + [6, 5, 1]))
    assert [tokenizer.piece(token, special=True) for token in (256, 257, 258)] == [b"\n", b"", b""]


def test_a_token_that_is_not_utf8_is_decoded_but_not_merged() -> None:
    """The reader of GGUF files turns invalid bytes into lone surrogates."""
    tokenizer = make_gpt2(metadata([], "\udcff", token_type=[1] * 257))
    assert tokenizer.piece(256) == b"\xff"
    assert tokenizer.decode([256, BYTES.index("a")]) == "\ufffda"
    assert tokenizer.encode("ÿ") == [0xC3, 0xBF]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_a_lone_surrogate_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="lone surrogate, U\\+D"):
        TINY.encode(text)


@pytest.mark.parametrize("token", [-1, TINY.n_vocab, 2**40])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(RequestError, match=f"token {token} is not in the vocabulary") as error:
        TINY.decode([3, token])
    assert error.value.param == "tokens"


def test_a_panic_of_the_library_only_fails_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRE_TOKENIZERS, "slow", replace(PRE_TOKENIZERS["gpt-2"], patterns=(r"(?:a|a)+$",)))
    tokenizer = make_gpt2(metadata([], pre="slow"))
    with pytest.raises(RequestError, match="too long to be split"):
        tokenizer.encode("a" * 30 + "b")
    assert tokenizer.encode("aab") == [BYTES.index("a")] * 2 + [BYTES.index("b")]


@pytest.mark.parametrize("pre", ["no-such", None])
def test_an_unknown_pre_tokenizer_is_replaced_by_the_default(pre: str | None, caplog: pytest.LogCaptureFixture) -> None:
    fields = metadata(["1 2"], pre=pre)
    with caplog.at_level(logging.WARNING):
        tokenizer = make_gpt2(fields)
    assert "tokenizer.ggml.pre" in caplog.text
    assert tokenizer.encode("12$12") == make_gpt2(fields | {"tokenizer.ggml.pre": "default"}).encode("12$12")


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"tokens": None}, "tokens"),
        ({"tokens": []}, "tokens"),
        ({"tokens": "abc"}, "tokens"),
        ({"tokens": [1, 2]}, "tokens"),
        ({"tokens": [*BYTES, "aa", "aa"], "token_type": None}, "tokens"),
        ({"tokens": [*BYTES, "\ud800"], "token_type": None}, "tokens"),
        ({"merges": None}, "merges"),
        ({"merges": ["ab"]}, "merges"),
        ({"merges": ["a zz"]}, "merges"),
        ({"merges": [""]}, "merges"),
        ({"token_type": [1] * 255}, "token_type"),
        ({"token_type": "normal"}, "token_type"),
        ({"token_type": np.ones(256, np.float32)}, "token_type"),
        ({"token_type": [[1], [1, 2]]}, "token_type"),
        ({"token_type": [1] * 255 + [6]}, "token_type"),
        ({"pre": 3}, "pre"),
        ({"bos_token_id": 256}, "bos_token_id"),
        ({"eos_token_id": -1}, "eos_token_id"),
        ({"eot_token_id": "x"}, "eot_token_id"),
        ({"eom_token_id": True}, "eom_token_id"),
        ({"add_bos_token": True}, "bos_token_id"),
        ({"add_eos_token": 1}, "add_eos_token"),
        ({"pre": "llama-bpe"}, "bos_token_id"),
    ],
)
def test_errors_in_metadata_name_the_key(fields: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError, match=f"tokenizer.ggml.{key}"):
        make_gpt2(metadata([], **fields))


def end_texts(*texts: str, **fields: Any) -> set[str]:
    tokenizer = make_gpt2(metadata([], *texts, **fields))
    return {tokenizer.piece(token, special=True).decode() for token in tokenizer.eog}


def test_end_of_generation_tokens_come_from_keys_and_texts() -> None:
    assert end_texts("[EOT]", "<x>", "<y>", "<z>", eos_token_id=257, eom_token_id=258) == {"[EOT]", "<x>", "<y>"}
    assert end_texts("<|fim_pad|>", "<|file_sep|>", "<|fim_prefix|>") == {"<|fim_pad|>", "<|file_sep|>"}
    assert end_texts("<|fim_pad|>", "<x>", fim_pad_token_id=257) == {"<x>"}
    assert end_texts("<|end|>") == {"<|end|>"}
    assert end_texts("<|end|>", "<|return|>", "<|call|>") == {"<|return|>", "<|call|>"}


def test_channel_tokens_of_gpt_oss_are_rendered_but_not_parsed() -> None:
    tokenizer = make_gpt2(metadata([], "<|channel|>", "<|message|>"))
    assert tokenizer.decode([256, 257]) == "<|channel|><|message|>"
    assert tokenizer.encode("<|channel|>") == [256]
    assert 256 not in tokenizer.encode("<|channel|>", parse_special=False)


def test_a_control_token_marked_as_normal_is_recognised() -> None:
    tokenizer = make_gpt2(metadata([], "<|im_end|>", token_type=[1] * 257))
    assert tokenizer.piece(256) == b""
    assert tokenizer.encode("<|im_end|>") == [256]
