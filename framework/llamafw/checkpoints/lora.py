"""Opens a LoRA adapter of PEFT as llama.cpp has adapters: its matrices under the names that the model has as GGUF.

An adapter adds ``alpha / r · B A`` to a matrix (arXiv:2106.09685). What a conversion does to the rows of a matrix is
done to ``B``, and what it does to the columns to ``A``. Layers ``Conv1D`` of GPT-2 have matrices ``(n_in, n_out)``, to
which the transposed product is added; PEFT finds them by their class and sets ``fan_in_fan_out`` for them.

Format of the folder: https://huggingface.co/docs/peft; of the file:
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-adapter.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from llamafw.checkpoints.changes import Array, Transpose
from llamafw.checkpoints.config import Config, read_config, read_json
from llamafw.checkpoints.conversion import Conversion, Convert, find_rule, to_gguf
from llamafw.checkpoints.open import find_conversion
from llamafw.checkpoints.safetensors_files import read_safetensors
from llamafw.checkpoints.tensors import DTYPES, CheckpointTensor, ConvertedTensor, as_bytes, type_of
from llamafw.errors import ModelError
from llamafw.types import Model, Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_EMBEDDING_A, _EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"  # (rank, n_vocab), (n_embd, rank)
_CHANGE_THE_BASE = "pissa", "olora", "corda", "loftq", "lora_ga"  # how PEFT may initialise an adapter


def is_adapter(path: Path) -> bool:
    """Return whether a path is a folder with an adapter."""
    return path.is_dir() and (path / CONFIG).is_file()


def open_adapter(path: Path, base: Path | None, conversions: Mapping[str, Convert]) -> Model:
    """Open an adapter, and read it into memory.

    Parameters
    ----------
    path : Path
        Its folder.
    base : Path, optional
        The folder of the model that it changes, of which ``config.json`` is read; by default the folder that the
        adapter names.
    conversions : mapping
        What plugins have registered, by class.

    Raises
    ------
    ModelError
        A file is missing or damaged, or the adapter is of a kind that llama.cpp's format has no place for.
    """
    config = Config(path / CONFIG, read_json(path / CONFIG))
    alpha, rank = _check(config), config.integer("r")
    folder = base or Path(config.text("base_model_name_or_path", default=""))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{path}: the base model's config.json is needed; name its folder with `llamafw convert --base`"
        )
    class_name, conversion = find_conversion(read_config(folder), conversions)

    pairs = _scaled(_pairs(path, read_safetensors(path, mapped=False)), config, alpha)
    tensors: dict[str, Tensor] = {}
    for group in _groups(pairs):
        if _is_embedding(group):
            converted = _converted_embedding(conversion, class_name, group)
        else:
            converted = _converted(conversion, class_name, group)
        for target, (a_rows, b_rows) in converted.items():
            for suffix, array in (("lora_a", a_rows), ("lora_b", b_rows)):
                type_name = type_of(array, f"{target.removesuffix('.weight')}.weight")
                if type_name is None:
                    raise ModelError(f"{path}: {next(iter(group))!r} has numbers of type {array.dtype.name}")
                full = f"{target}.{suffix}"
                tensors[full] = Tensor(full, array.shape, type_name, as_bytes(array, type_name))
    metadata = {
        "general.architecture": conversion.architecture,
        "general.type": "adapter",
        "general.name": path.resolve().name,
        "adapter.type": "lora",
        "adapter.lora.alpha": alpha * math.sqrt(rank) if config.flag("use_rslora", default=False) else alpha,
    }
    n_bytes = sum(tensor.data.size for tensor in tensors.values())
    return Model(path, MappingProxyType(metadata), MappingProxyType(tensors), n_bytes)


def _check(config: Config) -> float:
    """Return alpha; raise ModelError if the adapter is no plain LoRA."""
    config.require("peft_type", "LORA", default="LORA")
    config.require("bias", "none", default="none")
    config.require("use_dora", False, default=False)
    if config.get("modules_to_save"):
        config.fail("modules_to_save", "is not supported: it must be empty")
    if str(config.get("init_lora_weights")).startswith(_CHANGE_THE_BASE):
        config.fail("init_lora_weights", "is not supported: PEFT changes the weights of the base model, too")
    alpha = config.number("lora_alpha")
    if not alpha:
        config.fail("lora_alpha", "is 0; such an adapter changes nothing")
    return alpha


Pairs = dict[str, tuple[CheckpointTensor, CheckpointTensor]]
"""A and B by the name of the matrix that they change."""


def _pairs(path: Path, tensors: Mapping[str, CheckpointTensor]) -> Pairs:
    """Return the pairs of an adapter."""
    pairs = {}
    for name, tensor in tensors.items():
        endings = next((one for one in ((_A, _B), (_EMBEDDING_A, _EMBEDDING_B)) if name.endswith(one)), None)
        if endings is None:
            raise ModelError(f"{tensor.path}: the tensor {name!r} is neither A nor B of a matrix")
        stem = name.removesuffix(endings[0]).removesuffix(endings[1])
        if any(stem + ending not in tensors for ending in endings):
            raise ModelError(f"{tensor.path}: {name!r} is there without the other matrix of its pair")
        a, b = (tensors[stem + ending] for ending in endings)
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
            raise ModelError(f"{tensor.path}: {stem!r} has A of shape {a.shape} and B of shape {b.shape}")
        pairs[f"{stem.removeprefix(_PREFIX)}.weight"] = a, b
    if not pairs:
        raise ModelError(f"{path} has no tensors")
    return pairs


def _scaled(pairs: Pairs, config: Config, alpha: float) -> Pairs:
    """Return the pairs, with B multiplied where a matrix has another scale than the file's alpha gives it.

    That is alpha / r, or alpha / √r with rsLoRA (https://arxiv.org/abs/2312.03732), of its own alpha and rank.
    """
    patterns = config.get("alpha_pattern", default={})
    if not isinstance(patterns, dict) or not all(type(one) in (int, float) for one in patterns.values()):
        config.fail("alpha_pattern", "is not an object of numbers")
    has_roots, rank = config.flag("use_rslora", default=False), config.integer("r")

    scaled = {}
    for name, (a, b) in pairs.items():
        own = _find_pattern(patterns, name.removesuffix(".weight"), config)
        factor = (alpha if own is None else own) / alpha * (math.sqrt(b.shape[1] / rank) if has_roots else 1)
        scaled[name] = a, b if factor == 1 else _multiplied(b, factor)
    return scaled


def _find_pattern(patterns: Mapping[str, float], module: str, config: Config) -> float | None:
    """Return the value of the first pattern that matches a module's name or its end, as PEFT does; None: none does."""
    for pattern, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            config.fail("alpha_pattern", f"has an invalid pattern, {pattern!r:.80}: {error}")
    return None


def _multiplied(b: CheckpointTensor, factor: float) -> CheckpointTensor:
    return CheckpointTensor(
        b.name, b.shape, np.dtype(np.float32), b.path, (), lambda: _exact(b.read()) * np.float32(factor)
    )


def _groups(pairs: Pairs) -> list[Pairs]:
    """Return the pairs, those of the experts of one layer together: GGUF files have one tensor for all experts."""
    groups: dict[str, Pairs] = {}
    for name, pair in pairs.items():
        groups.setdefault(re.sub(r"\.experts\.\d+\.", ".experts.", name), {})[name] = pair
    return list(groups.values())


def _is_embedding(group: Pairs) -> bool:
    return any(a.name.endswith(_EMBEDDING_A) for a, _ in group.values())


def _converted_embedding(conversion: Conversion, class_name: str, group: Pairs) -> dict[str, tuple[Array, Array]]:
    """Return A and B of an embedding as llama.cpp has them: ``(n_vocab, rank)`` and ``(n_embd, rank)``."""
    ((name, (a, b)),) = group.items()
    rows, columns, target = np.ascontiguousarray(a.read().T), b.read(), "token_embd.weight"
    change = _exact(rows) @ _exact(columns).T
    product = CheckpointTensor(name, change.shape, change.dtype, a.path, (), lambda: change)
    whole = _arrays(to_gguf(conversion, {name: product}, class_name, a.path.parent))
    if set(whole) != {target} or not np.allclose(whole[target], change, rtol=1e-3, atol=1e-6):
        raise ModelError(f"{a.path}: {name!r} cannot be converted alone: the embedding of a {class_name} is changed")
    return {target: (rows, columns)}


def _converted(conversion: Conversion, class_name: str, group: Pairs) -> dict[str, tuple[Array, Array]]:
    """Return A and B for each tensor that a matrix becomes, or those of all experts, by its name."""
    name, (a, b) = next(iter(group.items()))
    products = {one: _product(one, *pair) for one, pair in group.items()}
    rule = find_rule(conversion, name)
    is_transposed = rule is not None and any(isinstance(change, Transpose) for change in rule.changes)

    def convert(tensors: Mapping[str, CheckpointTensor]) -> dict[str, Any]:
        tensors = {one: _transposed(tensor) for one, tensor in tensors.items()} if is_transposed else tensors
        return _arrays(to_gguf(conversion, tensors, class_name, a.path.parent))

    try:
        whole = convert(products)
    except ModelError as error:  # it is unknown, or joined with others
        raise ModelError(f"{a.path}: {name!r} cannot be converted alone: {error}") from None

    # what changes rows also does so with B alone, and columns with A alone
    sides: list[dict[str, Array]] = []
    for side in (0, 1):
        alone = {one: replace(pair[side], name=one, files=()) for one, pair in group.items()}
        try:
            sides.append(convert(alone))
        except ModelError:
            sides.append({})
    found: dict[str, tuple[Array, Array]] = {}
    for target, expected in whole.items():
        a_rows, b_rows = (one.get(target) for one in sides)
        choices = [(a.read(), b_rows), (a_rows, b.read())] if len(group) == 1 else [(a_rows, b_rows)]
        for pair in choices:
            if pair[0] is not None and pair[1] is not None and _makes(pair[0], pair[1], expected):
                found.setdefault(target, (pair[0], pair[1]))
    if found.keys() != whole.keys():
        raise ModelError(
            f"{a.path}: {name!r} cannot be converted alone: the matrix of a {class_name} is changed as a whole"
        )
    return found


def _product(name: str, a: CheckpointTensor, b: CheckpointTensor) -> CheckpointTensor:
    """Return what a pair adds to a matrix, without its factor."""
    shape = (b.shape[0], a.shape[1])
    return CheckpointTensor(name, shape, np.dtype(np.float32), b.path, (), lambda: _exact(b.read()) @ _exact(a.read()))


def _transposed(tensor: CheckpointTensor) -> CheckpointTensor:
    shape = tensor.shape[::-1]
    return CheckpointTensor(tensor.name, shape, tensor.dtype, tensor.path, (), lambda: tensor.read().T)


def _makes(a: Array, b: Array, expected: Array) -> bool:
    """Return whether ``B A`` is a matrix, or are matrices of experts."""
    if a.ndim != b.ndim or a.ndim not in (2, 3) or b.shape[-1] != a.shape[-2]:
        return False
    result = _exact(b) @ _exact(a)
    return result.shape == expected.shape and np.allclose(result, expected, rtol=1e-3, atol=1e-6)


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the numbers of converted tensors, in the dtype that they have."""
    return {
        name: tensor.data.view(DTYPES[tensor.type_name]).reshape(tensor.shape)
        for name, tensor in tensors.items()
        if isinstance(tensor, ConvertedTensor)  # the others follow from the config
    }


def _exact(array: Array) -> Array:
    return array.astype(np.float32)
