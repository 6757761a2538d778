"""Write a model as a GGUF file whose tensors are rounded to other types: ``llamafw quantize`` and ``convert``.

A plan says which type each tensor gets; `write_plan` rounds and writes the tensors one after the other, some rows at a
time. Independent of where the model comes from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llamafw.errors import ModelError, SettingsError
from llamafw.models.file_types import FILE_TYPES, FileType, find_quantizer
from llamafw.models.gguf import MAGIC, SPLIT_KEYS, read_raw_metadata
from llamafw.models.gguf_writer import OutputTensor, write_gguf
from llamafw.models.imatrix import Imatrix
from llamafw.models.requantize import RequantizedTensor, n_cores
from llamafw.models.tensor_mixes import ModelFacts, TensorMix, by_layer, fallback, may_be_rounded
from llamafw.models.tensor_types import byte_size
from llamafw.registry import Registry
from llamafw.types import Bytes, Model, Tensor

QUANTIZATION_VERSION = 2  # of ggml's blocks
FLOAT_TYPES = "F64", "F32", "F16", "BF16"

_PART = 2**24  # bytes that are copied at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How to choose the types of tensors."""

    file_type: FileType | None  # None: all tensors keep their types
    imatrix: Imatrix | None = None
    pure: bool = False  # all tensors get the most common type of the file type
    keep_output: bool = False  # the output matrix keeps its type
    output_type: str | None = None  # type of the output matrix
    embedding_type: str | None = None  # type of the embedding of tokens
    tensor_types: Sequence[tuple[re.Pattern[str], str]] = ()  # types of tensors in whose name a pattern is found
    allow_requantize: bool = False  # round tensors again that have been rounded before
    keep_quantized: bool = False  # tensors that have been rounded before keep their types


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one tensor."""

    tensor: Tensor
    type_name: str
    n_bytes: int
    falls_back: bool  # its rows are not whole blocks of the type that the rules say

    @property
    def is_rounded(self) -> bool:
        """Whether the tensor changes."""
        return self.type_name != self.tensor.type_name


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to each tensor of a model, in the order of the new file."""

    model: Model
    choice: Choice
    steps: Sequence[Step]

    @property
    def n_bytes(self) -> int:
        """Size of all tensors in the new file."""
        return sum(step.n_bytes for step in self.steps)

    @property
    def bits_per_weight(self) -> float:
        """Average bits per weight in the new file."""
        n_weights = sum(_n_weights(step.tensor) for step in self.steps)
        return 8 * self.n_bytes / n_weights if n_weights else 0.0

    def type_counts_of_matrices(self) -> Counter[str]:
        """Return how many matrices of each type the new file has."""
        return Counter(step.type_name for step in self.steps if len(step.tensor.shape) > 1)

    def type_counts(self) -> Counter[str]:
        """Return how many tensors of each type the new file has."""
        return Counter(step.type_name for step in self.steps)


def make_plan(model: Model, choice: Choice, quants: Registry) -> Plan:
    """Choose the type of each tensor.

    Raises
    ------
    SettingsError
        Weights cannot be rounded to a type, or the pattern of a type is in no tensor's name.
    ModelError
        A tensor has been rounded before, and `Choice.allow_requantize` is False. Q2_K_S is asked for without an
        importance matrix. The importance matrix has nothing for any tensor of the model.
    """
    _check_patterns(model, choice)
    _check_imatrix(model, choice.imatrix)
    chosen = dict.fromkeys(model.tensors, "") if choice.file_type is None else _choose_types(model, choice, quants)
    steps = []
    for name, tensor in model.tensors.items():
        wanted = chosen.get(name) or tensor.type_name
        n_columns = tensor.shape[-1] if tensor.shape else 1
        type_name = wanted
        if wanted != tensor.type_name:
            type_name = fallback(wanted, n_columns, quants[wanted].block_size)
            find_quantizer(type_name, quants, "--type")
        if type_name != tensor.type_name:
            _check_source(model, tensor, type_name, choice)
        n_bytes = byte_size(tensor.shape, quants[type_name])
        if n_bytes is None:
            raise ModelError(f"{model.path}: the tensor {name!r} has no whole blocks of {type_name}")
        steps.append(Step(tensor, type_name, n_bytes, type_name != wanted))
    return Plan(model, choice, steps)


def _check_patterns(model: Model, choice: Choice) -> None:
    """Raise SettingsError if a pattern is found in no name of a tensor that can be rounded."""
    names = [name for name, tensor in model.tensors.items() if may_be_rounded(name, tensor.shape)]
    for pattern, _ in choice.tensor_types:
        if not any(map(pattern.search, names)):
            raise SettingsError(f"--tensor-type: {pattern.pattern!r} is in no name of a tensor that can be rounded")


def _check_imatrix(model: Model, imatrix: Imatrix | None) -> None:
    """Raise ModelError if an importance matrix has no entry for a tensor of the model."""
    if imatrix is None or not imatrix.entries.keys().isdisjoint(model.tensors):
        return
    example = next((name for name, tensor in model.tensors.items() if may_be_rounded(name, tensor.shape)), "none")
    raise ModelError(
        f"{imatrix.path}: the importance matrix has no entry for a tensor of {model.path}: it has names such as "
        f"{min(imatrix.entries)!r}, and the model has names such as {example!r}"
    )


def write_plan(
    path: Path,
    plan: Plan,
    quants: Registry,
    *,
    n_threads: int = 0,
    force: bool = False,
    written: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Write the model as a plan says.

    Parameters
    ----------
    path : Path
        The new file. It has a temporary name until it is complete.
    plan : Plan
        The plan.
    quants : Registry
        All tensor types.
    n_threads : int
        How many threads round; 0: one per core.
    force : bool
        Replace the file if it exists.
    written : callable
        Receives the number of bytes of tensors that are written so far.

    Raises
    ------
    ModelError
        The file exists or cannot be written, a weight is not finite, or the importance matrix is that of another model.
    """
    model, imatrix = plan.model, plan.choice.imatrix
    if path.exists() and any(path.samefile(one) for one in [model.path] if one.exists()):
        raise ModelError(f"{path} is the model itself; name another file")
    outputs = []
    for step in plan.steps:
        name, shape = step.tensor.name, step.tensor.shape
        parts: Callable[[], Iterator[Bytes]] = partial(_copied, step.tensor)
        if step.is_rounded:
            importance = None
            if imatrix is not None and name != "token_embd.weight":
                importance = imatrix.find(name, shape)
            source, target = quants[step.tensor.type_name], quants[step.type_name]
            threads = n_threads or n_cores()
            parts = RequantizedTensor(step.tensor, source, target, model.path, threads, importance).parts
        outputs.append(OutputTensor(name, shape, quants[step.type_name].type_id, step.n_bytes, parts))
    write_gguf(path, _metadata(plan), outputs, force=force, written=written)


def _choose_types(model: Model, choice: Choice, quants: Registry) -> dict[str, str]:
    """Return the types that tensors should get; those that keep theirs are left out."""
    file_type = choice.file_type
    assert file_type is not None
    base = find_quantizer(file_type.base, quants, "--type")
    mix = TensorMix(ModelFacts.of(model), file_type, has_importance=choice.imatrix is not None)
    chosen: dict[str, str] = {}
    for name in by_layer(model.tensors):
        tensor = model.tensors[name]
        is_kept = choice.keep_quantized and not choice.allow_requantize and tensor.type_name not in FLOAT_TYPES
        if is_kept or not may_be_rounded(name, tensor.shape) or (choice.keep_output and name == "output.weight"):
            continue
        named = _named_type(name, choice)
        if named is not None:
            chosen[name] = find_quantizer(named, quants, "--tensor-type").name
        else:
            chosen[name] = base.name if choice.pure else mix.choose(name, tensor.shape, base.block_size)
    return chosen


def _named_type(name: str, choice: Choice) -> str | None:
    """Return the type that the user has named for a tensor."""
    for pattern, type_name in choice.tensor_types:
        if pattern.search(name):
            return type_name
    if name in ("token_embd.weight", "per_layer_token_embd.weight") and choice.embedding_type:
        return choice.embedding_type
    return choice.output_type if name == "output.weight" else None


def _check_source(model: Model, tensor: Tensor, type_name: str, choice: Choice) -> None:
    if tensor.type_name.startswith("I") and tensor.type_name[1:].isdigit():
        raise ModelError(f"{model.path}: the tensor {tensor.name!r} has integers, which cannot be rounded")
    if tensor.type_name not in FLOAT_TYPES and type_name != "F32" and not choice.allow_requantize:
        raise ModelError(
            f"{model.path}: the tensor {tensor.name!r} is {tensor.type_name}, which would be rounded again to "
            f"{type_name}; take a file with F32, F16 or BF16, or use --allow-requantize, which costs quality"
        )
    is_matrix_of_layer = tensor.name not in ("token_embd.weight", "output.weight", "per_layer_token_embd.weight")
    if (
        type_name == "Q2_K"
        and choice.file_type is not None
        and choice.file_type.name == "Q2_K_S"
        and is_matrix_of_layer
        and (choice.imatrix is None or choice.imatrix.find(tensor.name, tensor.shape) is None)
    ):
        raise ModelError(f"Q2_K_S needs an importance matrix (--imatrix) with an entry for {tensor.name!r}")


def _metadata(plan: Plan) -> dict[str, Any]:
    """Return the metadata of the new file."""
    model, choice = plan.model, plan.choice
    if _is_gguf(model.path):
        metadata: dict[str, Any] = dict(read_raw_metadata(model.path))
    else:
        metadata = {key: _narrowed(value) for key, value in model.metadata.items()}
    for key in SPLIT_KEYS:
        metadata.pop(key, None)
    file_type = choice.file_type
    if file_type is None and "general.file_type" not in metadata:
        ((most_common, _),) = plan.type_counts_of_matrices().most_common(1) or (("F32", 0),)
        file_type = FILE_TYPES.get(most_common)
    if file_type is not None and file_type.number is not None:
        metadata["general.file_type"] = file_type.number
    elif file_type is not None:
        metadata.pop("general.file_type", None)
    metadata["general.quantization_version"] = QUANTIZATION_VERSION
    imatrix = choice.imatrix
    if imatrix is not None:
        metadata["quantize.imatrix.file"] = imatrix.path.name
        if imatrix.datasets:
            metadata["quantize.imatrix.dataset"] = imatrix.datasets[0]
        metadata["quantize.imatrix.entries_count"] = len(imatrix.entries)
        if imatrix.n_chunks > 0:
            metadata["quantize.imatrix.chunks_count"] = imatrix.n_chunks
    return metadata


def _narrowed(value: Any) -> Any:
    """Return an array with the types of numbers that llama.cpp reads: int32 and float32 instead of 64 bits."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        fits = not value.size or (value.min() >= -(2**31) and value.max() < 2**31)
        return value.astype(np.int32) if fits else value
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def _copied(tensor: Tensor) -> Iterator[Bytes]:
    """Yield the bytes of a tensor, some at a time."""
    data = tensor.data
    for first in range(0, data.size, _PART):
        yield data[first : first + _PART]
    tensor.release()


def _n_weights(tensor: Tensor) -> int:
    n = 1
    for size in tensor.shape:
        n *= size
    return n


def count_used(plan: Plan, imatrix: Imatrix) -> tuple[int, int]:
    """Return how many rounded tensors have an entry in an importance matrix, and how many are rounded."""
    rounded = [step.tensor.name for step in plan.steps if step.is_rounded]
    return sum(name in imatrix.entries for name in rounded), len(rounded)


def describe_types(counts: Mapping[str, int]) -> str:
    """Return the numbers of tensors by type: ``"Q4_K ×12, F32 ×5"``."""
    return ", ".join(f"{name} ×{n}" for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
