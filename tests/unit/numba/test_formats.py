"""Each tensor type is multiplied with its exact weights by all instruction sets, and unpacked exactly."""

from __future__ import annotations

from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt
import pytest

from llamafw import BackendContext, BackendOptions, Model, Tensor
from llamafw import graph as g
from llamafw.testing.batches import batch
from llamafw.testing.quant_kernels import check_products, check_rows
from llamafw_backends.numba_cpu import cpu, emit
from llamafw_backends.numba_cpu.cpu import features
from llamafw_backends.numba_cpu.emit import Builder, Value
from llamafw_backends.numba_cpu.formats import BUILT_IN, FORMATS, bits
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from llamafw_backends.numba_cpu.simd import i64, operation, void
from llamafw_backends.numba_cpu.tiles import Record
from support.gguf_models import QUANTS
from support.quant_products import block_maker, opened

N_VOCAB, N_COLUMNS = 64, 512
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, N_VOCAB, 40)]
ISAS = [name for name, isa in INSTRUCTION_SETS.items() if isa.available()]
NAMES = [one.name for one in BUILT_IN]


@pytest.mark.parametrize("type_name", NAMES)
def test_products_are_those_of_the_exact_weights(type_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instruction sets and batches of any size give the same bits."""
    results = []
    for isa in ISAS:
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        results.append(check_products(QUANTS[type_name], QUANTS, block_maker(type_name), opened))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("type_name", ["Q4_K", "Q6_K", "F16", "IQ2_XS"])
def test_kernels_for_large_models_give_the_same_bits(type_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where weights are cached differs, if there are more than a cache can keep."""
    results = []
    for size in (0, 1, 1 << 40):  # unknown, smaller than the weights, larger
        monkeypatch.setattr("llamafw_backends.numba_cpu.weights.cache_bytes", lambda size=size: size)
        results.append(check_products(QUANTS[type_name], QUANTS, block_maker(type_name), opened))
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_the_size_of_the_largest_cache_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems than Linux do not have the files."""
    cpu.cache_bytes.cache_clear()
    found, folder = cpu.cache_bytes(), Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = [path.read_text() for path in folder.glob("index*/size")]
    assert (found > 0) == bool(sizes)

    for i, size in enumerate(("48K", "2M", "512")):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(f"{size}\n")
    for place, expected in ((tmp_path, 2 << 20), (tmp_path / "none", 0)):
        cpu.cache_bytes.cache_clear()
        monkeypatch.setattr(cpu, "CACHES", place)
        assert cpu.cache_bytes() == expected
    cpu.cache_bytes.cache_clear()


@pytest.mark.parametrize("type_name", NAMES)
def test_blocks_are_unpacked_exactly(type_name: str) -> None:
    """Any bytes give the bits of the reference, infinities included; all NaN are alike."""
    quant = QUANTS[type_name]
    check_rows(quant, QUANTS, lambda rng, n: rng.integers(0, 256, (n, quant.type_size), np.uint8), opened)


@pytest.mark.parametrize(("type_name", "n_scales", "scale_bytes"), [("MXFP4", 1, range(224)), ("NVFP4", 4, range(256))])
def test_products_are_right_with_any_scale_byte(type_name: str, n_scales: int, scale_bytes: range) -> None:
    """One row for each byte; larger ones of MXFP4 would give infinite sums."""
    rng, one, n = np.random.default_rng(4), FORMATS[type_name], len(scale_bytes)
    blocks = rng.integers(0, 256, (n, N_COLUMNS // one.block_size, one.block_bytes), np.uint8)
    blocks[:, :, :n_scales] = np.array(scale_bytes)[:, None, None]
    tensors = {
        "embedding": Tensor("embedding", (N_VOCAB, N_COLUMNS), "F32", make_embedding(rng)),
        "matrix": Tensor("matrix", (n, N_COLUMNS), type_name, blocks.reshape(-1)),
    }
    x = g.EmbeddingLookup(g.TOKENS, g.Weight("embedding", (N_VOCAB, N_COLUMNS)))
    graph = g.Graph(g.Linear(x, g.Weight("matrix", (n, N_COLUMNS))), None, 64)
    model, options = Model(Path("m.gguf"), {}, tensors, 0), BackendOptions(n_ctx=64, n_slots=1, n_threads=2)
    expected, _ = g.evaluate(graph, TOKENS, g.read_weights(model, QUANTS))
    with opened(BackendContext(model, graph, options, QUANTS)) as backend:
        result = backend.hidden(batch((0, 0, TOKENS))).astype(np.float64)

    size = np.sqrt(np.mean(expected**2, 0))
    zero = size == 0
    assert list(np.flatnonzero(zero)) == ([0, 0x7F, 0x80] if type_name == "NVFP4" else [])
    assert not result[:, zero].any()
    assert (np.sqrt(np.mean((result - expected) ** 2, 0))[~zero] < 1e-4 * size[~zero]).all()


def make_embedding(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return activations so large that products with the smallest scales are not subnormal."""
    return rng.normal(0, 1e4, (N_VOCAB, N_COLUMNS)).astype(np.float32).view(np.uint8).reshape(-1)


@pytest.mark.parametrize("feature", ["avx512bw", "avx2", "ssse3", None])
def test_bytes_are_looked_up_with_any_instruction(feature: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if feature and feature not in features():
        pytest.skip(f"this processor has no {feature}")
    monkeypatch.setattr(bits, "features", lambda: {feature})
    table = [(37 * i + 11) % 256 for i in range(16)]

    def look_up(b: Builder, source: Value, out: Value) -> None:
        record = Record(b, source, source, source)
        (word,) = bits.look_up(record, table, [record.word(0)])
        emit.store(b, word, out)

    copy = operation(void, (i64, i64), look_up)
    kernel = numba.cfunc(void(i64, i64))(lambda source, out: copy(source, out))
    indices = np.random.default_rng(0).integers(0, 16, 64, np.uint8)
    found = np.empty(64, np.uint8)
    kernel.ctypes(indices.ctypes.data, found.ctypes.data)
    assert found.tolist() == [table[i] for i in indices]
