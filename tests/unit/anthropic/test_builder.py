"""Messages and their events, built from pieces of answers; all events are valid for Anthropic's client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from llamafw import Finish
from llamafw_plugins.anthropic.builder import MessageBuilder
from llamafw_plugins.anthropic.signatures import read_thinking
from llamafw_plugins.endpoints.answers import AnswerDelta, CallDelta

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
END = Finish("eos", n_prompt=9, n_cached=4, n_predicted=7)


def built(
    deltas: Sequence[AnswerDelta], finish: Finish = END, n_predict: int = -1, *, omits: bool = False
) -> tuple[list[Any], Message]:
    """Return the events and the message of an answer, both checked with the types of the client."""
    builder = MessageBuilder("msg_1", "m", n_predict=n_predict, omits_thinking=omits)
    events = [*builder.start(9, 4)]
    for delta in deltas:
        events += builder.add(delta)
    events += builder.end(finish)
    for event in events:
        if event["type"] != "ping":  # the client skips pings before it reads events
            EVENT.validate_python(event, strict=True)
    return events, Message.model_validate(builder.message, strict=True)


def accumulated(events: Sequence[Any]) -> list[Any]:
    """Return the blocks that a client makes of the events; indices must be consecutive."""
    blocks: list[Any] = []
    is_open = False
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append({**event["content_block"], "json": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                for name, value in event["delta"].items():
                    if name != "type":
                        name = "json" if name == "partial_json" else name
                        blocks[-1][name] += value
            case "content_block_stop":
                assert is_open
                is_open = False
    assert not is_open
    return blocks


def kinds(events: Sequence[Any]) -> list[str]:
    return [event["type"] for event in events]


def test_text_is_one_block() -> None:
    events, message = built([AnswerDelta(text="Hel"), AnswerDelta(), AnswerDelta(text="lo")])
    start, stop = ["message_start", "ping", "content_block_start"], ["content_block_stop", "message_delta"]
    assert kinds(events) == [*start, "content_block_delta", "content_block_delta", *stop, "message_stop"]
    assert events[0]["message"]["usage"]["input_tokens"] == 5
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "Hello"}]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (5, 4, 7)
    assert events[-2]["usage"] == message.usage.to_dict()


def test_thinking_text_and_calls_are_blocks_in_order() -> None:
    deltas = [
        AnswerDelta(reasoning="Hm"),
        AnswerDelta(reasoning=", yes.", text="\n"),
        AnswerDelta(text="\nLet me "),
        AnswerDelta(text="look.", calls=(CallDelta(0, "c0", "f", '{"a"'),)),
        AnswerDelta(text="\n", calls=(CallDelta(0, "c0", None, ": 1}"), CallDelta(1, "c1", "g", ""))),
        AnswerDelta(text=" \n"),
    ]
    events, message = built(deltas)
    thinking, text, first, second = accumulated(events)
    assert (thinking["thinking"], text["text"]) == ("Hm, yes.", "\n\nLet me look.")
    assert thinking["signature"]
    assert (first["name"], first["id"], first["json"]) == ("f", "c0", '{"a": 1}')
    assert (second["name"], second["json"]) == ("g", "")

    whole = [block.to_dict() for block in message.content]
    assert [block["type"] for block in whole] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole[0] == {name: thinking[name] for name in ("type", "thinking", "signature")}
    assert whole[2]["input"] == {"a": 1}
    assert whole[3]["input"] == {}
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("n_pieces", [1, 3, 50])
def test_calls_cut_into_pieces_are_whole(n_pieces: int) -> None:
    arguments = '{"text": "Zoë \\"quoted\\" \\\\ \\n", "n": [1, 2.5, null, {"deep": {}}]}'
    size = -(-len(arguments) // n_pieces)
    pieces = [arguments[i : i + size] for i in range(0, len(arguments), size)]
    calls = [CallDelta(0, "c", "f" if i == 0 else None, piece) for i, piece in enumerate(pieces)]
    events, message = built([AnswerDelta(calls=(call,)) for call in calls])
    assert accumulated(events)[0]["json"] == arguments
    (block,) = message.content
    assert block.to_dict()["input"] == {"text": 'Zoë "quoted" \\ \n', "n": [1, 2.5, None, {"deep": {}}]}


def test_a_call_that_is_cut_off_is_not_in_the_message() -> None:
    deltas = [AnswerDelta(text="a", calls=(CallDelta(0, "c", "f", '{"a": '),))]
    _, message = built(deltas, Finish("limit", n_predicted=3), n_predict=3)
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("finish", "n_predict", "reason", "sequence"),
    [
        (Finish("limit", n_predicted=5), 5, "max_tokens", None),
        (Finish("limit", n_predicted=5, truncated=True), 5, "max_tokens", None),
        (Finish("limit", n_predicted=5, truncated=True), 6, "model_context_window_exceeded", None),
        (Finish("limit", n_predicted=5, truncated=True), -1, "model_context_window_exceeded", None),
        (Finish("limit", n_predicted=0), 0, "max_tokens", None),
        (Finish("word", "END"), -1, "stop_sequence", "END"),
        (Finish("eos"), -1, "end_turn", None),
        (Finish("none"), -1, "end_turn", None),
    ],
)
def test_messages_have_stop_reasons(finish: Finish, n_predict: int, reason: str, sequence: str | None) -> None:
    events, message = built([AnswerDelta(text="a")], finish, n_predict)
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)
    assert events[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}


def test_an_empty_answer_has_no_blocks() -> None:
    events, message = built([AnswerDelta()])
    assert kinds(events) == ["message_start", "ping", "message_delta", "message_stop"]
    assert message.content == []


def test_white_space_alone_is_a_block_only_without_others() -> None:
    assert [block.to_dict() for block in built([AnswerDelta(text=" \n")])[1].content] == [
        {"type": "text", "text": " \n"}
    ]
    _, message = built([AnswerDelta(reasoning="a"), AnswerDelta(text="\n\n")])
    assert [block.type for block in message.content] == ["thinking"]


def test_omitted_thinking_travels_in_the_signature() -> None:
    events, message = built([AnswerDelta(reasoning="Sëcret"), AnswerDelta(text="Hi")], omits=True)
    assert "Sëcret" not in str(events)
    block = message.content[0].to_dict()
    assert block["thinking"] == ""
    assert read_thinking("", str(block["signature"])) == "Sëcret"


@pytest.mark.parametrize("signature", ["", "EqoBCkgIBB", "text.", "text.%%", "text./w=="])
def test_signatures_of_others_carry_no_text(signature: str) -> None:
    assert read_thinking("", signature) == ""
    assert read_thinking("kept", signature) == "kept"
