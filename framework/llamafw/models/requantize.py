"""``--requantize``: round the matrices of a model to another tensor type while it loads.

The graph says which tensors are matrices. A matrix is rounded when its data are read, so that only the data that a
backend keeps need memory. Independent of tensor types.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import numpy as np
import psutil

from llamafw.errors import ModelError, PluginError
from llamafw.graph import TOKENS, EmbeddingLookup, ExpertLinear, Graph, Linear, TopK, Value, Weight
from llamafw.interfaces import Quant, Quantizer
from llamafw.models.file_types import find_quantizer
from llamafw.models.slow_steps import log_if_slow
from llamafw.models.tensor_types import byte_size
from llamafw.registry import Registry
from llamafw.settings import Settings
from llamafw.types import Bytes, Floats, Model, Tensor
from llamafw.types.computed import ComputedTensor

FLAG = "--requantize"
MIN_ROWS = 16  # matrices with fewer rows keep their type: they are small, and often decide something
OUTPUT_TYPES = "Q6_K", "Q8_0"
"""Types of the output matrix, the best one whose blocks fit, if the others get a smaller quantised type."""

_CHUNK = 2**18  # weights that a thread rounds at once
_MAX_SURE = 2.0**15  # weights up to this size do not overflow in a float16
_LAYER = re.compile(r"\b\d+\b")


class RequantizedTensor(ComputedTensor):
    """A matrix of a model file, rounded to another type.

    Parameters
    ----------
    source : Tensor
        The matrix in the file.
    quant : Quant
        Its type in the file.
    target : Quantizer
        The type that it is rounded to.
    path : Path
        The file, for error messages.
    n_threads : int
        How many threads round it.
    importance : (n_matrices, n_columns) float32, optional
        How much errors in each column matter, for each matrix of the tensor.
    """

    __slots__ = ("source", "_quant", "_target", "_path", "_n_threads", "_importance")

    def __init__(
        self,
        source: Tensor,
        quant: Quant,
        target: Quantizer,
        path: Path,
        n_threads: int,
        importance: Floats | None = None,
    ) -> None:
        super().__init__(source.name, source.shape, target.name)
        self.source = source
        self._quant, self._target, self._path, self._n_threads = quant, target, path, n_threads
        self._importance = importance

    def __repr__(self) -> str:
        return f"<{self.name} {self.shape} {self.source.type_name} as {self.type_name}>"

    @property
    def n_bytes(self) -> int:
        """Size of ``data`` in bytes."""
        return byte_size(self.shape, self._target) or 0  # `requantize` has checked that rows are whole blocks

    def release(self) -> None:
        """Do nothing: the pages of the file have been released when the data were computed."""

    def round_rows(self, first: int, last: int) -> Bytes:
        """Return some rows, counted over all matrices of the tensor, ``(last - first, bytes per row)`` uint8."""
        n_columns = self.shape[-1]
        data = self.source.data.reshape(self._n_rows, -1)[first:last].reshape(-1)
        values = self._quant.dequantize(data, (last - first, n_columns))
        largest = float(max(values.max(initial=0), -values.min(initial=0)))
        if not np.isfinite(largest):
            self._fail("has weights that are not finite numbers")

        blocks = self._quantize(values, first)
        expected = last - first, n_columns // self._target.block_size * self._target.type_size
        if not isinstance(blocks, np.ndarray) or blocks.dtype != np.uint8 or blocks.shape != expected:
            raise PluginError(f"the tensor type {self.type_name!r} returned {blocks!r:.80}, not uint8 of {expected}")
        if largest > _MAX_SURE:
            result = np.abs(self._target.dequantize(blocks.reshape(-1), values.shape)).max(initial=0)
            if not largest / 2 <= result < np.inf:
                self._fail(f"has weights up to {largest:.3g}, which are too large")
        return blocks

    def parts(self) -> Iterator[Bytes]:
        """Yield the rounded rows from first to last, some at a time, ``(n_rows, bytes per row)`` uint8.

        Threads round the next ones meanwhile. Only these take memory.
        """
        n_rows, step = self._n_rows, max(_CHUNK // self.shape[-1], 1)
        waiting = deque[Future[Bytes]]()
        data = self.source.data  # kept, because those of a checkpoint would be computed again for each part
        with ThreadPoolExecutor(self._n_threads) as threads:
            for first in range(0, n_rows, step):
                waiting.append(threads.submit(self.round_rows, first, min(first + step, n_rows)))
                if len(waiting) > 2 * self._n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        del data
        self.source.release()

    @property
    def _n_rows(self) -> int:
        return int(np.prod(self.shape[:-1]))

    def _quantize(self, values: Floats, first: int) -> Bytes:
        """Return the blocks of some rows, of which the first has the number ``first``."""
        if self._importance is None:
            return self._target.quantize(values)
        n, last = self.shape[-2], first + len(values)  # a matrix has n rows
        cuts = [first, *range(first // n * n + n, last, n), last]
        blocks = [
            self._target.quantize(values[start - first : end - first], self._importance[start // n])
            for start, end in pairwise(cuts)
        ]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def _compute(self) -> Bytes:
        data = np.empty(self.n_bytes, np.uint8)
        rows, first = data.reshape(self._n_rows, -1), 0
        for part in self.parts():
            rows[first : first + len(part)] = part
            first += len(part)
        data.flags.writeable = False
        return data

    def _fail(self, problem: str) -> None:
        raise ModelError(
            f"{self._path}: the tensor {self.name!r} {problem}, so it cannot be rounded to {self.type_name}"
        )


def requantize(model: Model, graph: Graph, settings: Settings, quants: Registry, log: Callable[[str], None]) -> Model:
    """Return the model with its matrices rounded to the type that ``--requantize`` names; without it, the model.

    The matrices of linear layers and experts, and the embedding of tokens, are rounded. Norms, biases, convolutions,
    routers of experts and matrices with fewer than `MIN_ROWS` rows keep their type. So do matrices whose rows are not
    whole blocks, which are logged. The output matrix gets one of `OUTPUT_TYPES` if the type is smaller than these,
    unless that would make it larger.

    Parameters
    ----------
    model : Model
        The model.
    graph : Graph
        What is computed with it.
    settings : Settings
        The server's settings.
    quants : Registry
        All tensor types.
    log : callable
        Receives a line about the matrices that are rounded, and one about those that cannot be. If the code that rounds
        weights must be compiled first, which takes seconds, it receives a line about that.

    Raises
    ------
    SettingsError
        Weights cannot be rounded to the type.
    """
    if settings.requantize is None:
        return model
    target = find_quantizer(settings.requantize, quants, FLAG)
    n_threads = settings.threads if settings.threads > 0 else n_cores()
    graphs = [graph, *([graph.prediction] if graph.prediction else [])]
    outputs = {weight.name for one in graphs for weight in _output_matrices(one)}
    tensors, misfits = dict(model.tensors), dict[str, Tensor]()
    used = [target, *(quants[name] for name in OUTPUT_TYPES if outputs and target.block_size > 1)]
    # load compiled code now: while a backend compiles kernels, numba's setting for the folder of the cache is another
    with log_if_slow(log, f"{FLAG}: compiling the code that rounds weights; later starts do not"):
        for quant in used:
            quant.quantize(np.zeros((1, quant.block_size), np.float32))
    for name in dict.fromkeys(name for one in graphs for name in matrices(one)):
        tensor = tensors[name]
        chosen = _output_type(tensor, target, quants) if name in outputs else target
        if chosen is None or chosen.name == tensor.type_name or len(tensor.shape) < 2 or tensor.shape[-2] < MIN_ROWS:
            continue
        if byte_size(tensor.shape, chosen) is None:
            misfits[name] = tensor
            continue
        tensors[name] = RequantizedTensor(tensor, quants[tensor.type_name], chosen, model.path, n_threads)

    n_bytes = sum(tensor.n_bytes for tensor in tensors.values())
    changed = replace(model, tensors=MappingProxyType(tensors), n_bytes=n_bytes)
    log(_describe(model, changed, target))
    if misfits:
        types = _grouped(f"{_LAYER.sub('*', name)} ({tensor.type_name})" for name, tensor in misfits.items())
        log(f"{FLAG}: rows are not whole blocks of {target.block_size} weights, so these keep their type: {types}")
    return changed


def matrices(graph: Graph) -> list[str]:
    """Return the names of the tensors that are used only as matrices, or as the embedding of tokens."""
    routers = {id(one) for value in graph if isinstance(value, TopK) for one in _nearest_products(value.x)}
    names: dict[str, bool] = {}
    for value in graph:
        is_product = isinstance(value, Linear | ExpertLinear) and id(value) not in routers
        is_embedding = isinstance(value, EmbeddingLookup) and value.ids is TOKENS
        for field, weight in _weights(value):
            is_matrix = field == "weight" and (is_product or is_embedding)
            names[weight.name] = names.get(weight.name, True) and is_matrix
    return [name for name, is_matrix in names.items() if is_matrix]


def _output_matrices(graph: Graph) -> list[Weight]:
    return [] if graph.logits is None else [product.weight for product in _nearest_products(graph.logits)]


def _nearest_products(value: Value) -> Iterator[Linear]:
    """Yield the linear layers from which a value is computed without another one in between."""
    todo, seen = [value], set[int]()
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Linear):
            yield one
        else:
            todo += one.inputs()


def _weights(value: Value) -> Iterator[tuple[str, Weight]]:
    """Yield the weights of an operator and the names of their fields."""
    for name in type(value).__dataclass_fields__:
        field = getattr(value, name)
        for weight in field if isinstance(field, tuple) else (field,):
            if isinstance(weight, Weight):
                yield name, weight


def _output_type(tensor: Tensor, target: Quantizer, quants: Registry) -> Quantizer | None:
    """Return the type of the output matrix; None: it keeps its type."""
    if target.block_size == 1:
        return target
    if _bits(target) >= _bits(quants[OUTPUT_TYPES[1]]):
        return target
    best = next((quants[name] for name in OUTPUT_TYPES if tensor.shape[-1] % quants[name].block_size == 0), target)
    chosen: Quantizer = target if _bits(target) > _bits(best) else best
    return chosen if _bits(chosen) < _bits(quants[tensor.type_name]) else None


def _bits(quant: Quant) -> float:
    """Return the bits per weight."""
    return 8 * quant.type_size / quant.block_size


def n_cores() -> int:
    """Return the number of cores that this process may use, without hyperthreads."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _describe(model: Model, changed: Model, target: Quantizer) -> str:
    rounded = [tensor for tensor in changed.tensors.values() if isinstance(tensor, RequantizedTensor)]
    if not rounded:
        return f"{FLAG} {target.name}: no matrix is rounded"
    types = _grouped(f"{one.source.type_name} to {one.type_name}" for one in rounded)
    sizes = f"{model.n_bytes / 1e6:.0f} MB become {changed.n_bytes / 1e6:.0f} MB"
    return f"{FLAG} {target.name}: matrices are rounded from {types}; {sizes}"


def _grouped(texts: Iterator[str]) -> str:
    """Return each text once, with the number of its occurrences if there are several, the most common first."""
    return ", ".join(text if n == 1 else f"{text} ×{n}" for text, n in Counter(texts).most_common())
