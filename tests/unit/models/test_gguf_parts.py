"""Models that are split into several files, as the `gguf` package writes them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from llamafw import ModelError, SettingsError
from llamafw.models.gguf import read_gguf
from llamafw.models.parts import is_first_part, model_name, part_names
from llamafw.testing.tiny import write_tiny_gguf
from support import raw_gguf as raw
from support.gguf_models import QUANTS


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Return the three files of a model with 20 tensors."""
    write_tiny_gguf(tmp_path / "tiny.gguf", part_tensors=8, types="Q4_0")
    return sorted(tmp_path.glob("*.gguf"))


def read_error(path: Path) -> str:
    """Read a model and return the error."""
    with pytest.raises(ModelError) as caught:
        read_gguf(path, QUANTS)
    return str(caught.value)


def split_metadata(no: int, count: int, n_tensors: int) -> list[bytes]:
    """Return the metadata of one of ``count`` parts."""
    pairs = (("split.no", raw.UINT16, no), ("split.count", raw.UINT16, count))
    values = [raw.value(key, value_type, raw.number(value_type, value)) for key, value_type, value in pairs]
    return [*values, raw.value("split.tensors.count", raw.INT32, raw.number(raw.INT32, n_tensors))]


def write_parts(folder: Path, *files: tuple[Sequence[bytes], Sequence[str]]) -> Path:
    """Write the parts of a model, each with metadata and the names of scalar tensors; return the first part."""
    for number, (values, names) in enumerate(files, 1):
        tensors = [raw.tensor(name, [1], offset=32 * i) for i, name in enumerate(names)]
        content = raw.gguf(values, tensors, b"\0" * 32 * len(names))
        (folder / f"m-{number:05}-of-{len(files):05}.gguf").write_bytes(content)
    return folder / f"m-00001-of-{len(files):05}.gguf"


def test_the_parts_are_read_as_one_model(files: list[Path], tmp_path: Path) -> None:
    assert [file.name for file in files] == [f"tiny-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    model = read_gguf(files[0], QUANTS)
    reader = GGUFReader(write_tiny_gguf(tmp_path / "one.gguf", types="Q4_0"))
    assert list(model.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        ours = model.tensors[tensor.name]
        assert ours.data.tobytes() == tensor.data.tobytes()
        assert (ours.shape, ours.type_name) == (tuple(reversed(tensor.shape.tolist())), tensor.tensor_type.name)
    assert model.n_bytes == sum(tensor.n_bytes for tensor in reader.tensors)

    whole_metadata = read_gguf(tmp_path / "one.gguf", QUANTS).metadata
    for key, value in whole_metadata.items():
        np.testing.assert_equal(model.metadata[key], value)
    assert set(model.metadata) - set(whole_metadata) == {"split.no", "split.count", "split.tensors.count"}
    assert (model.metadata["split.count"], model.metadata["split.tensors.count"]) == (3, len(reader.tensors))


def test_a_first_part_may_have_no_tensors(tmp_path: Path) -> None:
    first = write_parts(tmp_path, (split_metadata(0, 2, 1), []), (split_metadata(1, 2, 1), ["a"]))
    assert list(read_gguf(first, QUANTS).tensors) == ["a"]


def test_a_later_part_is_refused(files: list[Path]) -> None:
    assert read_error(files[1]) == f"{files[1]}: this is not the first of the 3 parts of a model; open the first one"


def test_a_missing_part_is_named(files: list[Path]) -> None:
    files[2].unlink()
    assert read_error(files[0]) == f"{files[0]}: part 3 of 3 is missing: {files[2]} does not exist"


def test_a_first_part_with_another_name_is_refused(files: list[Path]) -> None:
    renamed = files[0].rename(files[0].with_name("renamed.gguf"))
    assert "its name must end in -00001-of-00003.gguf" in read_error(renamed)
    misnamed = renamed.rename(files[0].with_name("tiny-00001-of-00004.gguf"))
    assert "its name must end in -00001-of-00003.gguf" in read_error(misnamed)


def test_a_part_of_another_model_is_refused(files: list[Path], tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "other.gguf", part_tensors=8, n_layer=1, tied=False, types="Q4_0")
    shutil.copy(next(tmp_path.glob("other-00002-of-*")), files[1])
    message = read_error(files[0])
    assert f"{files[1]}: this is not part 2 of 3 of {files[0].name}: it has split.no 1, split.count 2," in message


def test_a_part_with_the_name_of_another_is_refused(files: list[Path]) -> None:
    shutil.copy(files[2], files[1])
    message = read_error(files[0])
    assert f"{files[1]}: this is not part 2 of 3 of {files[0].name}: it has split.no 2, split.count 3," in message


def test_a_whole_model_in_place_of_a_part_is_refused(files: list[Path]) -> None:
    write_tiny_gguf(files[1])
    assert "it has split.no None, split.count None, split.tensors.count None" in read_error(files[0])


def test_damage_in_a_part_is_reported_with_its_byte(files: list[Path]) -> None:
    files[1].write_bytes(files[1].read_bytes()[:-100])
    assert read_error(files[0]).startswith(f"{files[1]}: at byte ")


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    first = write_parts(tmp_path, (split_metadata(0, 2, 2), ["a"]), (split_metadata(1, 2, 2), ["a"]))
    assert "the tensor 'a' is in another part too" in read_error(first)


def test_a_wrong_number_of_tensors_is_refused(tmp_path: Path) -> None:
    first = write_parts(tmp_path, (split_metadata(0, 2, 3), ["a"]), (split_metadata(1, 2, 3), ["b"]))
    assert read_error(first) == f"{first}: the 2 parts have 2 tensors, not 3"


def test_invalid_part_counts_are_refused(tmp_path: Path) -> None:
    for value in (
        raw.value("split.count", raw.STRING, raw.string("two")),
        raw.value("split.count", raw.UINT32, raw.number(raw.UINT32, 100_000)),
    ):
        first = write_parts(tmp_path, ([value], []))
        assert "it must be an integer of at most 99999" in read_error(first)
    first = write_parts(tmp_path, ([raw.value("split.count", raw.UINT16, raw.number(raw.UINT16, 3))], []))
    assert "this is not the first of the 3 parts" in read_error(first)


def test_split_keys_cannot_be_overridden(files: list[Path]) -> None:
    for key in ("split.no", "split.count", "split.tensors.count"):
        with pytest.raises(SettingsError, match="describes the file and cannot be overridden"):
            read_gguf(files[0], QUANTS, [f"{key}=int:1"])


def test_part_names_name_all_parts() -> None:
    assert part_names("a-00001-of-00001.gguf") == ["a-00001-of-00001.gguf"]
    assert part_names("a.gguf") == ["a.gguf"]
    assert part_names("d/a-00002-of-00002.GGUF") == ["d/a-00001-of-00002.GGUF", "d/a-00002-of-00002.GGUF"]
    assert [is_first_part(name) for name in ("a.gguf", "a-00001-of-00002.gguf", "a-00002-of-00002.gguf")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("file", "name"), [("a-00001-of-00002.gguf", "a"), ("a.b.gguf", "a.b"), ("a.bin", "a"), ("a", "a")]
)
def test_model_name_has_no_suffix_and_part_number(file: str, name: str) -> None:
    assert model_name(file) == name
