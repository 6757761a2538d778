"""Matrices of codes become one product, or the sum of two whose codes a provider has; the weights stay exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from llamafw.testing.random_tensors import random_tensor
from llamafw.testing.tiny import write_tiny_gguf
from llamafw_backends.onnx import backend, code_products
from llamafw_backends.onnx.block_formats import FORMATS
from llamafw_backends.onnx.code_products import INT8, Form, add_block_product, find_form, pack, pack_rows
from llamafw_backends.onnx.device_tensors import Device
from llamafw_backends.onnx.model_builder import ModelBuilder
from llamafw_backends.onnx.sessions import make_options, open_session
from llamafw_backends.onnx.support import Support
from support.onnx_nodes import F32, GpuLike, kinds, make_lowering, open_context, worst_error

ROOT = Path(__file__).parents[3]
FLOAT16, FLOAT32 = np.dtype(np.float16), np.dtype(np.float32)
CPU: list[Any] = [("CPUExecutionProvider", {})]
SIX_BITS = ("Q5_0", "Q5_1", "Q5_K", "Q6_K", "MXFP4")
OFFSETS = ("Q5_1", "Q5_K")


class Without2Bits(GpuLike):
    """A provider that has no codes of 2 bits."""

    def runs(self, name: str, make: Any) -> bool:
        return "with 2 bits" not in name and super().runs(name, make)


@pytest.mark.parametrize("bits", [(8,), (4, 4), (4, 2)], ids=str)
@pytest.mark.parametrize("name", SIX_BITS)
def test_sums_of_products_are_exact(name: str, bits: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The products with unit vectors are the weights that the gguf package unpacks."""
    n_out, n_in = 24, 512
    data: Any = random_tensor(np.random.default_rng(0), (n_out, n_in), name, std=0.1)
    expected = dequantize(data, GGMLQuantizationType[name])

    b = ModelBuilder(FLOAT32)
    monkeypatch.setattr(code_products, "CHUNK_BYTES", 5 * data.nbytes // n_out)  # chunks of 5 rows
    form, rows = Form(bits), data.view(np.uint8).reshape(n_out, -1)
    codes = pack_rows([(FORMATS[name], rows[:17]), (FORMATS[name], rows[17:])], form, FLOAT32)
    y = add_block_product(b, b.input("x", FLOAT32, ["n", n_in]), codes, form, "w")
    b.node("Identity", y, outputs=["y"])
    b.output("y", FLOAT32, ["n", n_out])
    session = open_session(b.build().SerializeToString(), make_options(), CPU, b.weights)
    (weights,) = session.run(None, {"x": np.eye(n_in, dtype=np.float32)})
    if name in OFFSETS:  # they are added in float32
        np.testing.assert_allclose(weights.T, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    else:
        np.testing.assert_array_equal(weights.T, expected)


@pytest.mark.parametrize(
    ("n_bits", "accuracy_level", "on_gpu", "on_cpu"),
    [
        (2, 0, Form((2,)), Form((4,))),
        (4, 0, Form((4,)), Form((4,))),
        (6, 0, Form((4, 2)), Form((4, 4))),
        (8, 0, Form((8,)), Form((4, 4))),
        (2, INT8, None, Form((4,), INT8)),
        (6, INT8, None, Form((8,), INT8)),
        (8, INT8, None, Form((8,), INT8)),
    ],
)
def test_nodes_depend_on_bits_and_device(n_bits: int, accuracy_level: int, on_gpu: Form | None, on_cpu: Form) -> None:
    assert find_form(Support(CPU, FLOAT32), n_bits, 32, accuracy_level) == on_cpu
    if on_gpu is not None:
        assert find_form(GpuLike(CPU, FLOAT16), n_bits, 32) == on_gpu


@pytest.mark.parametrize(("n_bits", "expected"), [(2, (4,)), (4, (4,)), (6, (8,)), (8, (8,))])
def test_codes_are_widened_if_a_provider_has_no_2_bits(n_bits: int, expected: tuple[int, ...]) -> None:
    assert find_form(Without2Bits(CPU, FLOAT16), n_bits, 16) == Form(expected)


def test_each_node_is_tried_once() -> None:
    support = GpuLike(CPU, FLOAT16)
    assert find_form(support, 6, 16) == find_form(support, 6, 16) == Form((4, 2))
    tried = "MatMulNBits with {} bits in blocks of 16 and accuracy level 0"
    assert list(support.found) == [tried.format(4), f"{tried.format(2)}, zero points"]


@pytest.mark.parametrize("name", ["Q5_K", "Q6_K", "Q4_K", "Q2_K"])
def test_models_in_float16_match_float64(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on GPUs: with float16 activations, and two nodes for codes of 6 bits."""
    path = write_tiny_gguf(tmp_path / "model.gguf", types=name, n_embd=256, n_ff=512)
    device, support = Device(CPU, "cpu", 0, FLOAT16, "cpu"), GpuLike(CPU, FLOAT16)
    monkeypatch.setattr(backend, "choose_device", lambda context: device)
    monkeypatch.setattr(backend, "support_of", lambda device: support)
    context = open_context(path, **F32)
    lowering = make_lowering(context, support)

    n_products = 2 * 4 + 1  # queries, keys and values; the output of attention; gate and up; down; and the logits
    assert kinds(lowering).count("MatMulNBits") == n_products * (2 if name in SIX_BITS else 1)
    assert sum(key.endswith(".scales") for key in lowering.builder.weights) == n_products
    assert worst_error(context) < 0.02


def n_device_bytes(name: str, rows: Any) -> tuple[Form, float]:
    """Return the nodes of a matrix on a GPU, and its bytes there as one of 16 matrices of its shape."""
    codes, support = FORMATS[name](rows), GpuLike(CPU, FLOAT16)
    form = find_form(support, codes.bits, codes.block_size)
    assert form is not None
    b, n = ModelBuilder(FLOAT16), 16
    x = b.input("x", FLOAT16, ["n", codes.codes[0].size])
    for i in range(n):
        add_block_product(b, x, pack(codes, form, FLOAT16), form, f"w{i}")
    return form, sum(array.nbytes for array in b.weights.values()) / n


@pytest.mark.parametrize("name", FORMATS)
def test_page_says_how_many_bits_a_weight_takes(name: str) -> None:
    shape = (64, 1024)
    data: Any = random_tensor(np.random.default_rng(0), shape, name)
    form, n_bytes = n_device_bytes(name, data.view(np.uint8).reshape(shape[0], -1))
    in_file, on_device = (8 * n / (shape[0] * shape[1]) for n in (data.nbytes, n_bytes))
    row = f"| {name} | {form} | {in_file:.2f} | {on_device:.2f} | {on_device / in_file:.2f} |"
    assert row in (ROOT / "docs/gpu.md").read_text("utf-8").splitlines()
