"""POST /v1/chat/completions and /apply-template, on a model that goes on with the alphabet after ``a:``."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from support.toy import BOS, ToyTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")
Client = Any
PATH = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
GREEDY = {"temperature": 0}


@pytest.mark.inventory("E-111", "E-113", "R-16")
@pytest.mark.parametrize("path", [PATH, "/chat/completions"])
async def test_the_whole_object(post: Client, path: str) -> None:
    found = await post(path, messages=HI, max_tokens=3, model="any", cache_prompt=False, **GREEDY)
    answer = ChatCompletion.model_validate(found)
    assert (answer.choices[0].message.content, answer.model) == ("abc", "any")
    assert found["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "abc"}, "finish_reason": "length", "logprobs": None}
    ]
    assert found["id"].startswith("chatcmpl-")
    assert found["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert found["timings"]["predicted_n"] == 3


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
async def test_where_it_ends(post: Client, fields: dict[str, Any], content: str, reason: str) -> None:
    choice = (await post(PATH, messages=HI, **GREEDY, **fields))["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)


@pytest.mark.inventory("E-115", "E-116", "F-07", "B-14")
async def test_a_stream(events: Client) -> None:
    found = await events(PATH, messages=HI, max_tokens=2, **GREEDY)
    chunks = [ChatCompletionChunk.model_validate(chunk) for chunk in found[:-1]]
    assert found[-1] == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in found[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {},
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "length"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert not any(chunk.usage for chunk in chunks)


@pytest.mark.inventory("E-112", "E-116", "Q-16")
async def test_usage_in_a_stream(events: Client) -> None:
    *_, last, usage, done = await events(
        PATH, messages=HI, max_tokens=2, n=2, stream_options={"include_usage": True}, **GREEDY
    )
    assert last["usage"] is None
    assert (usage["choices"], done) == ([], "[DONE]")
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (7, 4)


@pytest.mark.inventory("E-106", "Q-01")
async def test_several_answers(post: Client, events: Client) -> None:
    hot = {"temperature": 50, "samplers": ["temperature"], "return_tokens": True, "max_tokens": 9, "ignore_eos": True}
    found = await post(PATH, messages=HI, n=3, seed=5, **hot)
    alone = [(await post(PATH, messages=HI, seed=seed, **hot))["choices"][0]["tokens"] for seed in (5, 6, 7)]
    assert [choice["tokens"] for choice in found["choices"]] == alone
    assert found["usage"]["completion_tokens"] == 27
    streamed: dict[int, list[int]] = {0: [], 1: [], 2: []}
    roles = []
    for chunk in (await events(PATH, messages=HI, n=3, seed=5, **hot))[:-1]:
        choice = chunk["choices"][0]
        streamed[choice["index"]] += choice.get("tokens", [])
        roles += [choice["index"]] if "role" in choice["delta"] else []
    assert list(streamed.values()) == alone
    assert sorted(roles) == [0, 1, 2]


@pytest.mark.inventory("E-107", "Q-02")
async def test_log_probabilities(post: Client, events: Client) -> None:
    fields = {"messages": HI, "max_tokens": 2, "logprobs": True, "top_logprobs": 2, **GREEDY}
    found = await post(PATH, **fields)
    rows = found["choices"][0]["logprobs"]["content"]
    assert ChatCompletion.model_validate(found).choices[0].logprobs is not None
    assert [(row["token"], row["bytes"], row["id"]) for row in rows] == [("a", [97], 97), ("b", [98], 98)]
    assert all(len(row["top_logprobs"]) == 2 and row["top_logprobs"][0]["token"] == row["token"] for row in rows)
    chunks = (await events(PATH, **fields))[:-1]
    streamed = [chunk["choices"][0]["logprobs"]["content"] for chunk in chunks if "logprobs" in chunk["choices"][0]]
    assert [row for part in streamed for row in part] == rows


async def test_log_probabilities_without_others(post: Client) -> None:
    choice = (await post(PATH, messages=HI, max_tokens=1, logprobs=True, **GREEDY))["choices"][0]
    assert [row["top_logprobs"] for row in choice["logprobs"]["content"]] == [[]]


@pytest.mark.inventory("E-110")
async def test_n_probs_gives_openais_shape_too(post: Client) -> None:
    choice = (await post(PATH, messages=HI, max_tokens=1, n_probs=1, **GREEDY))["choices"][0]
    assert choice["logprobs"]["content"][0]["top_logprobs"][0]["token"] == "a"


@pytest.mark.inventory("E-100", "E-101", "E-102", "R-16")
@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": "hi"}, 400, "messages"),
        ({"messages": [{"content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "", "content": "x"}]}, 400, "messages.0.role"),
        ({"messages": [*HI, {"role": "user"}]}, 400, "messages.1.content"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, 400, "messages.0.content"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, 400, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages.0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "txt", "text": "x"}]}]}, 400, "messages.0.content.0.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]}]},
            501,
            "messages.0.content.1",
        ),
        ({"functions": [{}]}, 400, "functions"),
        ({"function_call": {"name": "f"}}, 400, "function_call"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema"),
        ({"response_format": {"type": "yaml"}}, 400, "response_format.type"),
        ({"top_logprobs": 2}, 400, "top_logprobs"),
        ({"top_logprobs": 2, "logprobs": False}, 400, "top_logprobs"),
        ({"n": 129}, 400, "n"),
        ({"chat_template_kwargs": {"messages": []}}, 400, "chat_template_kwargs.messages"),
        ({"messages": [{"role": "user", "content": "x" * 99}]}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 99}], "n": 2, "stream": True}, 400, "messages"),
    ],
)
async def test_what_cannot_be_met(refused: Client, fields: dict[str, Any], status: int, param: str) -> None:
    assert (await refused(PATH, **{"messages": HI, **fields}))[:2] == (status, param)


async def test_forms_that_ask_for_nothing(post: Client) -> None:
    nothing = {
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
    assert (await post(PATH, messages=HI, max_completion_tokens=1, **nothing))["choices"]


# --- from the conversation to the prompt ------------------------------------------------------------


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
async def test_messages(post: Client, message: dict[str, Any], text: str) -> None:
    assert await post("/apply-template", messages=[message]) == {"prompt": text + "a:"}


async def test_what_else_a_template_gets(post: Client) -> None:
    fields = {"add_generation_prompt": False, "chat_template_kwargs": {"suffix": "!"}}
    found = await post("/apply-template", messages=HI, **fields)
    assert found == {"prompt": "u:hi;!"}


@pytest.mark.inventory("C-068", "C-069", "E-113")
@pytest.mark.parametrize(
    ("flags", "shown"), [({"verbose": True}, True), ({"verbosity": 10}, True), ({"verbosity": 9}, False)]
)
async def test_the_native_answer_is_shown_to_the_curious(opened: Any, flags: dict[str, Any], shown: bool) -> None:
    async with opened(**flags) as client:
        found = (await client.post(PATH, json={"messages": HI, "max_tokens": 2, **GREEDY})).json()
        assert ("__verbose" in found) is shown
        if shown:
            native = found["__verbose"]
            assert (native["prompt"], native["content"], native["stop_type"]) == ("u:hi;a:", "ab", "limit")


@pytest.mark.inventory("T-07")
async def test_counting_is_what_usage_says(post: Client, refused: Client) -> None:
    counted = await post(f"{PATH}/input_tokens", messages=HI)
    assert counted == {"object": "response.input_tokens", "input_tokens": len("u:hi;a:")}
    assert counted["input_tokens"] == (await post(PATH, messages=HI, max_tokens=1))["usage"]["prompt_tokens"]
    assert (await refused(f"{PATH}/input_tokens", messages=[]))[:2] == (400, "messages")


@pytest.mark.inventory("T-07", "E-172")
async def test_the_system_prompt_is_counted(opened: Any) -> None:
    async with opened(props=True) as client:
        await client.post("/props", json={"system_prompt": "Be brief."})
        counted = (await client.post(f"{PATH}/input_tokens", json={"messages": HI})).json()["input_tokens"]
        answer = (await client.post(PATH, json={"messages": HI, "max_tokens": 1})).json()
        assert counted == answer["usage"]["prompt_tokens"] == len("Be brief.u:hi;a:")


async def test_templates_that_refuse(refused: Client) -> None:
    status, param, message = await refused("/apply-template", messages=[{"role": "user", "content": None}])
    assert (status, param, message) == (400, "messages.0.content", "the message has no content")


class WithBos(ToyTokenizer):
    """Wants a BOS token, and reads ``^`` as one."""

    add_bos = True

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        head = [BOS] if add_special else []
        return head + [BOS if parse_special and token == ord("^") else token for token in text.encode()]


@pytest.mark.inventory("E-103")
async def test_bos_comes_once(opened: Any) -> None:
    async with opened(tokenizer=WithBos()) as client:
        for content, n in (("hi", 8), ("^i", 8)):
            messages = [{"role": "^" if content == "^i" else "user", "content": content}]
            body = {"messages": messages, "max_tokens": 1}
            usage = (await client.post(PATH, json=body)).json()["usage"]
            assert usage["prompt_tokens"] == n - (content == "^i")
        for prompt, n in (("a", 2), (["a", 98], 3), ([98, "a"], 2), ([98], 1), ("", 1)):
            row = (await client.post("/completion", json={"prompt": prompt, "n_predict": 1})).json()
            assert row["tokens_evaluated"] == n
