"""all-MiniLM-L6-v2, as `llamafw pull minilm-l6-v2` downloads it: its vectors, and how they rank real sentences."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

import llamafw.graph as g
from llamafw import EmbedRequest, LoadedModel
from llamafw.engine.load import load_model
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.testing.minilm_int8 import pull_minilm_int8

N_PAIRS = 200
PLUGINS = Plugins()
PAGES = Path(__file__).parents[2] / "docs"

Doubles = npt.NDArray[np.float64]


@contextmanager
def opened(folder: Path, **settings: object) -> Iterator[LoadedModel]:
    """Load the model, and close its engine at the end."""
    options = Settings(**{"threads": 2, "warmup": False} | settings)  # type: ignore[arg-type]  # of any setting
    loaded = load_model(folder, options, PLUGINS, lambda line: None)
    try:
        yield loaded
    finally:
        asyncio.run(loaded.engine.stop(0))


def embed(loaded: LoadedModel, texts: Sequence[Sequence[int]]) -> Doubles:
    """Return the normalised vectors of texts, all requested at the same time."""

    async def run() -> list[Doubles]:
        requests = (loaded.engine.embed(EmbedRequest(tuple(text), "mean")) for text in texts)
        return [found.vectors[0].astype(np.float64) for found in await asyncio.gather(*requests)]

    return normalised(np.array(asyncio.run(run())))


def normalised(vectors: Doubles) -> Doubles:
    lengths: Doubles = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / lengths


def sentences() -> list[str]:
    """Return real sentences of different lengths: two from each pair of neighbours in the documentation."""
    found: dict[str, None] = {}
    for page in sorted(PAGES.glob("*.md")):
        plain = re.sub(r"```.*?```|\|[^\n]*|[`*\[\]#]|\(.*?\)", " ", page.read_text("utf-8"), flags=re.DOTALL)
        for sentence in re.split(r"(?<=[.:])\s+", plain):
            words = sentence.split()
            if 4 <= len(words) <= 60:
                found[" ".join(words)] = None
    assert len(found) >= 2 * N_PAIRS
    return list(found)[: 2 * N_PAIRS]


@pytest.fixture(scope="module")
def tokens(minilm: Path) -> list[list[int]]:
    """Return the sentences as tokens, between those that BERT expects at both ends."""
    with opened(minilm) as loaded:
        tokenizer = loaded.tokenizer
        assert tokenizer.bos is not None
        assert tokenizer.eos is not None
        return [[tokenizer.bos, *tokenizer.encode(text), tokenizer.eos] for text in sentences()]


@pytest.fixture(scope="module")
def exact(minilm: Path, tokens: list[list[int]]) -> Doubles:
    """Return the vectors of the sentences in float64."""
    with opened(minilm) as loaded:
        assert loaded.graph is not None
        evaluator = g.Evaluator(loaded.graph, g.read_weights(loaded.model, PLUGINS.registry("quant")))
        rows = [
            evaluator(text, g.TextState(loaded.graph, len(text)), loaded.graph.hidden)[0].mean(axis=0)
            for text in tokens
        ]
    return normalised(np.array(rows))


def similarities(vectors: Doubles) -> Doubles:
    """Return the similarity of the sentences of each pair."""
    pairs: Doubles = (vectors[::2] * vectors[1::2]).sum(axis=1)
    return pairs


def rank_correlation(a: Doubles, b: Doubles) -> float:
    """Return Spearman's correlation of numbers without ties."""
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def test_known_vector_is_computed(minilm: Path) -> None:
    """The first numbers that sentence-transformers gives for this text, in float32."""
    with opened(minilm) as loaded:
        text = [101, *loaded.tokenizer.encode("Hello world"), 102]
        assert text == [101, 7592, 2088, 102]
        vector = embed(loaded, [text])[0]
    np.testing.assert_allclose(vector[:4], [-0.03447727, 0.03102318, 0.00673493, 0.02610897], atol=1e-5)


@pytest.mark.parametrize("backend", ["numba", "onnx"])
def test_vectors_match_float64(backend: str, minilm: Path, tokens: list[list[int]], exact: Doubles) -> None:
    with opened(minilm, backend=backend) as loaded:
        found = embed(loaded, tokens)
    assert (found * exact).sum(axis=1).min() >= 0.99999
    assert rank_correlation(similarities(found), similarities(exact)) >= 0.9999


def test_vectors_of_q8_0_are_close(minilm: Path, tokens: list[list[int]], exact: Doubles) -> None:
    with opened(minilm, requantize="q8_0") as loaded:
        found = embed(loaded, tokens)
    assert (found * exact).sum(axis=1).min() >= 0.999
    assert rank_correlation(similarities(found), similarities(exact)) >= 0.999


def test_vectors_do_not_depend_on_the_batch(minilm: Path, tokens: list[list[int]]) -> None:
    with opened(minilm) as loaded:
        together = embed(loaded, tokens[:40])
        alone = np.concatenate([embed(loaded, [text]) for text in tokens[:40]])
    np.testing.assert_array_equal(together, alone)


def test_ranking_is_like_that_of_onnxruntime_in_int8(tokens: list[list[int]], exact: Doubles) -> None:
    """Another export of the model, whose weights have 8 bits, by another runtime."""
    session = onnxruntime.InferenceSession(pull_minilm_int8())
    rows = []
    for text in tokens:
        ids = np.array([text], np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        rows.append(session.run(None, feeds)[0][0].astype(np.float64).mean(axis=0))
    found = normalised(np.array(rows))
    assert (found * exact).sum(axis=1).min() >= 0.95
    assert rank_correlation(similarities(found), similarities(exact)) >= 0.98
