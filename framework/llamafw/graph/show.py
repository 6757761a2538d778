"""Converts a graph to text, to JSON, or to a picture for Graphviz."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    lines, number_of = [], dict[int, str]()
    for number, (value, operands, attributes) in enumerate(_values(graph, shorten=shorten)):
        number_of[id(value)] = f"%{number}"
        arguments = [*operands, *(f"{name}={text}" for name, text in attributes.items())]
        shape = "×".join(map(str, value.shape)) or "1"
        lines.append(f"%{number:<4} {shape:>10}  {type(value).__name__}({', '.join(arguments)})")
    results = {"hidden": graph.hidden, "logits": graph.logits}
    names = [f"{name}={number_of[id(value)]}" for name, value in results.items() if value is not None]
    return "\n".join([*lines, " ".join([*names, f"n_ctx_train={graph.n_ctx_train}"])]) + "\n"


def as_json(graph: Graph) -> str:
    """Return the values as a JSON array of objects, with every number of every array."""
    rows = [
        {"id": number, "operator": type(value).__name__, "shape": value.shape, "inputs": operands, **attributes}
        for number, (value, operands, attributes) in enumerate(_values(graph, shorten=False))
    ]
    return json.dumps(rows, indent=1)


def as_dot(graph: Graph) -> str:
    """Return the graph in Graphviz' DOT language, with long arrays shortened as in `as_text`."""
    lines = ["digraph model {", "  node [shape=box, fontname=monospace];"]
    for number, (value, operands, attributes) in enumerate(_values(graph, shorten=True)):
        details = (f"{name}={text}" for name, text in attributes.items())
        label = "\n".join([f"{type(value).__name__} {list(value.shape)}", *details])
        lines.append(f"  n{number} [label={json.dumps(label, ensure_ascii=False)}];")
        lines += [f"  n{operand[1:]} -> n{number};" for operand in operands]
    return "\n".join([*lines, "}"]) + "\n"


def _values(graph: Graph, *, shorten: bool) -> Iterator[tuple[Value, list[str], dict[str, str]]]:
    """Yield each value with the numbers of its inputs, such as ``%3``, and the text of its other fields."""
    number_of: dict[int, str] = {}
    for number, value in enumerate(graph):
        operands, attributes = [], {}
        for name in operand_names(type(value)):
            field = getattr(value, name)
            if isinstance(field, Value):
                operands.append(number_of[id(field)])
            elif isinstance(field, tuple) and field and isinstance(field[0], Value):
                operands += [number_of[id(one)] for one in field]
            elif field is not None and not (isinstance(field, tuple) and not field):
                attributes[name] = _text(field, shorten)
        number_of[id(value)] = f"%{number}"
        yield value, operands, attributes


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
    numbers = [float(number) for number in array]
    if not shorten or len(numbers) <= _MAX_NUMBERS:
        return f"[{' '.join(map(repr, numbers))}]"

    first = " ".join(f"{number:.4g}" for number in numbers[:3])
    digest = sha256(np.array(numbers).tobytes()).hexdigest()[:8]
    return f"[{first} … {numbers[-1]:.4g}; {len(numbers)} numbers, hash {digest}]"
