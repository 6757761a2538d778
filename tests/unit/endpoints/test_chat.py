"""POST /v1/chat/completions and /apply-template, on a model that continues the alphabet after ``a:``."""

from __future__ import annotations

import os
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from llamafw import Settings
from llamafw_plugins.endpoints.template import chat_tokens, count_answer_start, render
from support.chats import loaded_model
from support.toy_model import BOS, ToyTokenizer
from support.toy_snapshots import RecurrentToyBackend
from unit.endpoints.conftest import Open, Post, read_events

pytestmark = pytest.mark.asyncio(loop_scope="module")
PATH = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
GREEDY = {"temperature": 0}


@pytest.mark.inventory("E-111", "E-113", "R-16")
@pytest.mark.parametrize("path", [PATH, "/chat/completions"])
async def test_response_has_openais_shape(post: Post, path: str) -> None:
    response = await post(path, messages=HI, max_tokens=3, model="any", cache_prompt=False, **GREEDY)
    parsed = ChatCompletion.model_validate(response)

    assert (parsed.choices[0].message.content, parsed.model) == ("abc", "any")
    assert response["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "abc"}, "finish_reason": "length", "logprobs": None}
    ]
    assert response["id"].startswith("chatcmpl-")
    assert response["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert response["timings"]["predicted_n"] == 3
    assert response["truncated"] is False


@pytest.mark.inventory("E-104", "E-109", "E-110", "E-112", "E-114", "F-06")
@pytest.mark.parametrize(
    ("fields", "content", "reason"),
    [
        ({}, "abcdefghijklmnopqrstuvwxyz", "stop"),
        ({"max_completion_tokens": 2}, "ab", "length"),
        ({"max_completion_tokens": 2, "max_tokens": 9}, "ab", "length"),
        ({"n_predict": 1, "max_completion_tokens": 2, "max_tokens": 9}, "a", "length"),
        ({"stop": "c"}, "ab", "stop"),
        ({"logit_bias": {"97": -100, "122": 100}, "max_tokens": 1}, "z", "length"),
    ],
)
async def test_finish_reason_says_why_the_answer_ended(
    post: Post, fields: dict[str, Any], content: str, reason: str
) -> None:
    choice = (await post(PATH, messages=HI, **GREEDY, **fields))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)


@pytest.mark.inventory("E-115", "E-116", "F-07", "B-14")
async def test_stream_has_openais_chunks(events: Post) -> None:
    *raw_chunks, done = await events(PATH, messages=HI, max_tokens=2, **GREEDY)
    chunks = [ChatCompletionChunk.model_validate(chunk) for chunk in raw_chunks]

    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in raw_chunks] == [
        {"role": "assistant", "content": None},
        {"content": "a"},
        {"content": "b"},
        {},
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "length"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert [chunk.usage for chunk in chunks] == [None] * 4
    assert ["truncated" in chunk for chunk in raw_chunks] == [False, False, False, True]


@pytest.mark.inventory("E-112", "E-116", "Q-16")
async def test_stream_ends_with_usage_if_requested(events: Post) -> None:
    *_, last, usage, done = await events(
        PATH, messages=HI, max_tokens=2, n=2, stream_options={"include_usage": True}, **GREEDY
    )
    assert last["usage"] is None
    assert (usage["choices"], done) == ([], "[DONE]")
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (7, 4)


@pytest.mark.inventory("E-106", "Q-01")
async def test_choices_have_consecutive_seeds(post: Post, events: Post) -> None:
    hot = {"temperature": 50, "samplers": ["temperature"], "return_tokens": True, "max_tokens": 9, "ignore_eos": True}
    together = await post(PATH, messages=HI, n=3, seed=5, **hot)
    alone = [(await post(PATH, messages=HI, seed=seed, **hot))["choices"][0]["tokens"] for seed in (5, 6, 7)]
    assert [choice["tokens"] for choice in together["choices"]] == alone
    assert together["usage"]["completion_tokens"] == 27

    streamed: dict[int, list[int]] = {0: [], 1: [], 2: []}
    roles = []
    for chunk in (await events(PATH, messages=HI, n=3, seed=5, **hot))[:-1]:
        choice = chunk["choices"][0]
        streamed[choice["index"]] += choice.get("tokens", [])
        roles += [choice["index"]] if "role" in choice["delta"] else []
    assert list(streamed.values()) == alone
    assert sorted(roles) == [0, 1, 2]


@pytest.mark.inventory("E-107", "Q-02")
async def test_logprobs_are_the_same_in_a_stream(post: Post, events: Post) -> None:
    fields = {"messages": HI, "max_tokens": 2, "logprobs": True, "top_logprobs": 2, **GREEDY}
    response = await post(PATH, **fields)
    rows = response["choices"][0]["logprobs"]["content"]
    assert ChatCompletion.model_validate(response).choices[0].logprobs is not None
    assert [(row["token"], row["bytes"], row["id"]) for row in rows] == [("a", [97], 97), ("b", [98], 98)]
    assert [len(row["top_logprobs"]) for row in rows] == [2, 2]
    assert [row["top_logprobs"][0]["token"] for row in rows] == ["a", "b"]

    chunks = (await events(PATH, **fields))[:-1]
    streamed = [chunk["choices"][0]["logprobs"]["content"] for chunk in chunks if "logprobs" in chunk["choices"][0]]
    assert [row for part in streamed for row in part] == rows


async def test_logprobs_without_top_logprobs(post: Post) -> None:
    choice = (await post(PATH, messages=HI, max_tokens=1, logprobs=True, **GREEDY))["choices"][0]
    assert [row["top_logprobs"] for row in choice["logprobs"]["content"]] == [[]]


@pytest.mark.inventory("E-110")
async def test_n_probs_reports_openais_logprobs(post: Post) -> None:
    choice = (await post(PATH, messages=HI, max_tokens=1, n_probs=1, **GREEDY))["choices"][0]
    assert choice["logprobs"]["content"][0]["top_logprobs"][0]["token"] == "a"


@pytest.mark.inventory("E-100", "E-101", "E-102", "R-16")
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "", "content": "x"}]}, "messages.0.role"),
        ({"messages": [*HI, {"role": "user"}]}, "messages.1.content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "system", "content": None, "tool_calls": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "txt", "text": "x"}]}]}, "messages.0.content.0.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}]},
            "messages.0.content.1",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0"),
        ({"image_data": [{"data": "", "id": 1}]}, "image_data"),
        ({"functions": [{}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 2, "logprobs": False}, "top_logprobs"),
        ({"n": 129}, "n"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    ],
)
async def test_invalid_requests_are_400(refused: Post, fields: dict[str, Any], param: str) -> None:
    assert (await refused(PATH, **{"messages": HI, **fields}))[:2] == (400, param)


async def test_image_parts_say_what_they_need(refused: Post) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
    _, _, message = await refused(PATH, messages=messages)
    assert message.startswith("image_url needs a multimodal model and a plugin that reads images")


async def test_values_without_effect_are_accepted(post: Post) -> None:
    unset: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "functions": None,
        "response_format": {"type": "text"},
        "n": None,
        "top_logprobs": 0,
        "stop": None,
        "stream_options": None,
        "max_tokens": None,
        "user": "me",
    }

    assert (await post(PATH, messages=HI, max_completion_tokens=1, **unset))["choices"]


# --- from the conversation to the prompt


@pytest.mark.inventory("E-101", "E-102", "E-103")
@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "user", "content": "x"}, "u:x;"),
        ({"role": "user", "content": ""}, "u:;"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}, "u:x\ny;"),
        ({"role": "developer", "content": "x"}, "s:x;"),
    ],
)
async def test_messages_become_a_prompt(post: Post, message: dict[str, Any], text: str) -> None:
    assert await post("/apply-template", messages=[message]) == {"prompt": text + "a:"}


async def test_template_gets_its_variables(post: Post) -> None:
    fields = {"add_generation_prompt": False, "chat_template_kwargs": {"suffix": "!"}}
    assert await post("/apply-template", messages=HI, **fields) == {"prompt": "u:hi;!"}


@pytest.mark.inventory("C-068", "C-069", "E-113")
@pytest.mark.parametrize(
    ("flags", "shown"), [({"verbose": True}, True), ({"verbosity": 10}, True), ({"verbosity": 9}, False)]
)
async def test_verbose_adds_the_native_response(opened: Open, flags: dict[str, Any], shown: bool) -> None:
    async with opened(**flags) as client:
        response = (await client.post(PATH, json={"messages": HI, "max_tokens": 2, **GREEDY})).json()
        text = (await client.post(PATH, json={"messages": HI, "max_tokens": 2, "stream": True, **GREEDY})).text
    native = response.get("__verbose")
    assert (native is not None) is shown
    *chunks, last, _ = read_events(text)
    assert not any("__verbose" in chunk for chunk in chunks)
    assert ("__verbose" in last) is shown
    if native is not None:
        assert last["__verbose"]["prompt"] == "u:hi;a:"
        assert (native["prompt"], native["content"], native["stop_type"]) == ("u:hi;a:", "ab", "limit")


@pytest.mark.inventory("T-07")
async def test_input_tokens_equals_usage(post: Post, refused: Post) -> None:
    counted = await post(f"{PATH}/input_tokens", messages=HI)
    assert counted == {"object": "response.input_tokens", "input_tokens": len("u:hi;a:")}
    assert counted["input_tokens"] == (await post(PATH, messages=HI, max_tokens=1))["usage"]["prompt_tokens"]
    assert (await refused(f"{PATH}/input_tokens", messages=[]))[:2] == (400, "messages")


@pytest.mark.inventory("T-07", "E-172")
async def test_input_tokens_counts_the_system_prompt(opened: Open) -> None:
    async with opened(props=True) as client:
        await client.post("/props", json={"system_prompt": "Be brief."})
        counted = (await client.post(f"{PATH}/input_tokens", json={"messages": HI})).json()["input_tokens"]
        response = (await client.post(PATH, json={"messages": HI, "max_tokens": 1})).json()
    assert counted == response["usage"]["prompt_tokens"] == len("Be brief.u:hi;a:")


async def test_message_without_content_is_400(refused: Post) -> None:
    error = await refused("/apply-template", messages=[{"role": "user", "content": None}])
    assert error == (400, "messages.0.content", "the message has no content")


class CaretIsBos(ToyTokenizer):
    """Adds BOS to texts, and reads ``^`` as BOS."""

    add_bos = True

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        bos = [BOS] if add_special else []
        return bos + [BOS if parse_special and token == ord("^") else token for token in text.encode()]


@pytest.mark.inventory("E-103")
@pytest.mark.parametrize(("role", "n"), [("user", 8), ("^", 7)])  # with the second one, the template writes BOS
async def test_chat_prompt_has_one_bos(opened: Open, role: str, n: int) -> None:
    async with opened(tokenizer=CaretIsBos()) as client:
        body = {"messages": [{"role": role, "content": "hi"}], "max_tokens": 1}
        response = (await client.post(PATH, json=body)).json()
    assert response["usage"]["prompt_tokens"] == n


@pytest.mark.inventory("E-103")
@pytest.mark.parametrize(("prompt", "n"), [("a", 2), (["a", 98], 3), ([98, "a"], 2), ([98], 1), ("", 1)])
async def test_native_prompt_gets_bos_if_it_begins_with_text(opened: Open, prompt: Any, n: int) -> None:
    async with opened(tokenizer=CaretIsBos()) as client:
        response = (await client.post("/completion", json={"prompt": prompt, "n_predict": 1})).json()
    assert response["tokens_evaluated"] == n


# --- the start of the answer, which the next turn may not repeat

THINKING_TEMPLATE = (
    "{% for message in messages %}"
    "<{{ message.role[0] }}>{{ message.content }}</{{ message.role[0] }}>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% if think is not defined or think %}(thinks){% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "body", "n"),
    [
        (THINKING_TEMPLATE, {}, 11),
        (THINKING_TEMPLATE, {"chat_template_kwargs": {"think": False}}, 3),
        (THINKING_TEMPLATE, {"add_generation_prompt": False}, None),
        ("{{ messages[-1].content }}", {}, 0),  # nothing introduces the answer
        ("{{ messages[-1].content }}{{ add_generation_prompt }}", {}, None),
        (
            "{% if not messages[1] %}{{ raise_exception('too short') }}{% endif %}"
            "{% for message in messages %}{{ message.content }}{% endfor %}",
            {},
            None,
        ),
        (THINKING_TEMPLATE + "{% if messages|length > 1 %}!{% endif %}", {}, None),  # depends on the conversation
    ],
)
async def test_start_of_the_answer_is_counted(template: str, body: dict[str, Any], n: int | None) -> None:
    loaded = loaded_model(template)
    body = {"messages": [*HI, {"role": "assistant", "content": "hello"}, *HI], **body}
    if not loaded.chat_capabilities.turns:
        body["messages"] = HI
    prompt = render(body, loaded, Settings(), None)
    assert count_answer_start(prompt, loaded, chat_tokens(prompt, loaded)) == n


async def test_ten_turns_of_a_hybrid_model_evaluate_almost_nothing_again(opened: Open) -> None:
    """The template renders earlier answers without their first tokens, as those of models that think do."""
    backend = RecurrentToyBackend(n_slots=1, n_ctx=4096, n_batch=512)
    messages: list[dict[str, str]] = [{"role": "system", "content": "Be brief. " * 20}]
    prompt, n_history, n_again = "", 0, 0
    async with opened(backend=backend, template=THINKING_TEMPLATE) as client:
        for turn in range(10):
            messages.append({"role": "user", "content": f"This is question {turn} of ten, and it is not short."})
            body = {"messages": messages, "max_tokens": 20, "logit_bias": {"257": -100, "258": -100}}
            response = (await client.post(PATH, json=body)).json()
            earlier, prompt = prompt, (await client.post("/apply-template", json=body)).json()["prompt"]
            n_common = len(os.path.commonprefix([earlier, prompt]))
            n_history += n_common
            n_again += max(n_common - response["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
            messages.append({"role": "assistant", "content": response["choices"][0]["message"]["content"][4:]})

    assert n_history > 3000
    assert n_again <= 0.01 * n_history
