"""Answers: their text, numbers, versions, and what the user can do with them."""

from __future__ import annotations

import re
from collections.abc import Callable

from support.chat_page import ChatPage
from support.scripted_engine import Script

MARKDOWN = """# Fruit

A **bold** word, `code` and [a link](https://example.org).

| Fruit | Price |
|:--|--:|
| Apple | 1 |

```python
def add(a, b):
    return a + b
```

- [x] done
- text
  ```sh
  ls
  ```

Inline $a^2 + b^2$ costs $5 and $6.

$$\\int_0^1 x\\,dx$$

<script>document.title = "bad"</script><img src="https://example.org/x.png" alt="A picture" onerror="alert(1)">
"""


def test_answer_is_written_and_kept(chat: ChatPage, script: Script) -> None:
    chat.send("Hello there")
    assert "You said: Hello there" in chat.answer.inner_text()
    assert "50 tokens/s" in chat.answer.inner_text()
    assert chat.page.title() == "Hello there · llamafw"
    chat.page.reload()
    chat.answer.get_by_text("You said: Hello there").wait_for()


def test_markdown_becomes_elements(chat: ChatPage, script: Script) -> None:
    script.answers = [MARKDOWN]
    chat.send("Show all")
    answer = chat.answer
    assert answer.locator("h1").inner_text() == "Fruit"
    assert answer.locator("td").all_inner_texts() == ["Apple", "1"]
    assert answer.locator("strong").inner_text() == "bold"
    answer.locator(".hljs-keyword").first.wait_for()
    assert answer.locator("pre").count() == 2
    answer.locator(".katex").nth(1).wait_for()
    assert answer.locator(".katex").count() == 2
    assert "costs $5 and $6" in answer.inner_text()
    assert answer.locator("script, img").count() == 0  # nothing runs, and nothing is loaded from elsewhere
    link = answer.get_by_role("link", name="A picture")
    assert (link.get_attribute("href"), link.get_attribute("target")) == ("https://example.org/x.png", "_blank")
    assert chat.page.title() == "Show all · llamafw"


def test_code_can_be_copied_and_wrapped(chat: ChatPage, script: Script) -> None:
    script.answers = [MARKDOWN]
    chat.send("Code")
    block = chat.answer.locator(".code-block").first
    block.get_by_role("button", name="Copy code").click()
    block.get_by_role("button", name="Copied").wait_for()
    assert chat.page.evaluate("navigator.clipboard.readText()") == "def add(a, b):\n    return a + b"
    assert block.get_by_text("python").is_visible()
    wrap = block.get_by_role("button", name="Wrap lines")
    wrap.click()
    assert wrap.get_attribute("aria-pressed") == "true"
    assert block.locator("pre").evaluate("element => getComputedStyle(element).whiteSpace") == "pre-wrap"


def test_answer_can_be_stopped_and_continued(chat: ChatPage, script: Script) -> None:
    script.answers = ["one two three four", " three four"]
    script.hold()
    chat.send("Count", wait=False)
    script.allow(5)
    chat.answer.get_by_text("one two").wait_for()
    chat.page.keyboard.press("Escape")
    chat.answer.get_by_text("You stopped this answer.").wait_for()
    script.release()
    chat.button("Continue", chat.answer).click()
    chat.wait_for_end()
    chat.answer.get_by_text("one two three four", exact=True).wait_for()
    assert script.prompts[1].rstrip().endswith("one two")
    assert chat.answers.count() == 1


def test_stopping_ends_the_generation_on_the_server(chat: ChatPage, script: Script) -> None:
    script.answers = ["one two three four"]
    script.hold()
    chat.send("Count", wait=False)
    script.allow(4)
    chat.answer.get_by_text("one").wait_for()
    assert not script.idle.is_set()
    with chat.page.expect_response(lambda response: response.request.method == "DELETE") as ended:
        chat.button("Stop").click()
    assert ended.value.status == 204
    chat.wait_for_end()
    assert script.idle.wait(60)


def test_answers_and_messages_have_versions(chat: ChatPage, script: Script) -> None:
    script.answers = ["first", "second", "third"]
    chat.send("Question")
    chat.button("Answer again", chat.answer).click()
    chat.answer.get_by_text("second").wait_for()
    chat.wait_for_end()
    assert chat.answer.get_by_role("group", name="Version 2 of 2").is_visible()
    chat.button("Previous version", chat.answer).click()
    chat.answer.get_by_text("first").wait_for()

    chat.button("Edit", chat.questions.last).click()
    chat.page.get_by_label("Edit", exact=True).and_(chat.page.locator("textarea")).fill("Other question")
    chat.button("Send", chat.questions.last).click()
    chat.answer.get_by_text("third").wait_for()
    chat.wait_for_end()
    assert script.prompts[2].count("Other question") == 1
    assert "first" not in script.prompts[2]
    chat.button("Previous version", chat.questions.last).click()
    chat.answer.get_by_text("second").wait_for()  # the newest answer of the branch

    chat.page.reload()
    chat.answer.get_by_text("second").wait_for()


def test_answer_can_be_edited(chat: ChatPage, script: Script) -> None:
    chat.send("Question")
    chat.button("Edit", chat.answer).click()
    chat.page.get_by_label("Edit", exact=True).and_(chat.page.locator("textarea")).fill("My own answer")
    chat.button("Save", chat.answer).click()
    chat.answer.get_by_text("My own answer").wait_for()
    assert len(script.prompts) == 1
    chat.send("Next")
    assert "My own answer" in script.prompts[1]


def test_reasoning_is_folded(chat: ChatPage, script: Script) -> None:
    script.answers = ["<think>\nLet me see.\n</think>\n\nThe answer is 4."]
    chat.send("What is 2 + 2?")
    chat.answer.get_by_text("The answer is 4.").wait_for()
    reasoning = chat.answer.get_by_text("Let me see.")
    assert not reasoning.is_visible()
    chat.answer.get_by_text("Reasoning", exact=True).click()
    assert reasoning.is_visible()


def test_json_is_pretty_and_can_be_seen_as_text(chat: ChatPage, script: Script) -> None:
    chat.show_panel("Sampling")
    chat.page.get_by_label("Filter options").fill("json_schema")
    chat.page.get_by_label("json_schema", exact=True).fill('{"type": "object"}')
    script.answers = ['{"name":"Ada","born":1815}']
    chat.send("Who?")
    assert chat.answer.locator("pre").inner_text() == '{\n  "name": "Ada",\n  "born": 1815\n}'
    grammar = script.requests[0].grammar
    assert grammar is not None
    assert (grammar.kind, grammar.text) == ("json_schema", '{"type":"object"}')
    chat.button("Show as text", chat.answer).click()
    assert chat.answer.locator(".plain").inner_text() == '{"name":"Ada","born":1815}'


def test_tool_calls_are_shown_and_their_results_sent(chat: ChatPage, script: Script) -> None:
    chat.show_panel("Sampling")
    chat.page.get_by_label("Filter options").fill("tools")
    tool = '[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]'
    chat.page.get_by_label("tools", exact=True).fill(tool)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    script.answers = [call, "It rains."]
    chat.send("Weather?")
    assert chat.answer.get_by_role("heading", name="Call of weather").is_visible()
    assert '"city": "Paris"' in chat.answer.locator("pre").inner_text()
    chat.answer.get_by_label("Result of weather").fill("rain")
    chat.button("Send results").click()
    chat.answer.get_by_text("It rains.").wait_for()
    assert "<tool_response>\nrain\n</tool_response>" in script.prompts[1]


def test_probabilities_are_shown_for_each_token(chat: ChatPage, script: Script) -> None:
    chat.button("Settings").click()
    chat.page.get_by_label("Ask for the probability of each token").check()
    chat.button("Close").click()
    script.answers = ["one two"]
    chat.send("Count")
    assert script.requests[0].n_probs == 5
    chat.button("Show tokens", chat.answer).click()
    tokens = chat.answer.locator(".token")
    assert "".join(tokens.all_text_contents()).strip() == "one two"
    tokens.nth(1).hover()
    details = re.sub(r"\s+", " ", chat.page.get_by_role("tooltip").inner_text())
    assert re.fullmatch(r"(.+): 50 % Instead of “\1” a 30 % b 10 %", details)
    tokens.nth(0).focus()
    chat.page.keyboard.press("ArrowRight")
    assert tokens.nth(1).evaluate("element => element === document.activeElement")


def test_prompt_progress_and_context_use_are_shown(chat: ChatPage, script: Script) -> None:
    script.hold()
    chat.send("A long conversation", wait=False)
    chat.answer.get_by_text("Waiting for the server…").wait_for()
    script.allow(2)
    progress = chat.answer.get_by_role("progressbar")
    progress.wait_for()
    assert re.match(r"Reading the conversation: \d+ of \d+ tokens", progress.get_attribute("aria-label"))
    script.release()
    chat.wait_for_end()
    label = chat.page.get_by_role("meter").get_attribute("aria-label")
    assert re.fullmatch(r"Context: \d+ of 4,096 tokens", label)


def test_answers_go_on_in_the_background(open_page: Callable[..., ChatPage], script: Script) -> None:
    chat = open_page()
    script.answers = ["slow answer"]
    script.hold()
    chat.send("First", wait=False)
    chat.button("New conversation").click()
    chat.page.get_by_text("What can I help with?").wait_for()
    script.release()
    chat.conversation("First").click()
    chat.answer.get_by_text("slow answer").wait_for()
