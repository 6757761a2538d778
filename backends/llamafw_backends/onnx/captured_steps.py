"""Repeats steps of one token per slot as CUDA graphs: one call starts all kernels of a step.

A graph repeats kernels with the same shapes and addresses. So a step has one of a few sizes, and rows that no slot
needs: their tokens write to a block of the cache that no slot has. All inputs are parts of one buffer on the device, to
which one copy brings what has changed.

A kernel that reads what the processor knew when the graph was captured would compute something else later. So the first
runs of each step are compared with runs without a graph, which write the same keys and values again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort

from llamafw import LlamafwError, Unavailable
from llamafw_backends.onnx.batch_inputs import Part
from llamafw_backends.onnx.block_table import BLOCK
from llamafw_backends.onnx.device_tensors import Device, SlotTensors
from llamafw_backends.onnx.model_builder import Array
from llamafw_backends.onnx.paged_attention import BLOCKS, BOUNDS
from llamafw_backends.onnx.sessions import first_line, is_out_of_memory

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""The numbers of tokens of a step."""

DEVICES = {"cuda": {"enable_cuda_graph": "1"}}
"""The devices that capture graphs, and the options of the provider for it."""

GRAPH = "gpu_graph_id"
"""The entry of a run's configuration with the number of its graph."""

NO_GRAPH = "-1"
N_COMPARED = 4
"""Runs of a step that are compared: in the first ones, ONNX Runtime captures the graph."""

TOLERANCE = 0.05  # of the largest logit: activations are float16, and other numbers of rows have other kernels
ALIGNMENT = 256  # bytes
OUTPUTS = ("hidden", "logits")
LOGITS = 1
FLOAT32 = np.dtype(np.float32)  # the type of outputs
FIXED = {"logit_rows", "sequence_starts"}  # those that are always 0, 1, 2, … in a step
KNOWN = FIXED | {"tokens", "types", "positions", "rows", "scales", "past_lengths", BLOCKS, BOUNDS}
"""The inputs that can be padded with rows without a token."""


@dataclass(slots=True)
class Step:
    """A step of some size; its inputs and outputs stay where they are.

    Attributes
    ----------
    binding : IOBinding
        All inputs and outputs.
    inputs : dict of str to array
        The inputs that change, as parts of ``staged``.
    staged : (n,) uint8
        What is copied to the device before a run.
    buffer : OrtValue
        Where it is copied to.
    outputs : sequence of OrtValue
        The hidden states and the logits, which are the first rows of the same memory for all steps.
    options : RunOptions
        What tells which graph it is.
    n_runs : int
        How often it has been run for logits.
    """

    binding: ort.IOBinding
    inputs: dict[str, Array]
    staged: Array
    buffer: ort.OrtValue
    outputs: Sequence[ort.OrtValue]
    options: ort.RunOptions
    n_runs: int = 0


@dataclass(slots=True)
class CapturedSteps:
    """The steps that have been captured.

    Parameters
    ----------
    session : InferenceSession
        The model, in a session on the providers that `with_capture` returned.
    device : Device
        Where it runs.
    slots : SlotTensors
        The caches.
    log : callable
        Logs a line.
    """

    session: ort.InferenceSession
    device: Device
    slots: SlotTensors
    log: Callable[[str], None]
    _works: bool = True
    _steps: dict[tuple[int, int], Step] = field(default_factory=dict)
    _outputs: dict[str, ort.OrtValue] = field(default_factory=dict)  # with rows for the largest step
    _generation: int = 0
    _n_captured: int = 0

    def takes(self, part: Part) -> bool:
        """Return whether a part can be one of the steps: it has one token per slot, and no step has failed."""
        return self._works and len(part.starts) == len(part.tokens) + 1 and len(part.tokens) <= SIZES[-1]

    def run(
        self, part: Part, feeds: Mapping[str, Array], plain: Callable[[], Sequence[ort.OrtValue]]
    ) -> Sequence[ort.OrtValue] | None:
        """Compute one token per slot.

        Parameters
        ----------
        part : Part
            The tokens, which `takes` accepts.
        feeds : mapping of str to array
            The inputs of the model for them.
        plain : callable
            Computes them without a graph; returns the hidden states and the logits.

        Returns
        -------
        sequence of OrtValue, optional
            The hidden states and the logits on the device; rows after those that are wanted have no meaning. None if
            the step has failed: the caller computes the tokens without it. It was the last one unless memory was short.
        """
        try:
            step = self._run(part, feeds)
            if len(part.rows) and step.n_runs <= N_COMPARED and not _are_close(step.outputs, plain()):
                raise LlamafwError("a graph computes other logits")
            return step.outputs
        except Exception as error:  # onnxruntime has a class for each kind of failure, and none for all
            self._forget()
            self._outputs.clear()
            if not isinstance(error, Unavailable) and not is_out_of_memory(error):
                self._works = False
                self.log(f"onnx backend: steps are slower from now on, without CUDA graphs: {first_line(error)}")
            return None

    def _run(self, part: Part, feeds: Mapping[str, Array]) -> Step:
        """Compute one token per slot; return the step."""
        if self._generation != self.slots.generation:  # the caches have other addresses now
            self._forget()
        size = next(size for size in SIZES if size >= len(part.tokens))
        key = (size, feeds[BLOCKS].shape[1])
        step = self._steps.get(key) or self._add(*key)
        for name, array in step.inputs.items():
            n = len(feeds[name])
            array[:n], array[n:] = feeds[name], 0
        step.buffer.update_inplace(step.staged)
        self.session.run_with_iobinding(step.binding, step.options)
        step.n_runs += len(part.rows) > 0
        return step

    def _forget(self) -> None:
        """Drop all steps."""
        self._steps.clear()
        self._generation = self.slots.generation

    def _add(self, size: int, n_columns: int) -> Step:
        """Return a new step."""
        sizes = dict.fromkeys(("n_tokens", "n_rows", "n_logits", "n_active"), size)
        sizes |= {"n_starts": size + 1, "n_columns": n_columns}
        parts, n_bytes = [], 0
        for one in self.session.get_inputs():
            if is_state(one.name):
                continue
            shape = [sizes.get(axis, axis) for axis in one.shape]
            array = np.zeros(shape, _dtype(one.type))
            parts.append((one.name, array, n_bytes))
            n_bytes += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        staged = np.zeros(n_bytes, np.uint8)
        buffer = ort.OrtValue.ortvalue_from_numpy(staged, self.device.kind, self.device.number)

        binding, inputs = self.session.io_binding(), {}
        for name, array, first in parts:
            if name == BOUNDS:
                binding.bind_cpu_input(name, np.array([1, n_columns * BLOCK], np.int32))
                continue
            place = staged[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
            if name in FIXED:
                place[:] = np.arange(len(place))
            else:
                inputs[name] = place
            where = (self.device.kind, self.device.number, array.dtype, array.shape, buffer.data_ptr() + first)
            binding.bind_input(name, *where)
        outputs = self._bind_outputs(binding, size)
        self.slots.bind(binding, 0, self.slots.n_slots)

        self._n_captured += 1
        options = run_options(self._n_captured)
        step = self._steps[size, n_columns] = Step(binding, inputs, staged, buffer, outputs, options)
        return step

    def _bind_outputs(self, binding: ort.IOBinding, size: int) -> Sequence[ort.OrtValue]:
        """Bind the hidden states and the logits, and return them; only one step at a time needs memory for them."""
        n_rows = next(n for n in SIZES if n >= min(self.slots.n_slots, SIZES[-1]))
        for one in self.session.get_outputs():
            if one.name not in OUTPUTS:
                continue
            if one.name not in self._outputs:
                self._outputs[one.name] = self.device.zeros([n_rows, one.shape[1]], FLOAT32)
            address = self._outputs[one.name].data_ptr()
            binding.bind_output(one.name, self.device.kind, self.device.number, FLOAT32, [size, one.shape[1]], address)
        return list(binding.get_outputs())


def _are_close(outputs: Sequence[ort.OrtValue], plain: Sequence[ort.OrtValue]) -> bool:
    """Return whether logits are those that were computed without a graph; True also if those are not finite."""
    expected = plain[LOGITS].numpy()
    error = np.abs(outputs[LOGITS].numpy()[: len(expected)] - expected).max(initial=0.0)
    largest = np.abs(expected).max(initial=0.0)
    return bool(not np.isfinite(largest) or error <= TOLERANCE * largest)


def run_options(graph: int | None) -> ort.RunOptions:
    """Return the options of a run that is captured, or repeated, as the graph with a number; None: neither."""
    options = ort.RunOptions()
    options.add_run_config_entry(GRAPH, NO_GRAPH if graph is None else str(graph))
    return options


def with_capture(device: Device) -> Sequence[Any]:
    """Return the providers of a device, with the options for sessions that capture graphs."""
    return [(name, {**options, **DEVICES[device.kind]}) for name, options in device.providers]


def can_capture(device: Device, names: Collection[str]) -> bool:
    """Return whether steps of a model with these inputs can be captured: it pads nothing, and keeps only blocks."""
    varying = [name for name in names if not is_state(name)]
    are_known = (name in KNOWN or name.startswith(("embedding.", "rotation.")) for name in varying)
    return device.kind in DEVICES and BLOCKS in varying and all(are_known)


def is_capture_refused(error: BaseException) -> bool:
    """Return whether a session was not opened because the CPU computes some of its nodes."""
    return "graph capture" in str(error)


def is_state(name: str) -> bool:
    """Return whether an input is what slots keep."""
    return name.startswith("past.")


def _dtype(name: str) -> np.dtype[Any]:
    """Return the type that ONNX Runtime names, such as ``tensor(int64)``."""
    kind = name.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32"}.get(kind, kind))
