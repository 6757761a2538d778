"""Reads adapters, and makes the graph with adapters.

LoRA adapters are GGUF files (https://github.com/ggml-org/llama.cpp/blob/master/src/llama-adapter.cpp) or folders of
PEFT, see `llamafw.checkpoints.lora`. Control vectors are GGUF files with a tensor ``direction.N`` for each layer N.

Files are read into memory, because users replace adapters while a server runs: whenever another adapter is loaded, the
ones before are needed again as they were.
"""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from llamafw.checkpoints import is_adapter, open_adapter
from llamafw.checkpoints.conversion import Convert
from llamafw.errors import ModelError
from llamafw.graph import Adaptation, Adapter, Graph, GraphError, LowRank, adapt
from llamafw.interfaces import Quant
from llamafw.models.gguf import read_gguf
from llamafw.models.gguf_writer import OutputTensor, write_gguf
from llamafw.models.stacks import join, short_type
from llamafw.types import Floats, Model, Tensor

A, B, DIRECTION = ".lora_a", ".lora_b", "direction."
MAX_NUMBER = 1e18
"""The largest absolute value of a number in an adapter; products of a thousand times larger ones could overflow."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedAdapter:
    """An open adapter that fits a model."""

    path: Path  # the file or folder
    adapter: Adapter  # what it changes
    tensors: Mapping[str, Tensor]
    types: Mapping[str, str]  # of each tensor, the `short_type`
    digest: str  # of its numbers: equal adapters have the same effect
    task_name: str = ""  # what the file says it is for
    prompt_prefix: str = ""  # text that its prompts should begin with, says the file


def read_lora(
    path: Path, model: Model, quants: Mapping[str, Quant], conversions: Mapping[str, Convert]
) -> LoadedAdapter:
    """Open a LoRA adapter.

    Parameters
    ----------
    path : Path
        A GGUF file, or a folder of PEFT. The folder of its base model is that of the model, if it is a checkpoint, else
        the one that the adapter names.
    model : Model
        The model that it is for.
    quants, conversions : mapping
        What plugins have registered, by name.

    Raises
    ------
    ModelError
        The file cannot be read, is damaged, or is for another architecture.
    """
    path = _find(path)
    if is_adapter(path):
        file = open_adapter(path, model.path if model.path.is_dir() else None, conversions)
    else:
        file = _read_file(path, quants)
    _check_kind(file, model)
    alpha = file.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ModelError(f"{path}: adapter.lora.alpha is {alpha!r}; it must be a number")

    adapter = Adapter(str(path), _matrices(file, float(alpha)))
    _check_numbers(file, quants)
    texts = (str(file.metadata.get(f"adapter.lora.{key}", "")) for key in ("task_name", "prompt_prefix"))
    return LoadedAdapter(path, adapter, file.tensors, _types(file, quants), _digest(adapter, file.tensors), *texts)


def read_control_vector(
    path: Path, model: Model, quants: Mapping[str, Quant], layers: tuple[int, int] | None = None
) -> LoadedAdapter:
    """Open a control vector.

    Parameters
    ----------
    path : Path
        A GGUF file.
    model : Model
        The model that it is for.
    quants : mapping
        The tensor types that plugins have registered, by name.
    layers : (int, int), optional
        The first and the last layer after which it is added. Default: all that it has.

    Raises
    ------
    ModelError
        The file cannot be read, is damaged, or has no direction for these layers.
    """
    path = _find(path)
    file = _read_file(path, quants)
    first, last = layers or (0, math.inf)
    n_embd = model.metadata.get(f"{model.metadata.get('general.architecture')}.embedding_length")
    directions: dict[int, str] = {}
    for name, tensor in file.tensors.items():
        number = name.removeprefix(DIRECTION)
        if number == name or not number.isdecimal() or int(number) == 0:
            raise ModelError(f"{path}: the tensor {name!r} is not a direction; they are numbered from {DIRECTION}1")
        if tensor.shape != (n_embd,) or tensor.type_name != "F32":
            found = f"shape {tensor.shape} and type {tensor.type_name}"
            raise ModelError(f"{path}: the tensor {name!r} has {found}, not {(n_embd,)} and F32")
        if first <= int(number) <= last:
            directions[int(number)] = name
    if not directions:
        raise ModelError(f"{path}: there is no direction for the layers {first} to {last}")
    _check_numbers(file, quants)
    adapter = Adapter(str(path), directions=directions)
    return LoadedAdapter(path, adapter, file.tensors, _types(file, quants), _digest(adapter, file.tensors))


def write_control_vector(path: Path, model: Model, directions: Mapping[int, Floats], *, force: bool) -> None:
    """Write a control vector.

    Parameters
    ----------
    path : Path
        The file.
    model : Model
        The model that it is for.
    directions : mapping of int to array
        A direction for each layer, ``(n_embd,)`` float32.
    force : bool
        Replace the file if it exists.

    Raises
    ------
    ModelError
        The file exists, or cannot be written.
    """
    metadata = {
        "general.architecture": "controlvector",
        "controlvector.model_hint": model.metadata["general.architecture"],
        "controlvector.layer_count": len(directions),
    }
    tensors = []
    for layer, direction in sorted(directions.items()):
        data = np.ascontiguousarray(direction, "<f4").view(np.uint8)
        tensors.append(OutputTensor(f"{DIRECTION}{layer}", direction.shape, 0, data.nbytes, partial(list, [data])))
    write_gguf(path, metadata, tensors, force=force)


def adapt_model(
    model: Model, graph: Graph, adapters: Sequence[LoadedAdapter], quants: Mapping[str, Quant]
) -> tuple[Adaptation, Model]:
    """Return the graph with adapters, and the model with the tensors that it needs.

    Raises
    ------
    ModelError
        An adapter does not fit the model; the message names the tensor and the shapes.
    """
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    try:
        adaptation = adapt(graph, [one.adapter for one in adapters], shapes)
    except GraphError as error:
        raise ModelError(str(error)) from None
    stacked: dict[str, Tensor] = {}
    for stack in adaptation.stacks:
        owners = [(adapters[part.adapter], part.name) for part in stack.parts]
        stacked[stack.name] = join(stack, [(one.tensors[name], one.types[name]) for one, name in owners], quants)
    return adaptation, replace(model, tensors=MappingProxyType({**model.tensors, **stacked}))


def _find(path: Path) -> Path:
    """Return the path of an adapter, without ``~``; ModelError if nothing is there."""
    try:
        found = path.expanduser()
        mode = found.stat().st_mode
    except FileNotFoundError:
        raise ModelError(f"the adapter {path} does not exist") from None
    except OSError as error:
        raise ModelError(f"the adapter {str(path):.100} cannot be opened: {error.strerror}") from None
    except (RuntimeError, ValueError) as error:  # there is no such user; the path has a null byte
        raise ModelError(f"the adapter {str(path):.100} cannot be opened: {error}") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe blocks until somebody writes into it
        raise ModelError(f"the adapter {path} is neither a file nor a folder")
    return found


def _read_file(path: Path, quants: Mapping[str, Quant]) -> Model:
    if path.is_dir():
        raise ModelError(f"the adapter {path} is a folder without adapter_config.json")
    return read_gguf(path, quants, mapped=False)


def _check_kind(file: Model, model: Model) -> None:
    """Raise ModelError if a file has no LoRA adapter for the model's architecture."""
    kind, method = (file.metadata.get(key) for key in ("general.type", "adapter.type"))
    if kind != "adapter" or method != "lora":
        raise ModelError(f"{file.path} is not a LoRA adapter: general.type is {kind!r}, adapter.type is {method!r}")
    own, other = (one.metadata.get("general.architecture") for one in (file, model))
    if own != other:
        raise ModelError(f"{file.path}: the adapter is for the architecture {own!r}; the model's is {other!r}")
    if "adapter.alora.invocation_tokens" in file.metadata:
        raise ModelError(f"{file.path}: adapters that begin at invocation tokens (aLoRA) are not supported")


def _check_numbers(file: Model, quants: Mapping[str, Quant]) -> None:
    """Raise ModelError for NaN, infinity, and numbers whose products could become that.

    Requests without the adapter multiply its products by 0 if they share a batch, and NaN would be left of infinity.
    """
    for name, tensor in file.tensors.items():
        with np.errstate(all="ignore"):  # a scale may be infinite
            numbers = quants[tensor.type_name].dequantize(tensor.data, tensor.shape)
        if not np.isfinite(numbers).all():
            raise ModelError(f"{file.path}: the tensor {name!r} has numbers that are not finite")
        if np.abs(numbers).max(initial=0) > MAX_NUMBER:
            raise ModelError(f"{file.path}: the tensor {name!r} has numbers beyond {MAX_NUMBER:g}")


def _matrices(file: Model, alpha: float) -> dict[str, LowRank]:
    """Return what an adapter changes, by the names of the model's tensors."""
    found = {}
    for name, tensor in file.tensors.items():
        target = name.removesuffix(A).removesuffix(B)
        if target == name:
            raise ModelError(f"{file.path}: the tensor {name!r} is neither {A} nor {B} of a tensor of the model")
        if target + A not in file.tensors or target + B not in file.tensors:
            raise ModelError(f"{file.path}: {name!r} is there without the other factor of its pair")
        if name.endswith(A):
            a, b = tensor.shape, file.tensors[target + B].shape
            rank = b[-1] if b else 0
            if not rank or len(a) != len(b) or rank not in (a[-1], a[-2] if len(a) > 1 else 0):
                raise ModelError(f"{file.path}: {name!r} has shape {a}, but {target + B!r} has {b}")
            found[target] = LowRank(a, b, alpha / rank if alpha else 1.0)  # 0 stands for no alpha, as in llama.cpp
    if not found:
        raise ModelError(f"{file.path} has no tensors")
    return found


def _types(file: Model, quants: Mapping[str, Quant]) -> Mapping[str, str]:
    return {name: short_type(tensor, quants) for name, tensor in file.tensors.items()}


def _digest(adapter: Adapter, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    factors = sorted((name, change.factor) for name, change in adapter.matrices.items())
    digest.update(repr((factors, sorted(adapter.directions))).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.shape, tensor.type_name)).encode())
        digest.update(np.ascontiguousarray(tensor.data).data)
    return digest.hexdigest()
