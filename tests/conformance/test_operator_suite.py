"""The suite for operators names the rule that an operator breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw import Operator
from llamafw import graph as g
from llamafw.registry import Registry
from llamafw.testing.conformance import OperatorConformance
from support.conformance import assert_fails, suite


@dataclass(frozen=True, slots=True, eq=False)
class Sum(g.Value):
    """The sum of all rows so far, times a weight; subclasses have one fault each."""

    x: g.Value
    weight: g.Weight

    def infer_shape(self) -> g.Shape:
        if self.weight.shape != self.x.shape or len(self.x.shape) != 1:
            raise g.GraphError("the shapes differ")
        return self.x.shape

    @property
    def state_shape(self) -> g.Shape:
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> Any:
        sums = run.state(self) + np.cumsum(inputs["x"], axis=0)
        run.state(self)[...] = sums[-1]
        return sums * run.weight(self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class Forgetful(Sum):
    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> Any:
        return np.cumsum(inputs["x"], axis=0) * run.weight(self.weight)


@dataclass(frozen=True, slots=True, eq=False)
class Careless(Sum):
    def infer_shape(self) -> g.Shape:
        return self.x.shape


@dataclass(frozen=True, slots=True, eq=False)
class Misshapen(Sum):
    def infer_shape(self) -> g.Shape:
        return (*Sum.infer_shape(self), 1)


@dataclass(frozen=True)
class Equal(Sum):
    pass


def add(x: Any, weight: Any, state: Any, out: Any) -> None:
    for i in range(len(x)):
        state[i] += x[i]
        out[i] = state[i] * weight[i]


def add_wrongly(x: Any, weight: Any, state: Any, out: Any) -> None:
    for i in range(len(x)):
        state[i] += x[i]
        out[i] = state[i]


def made(value: type[g.Value], function: Callable[..., None] = add) -> Any:
    """Return the suite for an operator."""
    operator, registries = Operator(value, {"numba": function}), OperatorConformance.registry
    mine = Registry("operator")
    mine.add("mine", operator, owner="my:plugin")
    return suite(
        OperatorConformance,
        operator,
        inputs={"x": (20,)},
        weights={"weight": (20,)},
        registry=classmethod(lambda cls, kind: mine if kind == "operator" else registries(kind)),
    )


TESTS = [name for name in vars(OperatorConformance) if name.startswith("test_")]


@pytest.mark.parametrize("test", TESTS)
def test_correct_operators_pass(test: str, write_model: Callable[..., Path]) -> None:
    run(made(Sum), test, write_model)


@pytest.mark.parametrize(
    ("operator", "test", "message"),
    [
        (made(Equal), "test_class_compares_by_identity", "Equal compares fields; write @dataclass"),
        (made(Forgetful), "test_evaluation_in_pieces_is_the_same", r"evaluated in pieces of \[1, "),
        (
            made(Misshapen),
            "test_evaluation_has_the_shape_of_the_rule",
            r"\(24, 20\), but the shape rule says \(24, 20, 1",
        ),
        (made(Careless), "test_wrong_shapes_are_graph_errors", r"\(20, 2\) is accepted, but its evaluation raises"),
        (made(Sum, add_wrongly), "test_backends_agree_with_the_evaluation", "numba differs from the evaluation by up"),
    ],
)
def test_broken_rule_is_reported(operator: Any, test: str, message: str, write_model: Callable[..., Path]) -> None:
    assert_fails(run, message, operator, test, write_model)


def run(operator: Any, test: str, write_model: Callable[..., Path]) -> None:
    """Run a test of a suite."""
    function = getattr(operator, test)
    needs_file = "write_model" in function.__code__.co_varnames[: function.__code__.co_argcount]
    function(write_model) if needs_file else function()
