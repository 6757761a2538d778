"""Selects the most likely tokens on the device, so that not all logits are copied from there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort

from llamafw import Floats, Ints
from llamafw_backends.onnx.device_tensors import Device
from llamafw_backends.onnx.model_builder import Array, ModelBuilder
from llamafw_backends.onnx.support import Probe, Support

F32 = np.dtype(np.float32)  # logits are float32 on every device


CHUNK = 2048
"""Logits of a row that are compared at first: kernels use one part of a GPU per row, and a GPU has more than a hundred
parts. Where no more than this are wanted, the highest ones of each chunk are the candidates for those of the row."""


class TopLogits:
    """Tiny models that return the highest logits of each row and their tokens, and how many logits are numbers.

    Parameters
    ----------
    device : Device
        Where the logits are.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._sessions: dict[bool, ort.InferenceSession] = {}

    def select(self, logits: ort.OrtValue, n: int, n_vocab: int) -> tuple[Ints, Floats]:
        """Return the ``n`` highest logits of each row and their tokens, both ``(m, n)``, in descending order.

        Parameters
        ----------
        logits : OrtValue
            The logits of m tokens on the device, ``(m, at least n_vocab)``.
        n : int
            How many to return.
        n_vocab : int
            The tokens to choose from are those below it.
        """
        divides = n <= CHUNK < n_vocab
        if divides not in self._sessions:
            self._sessions[divides] = self._device.session(_select_from_chunks if divides else _select, F32)
        session = self._sessions[divides]
        binding = session.io_binding()
        binding.bind_ortvalue_input("logits", logits)
        for name, numbers in _inputs(n, n_vocab, divides=divides).items():
            binding.bind_cpu_input(name, numbers)
        for name in ("y", "ids", "n_numbers"):
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        highest, ids, n_numbers = (value.numpy() for value in binding.get_outputs())
        rows = highest.copy()
        rows[n_numbers[:, 0] != n_vocab] = np.nan  # where NaN are in the order of a provider is not known
        return ids.astype(np.int32), rows


def _select(b: ModelBuilder) -> None:
    """Build the model that compares all logits of a row; its first output has the highest ones."""
    row = _rows(b)
    b.node("TopK", row, b.input("n", np.int64, [1]), outputs=["y", "ids"])
    _add_outputs(b)


def _select_from_chunks(b: ModelBuilder) -> None:
    """Build the model that compares the logits of each chunk, and then the highest ones of all chunks.

    Of equal logits, that of the lower token comes first, as in the other model.
    """
    row, n = _rows(b), b.input("n", np.int64, [1])
    padded = b.node("Pad", row, b.input("padding", np.int64, [4]), b.constant(-np.inf, F32))
    highest, places = b.node("TopK", b.node("Reshape", padded, b.ints(0, -1, CHUNK)), n, n_outputs=2)
    tokens = b.node("Add", places, b.input("firsts", np.int64, [1, "n_chunks", 1]))
    _, best = b.node("TopK", b.node("Reshape", highest, b.ints(0, -1)), n, outputs=["y", "best"])
    b.node("GatherElements", b.node("Reshape", tokens, b.ints(0, -1)), best, outputs=["ids"], axis=1)
    _add_outputs(b)


def _inputs(n: int, n_vocab: int, *, divides: bool) -> dict[str, Array]:
    """Return the inputs besides the logits; the padding is one, because the CPU would run nodes that compute it."""
    inputs = {"n": np.array([n]), "n_vocab": np.array([n_vocab])}
    if divides:
        inputs["padding"] = np.array([0, 0, 0, -n_vocab % CHUNK])
        inputs["firsts"] = np.arange(0, n_vocab, CHUNK).reshape(1, -1, 1)
    return inputs


def _rows(b: ModelBuilder) -> str:
    """Return the logits of the vocabulary, and add an output that counts those of each row that are not NaN."""
    logits = b.input("logits", F32, ["m", "n_logits"])
    row = str(b.node("Slice", logits, b.ints(0), b.input("n_vocab", np.int64, [1]), b.ints(1)))
    is_number = b.node("Cast", b.node("Equal", row, row), to=onnx.TensorProto.FLOAT)  # NaN is not equal to itself
    b.node("ReduceSum", is_number, b.ints(1), outputs=["n_numbers"], keepdims=1)
    return row


def _add_outputs(b: ModelBuilder) -> None:
    b.output("y", F32, ["m", "k"])
    b.output("ids", np.int64, ["m", "k"])
    b.output("n_numbers", F32, ["m", 1])


def selects(support: Support) -> bool:
    """Return whether the provider can run the models."""
    return support.runs("TopK", partial(_probe, _select)) and support.runs(
        "TopK of chunks", partial(_probe, _select_from_chunks)
    )


def _probe(build: Callable[[ModelBuilder], None]) -> Probe:
    n, n_vocab = 40, 3000
    logits = np.random.default_rng(0).standard_normal((3, n_vocab + 10)).astype(F32)
    feeds = {"logits": logits} | _inputs(n, n_vocab, divides=build is not _select)
    return Probe(build, feeds, -np.sort(-logits[:, :n_vocab].astype(np.float64))[:, :n])
