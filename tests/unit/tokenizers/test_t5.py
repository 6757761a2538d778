"""The unigram model, compared with `sentencepiece`, XLM-RoBERTa's published tokenizer and a simple implementation."""

from __future__ import annotations

import base64
import json
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers

from llamafw import ModelError
from llamafw.testing import vocabularies
from llamafw_plugins.tokenizers import make_t5

TRAINED = json.loads((Path(__file__).parent / "sentencepiece.json").read_text())
"""A model that `sentencepiece` has trained, and its tokens of some texts; see make_sentencepiece.py."""
CHARSMAP = base64.b64decode(TRAINED["charsmap"])
TEXT = st.text("theorsmdlca TOK \t\n.,…ﬁ½Ａａ\u3000é世😀", max_size=60)


def metadata(**fields: Any) -> dict[str, Any]:
    """Return the metadata of the trained model; None removes a field."""
    defaults: dict[str, Any] = {
        "tokens": TRAINED["tokens"],
        "scores": np.array(TRAINED["scores"], np.float32),
        "token_type": np.array(TRAINED["types"], np.int32),
        "precompiled_charsmap": np.frombuffer(CHARSMAP, np.int8),
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in (defaults | fields).items() if value is not None}


def published() -> Library:
    """Return a tokenizer built like the tokenizer.json of XLM-RoBERTa and T5."""
    scores = np.array(TRAINED["scores"], np.float32).astype(float)
    library = Library(models.Unigram(list(zip(TRAINED["tokens"], scores, strict=True)), unk_id=0, byte_fallback=False))
    library.normalizer = normalizers.Precompiled(CHARSMAP)
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return library


TOKENIZER, PUBLISHED = make_t5(metadata()), published()


def test_text_becomes_the_tokens_of_sentencepiece() -> None:
    assert len(TRAINED["vectors"]) > 10
    for text, tokens in TRAINED["vectors"]:
        assert TOKENIZER.encode(text, parse_special=False) == tokens, text


@given(TEXT)
def test_text_becomes_the_tokens_of_the_published_tokenizer(text: str) -> None:
    assert TOKENIZER.encode(text, parse_special=False) == PUBLISHED.encode(text).ids


@given(st.text("▁theroni ~世 ", max_size=24))
def test_tokens_have_the_highest_sum_of_scores(text: str) -> None:
    fields = vocabularies.unigram()
    tokens, scores = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"]
    words = " ".join(text.replace("▁", " ").split())
    plain = f"▁{words}".replace(" ", "▁") if words else ""
    unknown = min(scores[4:]) - 10

    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for end in range(1, len(plain) + 1):
        candidates = [(-inf, [-1])]
        for start in range(end):
            part = plain[start:end]
            token = tokens.index(part) if part in tokens else 3 if end - start == 1 else None
            if token is not None:
                score = best[start][0] + (unknown if token == 3 else scores[token])
                candidates.append((score, [*best[start][1], token]))
        best.append(max(candidates, key=lambda candidate: candidate[0]))

    def total(ids: list[int]) -> float:
        return float(sum(unknown if token == 3 else scores[token] for token in ids))

    expected = [token for i, token in enumerate(best[-1][1]) if token != 3 or best[-1][1][i - 1 : i] != [3]]
    encoded = make_t5(fields).encode(text.replace("▁", " "), parse_special=False)
    assert total(encoded) == pytest.approx(total(expected))
    assert "".join(tokens[token] for token in encoded) == "".join(tokens[token] for token in expected)


def test_special_tokens_are_parsed_on_request() -> None:
    the = TOKENIZER.encode("the")
    assert TOKENIZER.encode("the</s>the") == [*the, 2, *the]
    assert not {0, 1, 2} & set(TOKENIZER.encode("<s> </s> <unk>", parse_special=False)) - {0}
    names = [TRAINED["tokens"][token] for token in TOKENIZER.encode("<unk>", parse_special=False)]
    assert len(names) > 1  # the name of the unknown token is plain text, too


def test_flags_choose_the_tokens_around_a_text() -> None:
    the = TOKENIZER.encode("the")
    assert TOKENIZER.encode("the", add_special=True) == [*the, 2]
    roberta = make_t5(vocabularies.unigram())
    assert roberta.encode("the", add_special=True) == [0, *roberta.encode("the"), 2]


@pytest.mark.parametrize(
    ("flags", "text", "pieces"),
    [
        ({"remove_extra_whitespaces": True}, "  a  b ", "▁a▁b"),
        ({"remove_extra_whitespaces": False, "add_space_prefix": True}, "  a  b ", "▁▁▁a▁▁b▁"),
        ({"remove_extra_whitespaces": False, "add_space_prefix": False}, " a b", "▁a▁b"),
        ({"remove_extra_whitespaces": False, "add_space_prefix": False}, "a b", "a▁b"),
    ],
)
def test_flags_choose_what_happens_to_spaces(flags: dict[str, bool], text: str, pieces: str) -> None:
    tokens = make_t5(metadata(**flags)).encode(text)
    assert "".join(TRAINED["tokens"][token] for token in tokens) == pieces


def test_tokens_may_cross_words() -> None:
    fields = metadata()
    tokens, scores = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.scores"]
    types = fields["tokenizer.ggml.token_type"]
    crossing = make_t5(
        metadata(tokens=[*tokens, "▁a▁b"], scores=np.append(scores, -0.1), token_type=np.append(types, 1))
    )
    assert crossing.encode("a b") == [len(tokens)]


def test_decoding_removes_the_first_space() -> None:
    tokens = TOKENIZER.encode(" Hello   world ", add_special=True)
    assert TOKENIZER.decode(tokens) == "Hello world"
    assert TOKENIZER.decode(tokens, special=True) == "Hello world</s>"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": []}, "tokenizer.ggml.tokens is empty"),
        ({"scores": None}, "the model has no tokenizer.ggml.scores"),
        ({"scores": np.full(300, np.nan)}, "scores has 300 entries that are not finite"),
        ({"unknown_token_id": 400}, "unknown_token_id is 400, but tokens are numbered 0 to 299"),
        ({"precompiled_charsmap": "x"}, "precompiled_charsmap is not a table of characters"),
        ({"precompiled_charsmap": np.array([1, 2, 3], np.int8)}, "precompiled_charsmap is not a table of characters"),
    ],
)
def test_invalid_metadata_is_a_model_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_t5(metadata(**fields))


@pytest.mark.parametrize("unit", ["the ", "a", "!", "世", "é", "\u0301", " ", "▁", "</s>"])
@pytest.mark.timeout(60)  # quadratic time would take hours
def test_long_texts_take_linear_time(unit: str) -> None:
    assert len(TOKENIZER.encode(unit * 200_000)) <= 600_001
