"""Selects the most likely tokens on the device, so that not all logits are copied from there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from llamafw import Floats, Ints
from llamafw_backends.onnx.device_tensors import Device
from llamafw_backends.onnx.model_builder import Array, ModelBuilder
from llamafw_backends.onnx.support import Probe, Support

F32 = np.dtype(np.float32)  # logits are float32 on every device


class TopLogits:
    """A tiny model that returns the highest logits of each row and their tokens, and whether all logits are numbers.

    Parameters
    ----------
    device : Device
        Where the logits are.
    """

    def __init__(self, device: Device) -> None:
        self._session = device.session(_select, F32)

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
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("logits", logits)
        for name, number in (("n", n), ("n_vocab", n_vocab)):
            binding.bind_cpu_input(name, np.array([number], np.int64))
        for name in ("y", "ids", "are_numbers"):
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        highest, ids, are_numbers = (value.numpy() for value in binding.get_outputs())
        rows = highest.copy()
        rows[are_numbers[:, 0] == 0] = np.nan  # where NaN are in the order of a provider is not known
        return ids.astype(np.int32), rows


def _select(b: ModelBuilder) -> None:
    """Build the model; its first output has the highest logits."""
    logits = b.input("logits", F32, ["m", "n_logits"])
    row = b.node("Slice", logits, b.ints(0), b.input("n_vocab", np.int64, [1]), b.ints(1))
    b.node("TopK", row, b.input("n", np.int64, [1]), outputs=["y", "ids"])
    is_number = b.node("Cast", b.node("Equal", row, row), to=onnx.TensorProto.FLOAT)  # NaN is not equal to itself
    b.node("ReduceMin", is_number, b.ints(1), outputs=["are_numbers"])
    b.output("y", F32, ["m", "k"])
    b.output("ids", np.int64, ["m", "k"])
    b.output("are_numbers", F32, ["m", 1])


def selects(support: Support) -> bool:
    """Return whether the provider can run the model."""
    return support.runs("TopK", _probe)


def _probe() -> Probe:
    logits = np.random.default_rng(0).standard_normal((3, 1000)).astype(F32)
    feeds: dict[str, Array] = {"logits": logits, "n": np.array([40], np.int64), "n_vocab": np.array([990], np.int64)}
    return Probe(_select, feeds, -np.sort(-logits[:, :990].astype(np.float64))[:, :40])
