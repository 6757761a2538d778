"""JSON bodies with lone surrogates, which JavaScript's strings may have."""

from __future__ import annotations

import json

import orjson
import pytest

from llamafw.server.validation import read_json


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (rb'"a\ud83d"', "a\ufffd"),
        (rb'"\uDE00b"', "\ufffdb"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd😀"),
        (rb'"\ud83d\ude00\ude00"', "😀\ufffd"),
        (rb'"\\ud83d"', "\\ud83d"),
        (rb'"\\\ud83d"', "\\\ufffd"),
        (rb'{"\ud83d": ["\ud83dx"]}', {"\ufffd": ["\ufffdx"]}),
        (rb'"\n\u00e9"', "\né"),
    ],
)
def test_lone_surrogates_are_replaced(raw: bytes, value: object) -> None:
    assert read_json(raw) == value


@pytest.mark.parametrize("raw", [b"{", rb'"\ud83', rb'"\ud83d', rb'"\ud83d" x', rb'"\ud83\"', rb'{"a": \ud83d}'])
def test_invalid_json_stays_invalid(raw: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        read_json(raw)
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw)
