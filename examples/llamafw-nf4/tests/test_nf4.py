"""Tests of the levels against the paper, of the kernel against plain Python, and of a file in a server."""

from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from llamafw_nf4 import BLOCK, LEVELS, NF4, main, quantize

from llamafw import ModelError
from llamafw.testing.conformance import PluginConformance, QuantConformance


def test_levels_are_the_quantiles_of_the_paper() -> None:
    """Section 3: 2³ levels below 0 and 2³ + 1 above, from quantiles of N(0, 1), 0 in both, scaled to [-1, 1]."""
    offset, quantile = 0.9677083, NormalDist().inv_cdf  # as published with the paper
    above = [quantile(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    levels = np.sort([*above, 0, *below])
    np.testing.assert_allclose(LEVELS, levels / levels.max(), atol=2e-7)


def unpacked(block: Any) -> list[float]:
    """Return the weights of one block of 34 bytes, in float64."""
    scale = float(block[:2].view("<f2")[0])
    codes = [*(byte & 15 for byte in block[2:]), *(byte >> 4 for byte in block[2:])]
    return [scale * float(LEVELS[code]) for code in codes]


def test_kernel_unpacks_the_documented_layout() -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, 5 * 34, np.uint8)
    data.reshape(5, 34)[:, :2] = rng.standard_normal(5).astype("<f2").view(np.uint8).reshape(5, 2)
    expected = [weight for block in data.reshape(5, 34) for weight in unpacked(block)]
    found = NF4().dequantize(data, (5, 64))
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-7)


def test_wrong_size_is_refused() -> None:
    data = np.zeros(5 * 34, np.uint8)
    with pytest.raises(ModelError, match="not an NF4 tensor"):
        NF4().dequantize(data, (5, 65))


def test_weights_are_rounded_to_the_nearest_level() -> None:
    weights = np.random.default_rng(1).standard_normal((8, 2 * BLOCK)).astype(np.float32)
    weights[0] = 0
    found = NF4().dequantize(quantize(weights), weights.shape)
    scales = np.abs(weights.reshape(-1, BLOCK)).max(axis=1, keepdims=True).astype(np.float16).astype(np.float32)
    nearest = np.abs(weights.reshape(-1, BLOCK, 1) - scales[..., None] * LEVELS).min(axis=-1)
    np.testing.assert_allclose(np.abs(weights - found).reshape(-1, BLOCK), nearest, atol=1e-6)


async def test_conversion_keeps_exact_levels(serve: Any, write_model: Any, tmp_path: Path, capsys: Any) -> None:
    """The source has only weights that are exact levels, so conversion changes nothing."""
    levels = {
        tensor.name: NF4().dequantize(quantize(np.array(tensor.data)), tensor.data.shape)
        for tensor in GGUFReader(write_model(n_vocab=320)).tensors
        if tensor.data.ndim == 2
    }

    source, target = write_model(n_vocab=320, tensors=levels), tmp_path / "nf4.gguf"
    assert main([str(source), str(target)]) == 0
    assert "MB of weights" in capsys.readouterr().out
    assert target.stat().st_size < source.stat().st_size / 3

    answers = []
    for path in (source, target):
        async with serve(model=path, backend="numba", threads=1) as client:
            body = {"prompt": "the nation", "n_predict": 1, "temperature": 0, "n_probs": 300}
            (token,) = (await client.post("/completion", json=body)).json()["completion_probabilities"]
            answers.append({entry["id"]: entry["logprob"] for entry in token["top_logprobs"]})
    found, expected = (np.array([answer[token] for token in answers[0]]) for answer in reversed(answers))
    np.testing.assert_allclose(found, expected, atol=0.01)  # the cache is float16


class TestNF4(QuantConformance):
    name = "NF4"

    def reference(self, blocks: Any) -> Any:
        weights = [unpacked(block) for block in blocks]
        return np.array(weights)


class TestPlugin(PluginConformance):
    name = "llamafw-nf4"
