"""Damaged GGUF files are refused with the byte and the reason, without using absurd numbers."""

from __future__ import annotations

import itertools
import re
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llamafw import Model, ModelError
from llamafw.engine.components import build_graph
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.tiny import write_tiny_gguf
from support import raw_gguf as raw
from support.gguf_models import QUANTS, write_and_read

PLUGINS = Plugins()
U32 = raw.UINT32
NUMBER = raw.number(U32, 7)
HUGE = 2**60
ALIGNMENT = "general.alignment"


def nested(depth: int) -> bytes:
    return raw.array(raw.UINT8, [b"\1"]) if depth == 1 else raw.array(raw.ARRAY, [nested(depth - 1)])


def with_value(value_type: int, payload: bytes, key: str | bytes = "k", alignment: int = 32) -> bytes:
    return raw.gguf([raw.value(key, value_type, payload)], alignment=alignment)


def with_array(item_type: int, items: list[bytes], n: int | None = None, alignment: int = 32) -> bytes:
    return with_value(raw.ARRAY, raw.array(item_type, items, n), alignment=alignment)


def with_tensor(sizes: list[int], name: str | bytes = "w", **options: int) -> bytes:
    return raw.gguf([], [raw.tensor(name, sizes, **options)], b"\0" * 64)


DAMAGED = {
    # name: (content, byte offset of the error or None, part of the message)
    "empty": (b"", 0, "the file is empty"),
    "short magic": (b"GG", 0, "not a GGUF file"),
    "magic": (raw.gguf(magic=b"GGML"), 0, "not a GGUF file: it does not start with b'GGUF'"),
    "version 0": (raw.gguf(version=0), 4, "version 0 is not supported"),
    "version 1": (raw.gguf(version=1), 4, "version 1 is not supported; convert"),
    "version 4": (raw.gguf(version=4), 4, "version 4 is not supported"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), 4, "big-endian"),
    "no counts": (b"GGUF\3\0\0\0\1", 8, "the file ends within the number of tensors"),
    "many tensors": (raw.gguf(n_tensors=HUGE), 8, "the number of tensors is 1152921504606846976"),
    "many values": (raw.gguf(n_values=HUGE), 16, "the number of metadata values is 1152921504606846976"),
    "missing value": (raw.gguf([raw.value("k", U32, NUMBER)], n_values=2, alignment=1)[:-4], 16, "number of metadata"),
    "empty key": (with_value(U32, NUMBER, key=""), 24, "the length of the key of metadata value 0 is 0"),
    "long key": (with_value(U32, NUMBER, key="k" * 65_536), 24, "from 1 to 65535"),
    "key length": (raw.gguf([struct.pack("<Q", HUGE) + b"\0" * 9]), 24, f"key of metadata value 0 is {HUGE}"),
    "key beyond the end": (raw.gguf([struct.pack("<Q", 999) + b"\0" * 9]), 32, "ends within the key of metadata value"),
    "key bytes": (with_value(U32, NUMBER, key=b"k\xff"), 24, "is not UTF-8"),
    "key twice": (raw.gguf([raw.value("k", U32, NUMBER)] * 2), 41, "the metadata key 'k' occurs twice"),
    "value type": (with_value(13, NUMBER), 33, "metadata value 'k' has the unknown value type 13"),
    "bool": (with_value(raw.BOOL, b"\2"), 37, "has a bool with the value 2; it must be 0 or 1"),
    "second bool": (with_array(raw.BOOL, [b"\1", b"\3"]), 50, "has a bool with the value 3"),
    "string length": (with_value(raw.STRING, struct.pack("<Q", HUGE)), 37, "the length of metadata value 'k' is"),
    "array type": (with_array(99, []), 37, "items of the unknown value type 99"),
    "array count": (with_array(raw.UINT64, [], n=HUGE), 41, "the number of items of metadata"),
    "strings count": (with_array(raw.STRING, [], n=HUGE), 41, "the number of items of metadata"),
    "string in array": (
        with_array(raw.STRING, [raw.string("a"), struct.pack("<Q", HUGE)]),
        58,
        f"item 1 of metadata value 'k' has {HUGE} bytes",
    ),
    "cut array": (
        with_array(raw.STRING, [raw.string("a" * 9)] * 2, alignment=1)[:-8],
        66,
        "item 1 of metadata value 'k' has 9 bytes",
    ),
    "cut length": (
        with_array(raw.STRING, [raw.string("a" * 9)] * 2, alignment=1)[:-13],
        66,
        "the file ends before item 1 of metadata value 'k'",
    ),
    "nesting": (with_value(raw.ARRAY, nested(5)), 73, "nested more than 4 levels deep"),
    "alignment": (with_value(U32, raw.number(U32, 24), ALIGNMENT), None, "general.alignment is 24"),
    "alignment 0": (with_value(U32, raw.number(U32, 0), ALIGNMENT), None, "general.alignment is 0"),
    "alignment type": (with_value(raw.STRING, raw.string("8"), ALIGNMENT), None, "general.alignment is '8'"),
    "tensor twice": (
        raw.gguf([], [raw.tensor("w", [1]), raw.tensor("w", [1], offset=32)], b"\0" * 64),
        57,
        "the tensor 'w' occurs twice",
    ),
    "tensor name": (with_tensor([1], b"w\xff"), 24, "the name of tensor 0 b'w\\xff' is not UTF-8"),
    "dimensions": (with_tensor([1] * 5), 33, "tensor 'w' has 5 dimensions"),
    "many dimensions": (with_tensor([1], n_dims=2**32 - 1), 33, "4294967295 dimensions"),
    "overflow": (with_tensor([2**32] * 2), 33, "impossible dimensions"),
    "overflow by zero": (with_tensor([2**63, 0]), 33, "impossible dimensions"),
    "tensor type": (with_tensor([1], kind=4), 45, "tensor 'w' has the type 4, which no plugin"),
    "row": (with_tensor([48], kind=raw.Q4_0), 45, "rows of 48 weights, not a multiple of Q4_0's 32"),
    "offset": (with_tensor([1], offset=4), 49, "starts at 4, not at a multiple of the alignment"),
    "tensor beyond the end": (with_tensor([17]), 24, "takes the bytes 64 to 132, but the file ends at 128"),
    "offset beyond the end": (with_tensor([1], offset=2**63), 24, "tensor 'w' takes the bytes"),
    "overlap": (
        raw.gguf([], [raw.tensor("v", [16]), raw.tensor("w", [8], offset=32)], b"\0" * 64),
        57,
        "tensor 'w' overlaps tensor 'v'",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_reported_with_its_byte(file: Path, name: str) -> None:
    content, offset, expected = DAMAGED[name]
    with pytest.raises(ModelError) as caught:
        write_and_read(file, content)
    message = str(caught.value)
    assert expected in message
    position = re.match(rf"{re.escape(str(file))}: at byte (\d+): ", message)
    assert position
    assert offset is None or int(position[1]) == offset


@pytest.mark.parametrize("name", [name for name in DAMAGED if str(HUGE) in DAMAGED[name][2] or "count" in name])
def test_absurd_numbers_do_not_allocate_memory(file: Path, name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ModelError):
            write_and_read(file, DAMAGED[name][0])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a small llama model whose metadata has values of many types."""
    path = write_tiny_gguf(
        tmp_path_factory.mktemp("valid") / "model.gguf",
        n_vocab=8,
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_head_kv=1,
        n_ff=32,
        types="Q4_0",
        tokenizer=None,
        metadata={"a.strings": ["one", "two"], "a.ints": [1, 2, 3], "a.floats": [1.5], "a.bool": True},
    )
    return path.read_bytes()


file_numbers = itertools.count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read_or_refuse(folder: Path, content: bytes) -> Model | None:
    """Read and describe a model and access its data; return None if that raises ModelError."""
    path = folder / f"{next(file_numbers)}.gguf"
    path.write_bytes(content)
    try:
        model = read_gguf(path, QUANTS)
        for tensor in model.tensors.values():
            assert tensor.data.size == 0 or tensor.data[[0, -1]].size == 2
        build_graph(model, PLUGINS)
    except ModelError as exc:
        assert str(exc).startswith(str(path))  # noqa: PT017  # an error is optional here
        return None
    finally:
        path.unlink()
    return model


def test_the_undamaged_file_is_read(folder: Path, valid: bytes) -> None:
    assert read_or_refuse(folder, valid) is not None


def test_truncated_files_are_refused(folder: Path, valid: bytes) -> None:
    ends = [*range(0, len(valid), 7), *range(len(valid) - 16, len(valid))]
    assert [end for end in ends if read_or_refuse(folder, valid[:end]) is not None] == []


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_are_read_or_refused(folder: Path, valid: bytes, data: st.DataObject) -> None:
    content = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, 2047))  # metadata and tensor descriptions
        patch = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=12),
                st.sampled_from([0, 1, 8, 9, 2**31, 2**32 - 1]).map(lambda n: struct.pack("<I", n)),
                st.sampled_from([0, 1, 2**31, 2**32, HUGE, 2**63, 2**64 - 1]).map(lambda n: struct.pack("<Q", n)),
            )
        )
        if data.draw(st.booleans()):
            content[start : start + len(patch)] = patch
        else:
            content[start:start] = patch
    read_or_refuse(folder, bytes(content))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=300), n_tensors=st.integers(0, 3), n_values=st.integers(0, 3))
@example(tail=raw.value("k", raw.ARRAY, raw.array(raw.ARRAY, [raw.array(raw.STRING, [])] * 9)), n_tensors=0, n_values=1)
def test_random_bytes_after_the_header_are_read_or_refused(
    folder: Path, tail: bytes, n_tensors: int, n_values: int
) -> None:
    read_or_refuse(folder, raw.gguf([tail], n_values=n_values, n_tensors=n_tensors))
