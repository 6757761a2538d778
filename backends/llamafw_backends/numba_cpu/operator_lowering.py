"""Lower operators that plugins add to graphs: match their fields with the parameters of the plugin's function."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llamafw import PluginError
from llamafw import graph as g
from llamafw_backends.numba_cpu import plugin_operators
from llamafw_backends.numba_cpu.fusion import strip
from llamafw_backends.numba_cpu.memory import align_up
from llamafw_backends.numba_cpu.plugin_operators import Argument, Rows, Signature
from llamafw_backends.numba_cpu.units import OperatorUnit, Place
from llamafw_backends.numba_cpu.weights import Vector

if TYPE_CHECKING:
    from llamafw_backends.numba_cpu.lowering import Lowering


def lower_operator(low: Lowering, value: g.Value) -> None:
    """Append an operator of a plugin.

    Raises
    ------
    ModelError
        The plugin has no function for this backend, or an input of the operator has no rows.
    PluginError
        The function does not fit the operator.
    """
    context = low.weights.context
    function = context.implementation("numba", value)
    plugin = next(one.plugin for one in context.operators.values() if one.value is type(value))
    owner = f"plugin {plugin}: the operator {type(value).__name__}"
    parameters = _parameters(function, owner)
    n_parts = _count_parts(value, owner) if "part" in parameters else 1

    arguments: dict[str, Argument] = {}
    places: list[Place | Vector] = []
    for name in parameters:
        if name in ("part", "state"):
            arguments[name] = None
            continue
        argument, place = _argument(low, value, name, owner)
        arguments[name] = argument
        if place is not None:
            places.append(place)
    if ("state" in parameters) != (value.state_shape != ()):
        has = "a" if "state" in parameters else "no"
        raise PluginError(
            f"{owner} has the state_shape {value.state_shape}, but its function has {has} parameter 'state'"
        )

    state_shape = value.state_shape[1:] if "part" in parameters else value.state_shape
    signature = Signature(arguments, n_parts, (state_shape or (1,)) if value.state_shape else ())  # (1,): one number
    unit = OperatorUnit(
        lambda compiler: plugin_operators.build(compiler, function, signature, owner),
        type(value).__name__,
        places,
        low.places[value],
        n_parts,
        align_up(4 * math.prod(value.state_shape)) if value.state_shape else 0,
        stage=low.stage(value),
    )
    unit.state, low.state_bytes = low.state_bytes, low.state_bytes + unit.state_bytes
    low.can_go_back = low.can_go_back and not value.state_shape
    low.units.append(unit)


def _parameters(function: Any, owner: str) -> list[str]:
    """Return the names of a function's parameters."""
    if not inspect.isfunction(function) or function.__closure__ is not None:
        raise PluginError(f"{owner} has {function!r:.80} for the numba backend; it must be a function of a module")
    parameters = list(inspect.signature(function).parameters)
    if "out" not in parameters:
        raise PluginError(f"{owner}: its function {function.__name__} has no parameter 'out'")
    return parameters


def _count_parts(value: g.Value, owner: str) -> int:
    """Return the number of parts: the first axis of the state, or else of the result."""
    shape = value.state_shape or value.shape
    if not shape:
        raise PluginError(f"{owner} has no axis that its function could compute in parts")
    return shape[0]


def _argument(low: Lowering, value: g.Value, name: str, owner: str) -> tuple[Argument, Place | Vector | None]:
    """Return an argument of the function, and where its numbers are."""
    if name == "out":
        return Rows(value.shape, is_result=True), low.new(value)
    if name not in (one.name for one in value.__dataclass_fields__.values()):
        raise PluginError(
            f"{owner}: its function has the parameter {name!r}, which is not one of the operator's fields"
        )
    match field := getattr(value, name):
        case None | bool() | int() | float():
            return field, None
        case g.Weight():
            return Rows(field.shape), low.weights.vector(field)
        case np.ndarray() if field.dtype.kind in "fiu":
            return Rows(field.shape), low.weights.numbers(field)
        case g.Input():
            raise low.refuse(value, f"its function cannot get the {field.name} for the field {name!r}")
        case g.Value():
            if strip(field) in low.pair_values:
                raise low.refuse(value, f"its function cannot get the rows of experts for the field {name!r}")
            return Rows(field.shape, is_index=isinstance(strip(field), g.TopK)), low.place(field)
    raise PluginError(f"{owner}: its function cannot get the field {name!r}, which is {field!r:.80}")
