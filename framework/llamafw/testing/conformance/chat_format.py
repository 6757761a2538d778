"""What every chat format keeps: messages are in the prompt, in order, as they are; what it cannot write it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llamafw.errors import RequestError
from llamafw.interfaces import ChatContext, ChatFormat
from llamafw.testing.conformance.base import Conformance

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
    "text of many kinds": [{"role": "user", "content": "é 世界 😀 <b>&amp;</b> \"'\\ a\tb"}],
    "a long text": [{"role": "user", "content": "word " * 5000 + "end"}],
}
ODD: dict[str, Any] = {
    "no messages": [],
    "an unknown role": [{"role": "wizard", "content": "x"}],
    "a message without content": [{"role": "user", "content": None}],
    "an assistant first": [{"role": "assistant", "content": "x"}],
    "two users": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}],
    "a call": [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "tool_call_id": "a", "content": "1"},
    ],
}


class ChatFormatConformance(Conformance):
    """Subclass it, and give the ``name``."""

    kind = "chat_format"

    def test_messages_are_in_the_prompt_in_order(self) -> None:
        for what, messages, prompt in self.prompts():
            at = 0
            for message in messages:
                text = message["content"].strip()
                found = prompt.find(text, at)
                assert found >= 0, f"{what}: {text!r:.60} is not in the prompt, or not in its place: {prompt!r:.300}"
                at = found + len(text)
        assert len(list(self.prompts())) >= 3, "it refuses most conversations"

    def test_a_prompt_for_an_answer_goes_on_from_one_without(self) -> None:
        made = self.make()
        for what, messages, prompt in self.prompts():
            without = made.render(messages, add_generation_prompt=False)
            assert prompt.startswith(without.rstrip()), f"{what}: {prompt!r:.300} does not begin with {without!r:.300}"

    def test_the_same_messages_make_the_same_prompt_on_any_thread(self) -> None:
        made, alone = self.make(), list(self.prompts())
        with ThreadPoolExecutor(4) as pool:
            for _, messages, prompt in alone:
                for found in pool.map(lambda _, messages=messages: made.render(messages), range(8)):
                    assert found == prompt, "prompts differ from thread to thread"

    def test_it_leaves_messages_as_they_were(self) -> None:
        for messages in CONVERSATIONS.values():
            given = [dict(message) for message in messages]
            try:
                self.make().render(given)
            except RequestError:
                continue
            assert given == list(messages), "messages have been changed"

    def test_what_it_cannot_write_it_refuses(self) -> None:
        for what, messages in ODD.items():
            try:
                prompt = self.make().render(messages)
            except RequestError:
                continue
            except Exception as error:
                raise AssertionError(f"{what}: {error!r} and no RequestError") from error
            assert isinstance(prompt, str), f"{what}: the prompt is {prompt!r:.60}"

    def test_variables_it_does_not_know_are_left_alone(self) -> None:
        messages = CONVERSATIONS["a question"]
        found = self.make().render(messages, nobody_knows_this=[1, {"a": None}])
        assert found == self.make().render(messages), "a variable that no template knows has changed the prompt"

    def test_its_source_can_be_shown(self) -> None:
        source = self.make().source
        assert isinstance(source, str), f"`source` is {source!r:.60}"
        assert source, "`source` is empty; a name will do"

    async def test_a_server_uses_it(self, serve: Any) -> None:
        async with serve(plugin=self.plugins, chat_template=self.name) as client:
            body = {"messages": CONVERSATIONS["a question"]}
            prompt = (await client.post("/apply-template", json=body)).json()["prompt"]
            assert "How are you?" in prompt, f"POST /apply-template answers {prompt!r:.300}"
            answer = await client.post("/v1/chat/completions", json={**body, "max_tokens": 4})
            assert answer.status_code == 200, answer.text

    # --- how

    def make(self) -> ChatFormat:
        """Return the format."""
        made: ChatFormat = self.thing()(ChatContext(bos_token="<s>", eos_token="</s>"))
        return made

    def prompts(self) -> Iterator[tuple[str, Messages, str]]:
        """Yield conversations that it does not refuse, and their prompts."""
        for what, messages in CONVERSATIONS.items():
            try:
                yield what, messages, self.make().render(messages)
            except RequestError:  # a system message, for one, is not everyone's
                continue
