"""Every sampler gives the result of its formula, which is written here again in float64 and without shortcuts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from llamafw import Candidates, RequestError, SamplerContext
from llamafw_plugins.samplers.adaptive_p import AdaptiveP
from llamafw_plugins.samplers.dry import Dry
from llamafw_plugins.samplers.infill import Infill
from llamafw_plugins.samplers.kernel_sampler import KernelSamplerPlugin
from llamafw_plugins.samplers.min_p import MinP
from llamafw_plugins.samplers.mirostat import Mirostat
from llamafw_plugins.samplers.penalties import Penalties
from llamafw_plugins.samplers.temperature import Temperature
from llamafw_plugins.samplers.tfs_z import TfsZ
from llamafw_plugins.samplers.top_k import TopK
from llamafw_plugins.samplers.top_n_sigma import TopNSigma
from llamafw_plugins.samplers.top_p import TopP
from llamafw_plugins.samplers.typ_p import TypP
from llamafw_plugins.samplers.xtc import Xtc
from support.toy_model import ToyTokenizer

N_VOCAB = 264
ALL = (AdaptiveP, Dry, Infill, MinP, Mirostat, Penalties, Temperature, TfsZ, TopK, TopNSigma, TopP, TypP, Xtc)

score = st.one_of(
    st.integers(-4, 4).map(float),  # ties
    st.floats(-30, 30, width=32),
    st.just(-math.inf),
)
few = st.lists(score, min_size=1, max_size=N_VOCAB).filter(lambda row: max(row) > -math.inf)
many = st.builds(
    lambda seed, n, spread: (np.random.default_rng(seed).standard_normal(n) * spread).astype(np.float32).tolist(),
    st.integers(0, 2**32 - 1),
    st.integers(1, 20_000),
    st.sampled_from([0.0, 0.01, 1.0, 3.0, 10.0]),
)
scores = st.one_of(few, few, many)
kept = st.integers(0, 5)
HUGE = (np.random.default_rng(0).standard_normal(151_936) * 3).astype(np.float32).tolist()  # Qwen2's vocabulary


def run(
    plugin: Any,
    row: Sequence[float],
    options: Mapping[str, Any] | None = None,
    *,
    min_keep: int = 0,
    ordered: bool = False,
    prompt: Sequence[int] = (),
    accept: Sequence[int] = (),
    n_ctx: int = 1000,
    ids: Sequence[int] | None = None,
) -> Candidates:
    """Return the candidates that a sampler keeps of the logits ``row``."""
    values = np.array(row, np.float32)
    tokens = np.arange(len(row), dtype=np.int32) if ids is None else np.array(ids, np.int32)
    if ordered:
        order = np.argsort(-values, kind="stable")
        values, tokens = values[order], tokens[order]
    tokens.flags.writeable = False  # as in a chain
    candidates = Candidates(tokens, values, ordered)
    defaults = {name: schema["default"] for name, schema in plugin.options.items()}
    context = SamplerContext(prompt, max(len(row), N_VOCAB), n_ctx, ToyTokenizer(), min_keep)
    sampler = plugin.create(defaults | dict(options or {}), context)
    if sampler is not None:
        for token in accept:
            sampler.accept(token)
        sampler.apply(candidates)
    assert len(candidates.ids) == len(candidates.logits) > 0
    assert candidates.ids.dtype == np.int32
    assert candidates.logits.dtype == np.float32
    assert len(np.unique(candidates.ids)) == len(candidates.ids)
    assert candidates.logits.max() > -np.inf  # so there is no NaN, and a token can be drawn
    assert not candidates.sorted or (candidates.logits[1:] <= candidates.logits[:-1]).all()
    return candidates


def probabilities(row: Sequence[float]) -> npt.NDArray[np.float64]:
    logits = np.array(row, np.float32).astype(np.float64)
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())


def descending(row: Sequence[float]) -> list[int]:
    return sorted(range(len(row)), key=lambda i: (-np.float32(row[i]), i))


def prefix(order: Sequence[int], row: Sequence[float], p: float, min_keep: int, *, strict: bool) -> list[int]:
    """Return the smallest prefix of ``order`` with probability p; discard examples where rounding decides."""
    ends = probabilities(row)[list(order)].cumsum()
    assume(np.abs(ends - p).min() > 1e-5)
    count = int((ends <= p if strict else ends < p).sum()) + 1
    return list(order[: max(count, min_keep, 1)])


@pytest.mark.inventory("S-04", "E-014")
@given(row=scores, k=st.integers(-2, 300), ordered=st.booleans())
@example(row=HUGE, k=40, ordered=False)
def test_top_k_matches_its_formula(row: list[float], k: int, ordered: bool) -> None:
    left = run(TopK, row, {"top_k": k}, ordered=ordered, min_keep=7)  # top_k ignores min_keep
    expected = descending(row)[:k] if k > 0 else range(len(row))
    if 0 < k < max(len(row), N_VOCAB):
        assert left.ids.tolist()[: len(expected)] == list(expected) or len(row) <= k
    assert sorted(left.ids.tolist()) == sorted(expected)
    assert left.logits.tolist() == np.array(row, np.float32)[left.ids].tolist()


@pytest.mark.inventory("S-05", "E-015", "S-10", "E-039")
@given(row=scores, p=st.floats(0, 1), min_keep=kept, ordered=st.booleans())
@example(row=HUGE, p=0.95, min_keep=0, ordered=False)
def test_top_p_matches_its_formula(row: list[float], p: float, min_keep: int, ordered: bool) -> None:
    left = run(TopP, row, {"top_p": p}, min_keep=min_keep, ordered=ordered)
    if p == 1:
        assert len(left.ids) == len(row)
        return
    order = descending(row)
    expected = order[: max(min_keep, 1)] if p == 0 else prefix(order, row, p, min_keep, strict=False)
    if len(expected) == len(row) and not ordered:
        assert left.ids.tolist() == list(range(len(row)))  # nothing is removed, so nothing moves
    else:
        assert left.ids.tolist() == expected


@pytest.mark.inventory("S-06", "E-016", "S-10", "E-039")
@given(row=scores, p=st.floats(0, 1), min_keep=kept, ordered=st.booleans())
@example(row=HUGE, p=0.05, min_keep=0, ordered=False)
def test_min_p_matches_its_formula(row: list[float], p: float, min_keep: int, ordered: bool) -> None:
    left = run(MinP, row, {"min_p": p}, min_keep=min_keep, ordered=ordered)
    logits = np.array(row, np.float32).astype(np.float64)
    if p == 0:
        expected = list(range(len(row)))
    else:
        log_ratio = logits - logits.max()
        assume(p == 1 or np.abs(log_ratio - math.log(p)).min() > 1e-5)
        expected = np.flatnonzero(log_ratio >= math.log(p)).tolist()
        if len(expected) < min_keep:
            expected = descending(row)[:min_keep]
    assert sorted(left.ids.tolist()) == sorted(expected)
    assert left.sorted == ordered


@pytest.mark.inventory("M-03")
@given(row=scores, n=st.floats(0.01, 20), ordered=st.booleans())
@example(row=HUGE, n=1.5, ordered=False)
@example(row=[1e9, 1e9 + 64, 5.0], n=1.0, ordered=False)
def test_top_n_sigma_matches_its_formula(row: list[float], n: float, ordered: bool) -> None:
    left = run(TopNSigma, row, {"top_n_sigma": n}, ordered=ordered)
    logits = np.array(row, np.float32).astype(np.float64)
    possible = logits[logits > -np.inf]
    lowest = logits.max() - n * possible.std()
    assume(np.abs(possible - lowest).min() > 1e-6 * max(1.0, np.abs(possible).max()) or possible.std() == 0)
    before = descending(row) if ordered else range(len(row))
    assert left.ids.tolist() == [i for i in before if logits[i] >= lowest and logits[i] > -np.inf]
    assert left.logits.tolist() == np.array(row, np.float32)[left.ids].tolist()
    assert left.sorted == ordered


@pytest.mark.parametrize("temperature", [0.2, 5.0])
def test_temperature_does_not_change_what_top_n_sigma_keeps(temperature: float) -> None:
    found = [run(TopNSigma, row, {"top_n_sigma": 2.5}).ids for row in (HUGE, (np.array(HUGE) / temperature).tolist())]
    assert 1 < len(found[0]) < 10_000
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.inventory("S-07", "E-022", "C-081", "F-21")
@given(row=scores, z=st.floats(0, 1), min_keep=kept, ordered=st.booleans())
@example(row=HUGE, z=0.9, min_keep=0, ordered=False)
def test_tfs_z_matches_its_formula(row: list[float], z: float, min_keep: int, ordered: bool) -> None:
    left = run(TfsZ, row, {"tfs_z": z}, min_keep=min_keep, ordered=ordered)
    if z == 1 or len(row) < 3:
        assert len(left.ids) == len(row)
        return

    order = descending(row)
    p = probabilities(row)[order]
    bends = [abs((p[i] - p[i + 1]) - (p[i + 1] - p[i + 2])) for i in range(len(p) - 2)]
    total = sum(bends)
    assume(not 1e-14 < total < 1e-9)
    shares = [bend / total if total > 1e-12 else 1 / len(bends) for bend in bends]
    sums = np.cumsum(shares)
    assume(np.abs(sums - z).min() > 1e-5)

    beyond = [i for i, value in enumerate(sums) if value > z]
    n = max(beyond[0], min_keep, 1) if beyond else len(row)
    assert sorted(left.ids.tolist()) == sorted(order[:n])


@pytest.mark.inventory("S-08", "E-023", "S-10", "E-039")
@given(row=scores, p=st.floats(0, 1), min_keep=kept, ordered=st.booleans())
@example(row=HUGE, p=0.9, min_keep=0, ordered=False)
def test_typ_p_matches_its_formula(row: list[float], p: float, min_keep: int, ordered: bool) -> None:
    left = run(TypP, row, {"typical_p": p}, min_keep=min_keep, ordered=ordered)
    if p == 1:
        assert len(left.ids) == len(row)
        return

    chance = probabilities(row)
    alive = chance > 0
    surprise = np.full(len(row), np.inf)
    surprise[alive] = -np.log(chance[alive])
    distance = np.abs(surprise - float((chance[alive] * surprise[alive]).sum()))

    kept = left.ids
    removed = np.setdiff1d(np.arange(len(row)), kept)
    near = 1e-5 * max(1.0, float(distance[np.isfinite(distance)].max()))  # float32 may order closer values differently
    farthest = kept[distance[kept].argmax()]
    if len(removed):
        assert distance[removed].min() >= distance[farthest] - near or distance[farthest] == np.inf
        assert chance[kept].sum() > p - 1e-5

    fewest = len(kept) <= max(min_keep, 1)
    assert fewest or chance[kept].sum() - chance[kept][distance[kept] >= distance[farthest] - near].max() <= p + 1e-5

    before = np.array(descending(row)) if ordered else np.arange(len(row))
    assert kept.tolist() == before[np.isin(before, kept)].tolist()
    assert left.sorted == ordered


@pytest.mark.inventory("S-08", "F-21")
def test_typ_p_works_with_any_min_keep() -> None:
    """With one likely token and many unlikely ones, the likely one is typical. min_keep 0 must not turn it off."""
    row = [10.0] + [0.0] * 50
    for min_keep in (0, 1):
        assert run(TypP, row, {"typical_p": 0.2}, min_keep=min_keep).ids.tolist() == [0]
    assert len(run(TypP, row, {"typical_p": 0.2}, min_keep=3).ids) == 3


@pytest.mark.inventory("E-011")
@given(row=scores, t=st.floats(1e-3, 1000), ordered=st.booleans())
@example(row=HUGE, t=0.8, ordered=False)
def test_temperature_matches_its_formula(row: list[float], t: float, ordered: bool) -> None:
    left = run(Temperature, row, {"temperature": t}, ordered=ordered)
    assert left.sorted == ordered
    order = descending(row) if ordered else list(range(len(row)))
    assert left.ids.tolist() == order
    expected = probabilities((np.array(row, np.float32).astype(np.float64) / t).tolist()) if t >= 1 else _scaled(row, t)
    np.testing.assert_allclose(probabilities(left.logits.tolist()), expected[order], rtol=1e-3, atol=1e-7)


def _scaled(row: Sequence[float], t: float) -> npt.NDArray[np.float64]:
    logits = np.array(row, np.float32).astype(np.float64)
    weights = np.exp((logits - logits.max()) / t)
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize("t", [1e-45, 1e-38, 1e-6])
def test_tiny_temperature_is_greedy_without_nan(t: float) -> None:
    left = run(Temperature, [1.0, 30.0, 29.0, -math.inf], {"temperature": t})
    assert probabilities(left.logits.tolist()).tolist() == [0, 1, 0, 0]


@pytest.mark.inventory("S-15", "E-012", "E-013")
@given(row=scores, t=st.floats(0.01, 2), spread=st.floats(0.01, 3), exponent=st.floats(0, 4), ordered=st.booleans())
@example(row=HUGE, t=0.8, spread=0.5, exponent=1.0, ordered=False)
def test_dynamic_temperature_matches_its_formula(
    row: list[float], t: float, spread: float, exponent: float, ordered: bool
) -> None:
    options = {"temperature": t, "dynatemp_range": spread, "dynatemp_exponent": exponent}
    left = run(Temperature, row, options, ordered=ordered)
    chance = probabilities(row)
    if len(row) == 1:
        assert left.logits.tolist() == np.array(row, np.float32).tolist()
        return

    alive = chance[chance > 0]
    share = min(max(-float((alive * np.log(alive)).sum()) / math.log(len(row)), 0), 1)
    assume(share > 1e-3 or exponent == 0)  # small entropies have large rounding errors

    low, high = max(0.0, t - spread), t + spread
    expected = _scaled(row, max(low + (high - low) * share**exponent, 1e-30))
    order = descending(row) if ordered else list(range(len(row)))
    np.testing.assert_allclose(probabilities(left.logits.tolist()), expected[order], rtol=1e-2, atol=1e-4)


@pytest.mark.inventory("S-01")
@given(row=scores, t=st.floats(-1000, 0), ordered=st.booleans())
@example(row=HUGE, t=0.0, ordered=False)
def test_greedy_takes_the_lowest_of_the_likeliest_tokens(row: list[float], t: float, ordered: bool) -> None:
    assert run(Temperature, row, {"temperature": t}, ordered=ordered).ids.tolist() == [descending(row)[0]]


def test_greedy_compares_tokens_not_indices() -> None:
    assert run(Temperature, [1.0, 5.0, 5.0], {"temperature": 0}, ids=[9, 8, 3]).ids.tolist() == [3]


tokens = st.integers(0, 20)


@pytest.mark.inventory("S-03", "E-024", "E-025", "E-026", "E-027", "E-028", "F-10", "D-04", "D-05")
@given(
    row=few,
    prompt=st.lists(tokens, max_size=30),
    answer=st.lists(tokens, max_size=30),
    last_n=st.integers(-1, 40),
    repeat=st.floats(0.25, 4),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    penalize_nl=st.booleans(),
    order=st.randoms(),
)
def test_penalties_match_their_formula(
    row: list[float],
    prompt: list[int],
    answer: list[int],
    last_n: int,
    repeat: float,
    presence: float,
    frequency: float,
    penalize_nl: bool,
    order: Any,
) -> None:
    ids = list(range(len(row)))
    if len(row) % 2:  # as if other samplers had run before
        order.shuffle(ids)
        ids = ids[: len(ids) // 2 + 1]
    row = row[: len(ids)]
    assume(max(row) > -math.inf)

    options = {
        "repeat_penalty": repeat,
        "presence_penalty": presence,
        "frequency_penalty": frequency,
        "repeat_last_n": last_n,
        "penalize_nl": penalize_nl,
    }
    left = run(Penalties, row, options, ids=ids, prompt=tuple(prompt), accept=answer, n_ctx=25)
    window = (prompt + answer)[-(25 if last_n < 0 else min(last_n, 25)) :] if last_n else []
    count = Counter(window)
    if not penalize_nl:
        count.pop(10, None)

    for token, before, after in zip(ids, np.array(row, np.float32).tolist(), left.logits.tolist(), strict=True):
        expected = before
        if count[token]:
            expected = before * repeat if before <= 0 else before / repeat
            expected -= count[token] * frequency + presence
        assert after == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert left.ids.tolist() == ids


@pytest.mark.inventory("S-17", "S-03")
def test_penalties_match_their_formula_in_a_long_window() -> None:
    random = np.random.default_rng(3)
    prompt = random.integers(0, N_VOCAB, 5000).tolist()
    answer = random.integers(0, N_VOCAB, 5000).tolist()
    row = random.standard_normal(N_VOCAB).tolist()
    left = run(
        Penalties,
        row,
        {"frequency_penalty": 0.5, "repeat_last_n": 777, "penalize_nl": True},
        prompt=prompt,
        accept=answer,
        n_ctx=10_000,
    )
    count = Counter(answer[-777:])
    expected = [np.float32(value) - 0.5 * count[token] for token, value in enumerate(row)]
    np.testing.assert_allclose(left.logits, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repeat_last_n": 0, "repeat_penalty": 1.3},
        {"repeat_penalty": 1.0, "repeat_last_n": -1},
    ],
)
def test_penalties_without_effect_are_not_created(options: dict[str, Any]) -> None:
    defaults = {name: schema["default"] for name, schema in Penalties.options.items()}
    assert Penalties.create(defaults | options, SamplerContext((1, 2), N_VOCAB, 10, ToyTokenizer())) is None


def test_repeat_penalty_of_zero_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        run(Penalties, [1.0], {"repeat_penalty": 0.0})
    assert caught.value.param == "repeat_penalty"


@pytest.mark.parametrize("plugin", ALL)
@pytest.mark.parametrize("row", [[0.0], [-math.inf, 3.0], [1.0] * 300, [-math.inf] * 299 + [-1e30]])
def test_at_least_one_candidate_remains(plugin: Any, row: list[float]) -> None:
    """Options have their most drastic allowed values."""
    harsh = {"tfs_z": 0.0, "mirostat": 2, "mirostat_tau": 0.0}
    harsh |= {"dry_multiplier": 1000.0, "dry_allowed_length": 0, "xtc_probability": 1.0, "xtc_threshold": 0.0}
    harsh |= {"top_n_sigma": 1e-9, "adaptive_target": 1.0}
    harsh |= {"top_k": 1, "top_p": 0.0, "min_p": 1.0, "typical_p": 0.0, "temperature": 1e-9, "repeat_penalty": 100.0}
    left = run(plugin, row, {name: harsh[name] for name in plugin.options if name in harsh}, prompt=(0, 1, 1))
    assert left.logits.max() > -np.inf


@pytest.mark.parametrize(
    ("plugin", "options"),
    [
        (MinP, {"min_p": 0.0}),
        (TopK, {"top_k": 0}),
        (TopK, {"top_k": N_VOCAB}),
        (TopP, {"top_p": 1.0}),
        (TypP, {"typical_p": 1.0}),
        (TfsZ, {"tfs_z": 1.0}),
        (TopNSigma, {"top_n_sigma": 0.0}),
        (TopNSigma, {"top_n_sigma": -1.0}),
        (Temperature, {"temperature": 1.0, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0}),
        (Mirostat, {"mirostat": 0}),
    ],
)
def test_samplers_without_effect_are_not_created(plugin: Any, options: dict[str, float]) -> None:
    assert plugin.create(options, SamplerContext((), N_VOCAB, 10, ToyTokenizer())) is None


@pytest.mark.parametrize("plugin", [MinP, Temperature, TfsZ, TopK, TopNSigma, TopP, TypP])
def test_samplers_of_one_kernel_share_their_create(plugin: Any) -> None:
    assert plugin.create.__func__ is KernelSamplerPlugin.create.__func__  # type: ignore[attr-defined]  # a class method


@pytest.mark.parametrize("plugin", ALL)
def test_options_have_descriptions_and_bounds(plugin: Any) -> None:
    assert plugin.options or plugin is Infill
    for schema in plugin.options.values():
        assert schema["description"].endswith(".")
        if schema["type"] in ("integer", "number"):
            assert schema["minimum"] <= schema["default"] <= schema["maximum"]


@pytest.mark.parametrize(
    ("plugin", "options", "row", "n"),
    [
        (TopP, {"top_p": 0.5}, [0.0] * 2, 1),  # p is reached
        (TopP, {"top_p": 0.5}, [0.0] * 4, 2),
        (TypP, {"typical_p": 0.5}, [0.0] * 4, 3),  # p must be exceeded
        (TfsZ, {"tfs_z": 0.5}, [0.0] * 3 + [-200.0] * 2, 2),  # curvature 0, ½, ½
        (Mirostat, {"mirostat": 2, "mirostat_tau": 1.0}, [0.0] * 4, 4),  # 2 bits each, exactly the maximum
    ],
)
@pytest.mark.parametrize("ordered", [False, True])
def test_limits_that_are_met_exactly_act_as_in_llama_cpp(
    plugin: Any, options: dict[str, float], row: list[float], n: int, ordered: bool
) -> None:
    assert len(run(plugin, row, options, ordered=ordered).ids) == n
