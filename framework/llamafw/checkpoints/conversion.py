"""Conversions: what a checkpoint of one class is as a GGUF file, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llamafw.checkpoints.changes import Array, FirstRows
from llamafw.checkpoints.config import Config
from llamafw.checkpoints.prediction import NEXTN, count_predictions
from llamafw.checkpoints.rules import Binding, Rule, groups
from llamafw.checkpoints.tensors import CheckpointTensor, ConvertedTensor, Packed, as_bytes, n_bytes, type_of
from llamafw.errors import ModelError
from llamafw.types import Tensor

ALWAYS_SKIPPED = ("*.rotary_emb.inv_freq", "*.attn.masked_bias")


@dataclass(frozen=True)
class Conversion:
    """What checkpoints of one class, with one config, are as GGUF files.

    Parameters
    ----------
    architecture : str
        GGUF's name of the architecture, ``general.architecture``.
    metadata : mapping
        GGUF's keys without the architecture's prefix, and their values. None stands for a key that is left out.
    rules : sequence of Rule
        For all tensors. If several match a name, the first one counts; of several with the same targets, checkpoints
        are written by the first one.
    extra : mapping
        Tensors that follow from the config, such as ``rope_freqs.weight``: GGUF name → float32.
    aliases : mapping
        Other beginnings of the checkpoint's names → what the rules have: ``{"language_model.model.": "model."}``.
    skipped : tuple of str
        Patterns (``*``) of the checkpoint's names, before aliases, that have no counterpart: those of images, or of the
        prediction of further tokens.
    layer_numbers : tuple of str
        GGUF's keys, with the prefix if they have one, whose value is an array with one number per layer that the
        checkpoint has as tensors: a rule has the name ``blk.{i}.KEY`` for them, with the shape ``(1,)``.
    prediction_values : mapping
        GGUF's keys without the prefix whose value, if they are in ``metadata``, has one entry per layer, and the entry
        of a block for multi-token prediction, which counts as a layer.
    """

    architecture: str
    metadata: Mapping[str, Any]
    rules: Sequence[Rule]
    extra: Mapping[str, Array] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    layer_numbers: tuple[str, ...] = ()
    prediction_values: Mapping[str, Any] = field(default_factory=dict)

    def gguf_metadata(self) -> dict[str, Any]:
        """Return the metadata with the architecture's prefix; lists of numbers become arrays, as `Model` has them."""
        found: dict[str, Any] = {"general.architecture": self.architecture}
        for key, value in self.metadata.items():
            if value is not None:
                is_numbers = isinstance(value, list | tuple) and not any(isinstance(one, str) for one in value)
                found[f"{self.architecture}.{key}"] = np.array(value) if is_numbers else value
        return found


class Convert(Protocol):
    """Describes checkpoints of one class of transformers; what `register_conversions` registers.

    Called once per model. It also gets the configs of models that it cannot describe, and must refuse them.
    """

    def __call__(self, config: Config) -> Conversion:
        """Return the conversion; raise ModelError if a value of the config is missing or not supported."""


def limit_context(conversion: Conversion, n_ctx: int) -> Conversion:
    """Return the conversion with at most ``n_ctx`` positions; rows of learned positions after them are left out."""
    if conversion.metadata.get("context_length", 0) <= n_ctx:
        return conversion
    rules = [
        replace(one, changes=(*one.changes, FirstRows(n_ctx))) if one.targets[0].startswith("position_embd.") else one
        for one in conversion.rules
    ]
    return replace(conversion, metadata={**conversion.metadata, "context_length": n_ctx}, rules=rules)


def to_gguf(
    conversion: Conversion, tensors: Mapping[str, CheckpointTensor], class_name: str, folder: Path
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint as GGUF has them; most are computed when they are read.

    Raises
    ------
    ModelError
        A tensor is missing, unknown, or has a shape or type that does not fit; the message names it and the file.
    """
    renamed = {name: tensors[original] for name, original in _apply_aliases(conversion, tensors).items()}
    found: dict[str, Tensor] = {}
    for rule, binding, name in groups(conversion.rules, renamed):
        if rule is None:
            one = renamed[name]
            raise ModelError(f"{one.path}: the tensor {one.name!r} is not part of a {class_name}")
        names = rule.source_names(binding, renamed)
        if missing := [other for other in names if other not in renamed]:
            raise ModelError(f"{folder}: the tensor {missing[0]!r} is missing, but there is {renamed[name].name!r}")
        sources = [renamed[other] for other in names]
        for target, tensor in _convert(rule, sources, rule.target_names(binding)).items():
            if target in found:
                raise ModelError(f"{sources[0].path}: the tensor {sources[0].name!r} is another {target!r}")
            found[target] = tensor
    for name, array in conversion.extra.items():
        found[name] = Tensor(name, array.shape, "F32", as_bytes(array, "F32"))
    return found


def convert_checkpoint(
    conversion: Conversion, tensors: Mapping[str, CheckpointTensor], class_name: str, folder: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the metadata and tensors of a checkpoint as GGUF has them.

    Blocks that predict further tokens count as layers if the checkpoint has them: configs may name blocks that were
    left out.

    Raises
    ------
    ModelError
        See `to_gguf`.
    """
    metadata, found = conversion.gguf_metadata(), to_gguf(conversion, tensors, class_name, folder)
    for key in conversion.layer_numbers:
        names = [f"blk.{i}.{key}" for i in range(conversion.metadata["block_count"])]
        for name in names:
            if name not in found:
                sources = (
                    rule.source_names(binding) for rule in conversion.rules if (binding := rule.match(name, gguf=True))
                )
                raise ModelError(f"{folder}: the tensor {next(sources)[0]!r} is missing")
        metadata[key] = np.concatenate([found.pop(name).data.view(np.float32) for name in names])

    n_layer = conversion.metadata.get("block_count", 0)
    if n := count_predictions(found, n_layer):
        metadata |= {f"{conversion.architecture}.{NEXTN}": n, f"{conversion.architecture}.block_count": n_layer + n}
        for key, value in conversion.prediction_values.items():
            if (name := f"{conversion.architecture}.{key}") in metadata:
                metadata[name] = np.append(metadata[name], [value] * n)
    return metadata, found


def to_checkpoint(conversion: Conversion, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return GGUF's arrays as the checkpoint has them, by the checkpoint's names.

    Raises
    ------
    ModelError
        No rule has a tensor, or another one with which it is joined is missing.
    """
    found: dict[str, Array] = {}
    done = set(conversion.extra)
    for name in arrays:
        if name in done:
            continue
        rule, binding = _rule_for(conversion, name, arrays)
        targets = rule.target_names(binding)
        results = rule.backward([arrays[target] for target in targets])
        found.update(zip(rule.source_names(binding, n=len(results)), results, strict=True))
        done.update(targets)
    return found


def find_rule(conversion: Conversion, name: str) -> Rule | None:
    """Return the rule for a checkpoint's tensor; None if it has no counterpart, or is unknown."""
    renamed = next(iter(_apply_aliases(conversion, [name])), "")
    return next((rule for rule in conversion.rules if rule.match(renamed, gguf=False) is not None), None)


def _rule_for(conversion: Conversion, name: str, arrays: Mapping[str, Array]) -> tuple[Rule, Binding]:
    """Return the first rule for a GGUF name whose other targets are there as well."""
    missing = ""
    for rule in conversion.rules:
        binding = rule.match(name, gguf=True)
        if binding is None:
            continue
        absent = [target for target in rule.target_names(binding) if target not in arrays]
        if not absent:
            return rule, binding
        missing = missing or absent[0]
    reason = f"the tensor {missing!r} is missing, but there is {name!r}" if missing else f"no rule has {name!r}"
    raise ModelError(f"a checkpoint cannot be written: {reason}")


def _apply_aliases(conversion: Conversion, names: Iterable[str]) -> dict[str, str]:
    """Return the checkpoint's names by the rules' names, without those that are skipped."""
    skipped, found = (*ALWAYS_SKIPPED, *conversion.skipped), {}
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in skipped):
            continue
        beginning = next((one for one in conversion.aliases if name.startswith(one)), "")
        found[conversion.aliases.get(beginning, "") + name.removeprefix(beginning)] = name
    return found


def _convert(rule: Rule, sources: Sequence[CheckpointTensor], targets: Sequence[str]) -> dict[str, Tensor]:
    first = sources[0]
    try:
        results: Sequence[Array | Packed] = rule.describe([source.empty() for source in sources])
        if len(results) != len(targets):
            raise ValueError(f"it becomes {len(results)} tensors, not {len(targets)}")
    except (ValueError, IndexError) as error:
        raise ModelError(
            f"{first.path}: the tensor {first.name!r} of shape {first.shape} does not fit the config: {error}"
        ) from None

    found: dict[str, Tensor] = {}
    for index, (target, result) in enumerate(zip(targets, results, strict=True)):
        type_name = type_of(result, target)
        if type_name is None:
            raise ModelError(f"{first.path}: the tensor {first.name!r} has numbers of type {result.dtype.name}")
        is_stored = not rule.changes and len(first.files) == 1 and type_name == first.files[0].type_name
        if is_stored and first.files[0].data.ctypes.data % 4 == 0:
            found[target] = Tensor(target, result.shape, type_name, first.files[0].data)
        else:
            size = n_bytes(result, type_name)
            found[target] = ConvertedTensor(target, result.shape, type_name, sources, rule, index, size)
    return found
