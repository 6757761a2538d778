"""Valid GGUF files are read like the `gguf` package reads them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType

from llamafw import ModelError
from llamafw.models.gguf import read_gguf
from llamafw.testing.random_tensors import WRITABLE
from llamafw.testing.tiny import write_tiny_gguf
from support import raw_gguf as raw
from support.gguf_models import QUANTS, write_and_read


def assert_equals_gguf_package(path: Path) -> None:
    """Compare every value and tensor with those of the `gguf` package's reader."""
    model, reader = read_gguf(path, QUANTS), GGUFReader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert list(model.metadata) == list(fields)
    for key, field in fields.items():
        value, expected = model.metadata[key], field.contents()
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, np.array(expected, value.dtype))
        else:
            assert type(value) is type(expected)
            assert value == expected

    assert list(model.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        ours = model.tensors[tensor.name]
        assert ours.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert ours.type_name == tensor.tensor_type.name
        assert ours.data.tobytes() == tensor.data.tobytes()
    assert model.n_bytes == sum(tensor.n_bytes for tensor in reader.tensors)


@pytest.mark.parametrize("type_name", [name for name in WRITABLE if name in GGMLQuantizationType.__members__])
def test_files_of_the_gguf_package_are_read(file: Path, type_name: str) -> None:
    write_tiny_gguf(file, n_embd=256, n_ff=256, n_layer=1, types=type_name)
    assert_equals_gguf_package(file)


@pytest.mark.parametrize("type_name", ["Q2_0"])
def test_files_with_types_that_gguf_does_not_know_are_read(file: Path, type_name: str) -> None:
    model = read_gguf(write_tiny_gguf(file, types=type_name), QUANTS)
    matrix = model.tensors["blk.0.ffn_down.weight"]
    assert (matrix.type_name, matrix.shape) == (type_name, (64, 128))
    weights = QUANTS[type_name].dequantize(matrix.data, matrix.shape)
    assert 0.1 < weights.std() < 0.2  # 1.5 / sqrt(128) = 0.13


def test_the_default_model_is_read(real_model: Path) -> None:
    assert_equals_gguf_package(real_model)


def test_vocabulary_files_are_read(shared: Path) -> None:
    files = sorted((shared / "vocab").glob("*.gguf"), key=lambda path: path.stat().st_size)
    assert len(files) >= 7
    for path in files:
        model = read_gguf(path, QUANTS)
        assert len(model.metadata["tokenizer.ggml.tokens"]) == len(model.metadata["tokenizer.ggml.token_type"])
        assert not model.tensors
    assert_equals_gguf_package(files[0])  # one only, because the package needs seconds per file


@pytest.mark.parametrize("version", [2, 3])
def test_every_value_type_is_read(file: Path, version: int) -> None:
    numbers = {
        raw.UINT8: 200,
        raw.INT8: -100,
        raw.UINT16: 60_000,
        raw.INT16: -30_000,
        raw.UINT32: 4_000_000_000,
        raw.INT32: -2_000_000_000,
        raw.FLOAT32: 0.5,
        raw.UINT64: 2**64 - 1,
        raw.INT64: -(2**63),
        raw.FLOAT64: 1e300,
    }
    values = [
        raw.value(f"n{value_type}", value_type, raw.number(value_type, number))
        for value_type, number in numbers.items()
    ]
    values += [
        raw.value(f"a{value_type}", raw.ARRAY, raw.array(value_type, [raw.number(value_type, number)] * 3))
        for value_type, number in numbers.items()
    ]
    values += [
        raw.value("true", raw.BOOL, b"\1"),
        raw.value("bools", raw.ARRAY, raw.array(raw.BOOL, [b"\1", b"\0"])),
        raw.value("text", raw.STRING, raw.string("größe")),
        raw.value("texts", raw.ARRAY, raw.array(raw.STRING, [raw.string("a"), raw.string(""), raw.string("ß")])),
        raw.value("none", raw.ARRAY, raw.array(raw.STRING, [])),
        raw.value("nested", raw.ARRAY, raw.array(raw.ARRAY, [raw.array(raw.UINT8, [b"\1", b"\2"])] * 2)),
    ]
    metadata = write_and_read(file, raw.gguf(values, version=version)).metadata
    for value_type, number in numbers.items():
        assert metadata[f"n{value_type}"] == number
        assert type(metadata[f"n{value_type}"]) is type(number)
        assert metadata[f"a{value_type}"].tolist() == [number] * 3
        assert not metadata[f"a{value_type}"].flags.writeable
    assert metadata["true"] is True
    assert metadata["bools"].tolist() == [True, False]
    assert metadata["text"] == "größe"
    assert metadata["texts"] == ["a", "", "ß"]
    assert metadata["none"] == []
    assert [part.tolist() for part in metadata["nested"]] == [[1, 2], [1, 2]]


def test_all_value_types_of_the_format_are_tested() -> None:
    assert {value_type.value for value_type in GGUFValueType} == {*raw.FORMATS, raw.STRING, raw.ARRAY}


def test_tokens_with_invalid_utf8_stay_distinct(file: Path) -> None:
    values = [
        raw.value("text", raw.STRING, raw.string(b"a\xff")),
        raw.value("tokens", raw.ARRAY, raw.array(raw.STRING, [raw.string(b"\xfe"), raw.string(b"\xff")])),
    ]
    metadata = write_and_read(file, raw.gguf(values)).metadata
    assert metadata["text"] == "a\ufffd"
    assert [token.encode(errors="surrogateescape") for token in metadata["tokens"]] == [b"\xfe", b"\xff"]


def test_tensors_are_read_only_views_in_numpy_order(file: Path) -> None:
    weights = np.arange(6, dtype="<f4")
    tensors = [raw.tensor("w", [3, 2]), raw.tensor("scalar", [], offset=32), raw.tensor("empty", [0], offset=64)]
    model = write_and_read(
        file, raw.gguf([], tensors, np.append(weights, [0, 0, 1]).astype("<f4").tobytes() + b"\0" * 28)
    )
    assert model.tensors["w"].shape == (2, 3)
    np.testing.assert_array_equal(model.tensors["w"].data.view("<f4"), weights)
    assert not model.tensors["w"].data.flags.writeable
    assert model.tensors["scalar"].shape == ()
    assert model.tensors["scalar"].data.view("<f4") == [1]
    assert model.tensors["empty"].data.size == 0
    assert model.n_bytes == 28


def test_tensors_have_the_alignment_of_the_file(file: Path) -> None:
    values = [raw.value("general.alignment", raw.UINT32, raw.number(raw.UINT32, 128))]
    data = b"\0" * 128 + np.float32(1).tobytes()
    model = write_and_read(file, raw.gguf(values, [raw.tensor("w", [1], offset=128)], data, alignment=128))
    assert model.tensors["w"].data.view("<f4") == [1]


def test_tensor_data_may_have_another_order_than_descriptions(file: Path) -> None:
    tensors = [raw.tensor("b", [8], offset=32), raw.tensor("a", [8], offset=0)]
    model = write_and_read(file, raw.gguf([], tensors, np.arange(16, dtype="<f4").tobytes()))
    assert list(model.tensors) == ["b", "a"]
    assert model.tensors["b"].data.view("<f4")[0] == 8


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf does not exist"):
        read_gguf(tmp_path / "nowhere.gguf", QUANTS)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a file"):
        read_gguf(tmp_path, QUANTS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is not a file"):
        read_gguf(tmp_path / "pipe", QUANTS)


def test_overrides_are_applied(file: Path) -> None:
    write_tiny_gguf(file)
    model = read_gguf(file, QUANTS, ["llama.context_length=int:99", "own.key=str:x"])
    assert model.metadata["llama.context_length"] == 99
    assert model.metadata["own.key"] == "x"
