"""Build a message and the events of its stream from the pieces of an answer.

Independent of HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator

from llamafw import Finish
from llamafw_plugins.anthropic.signatures import make_signature
from llamafw_plugins.endpoints.answers import AnswerDelta, CallDelta, read_call_arguments
from llamafw_plugins.endpoints.openai_response import is_cut
from llamafw_plugins.endpoints.response_json import JSON


class MessageBuilder:
    """Builds one message.

    Parameters
    ----------
    id, model : str
        Members of the message.
    n_predict : int
        Maximum number of new tokens; negative: no limit.
    omits_thinking : bool
        Whether the client gets thinking blocks without their text.
    """

    def __init__(self, id: str, model: str, *, n_predict: int, omits_thinking: bool = False) -> None:
        self.message: JSON = {
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._n_predict, self._omits_thinking = n_predict, omits_thinking
        self._block: JSON | None = None  # the block that is being written
        self._index = -1  # of this block among all blocks
        self._written = ""  # the thinking, or the arguments of the call, in this block
        self._held = ""  # white space that may begin a block of text

    def start(self, n_prompt: int, n_cached: int) -> Iterator[JSON]:
        """Yield the events before the answer."""
        message = {**self.message, "content": [], "usage": usage_json(n_prompt, n_cached)}
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}

    def add(self, answer: AnswerDelta) -> Iterator[JSON]:
        """Yield the events of the next piece of the answer."""
        if answer.reasoning:
            yield from self._add_thinking(answer.reasoning)
        if answer.text:
            yield from self._add_text(answer.text)
        for call in answer.calls:
            yield from self._add_call(call)

    def end(self, finish: Finish) -> Iterator[JSON]:
        """Yield the events after the answer; then `message` is complete."""
        if self._held and self._index < 0:  # the whole answer is white space
            yield from self._open({"type": "text", "text": ""})
            yield from self._write_text()
        yield from self._close()

        message = self.message
        message["stop_reason"] = self._stop_reason(finish)
        if message["stop_reason"] == "stop_sequence":
            message["stop_sequence"] = finish.stopping_word
        message["usage"] = usage_json(finish.n_prompt, finish.n_cached, finish.n_predicted, finish.n_reasoning)
        delta = {name: message[name] for name in ("stop_reason", "stop_sequence")}
        yield {"type": "message_delta", "delta": delta, "usage": message["usage"]}
        yield {"type": "message_stop"}

    def _add_thinking(self, text: str) -> Iterator[JSON]:
        if self._block is None or self._block["type"] != "thinking":
            yield from self._open({"type": "thinking", "thinking": "", "signature": ""})
        self._written += text
        if not self._omits_thinking:
            yield self._delta({"type": "thinking_delta", "thinking": text})

    def _add_text(self, text: str) -> Iterator[JSON]:
        """Add text; white space between two other blocks is not a block of its own."""
        self._held += text
        if self._block is None or self._block["type"] != "text":
            if not self._held.strip():
                return
            yield from self._open({"type": "text", "text": ""}, keeps_held=True)
        yield from self._write_text()

    def _write_text(self) -> Iterator[JSON]:
        assert self._block is not None  # opened by the caller
        text, self._held = self._held, ""
        self._block["text"] += text
        yield self._delta({"type": "text_delta", "text": text})

    def _add_call(self, call: CallDelta) -> Iterator[JSON]:
        if call.name is not None:
            yield from self._open({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        if call.arguments:
            self._written += call.arguments
            yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})

    def _open(self, block: JSON, *, keeps_held: bool = False) -> Iterator[JSON]:
        yield from self._close()
        self._block, self._written = block, ""
        self._held = self._held if keeps_held or block["type"] == "text" else ""
        self._index += 1
        yield {"type": "content_block_start", "index": self._index, "content_block": dict(block)}

    def _close(self) -> Iterator[JSON]:
        """Complete the block that is being written.

        A call that was cut off is not part of the message: its input is incomplete.
        """
        block, self._block = self._block, None
        if block is None:
            return
        if block["type"] == "thinking":
            block["thinking"] = "" if self._omits_thinking else self._written
            block["signature"] = make_signature(self._written, is_omitted=self._omits_thinking)
            yield self._delta({"type": "signature_delta", "signature": block["signature"]})
        yield {"type": "content_block_stop", "index": self._index}

        if block["type"] != "tool_use":
            self.message["content"].append(block)
        elif (arguments := read_call_arguments(self._written)) is not None:
            self.message["content"].append({**block, "input": arguments})

    def _delta(self, delta: JSON) -> JSON:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _stop_reason(self, finish: Finish) -> str:
        if finish.stop_type == "word":
            return "stop_sequence"
        if is_cut(finish):
            has_room = not 0 <= self._n_predict <= finish.n_predicted
            return "model_context_window_exceeded" if has_room and finish.truncated else "max_tokens"
        has_calls = any(block["type"] == "tool_use" for block in self.message["content"])
        return "tool_use" if has_calls else "end_turn"


def usage_json(n_prompt: int, n_cached: int, n_predicted: int = 0, n_reasoning: int = 0) -> JSON:
    """Return Anthropic's ``usage``, in which ``input_tokens`` are those that were not cached."""
    return {
        "input_tokens": n_prompt - n_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": n_cached,
        "output_tokens": n_predicted,
        "output_tokens_details": {"thinking_tokens": n_reasoning},
    }
