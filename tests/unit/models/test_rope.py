"""RoPE frequencies: scalings against the papers' formulas, written out pair by pair."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llamafw import Decoder, ModelError, Settings, SettingsError
from llamafw.models.gguf import read_gguf
from llamafw.models.rope_settings import with_rope
from llamafw_plugins.architectures.llama import describe
from llamafw_plugins.quants.ggml import TYPES
from support.reference import Reference
from support.tiny import write_tiny_gguf

QUANTS = {quant.name: quant for quant in TYPES}
SIZE = 64  # of a head
BASE = 10_000.0
PLAIN = np.array([BASE ** (-2 * i / SIZE) for i in range(SIZE // 2)])


def scaled(path: Path, tensors: dict[str, npt.NDArray[np.float32]] | None = None, **keys: Any) -> Decoder:
    metadata = {f"llama.rope.{key.replace('__', '.')}": value for key, value in keys.items()}
    file = write_tiny_gguf(path / "model.gguf", n_embd_head=SIZE, n_layer=1, metadata=metadata, tensors=tensors)
    return describe(read_gguf(file, QUANTS))


def yarn(scale: float, n_ctx: int, fast: float = 32, slow: float = 1) -> npt.NDArray[np.float64]:
    """arXiv 2309.00071, equations 17 to 23, with whole pairs as the ramp's ends, as llama.cpp has it."""
    ends = [SIZE * math.log(n_ctx / (turns * 2 * math.pi)) / (2 * math.log(BASE)) for turns in (fast, slow)]
    low, high = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), SIZE - 1)
    found = []
    for i, plain in enumerate(PLAIN):
        interpolated = 0.0 if i < low else 1.0 if i > high else (i - low) / max(high - low, 0.001)
        found.append(plain * ((1 - interpolated) + interpolated / scale))
    return np.array(found)


def test_without_scaling(tmp_path: Path) -> None:
    found = scaled(tmp_path)
    np.testing.assert_allclose(found.rope_frequencies, PLAIN, rtol=1e-14)
    assert found.rope_frequencies.dtype == np.float64
    assert found.rope_magnitude == 1


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        ({"scaling__type": "linear", "scaling__factor": 4.0}, 4),
        ({"scaling__factor": 4.0}, 4),
        ({"scale_linear": 2.0}, 2),
        ({"scaling__factor": 4.0, "scale_linear": 2.0}, 4),
        ({"scaling__factor": 0.0}, 1),
        ({"scaling__type": "none", "scaling__factor": 4.0}, 1),
        ({"scaling__type": "linear"}, 1),
    ],
)
def test_linear(tmp_path: Path, keys: dict[str, Any], scale: float) -> None:
    found = scaled(tmp_path, **keys)
    np.testing.assert_allclose(found.rope_frequencies, PLAIN / scale, rtol=1e-14)
    assert found.rope_magnitude == 1


def test_a_factor_per_frequency_divides(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, SIZE // 2).astype(np.float32)
    found = scaled(tmp_path, {"rope_freqs.weight": factors}, scaling__type="linear", scaling__factor=2.0)
    np.testing.assert_allclose(found.rope_frequencies, PLAIN / factors / 2, rtol=1e-14)


@pytest.mark.parametrize(("scale", "n_ctx"), [(4.0, 4096), (16.0, 2048), (1.0, 4096), (40.0, 32768), (2.0, 8)])
def test_yarn(tmp_path: Path, scale: float, n_ctx: int) -> None:
    found = scaled(tmp_path, scaling__type="yarn", scaling__factor=scale, scaling__original_context_length=n_ctx)
    np.testing.assert_allclose(found.rope_frequencies, yarn(scale, n_ctx), rtol=1e-14)
    assert found.rope_magnitude == pytest.approx(1 + 0.1 * math.log(scale))


def test_yarn_keeps_fast_frequencies_and_interpolates_slow_ones(tmp_path: Path) -> None:
    found = scaled(tmp_path, scaling__type="yarn", scaling__factor=8.0, scaling__original_context_length=4096)
    turns = 4096 * PLAIN / (2 * math.pi)  # within the original context
    ratio = found.rope_frequencies / PLAIN
    np.testing.assert_allclose(ratio[turns >= 33 * 2], 1)
    np.testing.assert_allclose(ratio[turns < 0.7], 1 / 8)
    assert (np.diff(ratio) <= 1e-12).all()
    assert ((ratio > 1 / 8) & (ratio < 1)).sum() >= 5


def test_yarn_with_its_own_numbers(tmp_path: Path) -> None:
    found = scaled(
        tmp_path,
        scaling__type="yarn",
        scaling__factor=4.0,
        scaling__original_context_length=4096,
        scaling__yarn_beta_fast=16.0,
        scaling__yarn_beta_slow=2.0,
        scaling__attn_factor=0.5,
    )
    np.testing.assert_allclose(found.rope_frequencies, yarn(4, 4096, fast=16, slow=2), rtol=1e-14)
    assert found.rope_magnitude == pytest.approx(0.5 * (1 + 0.1 * math.log(4)))


def test_yarn_takes_the_trained_context_by_default(tmp_path: Path) -> None:
    found = scaled(tmp_path, scaling__type="yarn", scaling__factor=4.0)  # the tiny model's context is 512
    np.testing.assert_allclose(found.rope_frequencies, yarn(4, 512), rtol=1e-14)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"scaling__type": "longrope"}, "llama.rope.scaling.type is 'longrope', which is not supported"),
        ({"scaling__type": 3}, "llama.rope.scaling.type is 3; it must be a string"),
        ({"scaling__factor": -2.0}, "llama.rope.scaling.factor is -2.0; it must be a finite number"),
        ({"scaling__factor": math.inf}, "llama.rope.scaling.factor is inf; it must be a finite number"),
        ({"scaling__type": "yarn", "freq_base": 1.0}, "llama.rope.freq_base is 1.0; with YaRN it must be above 1"),
        ({"scaling__type": "yarn", "scaling__yarn_log_multiplier": 0.1}, "yarn_log_multiplier is not supported"),
        ({"scaling__type": "yarn", "scaling__original_context_length": 0}, "original_context_length is 0"),
    ],
)
def test_an_impossible_scaling_is_named(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError) as caught:
        scaled(tmp_path, **keys)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (np.ones(SIZE, np.float32), "is F32 of shape (64,), not F32 of (32,)"),
        (np.zeros(SIZE // 2, np.float32), "has values that are not positive numbers"),
        (np.full(SIZE // 2, np.nan, np.float32), "has values that are not positive numbers"),
    ],
)
def test_impossible_factors_are_named(tmp_path: Path, factors: npt.NDArray[np.float32], words: str) -> None:
    with pytest.raises(ModelError) as caught:
        scaled(tmp_path, {"rope_freqs.weight": factors})
    assert f"the tensor 'rope_freqs.weight' {words}" in str(caught.value)


def test_the_reference_agrees(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, SIZE // 2).astype(np.float32)
    found = scaled(tmp_path, {"rope_freqs.weight": factors}, scaling__factor=2.0, freq_base=500_000.0)
    np.testing.assert_allclose(found.rope_frequencies, Reference(tmp_path / "model.gguf").frequencies, rtol=1e-12)


def by_settings(path: Path, own: dict[str, Any], **given: Any) -> Decoder:
    file = write_tiny_gguf(
        path / "model.gguf",
        n_embd_head=SIZE,
        n_layer=1,
        metadata={f"llama.rope.{key}": value for key, value in own.items()},
    )
    return describe(with_rope(read_gguf(file, QUANTS), Settings(**given)))


@pytest.mark.inventory("C-028", "C-029", "C-030", "C-031")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, PLAIN / 8),
        ({"rope_scale": 0.0, "rope_freq_scale": 0.0, "rope_freq_base": 0.0}, PLAIN / 8),
        ({"rope_scale": 4.0}, PLAIN / 4),
        ({"rope_freq_scale": 0.25}, PLAIN / 4),
        ({"rope_scaling": "none"}, PLAIN),
        ({"rope_scaling": "yarn"}, yarn(8, 512)),
        ({"rope_freq_base": 500_000.0}, np.array([500_000.0 ** (-2 * i / SIZE) for i in range(SIZE // 2)]) / 8),
    ],
)
def test_settings_take_the_models_place(
    tmp_path: Path, given: dict[str, Any], expected: npt.NDArray[np.float64]
) -> None:
    found = by_settings(tmp_path, {"scaling.type": "linear", "scaling.factor": 8.0}, **given)
    np.testing.assert_allclose(found.rope_frequencies, expected, rtol=1e-14)


@pytest.mark.inventory("C-032", "C-034", "C-035", "C-036")
def test_settings_of_yarn(tmp_path: Path) -> None:
    found = by_settings(
        tmp_path,
        {"scaling.yarn_attn_factor": 3.0},
        rope_scaling="yarn",
        rope_scale=4.0,
        yarn_orig_ctx=4096,
        yarn_attn_factor=0.5,
        yarn_beta_fast=16.0,
        yarn_beta_slow=2.0,
    )
    np.testing.assert_allclose(found.rope_frequencies, yarn(4, 4096, fast=16, slow=2), rtol=1e-14)
    assert found.rope_magnitude == pytest.approx(0.5 * (1 + 0.1 * math.log(4)))


@pytest.mark.inventory("C-033")
def test_the_share_of_extrapolation(tmp_path: Path) -> None:
    own = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 4096}
    for share in (None, -1.0, 1.0):
        found = by_settings(tmp_path, own, yarn_ext_factor=share)
        np.testing.assert_allclose(found.rope_frequencies, yarn(4, 4096), rtol=1e-14)
    half = by_settings(tmp_path, own, yarn_ext_factor=0.5)
    np.testing.assert_allclose(half.rope_frequencies, (yarn(4, 4096) + PLAIN / 4) / 2, rtol=1e-14)
    none = by_settings(tmp_path, own, yarn_ext_factor=0.0)  # "full interpolation"
    np.testing.assert_allclose(none.rope_frequencies, PLAIN / 4, rtol=1e-14)
    assert none.rope_magnitude == 1


@pytest.mark.inventory("C-029", "C-031")
def test_two_ways_to_say_it_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--rope-scale and --rope-freq-scale exclude each other"):
        by_settings(tmp_path, {}, rope_scale=2.0, rope_freq_scale=0.5)
