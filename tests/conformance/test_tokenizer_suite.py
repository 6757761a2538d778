"""The suite for tokenizers names the rule that a tokenizer breaks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from llamafw.testing import vocabularies
from llamafw.testing.conformance import TokenizerConformance
from llamafw_plugins.tokenizers import make_gpt2
from support.conformance import assert_fails, suite


def tokenizer(**members: Any) -> Any:
    def make(metadata: Any) -> Any:
        made: Any = make_gpt2(metadata)
        made.__class__ = type("Broken", (type(made),), members)
        return made

    return suite(TokenizerConformance, make, name="gpt2")


def tokenizer_with_encode(change: Callable[[Any, str, dict[str, Any]], Any]) -> Any:
    """Return the suite for a tokenizer whose ``encode`` is ``change(correct_encode, text, options)``."""
    encode = type(make_gpt2(vocabularies.gpt2())).encode
    return tokenizer(encode=lambda self, text, **options: change(partial(encode, self), text, options))


@pytest.mark.parametrize(
    ("made", "test", "message"),
    [
        (
            tokenizer_with_encode(lambda encode, text, options: encode(text.strip(), **options)),
            "text_survives_a_round_trip",
            "becomes",
        ),
        (
            tokenizer_with_encode(lambda encode, text, options: [*encode(text, **options), 9999]),
            "text_survives_a_round_trip",
            "contains 9999, which is not one of the",
        ),
        (
            tokenizer_with_encode(lambda encode, text, options: encode(text)),
            "text_cannot_forge_special_tokens",
            "became the special token 0",
        ),
        (
            tokenizer_with_encode(
                lambda encode, text, options: encode(text.encode("utf-8", "replace").decode(), **options)
            ),
            "invalid_text_and_tokens_are_request_errors",
            "DID NOT RAISE",
        ),
        (
            tokenizer(decode=lambda self, tokens, special=False: "x"),
            "pieces_join_to_the_decoded_text",
            "pieces '', decode 'x'",
        ),
        (
            tokenizer(eog=property(lambda self: frozenset({9999}))),
            "special_token_ids_are_valid",
            r"eog is \[9999\]",
        ),
    ],
)
def test_broken_rule_is_reported(made: Any, test: str, message: str) -> None:
    assert_fails(getattr(made, f"test_{test}"), message)
