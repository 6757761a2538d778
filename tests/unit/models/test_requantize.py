"""``--requantize`` rounds a model's matrices when they are read, and says which ones it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from checkpoints import all_checkpoints, write
from llamafw import Model, ModelError, Settings, SettingsError
from llamafw.engine.components import build_graph
from llamafw.engine.load import open_model
from llamafw.models import requantize as module
from llamafw.models.file_types import find_quantizer
from llamafw.models.requantize import RequantizedTensor, requantize
from llamafw.plugins import Plugins
from llamafw.testing.tiny import write_tiny_gguf

PLUGINS = Plugins()
QUANTS = PLUGINS.registry("quant")
CHECKPOINTS = {one.name: one for one in all_checkpoints()}


def requantized(path: Path, type_name: str, lines: list[str] | None = None) -> Model:
    def log(line: str) -> None:
        if lines is not None and ": compiling " not in line:  # logged on a busy machine only
            lines.append(line)

    settings = Settings(model=str(path), requantize=type_name, threads=2)
    model = open_model(path, settings, PLUGINS)
    return requantize(model, build_graph(model, PLUGINS), settings, QUANTS, log)


def types(model: Model) -> dict[str, str]:
    return {name: tensor.type_name for name, tensor in model.tensors.items()}


def original(path: Path, name: str) -> npt.NDArray[np.float32]:
    tensor = open_model(path, Settings(), PLUGINS).tensors[name]
    packed = tensor.data.reshape(*tensor.shape[:-1], -1)
    weights: npt.NDArray[np.float32] = dequantize(packed, GGMLQuantizationType[tensor.type_name]).reshape(tensor.shape)
    return weights


@pytest.mark.parametrize(
    ("source", "type_name"), [("F32", "q8_0"), ("F16", "Q4_0"), ("Q4_1", "f16"), ("BF16", "mxfp4")]
)
def test_matrices_are_unpacked_and_rounded(tmp_path: Path, source: str, type_name: str) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", types=source)
    model = requantized(path, type_name)
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "blk.1.attn_v.weight"):
        tensor, expected = model.tensors[name], original(path, name)
        assert tensor.type_name == type_name.upper()
        assert tensor.shape == expected.shape
        rounded = quantize(expected, GGMLQuantizationType[type_name.upper()]).view(np.uint8)
        np.testing.assert_array_equal(tensor.data, rounded.reshape(-1))
        assert not tensor.data.flags.writeable


def test_norms_and_biases_keep_their_type(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", biases=True)
    kept = {name for name, kind in types(requantized(path, "q8_0")).items() if kind == "F32"}
    norms = {f"blk.{i}.{role}_norm.weight" for i in range(2) for role in ("attn", "ffn")}
    biases = {f"blk.{i}.attn_{role}.bias" for i in range(2) for role in ("q", "k", "v")}
    assert kept >= norms | biases | {"output_norm.weight"}
    assert all("norm" in name or name.endswith(".bias") for name in kept)


@pytest.mark.parametrize(
    ("n_embd", "type_name", "output"),
    [
        (256, "q4_k", "Q6_K"),
        (256, "q4_0", "Q6_K"),
        (256, "tq2_0", "Q6_K"),
        (256, "q6_k", "Q6_K"),
        (256, "q8_0", "Q8_0"),
        (256, "f16", "F16"),
        (64, "q4_0", "Q8_0"),
        (64, "q5_1", "Q8_0"),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_output_matrix_gets_a_larger_type(tmp_path: Path, n_embd: int, type_name: str, output: str, tied: bool) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", n_embd=n_embd, n_ff=256, tied=tied)
    found = types(requantized(path, type_name))
    assert found["token_embd.weight" if tied else "output.weight"] == output
    assert found["blk.0.ffn_down.weight"] == type_name.upper()
    if not tied:
        assert found["token_embd.weight"] == type_name.upper()


@pytest.mark.parametrize(("source", "type_name"), [("Q4_1", "q4_0"), ("Q6_K", "q2_k"), ("Q5_K", "q4_k")])
def test_output_matrix_does_not_grow(tmp_path: Path, source: str, type_name: str) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", n_embd=256, n_ff=256, types=source)
    found = types(requantized(path, type_name))
    assert found["token_embd.weight"] == source
    assert found["blk.0.attn_q.weight"] == type_name.upper()


def test_tensors_of_the_type_are_left(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", types={"default": "Q8_0", "attn_v": "F16"})
    model = requantized(path, "q8_0")
    changed = [name for name, tensor in model.tensors.items() if isinstance(tensor, RequantizedTensor)]
    assert changed == ["blk.0.attn_v.weight", "blk.1.attn_v.weight"]


def test_rows_that_are_not_whole_blocks_are_logged_and_left(tmp_path: Path) -> None:
    path, lines = write_tiny_gguf(tmp_path / "tiny.gguf", n_ff=256, types="F16"), list[str]()
    found = types(requantized(path, "q4_k", lines))
    assert found["blk.0.ffn_down.weight"] == "Q4_K"
    assert found["blk.0.attn_q.weight"] == found["blk.1.ffn_up.weight"] == "F16"
    assert len(lines) == 2
    assert "F16 to Q4_K ×2, F16 to Q8_0; " in lines[0]
    assert "rows are not whole blocks of 256 weights" in lines[1]
    assert "blk.*.attn_q.weight (F16) ×2" in lines[1]
    assert "blk.*.ffn_up.weight (F16) ×2" in lines[1]
    assert "ffn_down" not in lines[1]


def test_size_of_the_model_is_that_of_the_result(tmp_path: Path) -> None:
    path, lines = write_tiny_gguf(tmp_path / "tiny.gguf"), list[str]()
    model, file = requantized(path, "q8_0", lines), open_model(path, Settings(), PLUGINS)
    assert model.n_bytes == sum(tensor.data.nbytes for tensor in model.tensors.values())
    assert model.n_bytes < file.n_bytes / 3
    assert len(lines) == 1
    assert f"{file.n_bytes / 1e6:.0f} MB become {model.n_bytes / 1e6:.0f} MB" in lines[0]


@pytest.mark.parametrize("name", ["qwen3moe", "gpt-oss"])
def test_experts_are_rounded_and_their_router_is_not(tmp_path: Path, name: str) -> None:
    checkpoint = CHECKPOINTS[name]
    path = write(checkpoint, tmp_path / "model.gguf")
    model = requantized(path, "q8_0")
    experts = [one for one in model.tensors.values() if "_exps.weight" in one.name]
    assert experts
    for tensor in experts:
        assert len(tensor.shape) == 3
        assert tensor.type_name == "Q8_0"
        expected = quantize(original(path, tensor.name), GGMLQuantizationType.Q8_0)
        np.testing.assert_array_equal(tensor.data, expected.reshape(-1))
    routers = [one for one in model.tensors.values() if "ffn_gate_inp.weight" in one.name]
    assert routers
    assert all(one.type_name == "F32" for one in routers)


@pytest.mark.parametrize("name", ["lfm2", "nemotron_h"])
def test_convolutions_and_states_keep_their_type(tmp_path: Path, name: str) -> None:
    model = requantized(write(CHECKPOINTS[name], tmp_path / "model.gguf"), "q8_0")
    others = [one for one in model.tensors.values() if "conv" in one.name and "_proj" not in one.name]
    others += [one for one in model.tensors.values() if one.name.endswith(("ssm_a", "ssm_d"))]
    assert others
    assert all(one.type_name == "F32" for one in others)
    assert "Q8_0" in types(model).values()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_an_error(tmp_path: Path, value: float) -> None:
    weights = np.zeros((64, 128), np.float32)
    weights[63, 127] = value
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tensors={"blk.1.ffn_down.weight": weights})
    tensor = requantized(path, "q8_0").tensors["blk.1.ffn_down.weight"]
    with pytest.raises(ModelError, match=r"'blk.1.ffn_down.weight' has weights that are not finite .* to Q8_0"):
        _ = tensor.data


@pytest.mark.parametrize(("type_name", "value"), [("f16", 70_000), ("q8_0", 1e8), ("q4_0", 1e8), ("q4_1", -1e9)])
def test_weights_that_are_too_large_are_an_error(tmp_path: Path, type_name: str, value: float) -> None:
    weights = np.zeros((64, 128), np.float32)
    weights[5, 7] = value
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tensors={"blk.1.ffn_down.weight": weights})
    tensor = requantized(path, type_name).tensors["blk.1.ffn_down.weight"]
    with pytest.raises(ModelError, match=r"'blk.1.ffn_down.weight' has weights up to .*, which are too large"):
        _ = tensor.data


@pytest.mark.parametrize("type_name", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"])
def test_k_quants_of_large_weights_are_exact_or_an_error(tmp_path: Path, type_name: str) -> None:
    for value in (4e4, 1e6, 1e12, 1e25):
        weights = np.full((64, 256), value, np.float32)
        path = write_tiny_gguf(tmp_path / "tiny.gguf", n_ff=256, tensors={"blk.1.ffn_down.weight": weights})
        tensor = requantized(path, type_name).tensors["blk.1.ffn_down.weight"]
        if value > 1e9:
            with pytest.raises(ModelError, match="too large"):
                _ = tensor.data
        else:
            kind = GGMLQuantizationType[type_name.upper()]
            result = dequantize(tensor.data.reshape(64, -1), kind)
            np.testing.assert_allclose(result, weights, rtol=0.1)


def test_data_are_computed_once_while_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 1000)  # many parts, on two threads
    tensor = requantized(write_tiny_gguf(tmp_path / "tiny.gguf"), "q4_0").tensors["blk.0.ffn_up.weight"]
    data = tensor.data
    assert tensor.data is data
    expected = data.copy()
    del data
    again = tensor.data
    np.testing.assert_array_equal(again, expected)
    assert again is tensor.data


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iq2_xxs", "weights cannot be rounded to IQ2_XXS, only to BF16, F16, F32, IQ4_NL, IQ4_XS, MXFP4, Q2_K"),
        ("PQ2_0", "weights cannot be rounded to PQ2_0, only to BF16"),
        ("q4_j", "no plugin provides the tensor type 'q4_j'; weights can be rounded to BF16"),
        ("", "no plugin provides the tensor type ''"),
    ],
)
def test_types_that_weights_cannot_be_rounded_to_are_refused(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"^--requantize: {message}"):
        find_quantizer(name, QUANTS, "--requantize")


@pytest.mark.parametrize("name", ["q4_k", "Q4_K"])
def test_names_of_types_may_be_in_lower_case(name: str) -> None:
    quant: Any = find_quantizer(name, QUANTS, "--requantize")
    assert quant is QUANTS["Q4_K"]
