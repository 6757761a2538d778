"""Converts a graph to text, to JSON, or to a picture for Graphviz."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from llamafw.graph.model import Graph
from llamafw.graph.values import Value, operand_names
from llamafw.graph.weights import Weight

_MAX_NUMBERS = 8  # of an array that is shown in full


def as_text(graph: Graph, *, shorten: bool = True) -> str:
    """Return one line per value: its number, shape, operator, inputs and attributes; then one with the results.

    Graphs with the same text compute the same results from the same weights.

    Parameters
    ----------
    graph : Graph
        The model.
    shorten : bool
        Write the first and last numbers of a long array, rounded, and a hash of all of them, instead of every number.
    """
    lines, numbers = [], _numbers(graph)
    for value, number in numbers.items():
        arguments = [f"{name}={_text(field, shorten)}" for name, field in _attributes(value).items()]
        shape = "×".join(map(str, value.shape)) or "1"
        operands = ", ".join([*_operand_texts(value, numbers), *arguments])
        lines.append(f"%{number:<4} {shape:>10}  {type(value).__name__}({operands})")
    results = {"hidden": graph.hidden, "logits": graph.logits}
    names = [f"{name}=%{numbers[value]}" for name, value in results.items() if value is not None]
    return "\n".join([*lines, " ".join([*names, f"n_ctx_train={graph.n_ctx_train}"])]) + "\n"


def as_json(graph: Graph) -> str:
    """Return a JSON object with the ``values``, and the ids of the results, ``hidden`` and ``logits``.

    A value has its ``id``, ``operator``, ``shape``, ``inputs`` (ids by name) and ``attributes``, such as tensors and
    numbers. Every number of every array is written.
    """
    numbers = _numbers(graph)
    values = [
        {
            "id": number,
            "operator": type(value).__name__,
            "shape": value.shape,
            "inputs": {name: _ids(operand, numbers) for name, operand in value.operands()},
            "attributes": {name: _plain(field) for name, field in _attributes(value).items()},
        }
        for value, number in numbers.items()
    ]
    logits = None if graph.logits is None else numbers[graph.logits]
    results = {"hidden": numbers[graph.hidden], "logits": logits, "n_ctx_train": graph.n_ctx_train}
    return json.dumps({"values": values, **results}, indent=1)


def as_dot(graph: Graph) -> str:
    """Return the graph in Graphviz' DOT language, with long arrays shortened as in `as_text`."""
    lines, numbers = ["digraph model {", "  node [shape=box, fontname=monospace];"], _numbers(graph)
    for value, number in numbers.items():
        details = (f"{name}={_text(field, shorten=True)}" for name, field in _attributes(value).items())
        label = "\n".join([f"{type(value).__name__} {list(value.shape)}", *details])
        lines.append(f"  n{number} [label={json.dumps(label, ensure_ascii=False)}];")
        lines += [f"  n{numbers[operand]} -> n{number};" for operand in value.inputs()]
    return "\n".join([*lines, "}"]) + "\n"


def _numbers(graph: Graph) -> dict[Value, int]:
    """Return the number of each value, in the order of the graph."""
    return {value: number for number, value in enumerate(graph)}


def _attributes(value: Value) -> dict[str, Any]:
    """Return the fields of a value that are not values, except missing ones."""
    operands = dict(value.operands())
    fields = {name: getattr(value, name) for name in operand_names(type(value)) if name not in operands}
    return {name: field for name, field in fields.items() if field is not None and not _is_empty(field)}


def _is_empty(field: Any) -> bool:
    return isinstance(field, tuple) and not field


def _operand_texts(value: Value, numbers: Mapping[Value, int]) -> list[str]:
    """Return the inputs of a value, ``%3``, with their names from where their places do not tell them apart."""
    texts, is_clear = [], True
    operands = dict(value.operands())
    for name in operand_names(type(value)):
        field = getattr(value, name)
        if name in operands:
            ids = _ids(operands[name], numbers)
            text = ", ".join(f"%{number}" for number in (ids if isinstance(ids, list) else [ids]))
            text = text if is_clear else f"{name}=({text})"
            texts.append(text)
        is_clear = is_clear and field is not None and not isinstance(field, tuple)
    return texts


def _ids(operand: Value | tuple[Value, ...], numbers: Mapping[Value, int]) -> int | list[int]:
    return [numbers[one] for one in operand] if isinstance(operand, tuple) else numbers[operand]


def _plain(field: Any) -> Any:
    """Return an attribute as JSON has it; tensors and numbers that are not finite are text."""
    if isinstance(field, np.ndarray):
        return field.tolist()
    if isinstance(field, tuple | list):
        return [_plain(one) for one in field]
    if isinstance(field, float):
        return field if math.isfinite(field) else repr(field)
    if isinstance(field, str | int | None):
        return field
    if isinstance(field, Weight) or not hasattr(field, "__dataclass_fields__"):
        return _text(field, shorten=False)
    return {name: _plain(getattr(field, name)) for name in field.__dataclass_fields__}


def _text(field: Any, shorten: bool) -> str:
    if isinstance(field, Weight):
        rows = "" if field.last is None else f"[{field.first}:{field.last}]"
        return f"{field.name}{rows}"
    if isinstance(field, np.ndarray):
        return _array_text(field, shorten)
    if hasattr(field, "__dataclass_fields__"):
        parts = (f"{name}={_text(getattr(field, name), shorten)}" for name in field.__dataclass_fields__)
        return f"({', '.join(parts)})"
    return repr(field)


def _array_text(array: np.ndarray[Any, Any], shorten: bool) -> str:
    numbers = [float(number) for number in array.reshape(-1)]
    shape = "" if array.ndim == 1 else f" of shape {array.shape}"
    if not shorten or len(numbers) <= _MAX_NUMBERS:
        return f"[{' '.join(map(repr, numbers))}]{shape}"

    first = " ".join(f"{number:.4g}" for number in numbers[:3])
    digest = sha256(np.array(numbers).tobytes()).hexdigest()[:8]
    return f"[{first} … {numbers[-1]:.4g}; {len(numbers)} numbers, hash {digest}]{shape}"
