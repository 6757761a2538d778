"""The rules for chat formats: a prompt contains all messages in order, or rendering it is a RequestError."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from llamafw.errors import RequestError
from llamafw.interfaces import ChatContext, ChatFormat
from llamafw.testing.conformance.base import ProtocolConformance

Messages = Sequence[dict[str, Any]]
CONVERSATIONS: dict[str, Messages] = {
    "a question": [{"role": "user", "content": "How are you?"}],
    "a system message": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you?"}],
    "several turns": [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ],
    "text that looks like a template": [{"role": "user", "content": "{{ 7 * 191 }} {% raw %} {# x #} ${y} %s {0}"}],
    "text with many kinds of characters": [{"role": "user", "content": "é 世界 😀 <b>&amp;</b> \"'\\ a\tb"}],
    "a long text": [{"role": "user", "content": "word " * 5000 + "end"}],
}
UNUSUAL: dict[str, Any] = {
    "no messages": [],
    "an unknown role": [{"role": "wizard", "content": "x"}],
    "a message without content": [{"role": "user", "content": None}],
    "an assistant first": [{"role": "assistant", "content": "x"}],
    "two users in a row": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}],
    "a tool call": [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ],
}
MIN_CONVERSATIONS = 3  # a format may reject some of the conversations above, but not most of them


class ChatFormatConformance(ProtocolConformance):
    """Subclass it and give the ``name``."""

    kind = "chat_format"

    def test_messages_are_in_the_prompt_in_order(self) -> None:
        """The text of every message is in the prompt, unchanged and in order."""
        for conversation, messages, prompt in self.prompts():
            start = 0
            for message in messages:
                text = message["content"].strip()
                position = prompt.find(text, start)
                assert position >= 0, (
                    f"{conversation}: {text!r:.60} is not in the prompt, or in the wrong place: {prompt!r:.300}"
                )
                start = position + len(text)

    def test_generation_prompt_is_appended(self) -> None:
        """With ``add_generation_prompt`` the prompt begins with the prompt without it."""
        made = self.make()
        for conversation, messages, prompt in self.prompts():
            without = made.render(messages, add_generation_prompt=False)
            assert prompt.startswith(without.rstrip()), (
                f"{conversation}: {prompt!r:.300} does not begin with {without!r:.300}"
            )

    def test_threads_get_equal_prompts(self) -> None:
        """Several threads that render the same messages get the same prompt."""
        made = self.make()
        for conversation, messages, prompt in self.prompts():
            with ThreadPoolExecutor(4) as pool:
                prompts = list(pool.map(lambda _, messages=messages: made.render(messages), range(8)))
            assert prompts == [prompt] * 8, f"{conversation}: prompts differ between threads"

    def test_messages_are_not_changed(self) -> None:
        """`render` does not change the messages."""
        for _, messages, _ in self.prompts():
            copies = [dict(message) for message in messages]
            self.make().render(copies)
            assert copies == list(messages), "render has changed the messages"

    def test_unusual_messages_are_rendered_or_request_errors(self) -> None:
        """Messages that the format cannot render are a RequestError."""
        for conversation, messages in UNUSUAL.items():
            try:
                prompt = self.make().render(messages)
            except RequestError:
                continue
            except Exception as error:
                raise AssertionError(f"{conversation} raises {error!r}, not RequestError") from error
            assert isinstance(prompt, str), f"{conversation}: the prompt is {prompt!r:.60}, expected str"

    def test_unknown_variables_are_ignored(self) -> None:
        """Template variables that the format does not know do not change the prompt."""
        messages = CONVERSATIONS["a question"]
        prompt = self.make().render(messages, unknown_variable=[1, {"a": None}])
        assert prompt == self.make().render(messages), "an unknown variable has changed the prompt"

    def test_source_is_text(self) -> None:
        """`source` is a text that is not empty; `GET /props` shows it."""
        source = self.make().source
        assert isinstance(source, str), f"`source` is {source!r:.60}, expected str"
        assert source, "`source` is empty; set it to the name of the format, for example"

    async def test_server_uses_it(self, serve: Any) -> None:
        """A server with ``--chat-template NAME`` renders and answers a conversation."""
        async with serve(plugin=self.plugins, chat_template=self.name) as client:
            body = {"messages": CONVERSATIONS["a question"]}
            prompt = (await client.post("/apply-template", json=body)).json()["prompt"]
            assert "How are you?" in prompt, f"POST /apply-template answers {prompt!r:.300}"
            answer = await client.post("/v1/chat/completions", json={**body, "max_tokens": 4})
            assert answer.status_code == 200, answer.text

    # --- helpers

    def implementations(self, tiny_model: Path) -> Iterator[tuple[type, Any]]:
        """Yield the chat format."""
        yield ChatFormat, self.make()

    def make(self) -> ChatFormat:
        """Create the chat format."""
        made: ChatFormat = self.registered()(ChatContext(bos_token="<s>", eos_token="</s>"))
        return made

    def prompts(self) -> list[tuple[str, Messages, str]]:
        """Return the conversations that the format accepts: name, messages and prompt.

        Fail if they are too few.
        """
        prompts = []
        for conversation, messages in CONVERSATIONS.items():
            try:
                prompts.append((conversation, messages, self.make().render(messages)))
            except RequestError:  # not every format has system messages, for example
                continue
        assert len(prompts) >= MIN_CONVERSATIONS, (
            f"the format rejects {len(CONVERSATIONS) - len(prompts)} of {len(CONVERSATIONS)} ordinary conversations"
        )
        return prompts
