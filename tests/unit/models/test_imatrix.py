"""Importance matrices in both formats of llama.cpp are read and written."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from llamafw import Floats, Model, ModelError
from llamafw.models import requantize as module
from llamafw.models.gguf import read_gguf
from llamafw.models.imatrix import Sums, read_imatrix, write_imatrix
from llamafw.models.requantize import RequantizedTensor
from llamafw.plugins import Plugins
from llamafw.testing.gguf_file import write_gguf

QUANTS = Plugins().registry("quant")


def sums(*shape: int, counts: list[float], seed: int = 0) -> Sums:
    squares = np.random.default_rng(seed).gamma(2, size=shape).astype(np.float32)
    return Sums(squares, np.array(counts, np.float32))


def dat(entries: dict[str, Floats], n_calls: int = 4, tail: bytes = b"") -> bytes:
    parts = [struct.pack("<i", len(entries))]
    for name, values in entries.items():
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", n_calls, values.size)]
        parts.append((values * n_calls).astype("<f4").tobytes())
    return b"".join(parts) + tail


def test_written_sums_are_read_as_means(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    one, experts = sums(1, 6, counts=[50]), sums(3, 4, counts=[10, 0, 40])
    found = {"blk.0.attn_q.weight": one, "blk.0.ffn_up_exps.weight": experts}
    write_imatrix(path, found, "text.txt", n_chunks=3, n_ctx=512, force=False)

    imatrix = read_imatrix(path, QUANTS)
    assert (imatrix.datasets, imatrix.n_chunks) == (("text.txt",), 3)
    plain = imatrix.find("blk.0.attn_q.weight", (9, 6))
    assert plain is not None
    np.testing.assert_allclose(plain, one.squares / 50, rtol=1e-6)
    means = imatrix.find("blk.0.ffn_up_exps.weight", (3, 2, 4))
    assert means is not None
    np.testing.assert_allclose(means[[0, 2]], experts.squares[[0, 2]] / [[10], [40]], rtol=1e-6)
    np.testing.assert_array_equal(means[1], 1)  # an expert that the text did not need
    assert imatrix.find("output.weight", (9, 6)) is None


def test_file_has_the_names_and_shapes_of_llama_cpp(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    heads = sums(2, 4, counts=[10])  # of a tensor with a matrix per head, which all see the same tokens
    found = {"b": sums(3, 4, counts=[1, 2, 3]), "a": sums(1, 6, counts=[50]), "h": heads}
    write_imatrix(path, found, "text.txt", n_chunks=3, n_ctx=512, force=False)
    reader = GGUFReader(path)
    assert {one.name: one.shape.tolist() for one in reader.tensors} == {
        "a.in_sum2": [6, 1],
        "a.counts": [1, 1],
        "b.in_sum2": [4, 3],
        "b.counts": [1, 3],
        "h.in_sum2": [8, 1],
        "h.counts": [1, 1],
    }
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["text.txt"]
    assert reader.fields["imatrix.chunk_count"].contents() == 3
    assert reader.fields["imatrix.chunk_size"].contents() == 512


@pytest.mark.parametrize("tail", [b"", struct.pack("<ii", 7, 4) + b"wiki"])
def test_older_files_are_read(tmp_path: Path, tail: bytes) -> None:
    path, values = tmp_path / "imatrix.dat", np.arange(6, dtype=np.float32)
    path.write_bytes(dat({"a": values, "b": values[:2]}, tail=tail))
    imatrix = read_imatrix(path, QUANTS)
    np.testing.assert_array_equal(imatrix.entries["a"], values)
    np.testing.assert_array_equal(imatrix.entries["b"], values[:2])
    assert (imatrix.n_chunks, imatrix.datasets) == ((7, ("wiki",)) if tail else (0, ()))


@pytest.mark.parametrize("n", [0, 3, 4, 9, 12, 17, 30])
def test_cut_files_are_an_error(tmp_path: Path, n: int) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(dat({"a": np.ones(6, np.float32)})[:n])
    with pytest.raises(ModelError, match="not an importance matrix"):
        read_imatrix(path, QUANTS)


def test_other_files_are_an_error(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "llama", {}, {"a": (np.ones((2, 2), np.float32), "F32")})
    with pytest.raises(ModelError, match=r"it has no tensors called NAME\.in_sum2"):
        read_imatrix(tmp_path / "model.gguf", QUANTS)
    with pytest.raises(ModelError, match="cannot be read"):
        read_imatrix(tmp_path / "missing.gguf", QUANTS)


def test_invalid_numbers_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(dat({"a": np.array([1, np.nan], np.float32)}))
    with pytest.raises(ModelError, match="'a' has numbers that are not finite"):
        read_imatrix(path, QUANTS)


def test_matrix_of_another_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(dat({"a": np.ones(6, np.float32)}))
    with pytest.raises(ModelError, match="'a' has 6 numbers, but the tensor has 1 × 8 columns"):
        read_imatrix(path, QUANTS).find("a", (4, 8))


def test_each_expert_is_rounded_with_its_own_importance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a tensor that are rounded at once may begin and end within a matrix."""
    monkeypatch.setattr(module, "_CHUNK", 4 * 256)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 6, 256)).astype(np.float32)
    importance = rng.gamma(0.5, size=(3, 256)).astype(np.float32)
    write_gguf(tmp_path / "model.gguf", "llama", {}, {"experts.weight": (weights, "F32")})
    model: Model = read_gguf(tmp_path / "model.gguf", QUANTS)
    q4_k = QUANTS["Q4_K"]
    rounded = RequantizedTensor(model.tensors["experts.weight"], QUANTS["F32"], q4_k, model.path, 2, importance)

    expected = np.concatenate([q4_k.quantize(weights[i], importance[i]) for i in range(3)])
    np.testing.assert_array_equal(np.concatenate(list(rounded.parts())), expected)
    np.testing.assert_array_equal(rounded.data, expected.reshape(-1))
