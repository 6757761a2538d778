"""POST /completion, on a model that goes on with the alphabet."""

from __future__ import annotations

from math import exp
from typing import Any

import pytest

from support.toy import EOS, ToyTokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")
Client = Any
GREEDY = {"temperature": 0}


@pytest.mark.inventory(
    "E-050",
    "E-051",
    "E-052",
    "E-053",
    "E-054",
    "E-055",
    "E-057",
    "E-058",
    "E-059",
    "E-056",
    "E-05A",
    "E-05B",
    "E-05C",
    "R-15",
    "E-011",
)
@pytest.mark.inventory(
    "E-05A",
    "E-05B",
    "E-05C",
    "E-050",
    "E-051",
    "E-052",
    "E-053",
    "E-054",
    "E-055",
    "E-056",
    "E-057",
    "E-058",
    "E-059",
    "R-15",
    "E-011",
)
@pytest.mark.parametrize("path", ["/completion", "/completions"])
async def test_the_whole_object(post: Client, path: str) -> None:
    row = await post(path, prompt="ab", n_predict=3, cache_prompt=False, **GREEDY)
    timings, settings = row.pop("timings"), row.pop("generation_settings")
    assert row == {
        "content": "cde",
        "index": 0,
        "id_slot": row["id_slot"],
        "stop": True,
        "model": "toy",
        "tokens_predicted": 3,
        "tokens_evaluated": 2,
        "tokens_cached": 0,
        "n_past": 5,
        "prompt": "ab",
        "truncated": False,
        "stop_type": "limit",
        "stopping_word": "",
        "stopped_eos": False,
        "stopped_word": False,
        "stopped_limit": True,
    }
    assert (timings["prompt_n"], timings["predicted_n"], timings["cache_n"]) == (2, 3, 0)
    assert timings["predicted_per_second"] == pytest.approx(3000 / timings["predicted_ms"])
    assert (settings["n_ctx"], settings["n_predict"], settings["temperature"], settings["top_k"]) == (64, 3, 0, 40)
    assert settings["samplers"] == ["penalties", "top_k", "tfs_z", "typ_p", "top_p", "min_p", "temperature"]


@pytest.mark.inventory("E-011", "E-017", "E-021", "E-058", "E-059")
@pytest.mark.parametrize(
    ("fields", "content", "stop_type", "word"),
    [
        ({}, "xyz", "eos", ""),
        ({"stop": "z"}, "xy", "word", "z"),
        ({"stop": ["q", "yz"]}, "x", "word", "yz"),
        ({"n_predict": 1}, "x", "limit", ""),
        ({"max_tokens": 2}, "xy", "limit", ""),
        ({"n_predict": 1, "max_tokens": 2}, "x", "limit", ""),
        ({"n_predict": None, "max_tokens": 2}, "xy", "limit", ""),
        ({"n_predict": 0}, "", "limit", ""),
        ({"n_predict": -2}, "xyz", "eos", ""),
    ],
)
async def test_where_it_ends(post: Client, fields: dict[str, Any], content: str, stop_type: str, word: str) -> None:
    row = await post("/completion", prompt="w", **GREEDY, **fields)
    assert (row["content"], row["stop_type"], row["stopping_word"]) == (content, stop_type, word)
    assert [row["stopped_eos"], row["stopped_word"], row["stopped_limit"]] == [
        stop_type == kind for kind in ("eos", "word", "limit")
    ]


@pytest.mark.inventory("E-036")
async def test_ignore_eos_goes_on_until_the_context_is_full(post: Client) -> None:
    row = await post("/completion", prompt="y", ignore_eos=True, **GREEDY)
    assert (row["stop_type"], row["truncated"], row["n_past"]) == ("limit", True, 64)
    assert EOS not in (await post("/completion", prompt="y", ignore_eos=True, return_tokens=True, **GREEDY))["tokens"]


@pytest.mark.inventory("E-056")
async def test_the_settings_have_every_key_of_llama_server(post: Client) -> None:
    keys = (
        "n_ctx n_predict model seed seed_cur temperature dynatemp_range dynatemp_exponent top_k top_p min_p tfs_z "
        "typical_p repeat_last_n repeat_penalty presence_penalty frequency_penalty mirostat mirostat_tau mirostat_eta "
        "penalize_nl stop max_tokens n_keep n_discard ignore_eos stream n_probs min_keep grammar samplers"
    ).split()
    row = await post("/completion", prompt="a", n_predict=1, n_keep=1, n_discard=2)
    assert set(keys) - set(row["generation_settings"]) == set()
    assert (row["generation_settings"]["n_keep"], row["generation_settings"]["n_discard"]) == (1, 2)


# --- prompts ----------------------------------------------------------------------------------------


@pytest.mark.inventory("E-010", "E-061", "E-062", "E-063", "E-073", "E-060", "D-07")
@pytest.mark.parametrize(
    ("prompt", "answers"),
    [
        ("ab", ["cd"]),
        ([97, 98], ["cd"]),
        (["ab"], ["cd"]),
        ([[97, 98]], ["cd"]),
        ([120, "ab"], ["cd"]),
        (["ab", 104], ["ij"]),
        ([["ab", 104]], ["ij"]),
        (["a", "k"], ["bc", "lm"]),
        ([[97], [107], "p", ["q", 114]], ["bc", "lm", "qr", "st"]),
        (["a", ""], ["bc", ""]),
    ],
)
async def test_forms_of_prompts(post: Client, events: Client, prompt: Any, answers: list[str]) -> None:
    found = await post("/completion", prompt=prompt, n_predict=2, **GREEDY)
    rows = found if isinstance(found, list) else [found]
    assert isinstance(found, list) is (len(answers) > 1)
    assert [row["content"] for row in rows] == answers
    assert [row["index"] for row in rows] == list(range(len(answers)))
    texts = dict.fromkeys(range(len(answers)), "")
    for chunk in await events("/completion", prompt=prompt, n_predict=2, **GREEDY):
        texts[chunk["index"]] += chunk["content"]
    assert list(texts.values()) == answers


@pytest.mark.inventory("E-057")
async def test_each_answer_echoes_its_prompt(post: Client) -> None:
    rows = await post("/completion", prompt=["a", [98, "c"]], n_predict=1, **GREEDY)
    assert [row["prompt"] for row in rows] == ["a", [98, "c"]]


@pytest.mark.inventory("E-064")
async def test_the_empty_prompt_is_answered_at_once(post: Client) -> None:
    row = await post("/completion", prompt="", **GREEDY)
    assert (row["content"], row["tokens_predicted"], row["tokens_evaluated"], row["id_slot"]) == ("", 0, 0, -1)
    assert [row["stopped_eos"], row["stopped_word"], row["stopped_limit"]] == [False] * 3
    assert row["timings"]["predicted_per_second"] is None


@pytest.mark.inventory("E-065", "E-066", "R-15")
@pytest.mark.parametrize("prompt", [[], [[]], ["a", []], [1.5, 2], 5, None, {}, [True], [1, [2]], [-1]])
async def test_what_is_no_prompt(refused: Client, prompt: Any) -> None:
    status, param, _ = await refused("/completion", prompt=prompt)
    assert (status, str(param).partition(".")[0]) == (400, "prompt")


@pytest.mark.inventory("E-067", "R-01")
@pytest.mark.parametrize(
    ("prompt", "param"), [([1, 999], "prompt.1"), ([1, "a", 999], "prompt.2"), (["a", [5, 264]], "prompt.1.1")]
)
async def test_tokens_that_do_not_exist(refused: Client, prompt: Any, param: str) -> None:
    status, where, message = await refused("/completion", prompt=prompt)
    assert (status, where) == (400, param)
    assert "is not in the vocabulary, which has 264" in message


@pytest.mark.inventory("E-069")
async def test_a_prompt_that_does_not_fit_is_named(client: Client) -> None:
    response = await client.post("/completion", json={"prompt": ["a", "b" * 99]})
    error = response.json()["error"]
    assert (error["code"], error["type"], error["param"]) == (400, "exceed_context_size_error", "prompt.1")
    assert (error["n_prompt_tokens"], error["n_ctx"], error["index"]) == (99, 64, 1)
    response = await client.post("/completion", json={"prompt": "b" * 99, "stream": True})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")


# --- streams ----------------------------------------------------------------------------------------


@pytest.mark.inventory("E-020", "E-070", "E-071", "E-072", "E-073", "D-25")
async def test_a_stream(events: Client) -> None:
    *chunks, last = await events("/completion", prompt="w", return_tokens=True, **GREEDY)
    slot = last["id_slot"]
    assert chunks[0] == {
        "content": "x",
        "stop": False,
        "id_slot": slot,
        "index": 0,
        "multimodal": False,
        "tokens": [120],
    }
    assert "".join(chunk["content"] for chunk in chunks) == "xyz"
    assert (last["content"], last["stop"], last["stop_type"], last["tokens_predicted"]) == ("", True, "eos", 4)
    assert "tokens" not in last


@pytest.mark.inventory("E-077", "F-22")
async def test_text_withheld_for_a_stop_string_is_not_lost(events: Client) -> None:
    """The text ends while it could still have become ``yz!``."""
    *chunks, last = await events("/completion", prompt="w", stop=["yz!"], **GREEDY)
    assert "".join(chunk["content"] for chunk in chunks) == "xyz"
    assert last["stop_type"] == "eos"


@pytest.mark.inventory("E-077", "E-021", "F-11", "E-078")
async def test_a_stop_string_does_not_leak(events: Client) -> None:
    *chunks, last = await events("/completion", prompt="a", stop=["def"], **GREEDY)
    assert "".join(chunk["content"] for chunk in chunks) == "bc"
    assert last["stopping_word"] == "def"


# --- options ----------------------------------------------------------------------------------------


async def test_tokens_are_returned_if_asked_for(post: Client) -> None:
    assert "tokens" not in await post("/completion", prompt="a", n_predict=2, **GREEDY)
    assert (await post("/completion", prompt="a", n_predict=2, return_tokens=True, **GREEDY))["tokens"] == [98, 99]


@pytest.mark.inventory("E-038", "E-05D", "S-20", "D-17")
@pytest.mark.parametrize("post_sampling", [False, True])
async def test_probabilities(post: Client, events: Client, post_sampling: bool) -> None:
    fields = {"prompt": "a", "n_predict": 2, "n_probs": 3, "post_sampling_probs": post_sampling, "temperature": 1}
    rows = (await post("/completion", **fields, seed=1))["completion_probabilities"]
    key, top = ("prob", "top_probs") if post_sampling else ("logprob", "top_logprobs")
    assert [(row["id"], row["token"], row["bytes"], row["content"]) for row in rows] == [
        (98, "b", [98], "b"),
        (99, "c", [99], "c"),
    ]
    for row in rows:
        assert row[top][0] == {"id": row["id"], "token": row["token"], "bytes": row["bytes"], key: row[key]}
        expected = row[key] if post_sampling else exp(row[key])
        assert row["probs"][0] == {"tok_str": row["token"], "prob": pytest.approx(expected)}
        assert len(row["probs"]) == len(row[top]) == (1 if post_sampling else 3)
    *chunks, last = await events("/completion", **fields, seed=1)
    assert [row for chunk in chunks for row in chunk.get("completion_probabilities", ())] == rows
    assert "completion_probabilities" not in last


async def test_a_forbidden_token_has_a_finite_log_probability(post: Client) -> None:
    row = await post("/completion", prompt="a", n_predict=1, n_probs=1000, logit_bias=[["b", False]], seed=1)
    assert min(other["logprob"] for other in row["completion_probabilities"][0]["top_logprobs"]) >= -9999


@pytest.mark.inventory("E-037")
@pytest.mark.parametrize(
    "bias",
    [
        [[98, False]],
        [["b", False]],
        [["b", -1e9]],
        {"98": False},
        {"98": -100},
        [["b", -50], [98, -50]],
    ],
)
async def test_forms_of_logit_bias_that_forbid_a_token(post: Client, bias: Any) -> None:
    row = await post("/completion", prompt="a", n_predict=1, logit_bias=bias, return_tokens=True, **GREEDY)
    assert row["tokens"] != [98]


@pytest.mark.inventory("E-037")
async def test_a_bias_on_a_text_is_one_on_each_of_its_tokens(post: Client) -> None:
    row = await post("/completion", prompt="a", n_predict=1, logit_bias=[["xy", 100]], **GREEDY)
    assert row["content"] == "x"
    assert row["generation_settings"]["logit_bias"] == [[120, 100.0], [121, 100.0]]


@pytest.mark.inventory("E-037", "R-15")
@pytest.mark.parametrize(
    ("bias", "param"),
    [
        ([[999, 1]], "logit_bias.0"),
        ([[1, 1], [-1, 1]], "logit_bias.1"),
        ([[1.5, 1]], "logit_bias.0"),
        ([[False, 1]], "logit_bias.0"),
        ([["a", "b"]], "logit_bias.0.1"),
        ([["a" * 16000, 1], ["a" * 16000, 1]], "logit_bias"),
        ([["a"]], "logit_bias.0"),
        ([["a", True]], "logit_bias.0.1"),
        ({"999": 1}, "logit_bias.999"),
        ({"x": 1}, "logit_bias.x"),
        ({"1": True}, "logit_bias.1"),
        ("a", "logit_bias"),
    ],
)
async def test_what_is_no_logit_bias(refused: Client, bias: Any, param: str) -> None:
    assert (await refused("/completion", prompt="a", logit_bias=bias))[:2] == (400, param)


@pytest.mark.inventory("E-040", "E-041", "E-043", "R-05", "R-15", "R-01", "R-06", "D-19")
@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"samplers": ["top_k", "temprature"]}, 400, "samplers.1"),
        ({"samplers": "top_k"}, 400, "samplers"),
        ({"id_slot": 2}, 400, "id_slot"),
        ({"id_slot": -2}, 400, "id_slot"),
        ({"id_slot": "x"}, 400, "id_slot"),
        ({"n_predict": "5"}, 400, "n_predict"),
        ({"n_predict": -3}, 400, "n_predict"),
        ({"stop": [1]}, 400, "stop.0"),
        ({"stop": [["a"]]}, 400, "stop.0"),
        ({"stop": ""}, 400, "stop"),
        ({"stop": ["a", ""]}, 400, "stop.1"),
        ({"n_probs": -1}, 400, "n_probs"),
        ({"n_probs": 60000}, 400, "n_probs"),
        ({"seed": 2**32}, 400, "seed"),
        ({"mirostat": 3}, 400, "mirostat"),
        ({"grammar": "root ::= 'a'"}, 400, "grammar"),
        ({"grammar": 5}, 400, "grammar"),
        ({"json_schema": []}, 400, "json_schema"),
        ({"json_schema": {}, "grammar": 'root ::= "a"'}, 400, "json_schema"),
        ({"image_data": [{"data": "", "id": 1}]}, 501, "image_data"),
        ({"temperature": "hot"}, 400, "temperature"),
    ],
)
async def test_fields_that_cannot_be_met(refused: Client, fields: dict[str, Any], status: int, param: str) -> None:
    assert (await refused("/completion", prompt="a", **fields))[:2] == (status, param)


async def test_forms_that_ask_for_nothing(post: Client) -> None:
    nothing = {
        "grammar": "",
        "json_schema": None,
        "mirostat": 0,
        "image_data": [],
        "stop": None,
        "logit_bias": None,
        "samplers": None,
        "temperature": None,
        "top_k": None,
        "seed": -1,
        "id_slot": -1,
        "n_probs": None,
    }
    assert (await post("/completion", prompt="a", n_predict=1, **nothing))["generation_settings"]["temperature"] == 0.8


async def test_an_unknown_field_is_named(client: Client) -> None:
    response = await client.post("/completion", json={"prompt": "a", "n_predict": 1, "n_kept": 5})
    assert response.status_code == 200
    assert response.headers["x-llamafw-ignored-fields"] == "n_kept"


@pytest.mark.inventory("E-043")
async def test_samplers_in_the_order_of_the_request(post: Client) -> None:
    row = await post("/completion", prompt="a", n_predict=1, samplers=["min_p", "top_k", "min_p"])
    assert row["generation_settings"]["samplers"] == ["min_p", "top_k", "min_p"]


@pytest.mark.inventory("E-035")
async def test_the_same_seed_gives_the_same_text(post: Client) -> None:
    fields = {"prompt": "a", "n_predict": 20, "temperature": 50, "samplers": ["temperature"], "return_tokens": True}
    first, again, other = [await post("/completion", **fields, seed=seed) for seed in (7, 7, 8)]
    assert first["tokens"] == again["tokens"] != other["tokens"]
    assert first["generation_settings"]["seed_cur"] == 7


@pytest.mark.inventory("E-035")
@pytest.mark.parametrize("seed", [-1, 2**32 - 1, None])
async def test_a_seed_is_drawn(post: Client, seed: int | None) -> None:
    settings = [(await post("/completion", prompt="a", n_predict=1, seed=seed))["generation_settings"] for _ in "ab"]
    assert settings[0]["seed"] == -1
    assert settings[0]["seed_cur"] != settings[1]["seed_cur"]


# --- what flags change ------------------------------------------------------------------------------


@pytest.mark.inventory("C-017", "E-017")
@pytest.mark.parametrize(
    ("server", "asked", "n"),
    [(None, 9, 9), (None, None, 25), (4, 9, 4), (4, 2, 2), (4, -1, 4), (4, None, 4), (4, -2, 4), (-1, 9, 9)],
)
async def test_n_is_default_and_limit(opened: Any, server: int | None, asked: int | None, n: int) -> None:
    async with opened(predict=server) as client:
        response = await client.post("/completion", json={"prompt": "a", "n_predict": asked, **GREEDY})
        assert len(response.json()["content"]) == n


@pytest.mark.inventory("D-18")
async def test_flags_set_defaults(opened: Any) -> None:
    async with opened(temp=0.0, top_k=7, samplers="top_k; temperature", seed=5, ignore_eos=True) as client:
        row = (await client.post("/completion", json={"prompt": "a", "n_predict": 1})).json()
        settings = row["generation_settings"]
        assert [settings[name] for name in ("temperature", "top_k", "samplers", "seed", "ignore_eos")] == [
            0.0,
            7,
            ["top_k", "temperature"],
            5,
            True,
        ]
        body = {"prompt": "a", "n_predict": 1, "top_k": 3, "samplers": []}
        settings = (await client.post("/completion", json=body)).json()["generation_settings"]
        assert (settings["top_k"], settings["samplers"]) == (3, [])


@pytest.mark.parametrize("stop", ["ab" * 9000, ["a" * 9000, "b" * 9000]])
async def test_stop_strings_have_a_size_limit(refused: Client, stop: Any) -> None:
    assert (await refused("/completion", prompt="a", stop=stop))[:2] == (400, "stop")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/completion", {"prompt": ["a"] * 1024}),
        ("/v1/completions", {"prompt": ["a"] * 8, "n": 128}),
    ],
)
async def test_the_biases_of_many_answers_have_a_limit(refused: Client, path: str, fields: dict[str, Any]) -> None:
    status, param, message = await refused(path, logit_bias=[[1, 1]] * 257, n_predict=0, **fields)
    assert (status, param) == (400, "logit_bias")
    assert "at most 256 biases each" in message


# --- what flags and Mirostat change


@pytest.mark.inventory("C-092")
async def test_the_servers_own_biases(opened: Any) -> None:
    async with opened(logit_bias=("122+100",)) as client:
        body = {"prompt": "a", "n_predict": 1, "temperature": 0}
        assert (await client.post("/completion", json=body)).json()["content"] == "z"
        own = {**body, "logit_bias": [[122, -100]]}
        assert (await client.post("/completion", json=own)).json()["content"] == "b"  # a request's own wins


@pytest.mark.inventory("S-01", "E-029", "B-15", "C-089")
async def test_mirostat_replaces_the_samplers_that_cut(opened: Any) -> None:
    async with opened() as client:
        body = {"prompt": "a", "n_predict": 2, "mirostat": 2, "samplers": ["top_k"]}
        settings = (await client.post("/completion", json=body)).json()["generation_settings"]
        assert settings["samplers"] == ["penalties", "temperature", "mirostat"]
        assert (settings["mirostat"], settings["mirostat_tau"], settings["mirostat_eta"]) == (2, 5, 0.1)
    async with opened(mirostat=1) as client:
        found = (await client.post("/completion", json={"prompt": "a", "n_predict": 1})).json()
        assert found["generation_settings"]["samplers"][-1] == "mirostat"


class Named(ToyTokenizer):
    """Its end-of-sequence token has a name."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return b"</s>" if special and token == EOS else super().piece(token)


@pytest.mark.inventory("C-097", "E-078", "E-079")
@pytest.mark.parametrize(
    ("special", "stop", "content", "stop_type"),
    [
        (False, [], "yz", "eos"),
        (False, ["</s>"], "yz", "eos"),
        (True, [], "yz</s>", "eos"),
        (True, ["</s>"], "yz", "word"),  # stop strings are matched on the text that is sent
    ],
)
async def test_special_tokens_as_text(
    opened: Any, special: bool, stop: list[str], content: str, stop_type: str
) -> None:
    async with opened(special=special, tokenizer=Named()) as client:
        row = (await client.post("/completion", json={"prompt": "x", "stop": stop, **GREEDY})).json()
        assert (row["content"], row["stop_type"]) == (content, stop_type)
