"""Finds out what an execution provider of ONNX Runtime can run, by building tiny models of single nodes.

Versions and lists of kernels do not tell: a kernel may exist for some types and sizes only, or ignore an attribute. A
session without the fallback to the CPU fails if the provider lacks a kernel, and its results show the rest. `probes`
has the models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort

from llamafw_backends.onnx.model_builder import Array, ModelBuilder
from llamafw_backends.onnx.sessions import NO_FALLBACK, NOTHING, first_line, make_options, open_session

CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Probe:
    """A tiny model with inputs, and what it must compute.

    Attributes
    ----------
    build : callable
        Adds the model's nodes to a `ModelBuilder`; its first output is ``y``.
    feeds : mapping of str to array
        The inputs.
    expected : array
        The first output.
    states : mapping of (str, str) to (array, array)
        Tensors that the model changes in place, by the names of input and output: before, and as they must be after.
    tolerance : float, optional
        The largest error, as a part of the largest number. Default: that of the activations' type.
    """

    build: Callable[[ModelBuilder], None]
    feeds: Mapping[str, Array]
    expected: Array
    states: Mapping[tuple[str, str], tuple[Array, Array]] = field(default_factory=dict)
    tolerance: float | None = None


@dataclass(slots=True)
class Support:
    """What a provider can run.

    Attributes
    ----------
    providers : sequence of (str, object)
        The provider with its options or its device, as `open_session` takes them.
    float_type : numpy type
        The type of activations.
    kind : str
        The name of the device's memory in ONNX Runtime.
    number : int
        The number of the device.
    found : dict of str to str
        Why the provider cannot run a node, by what was tried; "" if it can.
    """

    providers: Sequence[Any]
    float_type: np.dtype[Any]
    kind: str = "cpu"
    number: int = 0
    found: dict[str, str] = field(default_factory=dict)

    @property
    def is_cpu(self) -> bool:
        """Whether the device is the CPU, whose kernels for some codes are slow."""
        return self.kind == "cpu"

    def runs(self, name: str, make: Callable[[], Probe]) -> bool:
        """Return whether the provider runs a tiny model, and computes what is expected.

        Parameters
        ----------
        name : str
            What is tried. A model is tried once.
        make : callable
            Returns the model.
        """
        if name not in self.found:
            self.found[name] = self._try(make())
        return not self.found[name]

    def _try(self, probe: Probe) -> str:
        """Return why a model does not work; "" if it does."""
        b = ModelBuilder(self.float_type)
        probe.build(b)
        config = {} if self.providers[0][0] == CPU else {NO_FALLBACK: "1"}
        options = make_options(config=config, severity=NOTHING)
        try:
            session = open_session(b.build().SerializeToString(), options, self.providers, b.weights)
            pairs = self._run(session, probe)
        except Exception as error:  # onnxruntime has a class for each kind of failure, and none for all
            return first_line(error)
        return "" if all(self._is_close(*pair, probe.tolerance) for pair in pairs) else "its results are wrong"

    def _run(self, session: ort.InferenceSession, probe: Probe) -> list[tuple[Array, Array]]:
        """Run a model; return its output and its states, each with what is expected."""
        binding = session.io_binding()
        for name, array in probe.feeds.items():
            binding.bind_cpu_input(name, array)
        tensors = []
        for (past, present), (before, _) in probe.states.items():
            tensors.append(ort.OrtValue.ortvalue_from_numpy(before.copy(), self.kind, self.number))
            binding.bind_ortvalue_input(past, tensors[-1])
            binding.bind_ortvalue_output(present, tensors[-1])
        binding.bind_output("y", "cpu")
        session.run_with_iobinding(binding)

        results = [binding.get_outputs()[-1], *tensors]  # outputs are in the order of their binding
        wanted = [probe.expected, *[after for _, after in probe.states.values()]]
        return [(one.numpy().copy(), array) for one, array in zip(results, wanted, strict=True)]

    def _is_close(self, result: Array, expected: Array, tolerance: float | None) -> bool:
        limit = tolerance or (0.02 if self.float_type == np.float16 else 1e-4)
        if result.shape != expected.shape:
            return False
        error = np.abs(result.astype(np.float64) - expected)
        return bool(error.max() <= limit * np.abs(expected).max())  # False for NaN
