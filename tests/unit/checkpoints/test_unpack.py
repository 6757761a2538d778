"""Quantised checkpoints against float64 computations that follow the descriptions of the formats word by word."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from checkpoints import all_checkpoints
from checkpoints.folders import conversions, write_folder
from llamafw.checkpoints import CheckpointTensor, Config, open_checkpoint
from llamafw.checkpoints.safetensors_files import read_safetensors
from llamafw.checkpoints.unpack import unpack
from llamafw.errors import ModelError
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer

Arrays = Mapping[str, npt.NDArray[Any]]
Doubles = npt.NDArray[np.float64]


def opened(folder: Path, method: Mapping[str, Any], arrays: Arrays) -> Mapping[str, CheckpointTensor]:
    """Write tensors into a safetensors file, and return what `unpack` makes of them."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "model.safetensors")
    return unpack(Config(folder / "config.json", {"quantization_config": dict(method)}), read_safetensors(folder))


def weight(tensors: Mapping[str, CheckpointTensor], name: str = "a.weight") -> npt.NDArray[np.float32]:
    tensor = tensors[name]
    array = tensor.read()
    assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype) == (tensor.shape, np.dtype(np.float32))
    return array


def assert_rounded_once(found: npt.NDArray[np.float32], expected: Doubles) -> None:
    """Check that numbers are the exact ones, rounded to float32."""
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)


# --- FP8


def e4m3(code: int) -> float:
    """Return the number of a byte in E4M3: sign, four bits of exponent with bias 7, three of mantissa."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 0xF, code & 7
    if exponent == 0:
        return float(sign * mantissa / 8 * 2.0**-6)
    return float(sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7))


def fp8(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[npt.NDArray[Any], Doubles]:
    """Return random bytes as FP8, and their numbers; without NaN."""
    codes = random.integers(0, 256, shape).astype(np.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    return codes.view(ml_dtypes.float8_e4m3fn), np.array([e4m3(code) for code in codes.reshape(-1).tolist()]).reshape(
        shape
    )


@pytest.mark.parametrize(("shape", "block"), [((5, 7), (2, 3)), ((130, 257), (128, 128)), ((3, 5, 6), (2, 4))])
def test_fp8_with_a_scale_per_block(
    shape: tuple[int, ...], block: tuple[int, int], random: np.random.Generator, tmp_path: Path
) -> None:
    """The element (i, j) has the scale of block (i // rows, j // columns)."""
    values, numbers = fp8(random, shape)
    scales = random.uniform(
        1e-4, 1, (*shape[:-2], *(-(-n // size) for n, size in zip(shape[-2:], block, strict=True)))
    ).astype(np.float32)
    expected = np.empty(shape)
    for index in np.ndindex(shape):
        expected[index] = numbers[index] * float(scales[(*index[:-2], index[-2] // block[0], index[-1] // block[1])])
    method = {"quant_method": "fp8", "weight_block_size": list(block), "activation_scheme": "dynamic"}
    tensors = opened(tmp_path, method, {"a.weight": values, "a.weight_scale_inv": scales})
    assert_rounded_once(weight(tensors), expected)
    assert set(tensors) == {"a.weight"}


@pytest.mark.parametrize("scale_shape", [(), (1,), (5, 1), (5,)])
@pytest.mark.parametrize("method", ["fp8", "fbgemm_fp8"])
def test_fp8_with_a_scale_per_tensor_or_row(
    method: str, scale_shape: tuple[int, ...], random: np.random.Generator, tmp_path: Path
) -> None:
    values, numbers = fp8(random, (5, 7))
    scales = random.uniform(0.01, 1, scale_shape).astype(np.float32)
    arrays: Arrays = {
        "a.weight": values,
        "a.weight_scale": np.array(scales),
        "a.input_scale": np.ones(1, np.float32),
        "a.bias": np.ones(5, np.float32),
    }
    tensors = opened(tmp_path, {"quant_method": method}, arrays)
    assert_rounded_once(weight(tensors), numbers * np.broadcast_to(scales.astype(float).reshape(-1, 1), (5, 7)))
    assert set(tensors) == {"a.weight", "a.bias"}


def test_fp8_of_model_optimizer(random: np.random.Generator, tmp_path: Path) -> None:
    values, numbers = fp8(random, (4, 4))
    arrays: Arrays = {
        "a.weight": values,
        "a.weight_scale": np.array([0.3], np.float32),
        "a.input_scale": np.array([1], np.float32),
        "k_proj.k_scale": np.array([1], np.float32),
    }
    tensors = opened(tmp_path, {"quant_method": "modelopt", "quant_algo": "FP8"}, arrays)
    assert_rounded_once(weight(tensors), numbers * float(np.float32(0.3)))
    assert set(tensors) == {"a.weight"}
    with pytest.raises(ModelError, match='quant_algo is "NVFP4"'):
        opened(tmp_path, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, arrays)


def test_scales_that_are_powers_of_two(random: np.random.Generator, tmp_path: Path) -> None:
    values, numbers = fp8(random, (4, 4))
    exponents = random.integers(100, 150, (2, 2)).astype(np.uint8)
    arrays = {"a.weight": values, "a.weight_scale_inv": exponents.view(ml_dtypes.float8_e8m0fnu)}
    tensors = opened(tmp_path, {"quant_method": "fp8", "weight_block_size": [2, 2]}, arrays)
    assert_rounded_once(weight(tensors), numbers * np.kron(2.0 ** (exponents.astype(float) - 127), np.ones((2, 2))))


def test_fp8_that_does_not_fit_is_refused(random: np.random.Generator, tmp_path: Path) -> None:
    values, _ = fp8(random, (4, 4))
    with pytest.raises(ModelError, match=r"'a\.weight' is in FP8 and has no scale"):
        opened(tmp_path, {"quant_method": "fp8"}, {"a.weight": values})
    arrays = {"a.weight": values, "a.weight_scale_inv": np.ones((3, 3), np.float32)}
    with pytest.raises(ModelError, match=r"a\.weight cannot be unpacked: there are scales for \(3, 3\) blocks"):
        weight(opened(tmp_path, {"quant_method": "fp8", "weight_block_size": [2, 2]}, arrays))
    with pytest.raises(ModelError, match=r"a\.weight cannot be unpacked"):
        weight(opened(tmp_path, {"quant_method": "fp8"}, arrays))
    with pytest.raises(ModelError, match="weight_block_size"):
        opened(tmp_path, {"quant_method": "fp8", "weight_block_size": [0, "x"]}, arrays)


# --- integers in words


def pack_words(values: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int32]:
    """Return words of the integers in rows, the lowest bits first: ``(m, n)`` → ``(m, ⌈n / k⌉)``."""
    k = 32 // bits
    words = np.zeros((len(values), -(-values.shape[1] // k)), np.uint32)
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            words[i, j // k] = int(words[i, j // k]) | value << (j % k * bits)
    return words.view(np.int32)


# --- GPTQ


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2", None])
@pytest.mark.parametrize("order", ["sequential", "act-order", "missing"])
def test_gptq(bits: int, version: str | None, order: str, random: np.random.Generator, tmp_path: Path) -> None:
    """w[o, i] = scales[g_idx[i], o] · (q[i, o] − z[g_idx[i], o]); files of version 1 store z − 1."""
    n_in, n_out, group_size = 32, 16, 8
    n_group = n_in // group_size
    q = random.integers(0, 2**bits, (n_in, n_out))
    z = random.integers(0, 2**bits, (n_group, n_out))
    scales = random.uniform(-0.1, 0.1, (n_group, n_out)).astype(np.float16)
    g_idx = np.arange(n_in) // group_size
    if order == "act-order":
        g_idx = random.permutation(g_idx)
    expected = np.array(
        [[float(scales[g_idx[i], o]) * (q[i, o] - z[g_idx[i], o]) for i in range(n_in)] for o in range(n_out)]
    )

    stored = z if version == "gptq_v2" else (z - 1) % 2**bits
    arrays: dict[str, npt.NDArray[Any]] = {
        "a.qweight": pack_words(q.T, bits).T,
        "a.qzeros": pack_words(stored, bits),
        "a.scales": scales,
        "a.bias": np.ones(n_out, np.float16),
    }
    if order != "missing":
        arrays["a.g_idx"] = g_idx.astype(np.int32)
    method = {"quant_method": "gptq", "bits": bits, "group_size": group_size, "desc_act": order == "act-order"}
    tensors = opened(tmp_path, method | ({"checkpoint_format": version} if version else {}), arrays)
    assert_rounded_once(weight(tensors), expected)
    assert set(tensors) == {"a.weight", "a.bias"}


def test_gptq_with_one_group(random: np.random.Generator, tmp_path: Path) -> None:
    q = random.integers(0, 16, (16, 8))
    arrays: Arrays = {
        "a.qweight": pack_words(q.T, 4).T,
        "a.qzeros": pack_words(np.full((1, 8), 7), 4),
        "a.scales": np.full((1, 8), 0.5, np.float16),
    }
    tensors = opened(tmp_path, {"quant_method": "gptq", "bits": 4, "group_size": -1}, arrays)
    assert_rounded_once(weight(tensors), 0.5 * (q.T.astype(float) - 8))


def test_gptq_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    method = {"quant_method": "gptq", "bits": 4, "group_size": 8}
    arrays: dict[str, npt.NDArray[Any]] = {
        "a.qweight": np.zeros((2, 8), np.int32),
        "a.qzeros": np.zeros((2, 1), np.int32),
    }
    with pytest.raises(ModelError, match=r"needs the tensor 'a\.scales', which is missing"):
        opened(tmp_path, method, arrays)
    arrays["a.scales"] = np.zeros((2, 8), np.float16)
    with pytest.raises(ModelError, match="bits is 3"):
        opened(tmp_path, method | {"bits": 3}, arrays)
    with pytest.raises(ModelError, match='checkpoint_format is "marlin"'):
        opened(tmp_path, method | {"checkpoint_format": "marlin"}, arrays)
    arrays["a.g_idx"] = np.full(16, 2, np.int32)
    with pytest.raises(ModelError, match=r"a\.weight cannot be unpacked: 2 groups do not fit 16 columns"):
        weight(opened(tmp_path, method, arrays))


# --- AWQ

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_awq(values: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return words as AutoAWQ packs them: the i-th four bits have the output AWQ_ORDER[i] of eight."""
    words = np.zeros((len(values), values.shape[1] // 8), np.uint32)
    for row, word in np.ndindex(words.shape):
        for i, column in enumerate(AWQ_ORDER):
            words[row, word] |= np.uint32(int(values[row, 8 * word + column]) << 4 * i)
    return words.view(np.int32)


@pytest.mark.parametrize("group_size", [8, -1])
def test_awq(group_size: int, random: np.random.Generator, tmp_path: Path) -> None:
    """w[o, i] = scales[i // group_size, o] · (q[i, o] − z[i // group_size, o])."""
    n_in, n_out = 24, 16
    size = group_size if group_size > 0 else n_in
    q = random.integers(0, 16, (n_in, n_out))
    z = random.integers(0, 16, (n_in // size, n_out))
    scales = random.uniform(-0.1, 0.1, (n_in // size, n_out)).astype(np.float16)
    expected = np.array(
        [[float(scales[i // size, o]) * (q[i, o] - z[i // size, o]) for i in range(n_in)] for o in range(n_out)]
    )
    arrays: Arrays = {
        "a.qweight": pack_awq(q),
        "a.qzeros": pack_awq(z),
        "a.scales": scales,
        "b.weight": np.ones((2, 2), np.float16),
    }
    method = {"quant_method": "awq", "bits": 4, "group_size": group_size, "zero_point": True, "version": "GEMM"}
    tensors = opened(tmp_path, method, arrays)
    assert_rounded_once(weight(tensors), expected)
    assert set(tensors) == {"a.weight", "b.weight"}
    with pytest.raises(ModelError, match="version is 'gemv'"):
        opened(tmp_path, method | {"version": "gemv"}, arrays)
    with pytest.raises(ModelError, match="bits is 8"):
        opened(tmp_path, method | {"bits": 8}, arrays)


# --- compressed-tensors


def compressed(weights: Mapping[str, Any], form: str, targets: tuple[str, ...] = ("Linear",)) -> dict[str, Any]:
    """Return the config of a checkpoint with one group."""
    group = {"targets": list(targets), "weights": dict(weights), "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kind", ["symmetric", "asymmetric", "act-order"])
def test_packed_integers_in_groups(bits: int, kind: str, random: np.random.Generator, tmp_path: Path) -> None:
    """w = (q − z) · scale with signed q and z; both are stored plus 2^(bits − 1)."""
    n_out, n_in, group_size = 10, 24, 8
    half = 2 ** (bits - 1)
    q = random.integers(-half, half, (n_out, n_in))
    z = random.integers(-half, half, (n_out, n_in // group_size)) if kind == "asymmetric" else np.zeros((n_out, 3), int)
    scales = random.uniform(0.01, 0.1, (n_out, n_in // group_size)).astype(ml_dtypes.bfloat16)
    g_idx = np.arange(n_in) // group_size
    if kind == "act-order":
        g_idx = random.permutation(g_idx)
    expected = np.array(
        [[float(scales[o, g_idx[i]]) * (q[o, i] - z[o, g_idx[i]]) for i in range(n_in)] for o in range(n_out)]
    )

    arrays: dict[str, npt.NDArray[Any]] = {
        "a.weight_packed": pack_words(q + half, bits),
        "a.weight_scale": scales,
        "a.weight_shape": np.array([n_out, n_in]),
        "lm_head.weight": np.ones((2, 2), ml_dtypes.bfloat16),
    }
    if kind == "asymmetric":
        arrays["a.weight_zero_point"] = pack_words((z + half).T, bits).T
    if kind == "act-order":
        arrays["a.weight_g_idx"] = g_idx.astype(np.int32)
    method = compressed(
        {"num_bits": bits, "type": "int", "strategy": "group", "group_size": group_size}, "pack-quantized"
    )
    tensors = opened(tmp_path, method, arrays)
    assert_rounded_once(weight(tensors), expected)
    assert set(tensors) == {"a.weight", "lm_head.weight"}


def test_packed_rows_that_do_not_fill_their_words(random: np.random.Generator, tmp_path: Path) -> None:
    q = random.integers(-8, 8, (3, 13))
    scales = random.uniform(0.01, 0.1, (3, 1)).astype(np.float16)
    arrays: Arrays = {
        "a.weight_packed": pack_words(q + 8, 4),
        "a.weight_scale": scales,
        "a.weight_shape": np.array([3, 13]),
    }
    tensors = opened(tmp_path, compressed({"num_bits": 4, "strategy": "channel"}, "pack-quantized"), arrays)
    assert_rounded_once(weight(tensors), q * scales.astype(float))


@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
def test_compressed_fp8(strategy: str, random: np.random.Generator, tmp_path: Path) -> None:
    values, numbers = fp8(random, (6, 8))
    shape = {"tensor": (1,), "channel": (6, 1), "block": (2, 2)}[strategy]
    scales = random.uniform(0.01, 1, shape).astype(np.float32)
    factors = np.kron(scales.astype(float), np.ones((3, 4))) if strategy == "block" else scales.astype(float)
    config = {"num_bits": 8, "type": "float", "strategy": strategy} | (
        {"block_structure": [3, 4]} if strategy == "block" else {}
    )
    arrays = {"a.weight": values, "a.weight_scale": scales, "a.input_scale": np.ones(1, np.float32)}
    tensors = opened(tmp_path, compressed(config, "float-quantized"), arrays)
    assert_rounded_once(weight(tensors), numbers * factors)
    assert set(tensors) == {"a.weight"}


@pytest.mark.parametrize("has_zeros", [True, False])
def test_compressed_int8(has_zeros: bool, random: np.random.Generator, tmp_path: Path) -> None:
    q = random.integers(-128, 128, (6, 8)).astype(np.int8)
    scales = random.uniform(0.01, 1, (6, 1)).astype(np.float32)
    zeros = random.integers(-128, 128, (6, 1)).astype(np.int8)
    arrays: dict[str, npt.NDArray[Any]] = {"a.weight": q, "a.weight_scale": scales}
    if has_zeros:
        arrays["a.weight_zero_point"] = zeros
    method = compressed({"num_bits": 8, "type": "int", "strategy": "channel"}, "int-quantized")
    assert_rounded_once(
        weight(opened(tmp_path, method, arrays)), (q.astype(float) - has_zeros * zeros.astype(float)) * scales
    )


def test_groups_are_for_layers_that_their_targets_name(random: np.random.Generator, tmp_path: Path) -> None:
    method = compressed({"num_bits": 4, "strategy": "group", "group_size": 8}, "pack-quantized")
    method["config_groups"]["group_1"] = {"targets": ["re:.*down$"], "weights": {"num_bits": 8, "strategy": "channel"}}
    q4, q8 = random.integers(-8, 8, (2, 16)), random.integers(-128, 128, (2, 16))
    arrays: Arrays = {
        "m.up.weight_packed": pack_words(q4 + 8, 4), "m.up.weight_scale": np.full((2, 2), 0.5, np.float16),
        "m.up.weight_shape": np.array([2, 16]),
        "m.down.weight_packed": pack_words(q8 + 128, 8), "m.down.weight_scale": np.full((2, 1), 0.25, np.float16),
        "m.down.weight_shape": np.array([2, 16]),
    }  # fmt: skip
    tensors = opened(tmp_path, method, arrays)
    assert_rounded_once(weight(tensors, "m.up.weight"), q4.astype(float) * 0.5)
    assert_rounded_once(weight(tensors, "m.down.weight"), q8.astype(float) * 0.25)


def test_compressed_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    group = {"num_bits": 4, "strategy": "group", "group_size": 8}
    arrays: dict[str, npt.NDArray[Any]] = {
        "a.weight_packed": np.zeros((2, 2), np.int32),
        "a.weight_scale": np.ones((2, 2), np.float16),
    }
    with pytest.raises(ModelError, match=r"needs the tensor 'a\.weight_shape'"):
        opened(tmp_path, compressed(group, "pack-quantized"), arrays)
    arrays["a.weight_shape"] = np.array([2, 16])
    with pytest.raises(ModelError, match=r"no group in config_groups is for it"):
        opened(tmp_path, compressed(group, "pack-quantized", ("re:other",)), arrays)
    with pytest.raises(ModelError, match='format is "nvfp4-pack-quantized"'):
        opened(tmp_path, compressed(group, "nvfp4-pack-quantized"), arrays)
    arrays["a.weight_shape"] = np.array([2, 99])
    with pytest.raises(ModelError, match=r"a\.weight cannot be unpacked: there are 16 integers, but 99 are needed"):
        weight(opened(tmp_path, compressed(group, "pack-quantized"), arrays))
    with pytest.raises(ModelError, match=r"sparsity_config\.format"):
        opened(
            tmp_path, compressed(group, "pack-quantized") | {"sparsity_config": {"format": "sparse-24-bitmask"}}, arrays
        )


# --- all


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="quant_method is 'aqw', which is not supported; did you mean 'awq'"):
        opened(tmp_path, {"quant_method": "aqw"}, {"a": np.ones(1, np.float32)})


def test_plain_checkpoints_stay_as_they_are(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a.weight": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    tensors = read_safetensors(tmp_path)
    assert unpack(Config(tmp_path / "config.json", {}), tensors) is tensors


def test_the_section_may_be_within_that_of_the_text_model(random: np.random.Generator, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    values, numbers = fp8(random, (2, 2))
    save_file({"a.weight": values, "a.weight_scale": np.array([0.5], np.float32)}, tmp_path / "model.safetensors")
    config = json.loads('{"text_config": {"quantization_config": {"quant_method": "fp8"}}}')
    assert_rounded_once(
        weight(unpack(Config(tmp_path / "config.json", config), read_safetensors(tmp_path))), numbers / 2
    )


def test_a_quantised_checkpoint_has_the_tensors_of_a_plain_one(random: np.random.Generator, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_folder(next(one for one in all_checkpoints() if one.name == "llama"), tmp_path / "plain")
    plain = load_file(folder / "model.safetensors")
    packed: dict[str, npt.NDArray[Any]] = {}
    for name, array in plain.items():
        if name.endswith("_proj.weight"):
            values, numbers = fp8(random, array.shape)
            packed |= {name: values, f"{name}_scale": np.array([0.01], np.float32)}
            plain[name] = (numbers * float(np.float32(0.01))).astype(np.float32)
        else:
            packed[name] = array
    assert len(packed) > len(plain)
    save_file(plain, folder / "model.safetensors")
    shutil.copytree(folder, quantised := tmp_path / "quantised")
    save_file(packed, quantised / "model.safetensors")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (quantised / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}), "utf-8"
    )

    expected, found = (open_checkpoint(one, conversions(), read_checkpoint_tokenizer) for one in (folder, quantised))
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].type_name == tensor.type_name
        np.testing.assert_array_equal(found.tensors[name].data, tensor.data, name)
