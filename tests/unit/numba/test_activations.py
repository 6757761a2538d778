"""With ``--numba-activations int8``, activations have 8 bits, or are bfloat16 for BF16 weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from llamafw.testing.batches import logits
from llamafw.testing.reference import kl, reference, top1_agreement
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.numba_cpu.instruction_sets import INSTRUCTION_SETS
from support.numba_backend import open_backend
from support.prose import PROSE, read_tokenizer
from support.rounded_products import N_COLUMNS, N_ROWS, N_VOCAB, SIZES, byte_activations, matrix_weights, multiply

ISAS = [name for name, isa in INSTRUCTION_SETS.items() if isa.available()]
TYPES = ["Q4_0", "Q4_1", "Q5_K", "Q8_0", "Q6_K", "Q2_K", "IQ4_XS", "IQ2_XS", "NVFP4", "TQ1_0", "PQ2_0", "PTQ1_0"]
"""With and without offsets and minima, with scales of 16 and of 32 columns; the last two are a plugin's."""


@pytest.mark.parametrize("type_name", TYPES)
def test_numbers_of_eight_bits_have_the_products_of_fifteen(type_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rounded then, so all instruction sets give the same bits as with 15 bits."""
    activations = byte_activations()
    expected = multiply(type_name, activations, "int15")
    for isa in ISAS:
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        for size, got, whole in zip(SIZES, multiply(type_name, activations, "int8"), expected, strict=True):
            np.testing.assert_array_equal(got, whole, err_msg=f"{isa}, {size} tokens")


@pytest.mark.parametrize("type_name", ["Q4_K", "Q6_K", "Q8_0"])
def test_activations_are_rounded_in_groups_of_32(type_name: str) -> None:
    """The step of a group is its largest number divided by 127, as in Q8_0."""
    x = np.random.default_rng(7).normal(0, 1, (N_VOCAB, N_COLUMNS)).astype(np.float32)
    groups = x.reshape(N_VOCAB, -1, 32)
    largest = np.abs(groups).max(-1, keepdims=True)
    numbers = np.rint(groups * (np.float32(127) / largest)).astype(np.float64)  # float32 decides how ties are rounded
    rounded = (numbers * (largest.astype(np.float64) / 127)).reshape(x.shape)
    exact, expected = (one @ matrix_weights(type_name).T for one in (x.astype(np.float64), rounded))

    products = {kind: multiply(type_name, x, kind)[-1][:, :N_ROWS] for kind in ("int8", "int15")}
    n = SIZES[-1]
    np.testing.assert_allclose(products["int8"], expected[:n], atol=2e-5)
    np.testing.assert_allclose(products["int15"], exact[:n], atol=2e-3)
    assert np.abs(expected - exact).max() > 1e-2  # the two kinds can be told apart


def test_activations_of_bf16_weights_are_rounded_to_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums have the same bits in batches of all sizes, with and without ``vpdpbf16ps``."""
    x = np.random.default_rng(9).normal(0, 1, (N_VOCAB, N_COLUMNS)).astype(np.float32)
    x[:, ::5] *= np.float32(1e-3)
    exact = x.astype(np.float64) @ matrix_weights("BF16").T
    expected = round_to_bf16(x).astype(np.float64) @ matrix_weights("BF16").T

    results = []
    for isa in ISAS:
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        results.append(multiply("BF16", x, "int8"))
    for size, *products in zip(SIZES, *results, strict=True):
        for isa, one in zip(ISAS, products, strict=True):
            np.testing.assert_array_equal(one, results[0][-1][:size], err_msg=f"{isa}, {size} tokens")

    n = SIZES[-1]
    assert np.abs(expected - exact).max() > 1e-3
    np.testing.assert_allclose(results[0][-1][:, :N_ROWS], expected[:n], atol=1e-5)
    np.testing.assert_allclose(multiply("BF16", x, "int15")[-1][:, :N_ROWS], exact[:n], atol=1e-5)


def round_to_bf16(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return dequantize(quantize(x, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16)


def test_extreme_activations_do_not_change_those_of_other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(8).normal(0, 1, (N_VOCAB, N_COLUMNS)).astype(np.float32)
    extreme = x.copy()
    extreme[1], extreme[2, 5], extreme[4] = 0, 1e38, np.nan
    extreme[6, 40], extreme[7, 41], extreme[9, 70] = np.inf, -np.inf, np.nan
    others = [row for row in range(SIZES[-1]) if row not in (1, 2, 4, 6, 7, 9)]
    for isa in ISAS:
        monkeypatch.setenv("LLAMAFW_ISA", isa)
        expected, products = (multiply("Q8_0", rows, "int8")[-1] for rows in (x, extreme))
        np.testing.assert_array_equal(products[others], expected[others])
        assert not products[1, :N_ROWS].any()
        assert np.isfinite(products[2, :N_ROWS]).all()
        assert np.isnan(products[[6, 7], :N_ROWS]).all()

        exact = multiply("Q8_0", extreme, "int15")[-1][2, :N_ROWS]
        np.testing.assert_allclose(products[2, :N_ROWS], exact, rtol=1e-3)


@pytest.mark.slow
def test_the_default_model_stays_close_to_the_reference(real_model: Path) -> None:
    """The bounds are those of llama.cpp, which rounds activations to 8 bits as well."""
    with open_backend(real_model, n_ctx=512, n_threads=2, extra={"numba_activations": "int8"}) as backend:
        assert backend.describe()["activation_bits"] == 8
        tokens = read_tokenizer(real_model).encode(PROSE)[:300]
        got = logits(backend, tokens)
    expected = reference(real_model).logits(tokens)
    assert 1e-4 < kl(expected, got) < 1e-2
    assert top1_agreement(expected, got) >= 0.92


def test_states_of_other_activations_have_another_format(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    with open_backend(path) as backend, open_backend(path, extra={"numba_activations": "int8"}) as rounded:
        assert backend.state_format != rounded.state_format
