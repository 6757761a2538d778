"""The reasoning of earlier answers, in the prompts of chats."""

from __future__ import annotations

import pytest

from unit.endpoints.conftest import Open
from unit.endpoints.test_reasoning import HI, OPENS, TEMPLATE, THOUGHT


@pytest.mark.parametrize(
    ("template", "content", "expected"),
    [
        (TEMPLATE, "{answer}", "<think>Hm, hm.</think>Yes."),
        (OPENS, "{answer}", "<think>Hm, hm.</think>Yes."),
        (OPENS, "Hm.</think>Yes.", "<think>Hm.</think>Yes."),
        (TEMPLATE, "Hm.</think>Yes.", "Hm.</think>Yes."),
        (TEMPLATE, "<think>Hm.", "<think>Hm."),
        (TEMPLATE, "<think></think>Yes.", "Yes."),
        (TEMPLATE, "Use <think>a</think>.", "Use <think>a</think>."),
    ],
)
async def test_reasoning_in_the_text_of_earlier_answers_is_moved_to_its_field(
    opened: Open, template: str, content: str, expected: str
) -> None:
    content = content.format(answer=THOUGHT)
    async with opened(template=template, n_ctx=512) as client:
        answer = {"role": "assistant", "content": content}
        response = await client.post("/apply-template", json={"messages": [*HI, answer, *HI]})
    assert response.json()["prompt"].removesuffix("<think>\n") == f"<user>hi<assistant>{expected}<user>hi<assistant>"


async def test_user_may_write_the_tags_of_reasoning(opened: Open) -> None:
    messages = [{"role": "user", "content": THOUGHT}, {"role": "assistant", "content": "A"}, *HI]
    async with opened(template=TEMPLATE, n_ctx=512) as client:
        response = await client.post("/apply-template", json={"messages": messages})
    assert response.json()["prompt"] == f"<user>{THOUGHT}<assistant>A<user>hi<assistant>"
