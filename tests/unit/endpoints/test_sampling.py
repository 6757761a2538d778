"""Each sampling field, and the flag for its default, changes the reported probabilities as its formula says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, fields
from math import exp, log
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio

from llamafw import Floats, Settings
from support.flags import parse_settings
from support.toy_model import EOS, EOT, N_VOCAB
from unit.endpoints.conftest import Open

pytestmark = pytest.mark.asyncio(loop_scope="module")
Row = npt.NDArray[np.float64]

NEWLINE = 10
LOGITS: Row = np.full(N_VOCAB, -9.0)
LOGITS[97:123] = np.linspace(3, -4, 26) + 0.3 * np.sin(np.arange(26))
LOGITS[[NEWLINE, EOS, EOT]] = 2.1, 1.7, 0.9
LOGITS = LOGITS.astype(np.float32).astype(np.float64)
PROMPT = "abbx\nc\n"
NEUTRAL: dict[str, Any] = {
    "temperature": 1,
    "dynatemp_range": 0,
    "dynatemp_exponent": 1,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "tfs_z": 1,
    "typical_p": 1,
    "repeat_penalty": 1,
    "repeat_last_n": 64,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "penalize_nl": False,
    "dry_multiplier": 0,
    "dry_allowed_length": 2,
    "dry_sequence_breakers": ["\n"],
    "top_n_sigma": -1,
    "xtc_probability": 0,
    "xtc_threshold": 0.1,
    "adaptive_target": -1,
    "mirostat": 0,
    "mirostat_tau": 5,
    "mirostat_eta": 0.1,
    "ignore_eos": False,
    "min_keep": 0,
}
"""Values with which every sampler leaves the candidates unchanged."""


def softmax(logits: Row) -> Row:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def only(kept: Sequence[int] | npt.NDArray[Any]) -> Row:
    """Return the probabilities if only these tokens are left."""
    logits = np.full(N_VOCAB, -np.inf)
    logits[kept] = LOGITS[kept]
    return softmax(logits)


P = softmax(LOGITS)
ORDER = np.argsort(-P, kind="stable")
ENTROPY = float(-(P * np.log(P)).sum())


def most_typical(p: float) -> Row:
    order = np.argsort(np.abs(-np.log(P) - ENTROPY), kind="stable")
    return only(order[: int((P[order].cumsum() <= p).sum()) + 1])


def tail_free(z: float) -> Row:
    bends = np.abs(np.diff(P[ORDER], 2))
    return only(ORDER[: np.flatnonzero((bends / bends.sum()).cumsum() > z)[0]])


def penalised(
    repeat: float = 1, presence: float = 0, frequency: float = 0, *, last_n: int = 64, newline: bool = False
) -> Row:
    logits = LOGITS.copy()
    window = PROMPT.encode()[-last_n:]
    for token in set(window):
        if token != NEWLINE or newline:
            logits[token] = logits[token] / repeat if logits[token] > 0 else logits[token] * repeat
            logits[token] -= presence + frequency * window.count(token)
    return softmax(logits)


def near(target: float) -> Row:
    """Return what adaptive-p makes of the probabilities before the first token."""
    distance = np.abs(P - target) / 0.3
    return softmax(5 - 10 * distance**2 / (1 + distance))


def without_top_choices(threshold: float) -> Row:
    return only(ORDER[int((threshold <= P).sum()) - 1 :])


def dynamic(spread: float, exponent: float) -> Row:
    share = (ENTROPY / log(N_VOCAB)) ** exponent
    return softmax(LOGITS / (1 - spread + 2 * spread * share))


def without_ends() -> Row:
    logits = LOGITS.copy()
    logits[[EOS, EOT]] = -np.inf
    return softmax(logits)


@dataclass(frozen=True)
class SamplingCase:
    """A value of a field, the flags that make it the default, and the probabilities that it leads to."""

    field: str
    value: Any
    flags: str
    samplers: tuple[str, ...]
    expected: Callable[[], Row]
    inventory: tuple[str, ...]
    other_fields: tuple[tuple[str, Any], ...] = ()  # without these, the field has no effect


CASES = [
    SamplingCase("temperature", 0.6, "--temp 0.6", ("temperature",), lambda: softmax(LOGITS / 0.6), ("E-011", "C-077")),
    SamplingCase(
        "dynatemp_range",
        0.7,
        "--dynatemp-range 0.7",
        ("temperature",),
        lambda: dynamic(0.7, 1),
        ("E-012", "C-087", "S-15"),
    ),
    SamplingCase(
        "dynatemp_exponent",
        2.5,
        "--dynatemp-exp 2.5",
        ("temperature",),
        lambda: dynamic(0.5, 2.5),
        ("E-013", "C-088", "S-15"),
        (("dynatemp_range", 0.5),),
    ),
    SamplingCase("top_k", 7, "--top-k 7", ("top_k",), lambda: only(ORDER[:7]), ("E-014", "C-078", "S-04")),
    SamplingCase(
        "top_p",
        0.7,
        "--top-p 0.7",
        ("top_p",),
        lambda: only(ORDER[: int((P[ORDER].cumsum() < 0.7).sum()) + 1]),
        ("E-015", "C-079", "S-05"),
    ),
    SamplingCase(
        "min_p",
        0.2,
        "--min-p 0.2",
        ("min_p",),
        lambda: only(np.flatnonzero(P.max() * 0.2 <= P)),
        ("E-016", "C-080", "S-06"),
    ),
    SamplingCase("tfs_z", 0.8, "--tfs 0.8", ("tfs_z",), lambda: tail_free(0.8), ("E-022", "C-081", "S-07")),
    SamplingCase("typical_p", 0.4, "--typical 0.4", ("typ_p",), lambda: most_typical(0.4), ("E-023", "C-082", "S-08")),
    SamplingCase("typical_p", 0.4, "--typical 0.4", ("typical_p",), lambda: most_typical(0.4), ("D-06",)),
    SamplingCase(
        "repeat_penalty",
        1.5,
        "--repeat-penalty 1.5",
        ("penalties",),
        lambda: penalised(repeat=1.5),
        ("E-024", "C-084", "S-03"),
    ),
    SamplingCase(
        "repeat_last_n",
        3,
        "--repeat-last-n 3",
        ("penalties",),
        lambda: penalised(presence=1, last_n=3),
        ("E-025", "C-083", "S-03"),
        (("presence_penalty", 1),),
    ),
    SamplingCase(
        "penalize_nl",
        True,
        "--penalize-nl",
        ("penalties",),
        lambda: penalised(presence=1, newline=True),
        ("E-026", "C-076"),
        (("presence_penalty", 1),),
    ),
    SamplingCase(
        "presence_penalty",
        0.6,
        "--presence-penalty 0.6",
        ("penalties",),
        lambda: penalised(presence=0.6),
        ("E-027", "C-085", "S-03"),
    ),
    SamplingCase(
        "frequency_penalty",
        0.7,
        "--frequency-penalty 0.7",
        ("penalties",),
        lambda: penalised(frequency=0.7),
        ("E-028", "C-086", "S-03"),
    ),
    SamplingCase(
        "top_n_sigma",
        0.3,
        "--top-nsigma 0.3",
        ("top_n_sigma",),
        lambda: only(np.flatnonzero(LOGITS.max() - 0.3 * LOGITS.std() <= LOGITS)),
        ("M-03",),
    ),
    SamplingCase(
        "xtc_probability",
        1,
        "--xtc-probability 1",
        ("xtc",),
        lambda: without_top_choices(0.01),
        ("M-02",),
        (("xtc_threshold", 0.01),),
    ),
    SamplingCase(
        "xtc_threshold",
        0.02,
        "--xtc-threshold 0.02",
        ("xtc",),
        lambda: without_top_choices(0.02),
        ("M-02",),
        (("xtc_probability", 1),),
    ),
    SamplingCase("adaptive_target", 0.1, "--adaptive-target 0.1", ("adaptive_p",), lambda: near(0.1), ("M-04",)),
    SamplingCase(
        "mirostat",
        2,
        "--mirostat 2",
        (),
        lambda: only(ORDER[-np.log2(P[ORDER]) <= 4]),
        ("E-029", "C-089", "S-16"),
        (("mirostat_tau", 2),),
    ),
    SamplingCase(
        "mirostat_tau",
        1.6,
        "--mirostat-ent 1.6",
        (),
        lambda: only(ORDER[-np.log2(P[ORDER]) <= 3.2]),
        ("E-030", "C-091", "S-16"),
        (("mirostat", 2),),
    ),
    SamplingCase("ignore_eos", True, "--ignore-eos", (), without_ends, ("E-036", "C-075")),
]
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.inventory(*case.inventory), id="-".join((case.field, *case.samplers)))
        for case in CASES
    ],
)


def changed_settings(flags: str) -> dict[str, Any]:
    """Return the settings that flags change."""
    settings = parse_settings(*flags.split())
    values = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    return {name: value for name, value in values.items() if value != getattr(Settings(), name)}


def scores(prefix: Sequence[int]) -> Floats:
    return LOGITS.astype(np.float32)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(opened: Open) -> AsyncIterator[httpx.AsyncClient]:
    async with opened(scores=scores) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def flagged(opened: Open) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a server with the flags of all cases."""
    flags = " ".join(dict.fromkeys(case.flags for case in CASES))
    async with opened(scores=scores, **changed_settings(flags + " --mirostat-lr 0.5 --seed 5")) as client:
        yield client


async def sample(client: httpx.AsyncClient, n: int = 1, **body: Any) -> list[tuple[int, Row]]:
    """Return ``n`` drawn tokens, each with the probabilities after the samplers."""
    response = await client.post(
        "/completion",
        json={"prompt": PROMPT, "n_predict": n, "n_probs": N_VOCAB, "post_sampling_probs": True, **body},
    )
    assert response.status_code == 200, response.text

    result = []
    for row in response.json()["completion_probabilities"]:
        p = np.zeros(N_VOCAB)
        for item in row["top_probs"]:
            p[item["id"]] = item["prob"]
        assert row["prob"] == p[row["id"]] > 0
        result.append((row["id"], p))
    return result


@each_case
async def test_request_field_sets_the_value(plain: httpx.AsyncClient, case: SamplingCase) -> None:
    body = NEUTRAL | {"samplers": case.samplers} | dict(case.other_fields)
    ((_, neutral),) = await sample(plain, **body)
    ((_, p),) = await sample(plain, **body | {case.field: case.value})
    np.testing.assert_allclose(p, case.expected(), rtol=1e-4, atol=1e-9)
    assert np.abs(p - neutral).max() > 0.01


@each_case
async def test_flag_sets_the_default(flagged: httpx.AsyncClient, case: SamplingCase) -> None:
    body = NEUTRAL | {"samplers": case.samplers} | dict(case.other_fields)
    del body[case.field]
    ((_, p),) = await sample(flagged, **body)
    np.testing.assert_allclose(p, case.expected(), rtol=1e-4, atol=1e-9)


@pytest.mark.inventory("E-031", "C-090", "S-16")
async def test_mirostat_eta_sets_the_learning_rate(plain: httpx.AsyncClient, flagged: httpx.AsyncClient) -> None:
    body = NEUTRAL | {"mirostat": 2, "mirostat_tau": 1.2, "seed": 11}
    del body["mirostat_eta"]
    for client, rate in ((plain, {"mirostat_eta": 0.5}), (flagged, {})):
        (token, first), (_, second) = await sample(client, 2, **body | rate)
        np.testing.assert_allclose(first, only(ORDER[-np.log2(P[ORDER]) <= 2.4]), rtol=1e-4, atol=1e-9)
        mu = 2.4 - 0.5 * (-np.log2(first[token]) - 1.2)
        np.testing.assert_allclose(second, only(ORDER[-np.log2(P[ORDER]) <= mu]), rtol=1e-4, atol=1e-9)
        assert (second > 0).sum() != (first > 0).sum()


@pytest.mark.inventory("E-029", "C-089", "S-16")
async def test_mirostat_1_truncates_as_its_formula_says(plain: httpx.AsyncClient) -> None:
    tau = 4
    ((_, p),) = await sample(plain, **NEUTRAL | {"mirostat": 1, "mirostat_tau": tau})
    ranked = P[ORDER][:100]
    t, b = np.log(np.arange(2, 101) / np.arange(1, 100)), np.log(ranked[:-1] / ranked[1:])
    s = float((t * b).sum() / (t * t).sum())
    k = ((s - 1) * 2 ** (2 * tau) / (1 - N_VOCAB ** (1 - s))) ** (1 / s)
    np.testing.assert_allclose(p, only(ORDER[: int(k)]), rtol=1e-4, atol=1e-9)
    assert int(k) > 1


@pytest.mark.inventory("E-035", "C-073")
async def test_seed_flag_sets_the_default_seed(plain: httpx.AsyncClient, flagged: httpx.AsyncClient) -> None:
    body = NEUTRAL | {"samplers": [], "ignore_eos": True}
    tokens = [
        [token for token, _ in await sample(client, 12, **body | seed)]
        for client, seed in ((plain, {"seed": 5}), (flagged, {}), (flagged, {"seed": 6}))
    ]
    assert tokens[0] == tokens[1] != tokens[2]


@pytest.mark.inventory("E-043", "C-072", "C-074", "S-01")
@pytest.mark.parametrize("flags", ["--samplers top-k;temp", "--sampling-seq kt"])
async def test_samplers_flag_sets_the_order(opened: Open, flags: str) -> None:
    """Without `top_p`, all of the seven tokens that `top_k` leaves stay."""
    body = NEUTRAL | {"top_k": 7, "top_p": 0.8, "temperature": 3}
    async with opened(scores=scores, **changed_settings(flags)) as client:
        ((_, p),) = await sample(client, **body)
    np.testing.assert_allclose(p[ORDER[:7]], softmax(LOGITS[ORDER[:7]] / 3), rtol=1e-4)


@pytest.mark.inventory("E-043", "S-01")
@pytest.mark.parametrize(
    "order", [("top_p", "temperature"), ("temperature", "top_p"), ("temperature", "top_p", "temperature")]
)
async def test_samplers_field_sets_the_order(plain: httpx.AsyncClient, order: tuple[str, ...]) -> None:
    """`top_p` keeps other tokens after `temperature` than before it."""
    body = NEUTRAL | {"top_k": 7, "top_p": 0.8, "temperature": 3, "samplers": order}
    ((_, p),) = await sample(plain, **body)

    logits = LOGITS.copy()
    for name in order:
        if name == "temperature":
            logits = logits / 3
        else:
            probabilities = softmax(logits)
            ranked = np.argsort(-probabilities, kind="stable")
            logits[ranked[int((probabilities[ranked].cumsum() < 0.8).sum()) + 1 :]] = -np.inf
    np.testing.assert_allclose(p, softmax(logits), rtol=1e-4, atol=1e-9)


@pytest.mark.inventory("E-039", "S-10")
@pytest.mark.parametrize(
    ("sampler", "field", "value"),
    [
        ("top_p", "top_p", 0),
        ("min_p", "min_p", 1),
        ("typ_p", "typical_p", 0.01),
        ("tfs_z", "tfs_z", 0.01),
        ("top_k", "top_k", 1),
    ],
)
async def test_min_keep_limits_all_samplers_but_top_k(
    plain: httpx.AsyncClient, sampler: str, field: str, value: float
) -> None:
    body = NEUTRAL | {"samplers": [sampler], field: value}
    left = [int((p > 0).sum()) for n in (0, 5) for _, p in await sample(plain, **body | {"min_keep": n})]
    assert left == [1, 1 if sampler == "top_k" else 5]


# --- reported probabilities


CHAIN = {"samplers": ["top_k", "temperature"], "top_k": 4, "temperature": 2, "logit_bias": [[98, -1]], "seed": 3}
BIASED = LOGITS - (np.arange(N_VOCAB) == 98)
TOP = np.argsort(-BIASED, kind="stable")[:4]
AFTER = dict(zip(TOP.tolist(), softmax(BIASED[TOP] / 2).tolist(), strict=True))
NAMES = {"a": 97, "b": 98, "c": 99, "d": 100, "e": 101, "\n": NEWLINE}


@pytest.mark.inventory("E-038", "E-05D", "S-20", "Q-02")
@pytest.mark.parametrize("post_sampling", [False, True])
@pytest.mark.parametrize("n_probs", [1, 3, 9])
async def test_n_probs_reports_the_likeliest(plain: httpx.AsyncClient, post_sampling: bool, n_probs: int) -> None:
    body = {"prompt": "a", "n_predict": 5, "n_probs": n_probs, "post_sampling_probs": post_sampling, **CHAIN}
    rows = (await plain.post("/completion", json=body)).json()["completion_probabilities"]
    assert 1 <= len(rows) <= 5
    for row in rows:
        if post_sampling:
            top = {item["id"]: item["prob"] for item in row["top_probs"]}
            assert top == pytest.approx(dict(list(AFTER.items())[:n_probs]), rel=1e-5)
            assert row["prob"] == pytest.approx(AFTER[row["id"]], rel=1e-5)
        else:
            top = {item["id"]: item["logprob"] for item in row["top_logprobs"]}
            assert top == pytest.approx({i: log(P[i]) for i in ORDER[:n_probs].tolist()}, rel=1e-6)
            assert row["logprob"] == pytest.approx(log(P[row["id"]]), rel=1e-6)


@pytest.mark.inventory("E-107", "Q-02")
@pytest.mark.parametrize("post_sampling", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_openai_operations_report_logprobs(plain: httpx.AsyncClient, path: str, post_sampling: bool) -> None:
    chat = {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 3}
    body = {**(chat if "chat" in path else {"prompt": "x", "logprobs": 3}), "max_tokens": 5, **CHAIN}
    response = (await plain.post(path, json=body | {"post_sampling_probs": post_sampling})).json()
    logprobs = response["choices"][0]["logprobs"]
    if "chat" in path:
        rows = [
            (row["id"], row["logprob"], {item["id"]: item["logprob"] for item in row["top_logprobs"]})
            for row in logprobs["content"]
        ]
    else:
        tops = [{NAMES[name]: value for name, value in top.items()} for top in logprobs["top_logprobs"]]
        rows = list(zip((NAMES[name] for name in logprobs["tokens"]), logprobs["token_logprobs"], tops, strict=True))
    assert rows

    expected = {i: log(p) for i, p in AFTER.items()} if post_sampling else {i: log(P[i]) for i in ORDER.tolist()}
    for token, logprob, top in rows:
        assert logprob == pytest.approx(expected[token], rel=1e-5)
        assert top == pytest.approx(dict(list(expected.items())[:3]), rel=1e-5)


@pytest.mark.inventory("S-20")
async def test_greedy_reports_the_models_probabilities(plain: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {"prompt": "a", "n_predict": 1, "n_probs": 4, "temperature": 0, "top_k": 1}
    (row,) = (await plain.post("/completion", json=body)).json()["completion_probabilities"]
    assert [exp(item["logprob"]) for item in row["top_logprobs"]] == pytest.approx(P[ORDER[:4]].tolist(), rel=1e-6)
    body |= {"post_sampling_probs": True}
    (row,) = (await plain.post("/completion", json=body)).json()["completion_probabilities"]
    assert [(item["id"], item["prob"]) for item in row["top_probs"]] == [(int(ORDER[0]), 1)]


@pytest.mark.inventory("S-20", "E-05D")
async def test_stop_string_has_no_probabilities(plain: httpx.AsyncClient) -> None:
    body: dict[str, Any] = {
        "prompt": "a",
        "n_predict": 30,
        "n_probs": 1,
        "seed": 4,
        "return_tokens": True,
        "ignore_eos": True,
    }
    whole = (await plain.post("/completion", json=body)).json()
    assert len(whole["completion_probabilities"]) == len(whole["tokens"]) == 30

    word = whole["content"][3:5]
    cut = (await plain.post("/completion", json=body | {"stop": [word]})).json()
    n = whole["content"].index(word)
    assert [row["id"] for row in cut["completion_probabilities"]] == cut["tokens"] == whole["tokens"][:n]


@pytest.mark.inventory("M-01")
async def test_dry_penalises_repeated_passages(plain: httpx.AsyncClient, opened: Open) -> None:
    """The last tokens ``a b`` occurred before ``c``."""
    body = NEUTRAL | {"samplers": ["dry"], "prompt": "abcxab"}
    logits = LOGITS.copy()
    logits[ord("c")] -= 2.0
    ((_, p),) = await sample(plain, **body | {"dry_multiplier": 2})
    np.testing.assert_allclose(p, softmax(logits), rtol=1e-4, atol=1e-9)

    del body["dry_multiplier"]
    async with opened(scores=scores, **changed_settings("--dry-multiplier 2")) as client:
        ((_, p),) = await sample(client, **body)
        np.testing.assert_allclose(p, softmax(logits), rtol=1e-4, atol=1e-9)
        ((_, p),) = await sample(client, **body | {"dry_sequence_breakers": ["x", "b"]})
        np.testing.assert_allclose(p, P, rtol=1e-4, atol=1e-9)


@pytest.mark.inventory("M-06", "E-043")
async def test_default_samplers_have_the_order_of_llama_server(plain: httpx.AsyncClient) -> None:
    names = "penalties dry top_n_sigma top_k tfs_z typ_p top_p min_p xtc temperature".split()
    fields = {"dry_multiplier": 0.8, "top_n_sigma": 1.5, "xtc_probability": 0.5, "prompt": "a b a b", "n_predict": 9}
    answers = [(await plain.post("/completion", json=fields | {"seed": 7})).json() for _ in "ab"]
    assert answers[0]["generation_settings"]["samplers"] == names
    assert answers[0]["content"] == answers[1]["content"]  # the seed also determines what the samplers draw
    answer = (await plain.post("/completion", json=fields | {"adaptive_target": 0.5})).json()
    assert answer["generation_settings"]["samplers"] == [*names, "adaptive_p"]


@pytest.mark.inventory("E-043", "Q-18")
@pytest.mark.parametrize(
    ("samplers", "names"),
    [
        ("kfypmt", ["penalties", "top_k", "tfs_z", "typ_p", "top_p", "min_p", "temperature"]),
        ("edskypmxt", "penalties dry top_n_sigma top_k typ_p top_p min_p xtc temperature".split()),
        ("aet", ["penalties", "temperature", "adaptive_p"]),
        ("", ["penalties"]),
        (["top-k", "typical", "temp", "nucleus"], ["top_k", "typ_p", "temperature", "top_p"]),
        (
            [
                "dry",
                "top_k",
                "tfs_z",
                "typical_p",
                "top_n_sigma",
                "min_p",
                "adaptive_p",
                "xtc",
                "temperature",
                "infill",
            ],
            [
                "dry",
                "top_k",
                "tfs_z",
                "typical_p",
                "top_n_sigma",
                "min_p",
                "xtc",
                "temperature",
                "infill",
                "adaptive_p",
            ],
        ),
    ],
)
async def test_samplers_may_be_letters_or_other_names(
    plain: httpx.AsyncClient, samplers: str | list[str], names: list[str]
) -> None:
    response = await plain.post("/completion", json={"prompt": "x", "n_predict": 1, "samplers": samplers})
    assert response.status_code == 200, response.text
    assert response.json()["generation_settings"]["samplers"] == names


@pytest.mark.inventory("E-043")
@pytest.mark.parametrize(
    ("samplers", "param", "text"),
    [
        ("kz", "samplers", "samplers"),
        (["top_k", "top_q"], "samplers.1", "top_"),
        (7, "samplers", "samplers must be"),
    ],
)
async def test_unknown_samplers_are_400(plain: httpx.AsyncClient, samplers: Any, param: str, text: str) -> None:
    response = await plain.post("/completion", json={"prompt": "x", "samplers": samplers})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert text in response.json()["error"]["message"]


@pytest.mark.inventory("M-06")
async def test_neutral_values_change_nothing(plain: httpx.AsyncClient) -> None:
    every = ["penalties", *"dry top_n_sigma top_k tfs_z typ_p top_p min_p xtc temperature adaptive_p".split()]
    ((_, p),) = await sample(plain, **NEUTRAL | {"samplers": every})
    np.testing.assert_allclose(p, P, rtol=1e-4, atol=1e-9)


async def test_reverse_prompt_is_the_default_of_stop(opened: Open) -> None:
    likeliest = chr(ORDER[0])
    async with opened(scores=scores, reverse_prompt=("word", likeliest)) as client:
        body = {"prompt": "x", "n_predict": 5, "temperature": 0}
        answer = (await client.post("/completion", json=body)).json()
        assert (answer["stop_type"], answer["stopping_word"], answer["content"]) == ("word", likeliest, "")
        answer = (await client.post("/completion", json=body | {"stop": []})).json()
        assert (answer["stop_type"], answer["content"]) == ("limit", likeliest * 5)
