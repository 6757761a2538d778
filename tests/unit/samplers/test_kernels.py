"""Compiled samplers give the same result fused and one by one, and ids that they overwrite are restored."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafw import Candidates, GenerateRequest, GenerationError, SamplerContext, SamplerKernel, compile_sampler_kernel
from llamafw.plugins import Plugins
from llamafw.sampling.chain import build_chain
from llamafw.sampling.sampler_kernels import CandidateBuffers, FusedKernels
from support.toy_model import ToyTokenizer

N = 264
PROMPT = tuple(b"abracadabra")
CONTEXT = SamplerContext(PROMPT, N, 100, ToyTokenizer())
OPTIONS: dict[str, dict[str, Any]] = {
    "penalties": {"repeat_penalty": 1.3, "frequency_penalty": 0.2},
    "dry": {"dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_sequence_breakers": ["d"]},
    "top_n_sigma": {"top_n_sigma": 2.0},
    "top_k": {"top_k": 30},
    "tfs_z": {"tfs_z": 0.9},
    "typ_p": {"typical_p": 0.8},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.1},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    "temperature": {"temperature": 1.7},
}
SAMPLERS: Any = Plugins().registry("sampler")


class PythonSampler:
    """A built-in sampler without its kernel, which may replace the arrays by others."""

    truncates = False

    def __init__(self, plugin: Any, *, change: Any = None) -> None:
        self.plugin, self.options, self.change = plugin, plugin.options, change

    def create(self, options: Any, context: SamplerContext) -> Any:
        self.made = self.plugin.create(options, context)
        return self

    def apply(self, candidates: Candidates) -> None:
        self.made.apply(candidates)
        if self.change is not None:
            candidates.ids, candidates.logits = map(self.change, (candidates.ids, candidates.logits))

    def accept(self, token: int) -> None:
        self.made.accept(token)


def options_of(names: list[str]) -> dict[str, Any]:
    return {field: value for name in names for field, value in OPTIONS[name].items()}


@given(
    names=st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=7),
    python=st.lists(st.booleans(), min_size=7, max_size=7),
    seed=st.integers(0, 2**32 - 1),
    change=st.sampled_from([None, np.copy, lambda array: np.repeat(array, 2)[::2]]),
    ties=st.booleans(),
)
def test_fused_kernels_match_single_kernels(
    names: list[str], python: list[bool], seed: int, change: Any, ties: bool
) -> None:
    """Some of the samplers run in Python and may replace the arrays."""
    random = np.random.default_rng(seed)
    rows = [(random.standard_normal(N) * 3).astype(np.float32) for _ in range(3)]
    if ties:
        rows = [np.round(row) for row in rows]
    single = [
        SAMPLERS[name].create(
            {field: schema["default"] for field, schema in SAMPLERS[name].options.items()} | OPTIONS[name], CONTEXT
        )
        for name in names
    ]

    plugins = {**SAMPLERS}
    names_in_chain = []
    for i, name in enumerate(names):
        if python[i]:
            plugins[f"{name}{i}"] = PythonSampler(SAMPLERS[name], change=change)
            names_in_chain.append(f"{name}{i}")
        else:
            names_in_chain.append(name)

    request = GenerateRequest(PROMPT, samplers=tuple(names_in_chain), options=options_of(names))
    chain, buffers = build_chain(request, seed, plugins, CONTEXT), CandidateBuffers(N)
    for row in rows:
        token, found = chain.pick(buffers, row.copy())
        expected = Candidates(np.arange(N, dtype=np.int32), row.copy())
        for sampler in single:
            sampler.apply(expected)
        for sampler in single:
            sampler.accept(token)
        assert found.ids.tolist() == expected.ids.tolist()
        np.testing.assert_array_equal(found.logits, expected.logits)
        assert token in expected.ids
    assert buffers.ids.tolist() == list(range(N))
    assert buffers.writable_ids().tolist() == list(range(N))


def test_chains_can_share_buffers() -> None:
    """A greedy chain finds the right token after another chain has overwritten ids."""
    buffers = CandidateBuffers(N)
    row = np.linspace(0, 1, N).astype(np.float32)
    warm, greedy = (
        build_chain(GenerateRequest((), samplers=names, options=options), 1, SAMPLERS, CONTEXT)
        for names, options in ((("top_k", "min_p"), {"top_k": 200}), (("temperature",), {"temperature": 0}))
    )
    for _ in range(3):
        token, left = warm.pick(buffers, row.copy())
        assert sorted(left.ids.tolist()) == sorted(range(N - len(left.ids), N))
        assert token in left.ids
        assert greedy.pick(buffers, row.copy())[0] == N - 1


@compile_sampler_kernel
def bad_count(logits: Any, ids: Any, ordered: Any, options: Any) -> Any:
    ids[:] = -1
    return int(options[0])


class BadCount:
    options: Any = {}
    truncates = False

    def __init__(self, n: int) -> None:
        self.kernel = SamplerKernel(bad_count, np.array([n], np.float64))

    def create(self, options: Any, context: SamplerContext) -> Any:
        return self

    def accept(self, token: int) -> None:
        """Do nothing."""


@pytest.mark.parametrize("n", [0, -1, N + 1])
def test_error_names_a_kernel_with_an_impossible_count(n: int) -> None:
    buffers = CandidateBuffers(N)
    plugins = {**SAMPLERS, "bad": BadCount(n)}
    names = ("temperature", "bad", "temperature")
    chain = build_chain(GenerateRequest((), samplers=names), 1, plugins, CONTEXT)
    with pytest.raises(GenerationError, match="'bad'"):
        chain.pick(buffers, np.zeros(N, np.float32))
    assert buffers.writable_ids().tolist() == list(range(N))


def test_kernel_can_be_any_c_function() -> None:
    signature = numba.types.int64(*[numba.types.int64] * 6)
    library = numba.cfunc(signature)(lambda logits, ids, n, ordered, options, n_options: n_options)
    candidates = Candidates(np.arange(9, dtype=np.int32), np.arange(9, dtype=np.float32))
    from llamafw import SamplerKernelFunction

    assert FusedKernels([SamplerKernel(SamplerKernelFunction(library), np.zeros(4))]).run(candidates) == -1
    assert candidates.ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "selected", [slice(None, None, 2), slice(None, None, -1), slice(3, None), slice(5, 20, 3)], ids=str
)
def test_candidates_may_be_views_between_kernels(selected: slice) -> None:
    """A sampler of a plugin rearranges what one kernel left for the next one."""
    first, second = (SAMPLERS["top_k"].create({"top_k": k}, CONTEXT) for k in (40, 4))
    assert first is not None
    assert second is not None
    buffers, logits = CandidateBuffers(N), np.random.default_rng(3).normal(size=N).astype(np.float32)
    for _ in range(2):
        candidates = Candidates(buffers.ids, logits.copy())
        FusedKernels([first.kernel]).run(candidates, buffers)
        expected = candidates.ids[selected].copy()
        candidates.ids, candidates.logits = candidates.ids[selected], candidates.logits[selected]
        candidates.sorted = False
        FusedKernels([second.kernel]).run(candidates, buffers)
        best = expected[np.argsort(-logits[expected], kind="stable")[:4]]
        assert sorted(candidates.ids.tolist()) == sorted(best.tolist())
        np.testing.assert_array_equal(candidates.logits, logits[candidates.ids])
        assert buffers.writable_ids().tolist() == list(range(N))


@pytest.mark.parametrize("shape", [(1, 9), (8,), (3, 3)])
def test_ids_and_logits_of_different_shapes_are_refused(shape: tuple[int, ...]) -> None:
    kernel: Any = SAMPLERS["top_k"].create({"top_k": 2}, CONTEXT)
    with pytest.raises(ValueError, match="ids of shape"):
        kernel.apply(Candidates(np.arange(9, dtype=np.int32), np.ones(shape, np.float32)))


def test_read_only_logits_are_copied() -> None:
    logits = np.ones(9, np.float32)
    logits.flags.writeable = False
    ids = np.arange(9, dtype=np.int32)
    candidates = Candidates(ids, logits)
    kernel: Any = SAMPLERS["temperature"].create(
        {"temperature": 0.5, "dynatemp_range": 0, "dynatemp_exponent": 1}, CONTEXT
    )
    kernel.apply(candidates)
    assert candidates.logits.tolist() == [0.0] * 9
    assert logits.tolist() == [1.0] * 9


@pytest.mark.parametrize("n_allowed", [1, 10, 40, 41, 5000])
@pytest.mark.parametrize("k", [1, 40, 1000])
def test_top_k_is_exact_with_few_allowed_tokens(n_allowed: int, k: int) -> None:
    random = np.random.default_rng(n_allowed)
    row = np.full(49_152, -np.inf, np.float32)
    allowed = np.sort(random.permutation(len(row))[:n_allowed])
    row[allowed] = random.integers(-3, 4, n_allowed) * np.float32(0.5)
    candidates = Candidates(np.arange(len(row), dtype=np.int32), row.copy())
    context = SamplerContext((), len(row), 100, ToyTokenizer())
    SAMPLERS["top_k"].create({"top_k": k}, context).apply(candidates)
    assert candidates.ids.tolist() == np.lexsort((np.arange(len(row)), -row))[:k].tolist()
    assert candidates.logits.tolist() == row[candidates.ids].tolist()


class BadCandidates:
    """A sampler in Python that leaves invalid candidates."""

    options: Any = {}
    truncates = False

    def __init__(self, ids: Any, logits: Any) -> None:
        self.left = ids, logits

    def create(self, options: Any, context: SamplerContext) -> Any:
        return self

    def apply(self, candidates: Candidates) -> None:
        arrays: Any = [np.array(values, np.float32) for values in self.left]  # the ids have the wrong type
        candidates.ids, candidates.logits = arrays

    def accept(self, token: int) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("ids", "logits"),
    [
        ([1, 2], [1, np.nan]),
        ([1, 2], [1, np.inf]),
        ([1, 2], [-np.inf, -np.inf]),
        ([1], [1, 2]),
        ([], []),
        (1, 2),
        ([[1], [2]], [[1], [2]]),
    ],
)
def test_bad_candidates_are_refused_before_a_kernel(ids: Any, logits: Any) -> None:
    plugins = {**SAMPLERS, "bad_candidates": BadCandidates(ids, logits)}
    options = {"top_k": 1, "top_p": 0.5}
    request = GenerateRequest((), samplers=("bad_candidates", "top_k", "top_p"), options=options)
    chain = build_chain(request, 1, plugins, CONTEXT)
    with pytest.raises(GenerationError, match="'bad_candidates'"):
        chain.pick(CandidateBuffers(N), np.zeros(N, np.float32))


def test_ids_of_another_type_are_converted() -> None:
    plugins = {**SAMPLERS, "bad_candidates": BadCandidates([7, 9], [1, 5])}
    chain = build_chain(
        GenerateRequest((), samplers=("bad_candidates", "top_k"), options={"top_k": 1}), 1, plugins, CONTEXT
    )
    assert chain.pick(CandidateBuffers(N), np.zeros(N, np.float32))[0] == 9
