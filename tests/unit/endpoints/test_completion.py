"""POST /completion, on a model that continues the alphabet."""

from __future__ import annotations

from math import exp
from typing import Any

import httpx
import pytest

from support.toy_model import EOS, ToyTokenizer
from unit.endpoints.conftest import Open, Post

pytestmark = pytest.mark.asyncio(loop_scope="module")
GREEDY = {"temperature": 0}


@pytest.mark.inventory(
    "E-011", "E-050", "E-051", "E-052", "E-053", "E-054", "E-055", "E-056", "E-057", "E-058", "E-059", "E-05A", "E-05B"
)
@pytest.mark.inventory("E-05C", "R-15")
@pytest.mark.parametrize("path", ["/completion", "/completions"])
async def test_response_has_llama_servers_fields(post: Post, path: str) -> None:
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
    assert timings["predicted_per_second"] == pytest.approx(2000 / timings["predicted_ms"])  # after the first token
    assert timings["predicted_per_token_ms"] == pytest.approx(timings["predicted_ms"] / 2)
    assert (settings["n_ctx"], settings["n_predict"], settings["temperature"], settings["top_k"]) == (64, 3, 0, 40)
    filters = ["top_n_sigma", "top_k", "tfs_z", "typ_p", "top_p", "min_p", "xtc"]
    assert settings["samplers"] == ["penalties", "dry", *filters, "temperature"]


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
async def test_stop_type_says_why_the_text_ended(
    post: Post, fields: dict[str, Any], content: str, stop_type: str, word: str
) -> None:
    row = await post("/completion", prompt="w", **GREEDY, **fields)
    assert (row["content"], row["stop_type"], row["stopping_word"]) == (content, stop_type, word)
    assert [row["stopped_eos"], row["stopped_word"], row["stopped_limit"]] == [
        stop_type == kind for kind in ("eos", "word", "limit")
    ]


@pytest.mark.inventory("E-036")
async def test_ignore_eos_generates_until_the_context_is_full(post: Post) -> None:
    row = await post("/completion", prompt="y", ignore_eos=True, return_tokens=True, **GREEDY)
    assert (row["stop_type"], row["truncated"], row["n_past"]) == ("limit", True, 64)
    assert EOS not in row["tokens"]


@pytest.mark.inventory("E-056")
async def test_generation_settings_have_llama_servers_keys(post: Post) -> None:
    keys = (
        "n_ctx n_predict model seed seed_cur temperature dynatemp_range dynatemp_exponent top_k top_p min_p tfs_z "
        "typical_p repeat_last_n repeat_penalty presence_penalty frequency_penalty mirostat mirostat_tau mirostat_eta "
        "penalize_nl stop max_tokens n_keep n_discard ignore_eos stream n_probs min_keep grammar samplers"
    ).split()
    row = await post("/completion", prompt="a", n_predict=1, n_keep=1, n_discard=2)
    assert set(keys) - set(row["generation_settings"]) == set()
    assert (row["generation_settings"]["n_keep"], row["generation_settings"]["n_discard"]) == (1, 2)


# --- prompts


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
        ({"prompt_string": "ab"}, ["cd"]),
        ({"prompt_string": ["a", 98], "multimodal_data": []}, ["cd"]),
        (
            [{"prompt_string": "a"}, "k", [112], {"prompt_string": "q", "multimodal_data": None}],
            ["bc", "lm", "qr", "rs"],
        ),
    ],
)
async def test_every_form_of_prompt_is_answered(post: Post, events: Post, prompt: Any, answers: list[str]) -> None:
    response = await post("/completion", prompt=prompt, n_predict=2, **GREEDY)
    rows = response if isinstance(response, list) else [response]
    assert isinstance(response, list) is (len(answers) > 1)
    assert [row["content"] for row in rows] == answers
    assert [row["index"] for row in rows] == list(range(len(answers)))

    texts = dict.fromkeys(range(len(answers)), "")
    for chunk in await events("/completion", prompt=prompt, n_predict=2, **GREEDY):
        texts[chunk["index"]] += chunk["content"]
    assert list(texts.values()) == answers


@pytest.mark.inventory("E-057")
async def test_responses_have_their_prompts(post: Post) -> None:
    rows = await post("/completion", prompt=["a", [98, "c"]], n_predict=1, **GREEDY)
    assert [row["prompt"] for row in rows] == ["a", [98, "c"]]


@pytest.mark.inventory("E-064")
async def test_empty_prompt_gets_an_empty_completion(post: Post) -> None:
    row = await post("/completion", prompt="", **GREEDY)
    assert (row["content"], row["tokens_predicted"], row["tokens_evaluated"], row["id_slot"]) == ("", 0, 0, -1)
    assert [row["stopped_eos"], row["stopped_word"], row["stopped_limit"]] == [False] * 3
    assert row["timings"]["predicted_per_second"] == 0


@pytest.mark.inventory("E-065", "E-066", "R-15")
@pytest.mark.parametrize("prompt", [[], [[]], ["a", []], [1.5, 2], 5, None, {}, [True], [1, [2]], [-1]])
async def test_invalid_prompts_are_400(refused: Post, prompt: Any) -> None:
    status, param, _ = await refused("/completion", prompt=prompt)
    assert (status, str(param).partition(".")[0]) == (400, "prompt")


@pytest.mark.inventory("E-067", "R-01")
@pytest.mark.parametrize(
    ("prompt", "param"), [([1, 999], "prompt.1"), ([1, "a", 999], "prompt.2"), (["a", [5, 264]], "prompt.1.1")]
)
async def test_unknown_tokens_are_400(refused: Post, prompt: Any, param: str) -> None:
    status, error_param, message = await refused("/completion", prompt=prompt)
    assert (status, error_param) == (400, param)
    assert "is not in the vocabulary of 264 tokens" in message


# --- streams


@pytest.mark.inventory("E-020", "E-070", "E-071", "E-072", "E-073", "D-25")
async def test_stream_has_chunks_and_a_last_object(events: Post) -> None:
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
async def test_stream_sends_held_back_text_at_the_end(events: Post) -> None:
    """The text ends while it could still have become the stop string ``yz!``."""
    *chunks, last = await events("/completion", prompt="w", stop=["yz!"], **GREEDY)
    assert "".join(chunk["content"] for chunk in chunks) == "xyz"
    assert last["stop_type"] == "eos"


@pytest.mark.inventory("E-077", "E-021", "F-11", "E-078")
async def test_stream_never_sends_a_stop_string(events: Post) -> None:
    *chunks, last = await events("/completion", prompt="a", stop=["def"], **GREEDY)
    assert "".join(chunk["content"] for chunk in chunks) == "bc"
    assert last["stopping_word"] == "def"


# --- options


async def test_return_tokens_reports_token_ids(post: Post) -> None:
    assert "tokens" not in await post("/completion", prompt="a", n_predict=2, **GREEDY)
    assert (await post("/completion", prompt="a", n_predict=2, return_tokens=True, **GREEDY))["tokens"] == [98, 99]


@pytest.mark.inventory("E-038", "E-05D", "S-20", "D-17")
@pytest.mark.parametrize("post_sampling", [False, True])
async def test_n_probs_reports_completion_probabilities(post: Post, events: Post, post_sampling: bool) -> None:
    fields: dict[str, Any] = {
        "prompt": "a",
        "n_predict": 2,
        "n_probs": 3,
        "post_sampling_probs": post_sampling,
        "temperature": 1,
    }
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


async def test_logprobs_of_forbidden_tokens_are_finite(post: Post) -> None:
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
async def test_logit_bias_forbids_a_token(post: Post, bias: Any) -> None:
    row = await post("/completion", prompt="a", n_predict=1, logit_bias=bias, return_tokens=True, **GREEDY)
    assert row["tokens"] != [98]


@pytest.mark.parametrize("bias", [[[999, 100], [-1, False], [122, 100]], {"50256": -100, "-7": 1, "122": 100}])
async def test_logit_bias_ignores_tokens_that_do_not_exist(post: Post, bias: Any) -> None:
    row = await post("/completion", prompt="a", n_predict=1, logit_bias=bias, **GREEDY)
    assert row["content"] == "z"
    assert row["generation_settings"]["logit_bias"] == [[122, 100.0]]


async def test_ignore_eos_is_shown_among_the_biases(post: Post) -> None:
    fields = {"ignore_eos": True, "logit_bias": [[122, 1]], **GREEDY}
    row = await post("/completion", prompt="a", n_predict=1, **fields)
    eog = sorted(ToyTokenizer.eog)
    assert row["generation_settings"]["logit_bias"] == [[122, 1.0], *([token, False] for token in eog)]
    assert eog


@pytest.mark.inventory("E-037")
async def test_logit_bias_of_a_text_applies_to_its_tokens(post: Post) -> None:
    row = await post("/completion", prompt="a", n_predict=1, logit_bias=[["xy", 100]], **GREEDY)
    assert row["content"] == "x"
    assert row["generation_settings"]["logit_bias"] == [[120, 100.0], [121, 100.0]]


@pytest.mark.inventory("E-037", "R-15")
@pytest.mark.parametrize(
    ("bias", "param"),
    [
        ([[1.5, 1]], "logit_bias.0"),
        ([[False, 1]], "logit_bias.0"),
        ([["a", "b"]], "logit_bias.0.1"),
        ([["a" * 16000, 1], ["a" * 16000, 1]], "logit_bias"),
        ([["a"]], "logit_bias.0"),
        ([["a", True]], "logit_bias.0.1"),
        ({"x": 1}, "logit_bias.x"),
        ({"1": True}, "logit_bias.1"),
        ("a", "logit_bias"),
    ],
)
async def test_invalid_logit_bias_is_400(refused: Post, bias: Any, param: str) -> None:
    assert (await refused("/completion", prompt="a", logit_bias=bias))[:2] == (400, param)


@pytest.mark.inventory("E-040", "E-041", "E-043", "R-05", "R-15", "R-01", "R-06", "D-19")
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"samplers": ["top_k", "temprature"]}, "samplers.1"),
        ({"samplers": "top_k"}, "samplers"),
        ({"id_slot": 2}, "id_slot"),
        ({"id_slot": -2}, "id_slot"),
        ({"id_slot": "x"}, "id_slot"),
        ({"n_predict": "5"}, "n_predict"),
        ({"n_predict": -3}, "n_predict"),
        ({"stop": [1]}, "stop.0"),
        ({"stop": [["a"]]}, "stop.0"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop.1"),
        ({"n_probs": -1}, "n_probs"),
        ({"n_probs": 60000}, "n_probs"),
        ({"seed": 2**64}, "seed"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"seed": -(2**64)}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"mirostat": 3}, "mirostat"),
        ({"grammar": "root ::= 'a'"}, "grammar"),
        ({"grammar": 5}, "grammar"),
        ({"json_schema": []}, "json_schema"),
        ({"json_schema": {}, "grammar": 'root ::= "a"'}, "json_schema"),
        ({"image_data": [{"data": "", "id": 1}]}, "image_data"),
        ({"truncate_prompt": 1}, "truncate_prompt"),
        ({"temperature": "hot"}, "temperature"),
    ],
)
async def test_invalid_fields_are_400(refused: Post, fields: dict[str, Any], param: str) -> None:
    assert (await refused("/completion", prompt="a", **fields))[:2] == (400, param)


async def test_values_without_effect_are_accepted(post: Post) -> None:
    unset: dict[str, Any] = {
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
        "truncate_prompt": None,
    }

    assert (await post("/completion", prompt="a", n_predict=1, **unset))["generation_settings"]["temperature"] == 0.8


async def test_unknown_fields_are_named_in_a_header(client: httpx.AsyncClient) -> None:
    response = await client.post("/completion", json={"prompt": "a", "n_predict": 1, "n_kept": 5})
    assert response.status_code == 200
    assert response.headers["x-llamafw-ignored-fields"] == "n_kept"


@pytest.mark.inventory("E-043")
async def test_samplers_keep_their_order(post: Post) -> None:
    row = await post("/completion", prompt="a", n_predict=1, samplers=["min_p", "top_k", "min_p"])
    assert row["generation_settings"]["samplers"] == ["min_p", "top_k", "min_p"]


@pytest.mark.inventory("E-035")
async def test_same_seed_gives_the_same_text(post: Post) -> None:
    fields: dict[str, Any] = {
        "prompt": "a",
        "n_predict": 20,
        "temperature": 50,
        "samplers": ["temperature"],
        "return_tokens": True,
    }
    first, again, other = [await post("/completion", **fields, seed=seed) for seed in (7, 7, 8)]
    assert first["tokens"] == again["tokens"] != other["tokens"]
    assert first["generation_settings"]["seed_cur"] == 7


@pytest.mark.inventory("E-035")
@pytest.mark.parametrize(
    ("seed", "used"),
    [
        (7.0, 7),
        (2**32 - 2, 2**32 - 2),
        (2**32, 1),
        (2**63 - 1, (2**63 - 1) % (2**32 - 1)),
        (2**64 - 1, 0),
        (-2, 2**32 - 3),
        (-(2**63), -(2**63) % (2**32 - 1)),
    ],
)
async def test_seeds_of_64_bits_are_folded_to_32(post: Post, seed: float, used: int) -> None:
    settings = (await post("/completion", prompt="a", n_predict=1, seed=seed))["generation_settings"]
    assert (settings["seed"], settings["seed_cur"]) == (used, used)


@pytest.mark.inventory("E-035")
@pytest.mark.parametrize("seed", [-1, 2**32 - 1, -1.0, None])
async def test_random_seeds_differ(post: Post, seed: int | None) -> None:
    settings = [(await post("/completion", prompt="a", n_predict=1, seed=seed))["generation_settings"] for _ in "ab"]
    assert settings[0]["seed"] == -1
    assert settings[0]["seed_cur"] != settings[1]["seed_cur"]


# --- flags


@pytest.mark.inventory("C-017", "E-017")
@pytest.mark.parametrize(
    ("flag", "requested", "n"),
    [(None, 9, 9), (None, None, 25), (4, 9, 4), (4, 2, 2), (4, -1, 4), (4, None, 4), (4, -2, 4), (-1, 9, 9)],
)
async def test_predict_flag_is_default_and_limit(opened: Open, flag: int | None, requested: int | None, n: int) -> None:
    async with opened(predict=flag) as client:
        response = await client.post("/completion", json={"prompt": "a", "n_predict": requested, **GREEDY})
    assert len(response.json()["content"]) == n


@pytest.mark.inventory("D-18")
async def test_flags_are_defaults_of_fields(opened: Open) -> None:
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
async def test_long_stop_strings_are_400(refused: Post, stop: Any) -> None:
    assert (await refused("/completion", prompt="a", stop=stop))[:2] == (400, "stop")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/completion", {"prompt": ["a"] * 1024}),
        ("/v1/completions", {"prompt": ["a"] * 8, "n": 128}),
    ],
)
async def test_too_many_biases_over_all_choices_are_400(refused: Post, path: str, fields: dict[str, Any]) -> None:
    status, param, message = await refused(path, logit_bias=[[1, 1]] * 257, n_predict=0, **fields)
    assert (status, param) == (400, "logit_bias")
    assert message == "with 1024 choices, logit_bias can have at most 256 entries"


@pytest.mark.inventory("C-092")
async def test_logit_bias_of_a_request_replaces_the_flag(opened: Open) -> None:
    async with opened(logit_bias=("122+100",)) as client:
        body = {"prompt": "a", "n_predict": 1, "temperature": 0}
        assert (await client.post("/completion", json=body)).json()["content"] == "z"
        body |= {"logit_bias": [[122, -100]]}
        assert (await client.post("/completion", json=body)).json()["content"] == "b"


@pytest.mark.inventory("S-01", "E-029", "B-15", "C-089")
async def test_mirostat_replaces_the_truncating_samplers(opened: Open) -> None:
    async with opened() as client:
        body = {"prompt": "a", "n_predict": 2, "mirostat": 2, "samplers": ["top_k"]}
        settings = (await client.post("/completion", json=body)).json()["generation_settings"]
        assert settings["samplers"] == ["penalties", "temperature", "mirostat"]
        assert (settings["mirostat"], settings["mirostat_tau"], settings["mirostat_eta"]) == (2, 5, 0.1)
    async with opened(mirostat=1) as client:
        row = (await client.post("/completion", json={"prompt": "a", "n_predict": 1})).json()
        assert row["generation_settings"]["samplers"][-1] == "mirostat"


class NamedEos(ToyTokenizer):
    """A toy tokenizer whose end-of-sequence token has the name ``</s>``."""

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return b"</s>" if special and token == EOS else super().piece(token)


@pytest.mark.inventory("C-097", "E-078", "E-079")
@pytest.mark.parametrize(
    ("special", "stop", "content", "stop_type"),
    [
        (False, [], "yz", "eos"),
        (False, ["</s>"], "yz", "eos"),
        (True, [], "yz</s>", "eos"),
        (True, ["</s>"], "yz", "word"),  # stop strings are searched in the text that is sent
    ],
)
async def test_special_flag_shows_special_tokens(
    opened: Open, special: bool, stop: list[str], content: str, stop_type: str
) -> None:
    async with opened(special=special, tokenizer=NamedEos()) as client:
        row = (await client.post("/completion", json={"prompt": "x", "stop": stop, **GREEDY})).json()
    assert (row["content"], row["stop_type"]) == (content, stop_type)


@pytest.mark.parametrize("field", ["n_predict", "max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("path", ["/completion", "/v1/completions"])
async def test_the_number_of_tokens_has_three_names(opened: Open, path: str, field: str) -> None:
    async with opened() as client:
        http = await client.post(path, json={"prompt": "ab", "temperature": 0, field: 3})
    response = http.json()
    n = response["tokens_predicted"] if path == "/completion" else response["usage"]["completion_tokens"]
    assert n == 3
    assert "x-llamafw-ignored-fields" not in http.headers


@pytest.mark.inventory("Q-05")
@pytest.mark.parametrize("limit", [-1, 0, None])
async def test_t_max_predict_of_0_or_less_is_no_limit(opened: Open, limit: int | None) -> None:
    async with opened() as client:
        body = {"prompt": "ab", "n_predict": 9, "grammar": 'root ::= "\\n\\n\\nabcdef"', "t_max_predict_ms": limit}
        response = (await client.post("/completion", json=body)).json()
    assert response["content"] == "\n\n\nabcdef"
