"""The contract test finds the message in error responses of every format, and knows which messages are legitimate."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llamafw import Problem
from llamafw.server.errors import envelope
from llamafw.testing.contract.hooks import error_messages
from llamafw_plugins.anthropic.errors import error_format as anthropic_format
from llamafw_plugins.embedding_apis.errors import cohere_format, tei_format
from llamafw_plugins.ollama.errors import error_format as ollama_format

PROBLEM = Problem(400, "it is too red", "invalid_request_error", "colours.1")


@pytest.mark.parametrize(
    "body",
    [
        envelope(PROBLEM),
        *(error_format(PROBLEM)[1] for error_format in (anthropic_format, cohere_format, ollama_format, tei_format)),
        {"detail": [{"loc": ["body"], "msg": "colours.1: it is too red"}]},
        "it is too red",
    ],
)
def test_message_is_found_in_every_format(body: Any) -> None:
    assert "it is too red" in set(error_messages(json.dumps(body).encode()))


def test_response_that_is_not_json_is_a_message() -> None:
    assert list(error_messages(b"it is too red")) == ["it is too red"]
