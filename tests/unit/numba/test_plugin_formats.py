"""An invalid format of a plugin's tensor type is refused with an error that says what is wrong."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass, field
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Bytes, Floats, PluginError
from llamafw.testing.quant_kernels import check_products, check_rows
from llamafw_backends.custom_quant import pq2_0
from llamafw_backends.numba_cpu.backend import NumbaBackend
from llamafw_backends.numba_cpu.formats import find_format
from llamafw_backends.numba_cpu.kernel_api import Record, Value
from support.gguf_models import QUANTS


@dataclass
class Type:
    """A tensor type with a format for the backend."""

    format: Any
    name: str = "TEST"
    type_id: int = 9999
    block_size: int = 128
    type_size: int = 34
    backends: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.backends = {"numba": self.format}

    def dequantize(self, data: Bytes, shape: Any) -> Floats:
        return np.ones(shape, np.float32)


def changed(**members: Any) -> type:
    """Return a valid format with other members."""
    return type("Changed", (pq2_0.PQ2_0,), {"name": "TEST", **members})


def without(base: type, *names: str) -> type:
    """Return a format that lacks some of the attributes of PQ2_0."""
    members = {name: value for name, value in vars(pq2_0.PQ2_0).items() if name not in names}
    return type("Changed", base.__mro__[1:2], {**members, "name": "TEST"})


def test_valid_format_is_found() -> None:
    kind = changed()
    assert type(find_format(Type(kind))) is kind


SOURCE = """
from llamafw_backends.custom_quant.pq2_0 import PQ2_0

class Derived(PQ2_0):
    name, offset = "DERIVED", {}
"""


def test_code_of_a_derived_format_is_compiled_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inherited `pack` does not change, so the hash must cover the modules of all classes."""
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for offset in (1, 0, 1):
        (tmp_path / "derived_format.py").write_text(SOURCE.format(offset))
        monkeypatch.delitem(sys.modules, "derived_format", raising=False)
        invalidate_caches()
        found = find_format(Type("derived_format:Derived", name="DERIVED"))
        assert found is not None
        keys.append(found.key)
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3, "its format 3 for the numba backend is not a llamafw_backends.numba_cpu.kernel_api.Format"),
        (dict, "is not a llamafw_backends.numba_cpu.kernel_api.Format"),
        (without(pq2_0.PQ2_0, "pack", "unpack"), "cannot be created: .*abstract methods pack, unpack"),
        (without(pq2_0.PQ2_0, "word_bytes", "bound"), "has no word_bytes and no bound"),
        (changed(name="OTHER"), "has the name 'OTHER'"),
        (changed(block_bytes=28), "has blocks of 128 weights and 28 bytes, not 128 and 34"),
        (changed(word_bytes=96), "has the word_bytes 96, which is not a multiple of 64"),
        (changed(scale_bytes=8), "has the scale_bytes 8, which is not a multiple of 16"),
        (changed(bound=128), "has the bound 128; it must be 1 to 127, or up to 255 with an offset of 128"),
        (changed(bound=256, offset=128), "has the bound 256"),
        (changed(columns_per_scale=8), "must have a columns_per_scale of 32 or 16"),
        ("no_such_module:Format", "'no_such_module:Format' cannot be imported: No module named"),
        ("math:Format", "'math:Format' cannot be imported: module 'math' has no attribute 'Format'"),
        (":Format", "':Format' cannot be imported: Empty module name"),
    ],
)
def test_invalid_format_is_refused(found: Any, message: str) -> None:
    with pytest.raises(PluginError, match=f"the tensor type TEST: .*{message}"):
        find_format(Type(found))


def unpack_badly(source: int, out: int) -> None:
    no_such_function(source, out)  # type: ignore[name-defined]  # noqa: F821


def emit_badly(self: Any, record: Record) -> list[Value]:
    return [record.b.no_such_instruction()]


@pytest.mark.parametrize(
    ("name", "check", "members", "message"),
    [
        ("BAD_UNPACK", check_rows, {"unpack": staticmethod(unpack_badly)}, "no_such_function"),
        ("BAD_BYTES", check_products, {"bytes": emit_badly}, "no_such_instruction"),
    ],
)
def test_code_that_cannot_be_compiled_is_refused(name: str, check: Any, members: dict[str, Any], message: str) -> None:
    kind = Type(changed(name=name, **members), name=name)

    def make_blocks(rng: np.random.Generator, n: int) -> Bytes:
        return rng.integers(0, 256, (n, kind.type_size), np.uint8)

    with pytest.raises(
        PluginError, match=f"(?s)the tensor type {name}: its format .* cannot be compiled: .*({message})"
    ):
        check(kind, {**QUANTS, name: kind}, make_blocks, lambda context: closing(NumbaBackend(context)))


def test_blocks_of_fewer_weights_than_a_record_are_refused() -> None:
    with pytest.raises(PluginError, match="has the block_size 16, which is not a multiple of 32"):
        find_format(Type(changed(block_size=16), block_size=16))
