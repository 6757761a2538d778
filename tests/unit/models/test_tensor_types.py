"""A number that had another meaning in older files is read as the type whose sizes the tensors have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from llamafw import Bytes, Floats, Model, ModelError, Quant
from llamafw.models.gguf import read_gguf
from support import raw_gguf as raw
from support.gguf_models import QUANTS
from support.quant_references import two_bits

ALIGNMENT = 32
BLOCKS = {"Q2_0": (64, 18), "PQ2_0": (128, 34)}


@dataclass(frozen=True)
class OlderType:
    """A type that had the number of Q2_0."""

    name = "PQ2_0"
    type_id = 142
    block_size, type_size = BLOCKS[name]
    old_type_ids = (42,)

    def dequantize(self, data: Bytes, shape: Sequence[int]) -> Floats:
        return two_bits(data.reshape(-1, 34)).reshape(shape)


TYPES: dict[str, Quant] = {**QUANTS, "PQ2_0": OlderType()}


def write(path: Path, type_name: str, shapes: Sequence[Sequence[int]], type_id: int = 42) -> dict[str, Bytes]:
    """Write a file with a float32 vector between tensors of random blocks; return their bytes by name.

    Shapes have the innermost dimension first.
    """
    rng, (block_size, type_size) = np.random.default_rng(0), BLOCKS[type_name]
    descriptions, contents, content = [], {}, b""
    for i, shape in enumerate(shapes):
        data = rng.integers(0, 256, int(np.prod(shape)) // block_size * type_size, np.uint8)
        for name, kind, sizes, part in ((f"m{i}", type_id, shape, data), (f"v{i}", raw.F32, [3], bytes(12))):
            content += b"\0" * (-len(content) % ALIGNMENT)
            descriptions.append(raw.tensor(name, sizes, kind, len(content)))
            content += bytes(part)
        contents[f"m{i}"] = data
    path.write_bytes(raw.gguf([], descriptions, content))
    return contents


def check(model: Model, type_name: str, contents: dict[str, Bytes]) -> None:
    for name, data in contents.items():
        tensor = model.tensors[name]
        assert tensor.type_name == type_name
        np.testing.assert_array_equal(tensor.data, data)
        expected = two_bits(data.reshape(-1, BLOCKS[type_name][1])).reshape(tensor.shape)
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(TYPES[type_name].dequantize(tensor.data, tensor.shape), expected)


@pytest.mark.parametrize("shapes", [[[128, 1], [256, 40]], [[1280, 16]], [[256, 8, 3], [128, 2]]], ids=str)
@pytest.mark.parametrize("type_name", BLOCKS)
def test_sizes_of_tensors_tell_the_type(file: Path, type_name: str, shapes: list[list[int]]) -> None:
    """Small tensors do not, because of their alignment, but all tensors of a file have the same type."""
    contents = write(file, type_name, shapes)
    check(read_gguf(file, TYPES), type_name, contents)


def test_order_of_types_does_not_matter(file: Path) -> None:
    contents = write(file, "PQ2_0", [[256, 40]])
    check(read_gguf(file, dict(reversed(TYPES.items()))), "PQ2_0", contents)


def test_last_tensor_may_end_with_the_file(file: Path) -> None:
    for type_name, (block_size, type_size) in BLOCKS.items():
        data = np.random.default_rng(0).integers(0, 256, 1280 // block_size * type_size, np.uint8)
        file.unlink(missing_ok=True)
        file.write_bytes(raw.gguf([], [raw.tensor("m", [1280], 42)], bytes(data)))
        check(read_gguf(file, TYPES), type_name, {"m": data})


def test_types_have_their_own_number_too(file: Path) -> None:
    contents = write(file, "PQ2_0", [[256, 40]], 142)
    check(read_gguf(file, TYPES), "PQ2_0", contents)


def test_tensors_of_either_size_are_of_the_type_with_the_number(file: Path) -> None:
    contents = write(file, "PQ2_0", [[128, 1]])  # 34 bytes, or 36, and then zeros up to 64
    assert read_gguf(file, TYPES).tensors["m0"].type_name == "Q2_0"
    assert len(contents["m0"]) == 34


def test_rows_that_only_one_type_can_have_are_of_that_type(file: Path) -> None:
    contents = write(file, "Q2_0", [[192, 1]])
    check(read_gguf(file, TYPES), "Q2_0", contents)


def test_tensors_may_have_gaps(file: Path) -> None:
    """With the type of the number, tensors need not fill their space."""
    file.write_bytes(raw.gguf([], [raw.tensor("m", [128], 42), raw.tensor("v", [1], offset=128)], bytes(132)))
    assert read_gguf(file, TYPES).tensors["m"].type_name == "Q2_0"


@pytest.mark.parametrize("n_missing", [1, 32, 33, 64, 80, 100])
def test_truncated_file_is_not_taken_for_an_older_one(file: Path, n_missing: int) -> None:
    content = raw.gguf([], [raw.tensor("m", [128, 64], 42)], bytes(64 * 36))
    file.write_bytes(content[: len(content) - n_missing])
    with pytest.raises(ModelError, match="truncated or damaged"):
        read_gguf(file, TYPES)


def test_older_files_need_a_type_of_their_sizes(file: Path) -> None:
    write(file, "PQ2_0", [[256, 40]])
    with pytest.raises(ModelError, match="tensor 'm0' takes the bytes .*: it is truncated or damaged"):
        read_gguf(file, QUANTS)


def test_rows_that_are_not_whole_blocks_are_refused(file: Path) -> None:
    file.write_bytes(raw.gguf([], [raw.tensor("m", [32], 42)], bytes(64)))
    with pytest.raises(ModelError, match="'m' has rows of 32 weights, not a multiple of Q2_0's 64"):
        read_gguf(file, TYPES)


def test_layout_that_only_the_version_names_is_refused(file: Path) -> None:
    """One program writes blocks of 34 bytes with the scale at their end as type 42."""
    version = raw.value("general.quantization_version", raw.STRING, raw.string("TQ2_0_G128"))
    file.write_bytes(raw.gguf([version], [raw.tensor("m", [128, 64], 42)], bytes(64 * 34)))
    with pytest.raises(ModelError, match="general.quantization_version is 'TQ2_0_G128'; it must be an integer"):
        read_gguf(file, TYPES)
