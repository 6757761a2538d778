"""Files written tensor by tensor are read alike by the `gguf` package, and incomplete files do not stay."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from llamafw import Bytes, ModelError
from llamafw.models.gguf import read_raw_metadata
from llamafw.models.gguf_writer import OutputTensor, encode, write_gguf
from support import raw_gguf as raw

VALUES: dict[str, Any] = {
    "a.int": 7,
    "a.negative": -7,
    "a.large": 2**40,
    "a.float": 0.5,
    "a.bool": True,
    "a.text": "naïve",
    "a.byte": np.uint8(3),
    "a.double": np.float64(0.1),
    "a.ints": [1, -2, 3],
    "a.floats": [0.5, 1.5],
    "a.bools": [True, False],
    "a.texts": ["x", "", "ÿ"],
    "a.shorts": np.array([1, 2], np.int16),
    "a.none": [],
}
TYPES = {"a.int": "UINT32", "a.negative": "INT32", "a.large": "UINT64", "a.float": "FLOAT32", "a.double": "FLOAT64"}


def tensor(name: str, array: np.ndarray[Any, Any]) -> OutputTensor:
    data = array.astype("<f4")
    return OutputTensor(name, data.shape, 0, data.nbytes, lambda: [row.reshape(-1).view(np.uint8) for row in data])


def test_gguf_package_reads_what_is_written(tmp_path: Path) -> None:
    path, rng = tmp_path / "a.gguf", np.random.default_rng(0)
    arrays = {"one": rng.normal(size=(3, 5)), "two": rng.normal(size=(2, 4, 7)), "three": rng.normal(size=(1, 1))}
    write_gguf(path, {"general.architecture": "llama", **VALUES}, [tensor(*item) for item in arrays.items()])

    reader = GGUFReader(path)
    for key, value in VALUES.items():
        expected = value.tolist() if isinstance(value, np.ndarray) else value
        assert reader.fields[key].contents() == expected
    for key, name in TYPES.items():
        assert reader.fields[key].types[0].name == name
    assert [one.name for one in reader.tensors] == list(arrays)
    for found in reader.tensors:
        expected = arrays[found.name].astype(np.float32)
        assert found.data_offset % 32 == 0
        assert found.shape.tolist() == list(reversed(expected.shape))
        np.testing.assert_array_equal(found.data, expected)


def test_values_of_another_file_are_copied_byte_by_byte(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    values = [
        raw.value("x.short", raw.INT16, struct.pack("<h", -5)),
        raw.value("x.latin", raw.STRING, raw.string(b"\xff\xfe")),
        raw.value("x.nested", raw.ARRAY, raw.array(raw.ARRAY, [raw.array(raw.UINT8, [b"\1", b"\2"])])),
        raw.value("x.texts", raw.ARRAY, raw.array(raw.STRING, [raw.string(b"\xc3"), raw.string("a")])),
    ]
    source.write_bytes(raw.gguf(values))
    write_gguf(tmp_path / "copy.gguf", read_raw_metadata(source), [])
    assert (tmp_path / "copy.gguf").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("value", [None, object(), 2**64, [object()], 1j])
def test_other_values_are_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="GGUF file"):
        encode(value)


def test_existing_files_are_replaced_only_if_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_text("mine")
    with pytest.raises(ModelError, match="exists; --force replaces it"):
        write_gguf(path, {}, [])
    assert path.read_text() == "mine"
    write_gguf(path, {}, [], force=True)
    assert path.read_bytes().startswith(b"GGUF")


def test_nothing_is_left_of_a_file_that_fails(tmp_path: Path) -> None:
    def parts() -> Iterator[Bytes]:
        yield np.zeros(4, np.uint8)
        raise ModelError("a weight is not finite")

    with pytest.raises(ModelError, match="not finite"):
        write_gguf(tmp_path / "a.gguf", {}, [OutputTensor("a", (2,), 0, 8, parts)])
    assert list(tmp_path.iterdir()) == []


def test_tensor_of_another_size_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'a' should have 8 bytes"):
        write_gguf(tmp_path / "a.gguf", {}, [OutputTensor("a", (2,), 0, 8, lambda: [np.zeros(4, np.uint8)])])


@pytest.mark.parametrize(("name", "message"), [("no/a.gguf", "the folder .* does not exist"), (".", "is a folder")])
def test_places_that_cannot_have_a_file_are_an_error(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        write_gguf(tmp_path / name, {}, [], force=True)
