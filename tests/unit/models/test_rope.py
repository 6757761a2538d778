"""RoPE frequencies equal the formulas of the papers, and invalid scalings are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import llamafw.graph as g
from llamafw import Model, ModelError, Settings, SettingsError
from llamafw.models.gguf import read_gguf
from llamafw.models.rope_settings import apply_rope_settings
from llamafw.testing.reference import Reference
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_plugins.architectures.llama import llama
from llamafw_plugins.quants.ggml import TYPES

QUANTS = {quant.name: quant for quant in TYPES}
SIZE = 64  # head size
BASE = 10_000.0
PLAIN = np.array([BASE ** (-2 * i / SIZE) for i in range(SIZE // 2)])


def rotation_of(path: Path, tensors: dict[str, npt.NDArray[np.float32]] | None = None, **keys: Any) -> g.Rotation:
    metadata = {f"llama.rope.{key.replace('__', '.')}": value for key, value in keys.items()}
    file = write_tiny_gguf(path / "model.gguf", n_embd_head=SIZE, n_layer=1, metadata=metadata, tensors=tensors)
    return find_rotation(read_gguf(file, QUANTS))


def find_rotation(model: Model) -> g.Rotation:
    """Return the rotation of the queries and keys of all layers."""
    queries, keys = (value.rotation for value in llama(model) if isinstance(value, g.Rope))
    assert queries is keys
    return queries


def yarn(scale: float, n_ctx: int, fast: float = 32, slow: float = 1) -> npt.NDArray[np.float64]:
    """Return YaRN's frequencies, arXiv:2309.00071, equations 17 to 23; the ramp ends at pairs, as in llama.cpp."""
    ends = [SIZE * math.log(n_ctx / (turns * 2 * math.pi)) / (2 * math.log(BASE)) for turns in (fast, slow)]
    low, high = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), SIZE - 1)
    frequencies = []
    for i, plain in enumerate(PLAIN):
        interpolated = 0.0 if i < low else 1.0 if i > high else (i - low) / max(high - low, 0.001)
        frequencies.append(plain * ((1 - interpolated) + interpolated / scale))
    return np.array(frequencies)


def test_frequencies_without_scaling_are_powers_of_the_base(tmp_path: Path) -> None:
    turn = rotation_of(tmp_path)
    np.testing.assert_allclose(turn.frequencies, PLAIN, rtol=1e-14)
    assert turn.frequencies.dtype == np.float64
    assert turn.magnitude == 1


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
def test_linear_scaling_divides_frequencies(tmp_path: Path, keys: dict[str, Any], scale: float) -> None:
    turn = rotation_of(tmp_path, **keys)
    np.testing.assert_allclose(turn.frequencies, PLAIN / scale, rtol=1e-14)
    assert turn.magnitude == 1


def test_the_models_factor_on_magnitude_holds_for_every_scaling(tmp_path: Path) -> None:
    for kind in ("none", "linear"):
        turn = rotation_of(tmp_path, scaling__type=kind, scaling__factor=4.0, scaling__attn_factor=1.5)
        assert turn.magnitude == 1.5


def describe_longrope(path: Path, tensors: dict[str, npt.NDArray[np.float32]], **keys: Any) -> g.Rotation:
    """Return the rotation of a tiny Llama file whose original context is 64."""
    metadata = {"llama.rope.scaling.original_context_length": 64} | keys
    file = write_tiny_gguf(path / "model.gguf", n_embd_head=SIZE, n_layer=1, metadata=metadata, tensors=tensors)
    return g.rotation(g.Metadata(read_gguf(file, QUANTS), "llama"), SIZE, 512)


def test_longrope_chooses_frequencies_by_the_context(tmp_path: Path) -> None:
    short, long = (np.linspace(1, end, SIZE // 2).astype(np.float32) for end in (2, 50))
    tensors = {"rope_factors_short.weight": short, "rope_factors_long.weight": long}
    rotation = describe_longrope(tmp_path, tensors, **{"llama.rope.scaling.attn_factor": 1.25})
    assert (rotation.magnitude, rotation.original_context) == (1.25, 64)
    for n_ctx, factors in ((1, short), (64, short), (65, long), (512, long)):
        np.testing.assert_allclose(rotation.frequencies_for(n_ctx), PLAIN / factors, rtol=1e-14)


def test_other_rotations_do_not_depend_on_the_context(tmp_path: Path) -> None:
    rotation = describe_longrope(tmp_path, {})
    assert rotation.frequencies_for(1) is rotation.frequencies_for(10_000)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["short"], "the tensor 'rope_factors_long.weight' is missing"),
        (["long"], "the tensor 'rope_factors_short.weight' is missing"),
        (
            ["short", "long", "rope_freqs"],
            "'rope_freqs.weight' and 'rope_factors_short.weight' cannot be used together",
        ),
    ],
)
def test_incomplete_factors_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    full = {"rope_freqs": "rope_freqs.weight"}
    tensors = {full.get(name, f"rope_factors_{name}.weight"): np.ones(SIZE // 2, np.float32) for name in names}
    with pytest.raises(ModelError, match=message):
        describe_longrope(tmp_path, tensors)


def test_factors_per_frequency_divide_frequencies(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, SIZE // 2).astype(np.float32)
    turn = rotation_of(tmp_path, {"rope_freqs.weight": factors}, scaling__type="linear", scaling__factor=2.0)
    np.testing.assert_allclose(turn.frequencies, PLAIN / factors / 2, rtol=1e-14)


@pytest.mark.parametrize(("scale", "n_ctx"), [(4.0, 4096), (16.0, 2048), (1.0, 4096), (40.0, 32768), (2.0, 8)])
def test_yarn_equals_the_paper(tmp_path: Path, scale: float, n_ctx: int) -> None:
    turn = rotation_of(tmp_path, scaling__type="yarn", scaling__factor=scale, scaling__original_context_length=n_ctx)
    np.testing.assert_allclose(turn.frequencies, yarn(scale, n_ctx), rtol=1e-14)
    assert turn.magnitude == pytest.approx(1 + 0.1 * math.log(scale))


def test_yarn_keeps_fast_frequencies_and_interpolates_slow_ones(tmp_path: Path) -> None:
    turn = rotation_of(tmp_path, scaling__type="yarn", scaling__factor=8.0, scaling__original_context_length=4096)
    turns = 4096 * PLAIN / (2 * math.pi)  # in the original context
    ratio = turn.frequencies / PLAIN
    np.testing.assert_allclose(ratio[turns >= 33 * 2], 1)
    np.testing.assert_allclose(ratio[turns < 0.7], 1 / 8)
    assert (np.diff(ratio) <= 1e-12).all()
    assert ((ratio > 1 / 8) & (ratio < 1)).sum() >= 5


def test_parameters_of_yarn_are_read(tmp_path: Path) -> None:
    turn = rotation_of(
        tmp_path,
        scaling__type="yarn",
        scaling__factor=4.0,
        scaling__original_context_length=4096,
        scaling__yarn_beta_fast=16.0,
        scaling__yarn_beta_slow=2.0,
        scaling__attn_factor=0.5,
    )
    np.testing.assert_allclose(turn.frequencies, yarn(4, 4096, fast=16, slow=2), rtol=1e-14)
    assert turn.magnitude == pytest.approx(0.5 * (1 + 0.1 * math.log(4)))


def test_yarn_uses_the_trained_context_by_default(tmp_path: Path) -> None:
    turn = rotation_of(tmp_path, scaling__type="yarn", scaling__factor=4.0)  # 512 in the tiny model
    np.testing.assert_allclose(turn.frequencies, yarn(4, 512), rtol=1e-14)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"scaling__type": "cubic"}, "llama.rope.scaling.type is 'cubic'; it must be none, linear, yarn or longrope"),
        ({"scaling__type": "longrope"}, "the tensor 'rope_factors_short.weight' is missing"),
        ({"scaling__type": 3}, "llama.rope.scaling.type is 3; it must be a string"),
        ({"scaling__factor": -2.0}, "llama.rope.scaling.factor is -2.0; it must be a finite number of at least 0"),
        ({"scaling__factor": math.inf}, "llama.rope.scaling.factor is inf; it must be a finite number"),
        ({"scaling__type": "yarn", "freq_base": 1.0}, "llama.rope.freq_base is 1.0; with YaRN it must be above 1"),
        ({"scaling__type": "yarn", "scaling__yarn_log_multiplier": 0.1}, "yarn_log_multiplier is not supported"),
        ({"scaling__type": "yarn", "scaling__original_context_length": 0}, "original_context_length is 0"),
    ],
)
def test_invalid_scalings_are_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        rotation_of(tmp_path, **keys)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (np.ones(SIZE, np.float32), "is F32 of shape (64,), not F32 of (32,)"),
        (np.zeros(SIZE // 2, np.float32), "has values that are not positive numbers"),
        (np.full(SIZE // 2, np.nan, np.float32), "has values that are not positive numbers"),
    ],
)
def test_invalid_factors_are_refused(tmp_path: Path, factors: npt.NDArray[np.float32], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        rotation_of(tmp_path, {"rope_freqs.weight": factors})
    assert f"the tensor 'rope_freqs.weight' {message}" in str(caught.value)


def test_frequencies_equal_the_reference(tmp_path: Path) -> None:
    factors = np.linspace(1, 8, SIZE // 2).astype(np.float32)
    turn = rotation_of(tmp_path, {"rope_freqs.weight": factors}, scaling__factor=2.0, freq_base=500_000.0)
    np.testing.assert_allclose(turn.frequencies, Reference(tmp_path / "model.gguf").frequencies, rtol=1e-12)


def rotation_with(path: Path, rope: dict[str, Any], **settings: Any) -> g.Rotation:
    file = write_tiny_gguf(
        path / "model.gguf",
        n_embd_head=SIZE,
        n_layer=1,
        metadata={f"llama.rope.{key}": value for key, value in rope.items()},
    )
    return find_rotation(apply_rope_settings(read_gguf(file, QUANTS), Settings(**settings)))


@pytest.mark.inventory("C-028", "C-029", "C-030", "C-031")
@pytest.mark.parametrize(
    ("settings", "expected"),
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
def test_settings_replace_metadata(tmp_path: Path, settings: dict[str, Any], expected: npt.NDArray[np.float64]) -> None:
    turn = rotation_with(tmp_path, {"scaling.type": "linear", "scaling.factor": 8.0}, **settings)
    np.testing.assert_allclose(turn.frequencies, expected, rtol=1e-14)


@pytest.mark.inventory("C-032", "C-034", "C-035", "C-036")
def test_settings_of_yarn_replace_metadata(tmp_path: Path) -> None:
    turn = rotation_with(
        tmp_path,
        {"scaling.yarn_attn_factor": 3.0},
        rope_scaling="yarn",
        rope_scale=4.0,
        yarn_orig_ctx=4096,
        yarn_attn_factor=0.5,
        yarn_beta_fast=16.0,
        yarn_beta_slow=2.0,
    )
    np.testing.assert_allclose(turn.frequencies, yarn(4, 4096, fast=16, slow=2), rtol=1e-14)
    assert turn.magnitude == pytest.approx(0.5 * (1 + 0.1 * math.log(4)))


@pytest.mark.inventory("C-033")
def test_yarn_ext_factor_mixes_extrapolation_and_interpolation(tmp_path: Path) -> None:
    rope = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 4096}
    for ext_factor in (None, -1.0, 1.0):
        turn = rotation_with(tmp_path, rope, yarn_ext_factor=ext_factor)
        np.testing.assert_allclose(turn.frequencies, yarn(4, 4096), rtol=1e-14)
    half = rotation_with(tmp_path, rope, yarn_ext_factor=0.5)
    np.testing.assert_allclose(half.frequencies, (yarn(4, 4096) + PLAIN / 4) / 2, rtol=1e-14)
    none = rotation_with(tmp_path, rope, yarn_ext_factor=0.0)
    np.testing.assert_allclose(none.frequencies, PLAIN / 4, rtol=1e-14)
    assert none.magnitude == 1


@pytest.mark.inventory("C-029", "C-031")
def test_rope_scale_and_rope_freq_scale_cannot_be_used_together(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--rope-scale and --rope-freq-scale cannot be used together"):
        rotation_with(tmp_path, {}, rope_scale=2.0, rope_freq_scale=0.5)


@pytest.mark.parametrize("n_rot", [0, 7, -2])
def test_only_whole_pairs_are_rotated(n_rot: int) -> None:
    with pytest.raises(g.GraphError, match=f"{n_rot} numbers of a head cannot be rotated in pairs"):
        g.plain_rotation(10_000.0, n_rot)
