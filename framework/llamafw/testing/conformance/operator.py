"""The rules for operators: shapes fit the evaluation, and backends compute the same, however texts are divided."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest

from llamafw import graph as g
from llamafw.interfaces import Backend, BackendContext, Operator, SnapshotBackend
from llamafw.models.gguf import read_gguf
from llamafw.testing.batches import Run, batch
from llamafw.testing.conformance.base import Conformance, assert_identical
from llamafw.types import BackendOptions, Model

N_VOCAB, N_TOKENS, N_SLOTS, N_CTX = 64, 24, 3, 128
CUTS = ([1] * N_TOKENS, [5, 1, 11, 7], [N_TOKENS - 1, 1])
Rows = np.ndarray[Any, np.dtype[Any]]


class OperatorConformance(Conformance):
    """Subclass it, give the ``name``, and describe an example of the operator.

    Each input is a part of an embedding, so it has other numbers for each token. Override `build` if the operator needs
    more than its inputs, weights and options, and `numbers` if it needs numbers of some kind.

    Attributes
    ----------
    inputs : mapping of str to tuple of int
        The shapes of the fields that are values.
    weights : mapping of str to tuple of int
        The shapes of the fields that are weights.
    options : mapping of str to object
        The other fields.
    tolerance : float
        How far a backend's numbers may be from those of the evaluation, as a part of the largest one.
    """

    kind = "operator"
    inputs: ClassVar[Mapping[str, g.Shape]] = {}
    weights: ClassVar[Mapping[str, g.Shape]] = {}
    options: ClassVar[Mapping[str, Any]] = {}
    tolerance: ClassVar[float] = 1e-4

    def numbers(self, name: str, rng: np.random.Generator, shape: g.Shape) -> Rows:
        """Return random numbers for an input, one row per token, or for a weight."""
        return rng.standard_normal(shape)

    def build(self, inputs: Mapping[str, g.Value], weights: Mapping[str, g.Weight]) -> g.Value:
        """Return the operator."""
        return cast("Operator", self.registered()).value(**inputs, **weights, **self.options)

    def test_class_compares_by_identity(self) -> None:
        """The class is a dataclass with ``frozen=True, eq=False``: equal operators of a graph are still different."""
        value = cast("Operator", self.registered()).value
        assert "__dataclass_fields__" in vars(value), f"{value.__name__} is not a dataclass"
        assert value.__eq__ is object.__eq__, f"{value.__name__} compares fields; write @dataclass(…, eq=False)"
        assert value.__hash__ is object.__hash__, f"{value.__name__} has a hash of its fields"

    def test_evaluation_has_the_shape_of_the_rule(self, write_model: Any) -> None:
        """`evaluate` returns finite rows of the shape that `infer_shape` returns."""
        value, rows = self.evaluate(self.write(write_model), [N_TOKENS])
        expected = (N_TOKENS, *value.shape)
        assert rows.shape == expected, f"the rows have the shape {rows.shape}, but the shape rule says {expected}"
        assert np.isfinite(rows).all(), "the rows are infinite or not a number"

    def test_evaluation_in_pieces_is_the_same(self, write_model: Any) -> None:
        """`evaluate` returns the same rows for a whole text and for pieces: all that it remembers is in its state."""
        path = self.write(write_model)
        _, whole = self.evaluate(path, [N_TOKENS])
        for sizes in CUTS:
            _, rows = self.evaluate(path, sizes)
            np.testing.assert_allclose(rows, whole, rtol=1e-9, atol=1e-12, err_msg=f"evaluated in pieces of {sizes}")

    def test_wrong_shapes_are_graph_errors(self) -> None:
        """An input or weight of another shape is a GraphError, unless the operator can have it."""
        inputs, weights = self.shapes()
        for name, shape in (inputs | weights).items():
            for other in ((*shape, 2), (*shape[:-1], shape[-1] + 1) if shape else (3,)):
                x, w = (shapes | {name: other} if name in shapes else shapes for shapes in (inputs, weights))
                try:
                    value = self.build(*make_fields(x, w))
                except g.GraphError:
                    continue
                except Exception as error:
                    raise AssertionError(f"{name} of shape {other} raises {error!r}, not GraphError") from error
                rows = self.evaluate_random(value, x, w, f"{name} of shape {other}")
                assert rows.shape == (2, *value.shape), f"with {name} of shape {other}, the shape rule is wrong"

    # --- backends

    def test_backends_agree_with_the_evaluation(self, write_model: Any) -> None:
        """Each backend computes the rows of the evaluation in float64, up to `tolerance`."""
        path = self.write(write_model)
        expected = self.evaluate(path, [N_TOKENS])[1].reshape(N_TOKENS, -1)
        for name, backend in self.backends(path):
            rows = compute(backend, [N_TOKENS])
            limit = self.tolerance * float(np.abs(expected).max())
            difference = float(np.abs(rows - expected).max())
            assert difference <= limit, f"{name} differs from the evaluation by up to {difference:.3g}"

    def test_batches_change_nothing(self, write_model: Any) -> None:
        """Rows do not depend on the division of a text into batches, on other slots, or on the number of threads."""
        path, all_at_once = self.write(write_model), {}
        for name, backend in self.backends(path):
            whole = all_at_once[name] = compute(backend, [N_TOKENS])
            for sizes in CUTS:
                self.check_same(backend, compute(backend, sizes), whole, f"{name}: rows in batches of {sizes}")
                rows = compute(backend, sizes, slot=1, strangers=True)
                self.check_same(backend, rows, whole, f"{name}: rows in batches of {sizes} with other slots")
        for n_threads in (2, 3):
            for name, backend in self.backends(path, n_threads=n_threads):
                for sizes in ([N_TOKENS], *CUTS):
                    rows = compute(backend, sizes, strangers=True)
                    self.check_same(backend, rows, all_at_once[name], f"{name}: rows with {n_threads} threads")

    def test_texts_begin_with_a_new_state(self, write_model: Any) -> None:
        """A text in a slot that another text has used gives the same rows."""
        for name, backend in self.backends(self.write(write_model)):
            whole = compute(backend, [N_TOKENS])
            backend.forward(batch((0, N_TOKENS, TOKENS[::-1]), outputs=[]))
            backend.truncate(0, 0)
            rows = compute(backend, [3, N_TOKENS - 3])
            self.check_same(backend, rows, whole, f"{name}: rows in a slot that had another text")

    def test_slots_continue_from_snapshots(self, write_model: Any) -> None:
        """A slot that goes back to a snapshot, and one that restores a saved state, continue with the same rows."""
        for name, backend in self.backends(self.write(write_model)):
            whole = compute(backend, [N_TOKENS])
            backend.truncate(0, 0)
            for first, end in ((0, 9), (9, 20)):
                backend.forward(batch((0, first, TOKENS[first:end]), outputs=[]))
                if not backend.can_cut:
                    cast("SnapshotBackend", backend).take_snapshot(0)
            state = backend.save(0, 20).copy()

            left = backend.truncate(0, 15)
            assert 9 <= left <= 15, f"{name}: with a snapshot at 9, truncate(0, 15) returned {left}"
            rows = backend.hidden(batch((0, left, TOKENS[left:])))
            self.check_same(backend, rows, whole[left:], f"{name}: rows after a cut")
            backend.restore(2, 20, state)
            rows = backend.hidden(batch((2, 20, TOKENS[20:])))
            self.check_same(backend, rows, whole[20:], f"{name}: rows after a saved state was restored")

    # --- helpers

    def shapes(self) -> tuple[dict[str, g.Shape], dict[str, g.Shape]]:
        """Return the shapes of inputs and weights; skip the test if the author gives none."""
        if not self.inputs:
            pytest.skip("give `inputs`, the shapes of the operator's inputs, to test an example of it")
        return dict(self.inputs), dict(self.weights)

    def write(self, write_model: Callable[..., Path]) -> Path:
        """Write a file with the numbers of the inputs and of the weights; return its path."""
        arrays = self.arrays(*self.shapes())
        return write_model(n_layer=0, tokenizer=None, n_vocab=N_VOCAB, n_ctx=N_CTX, tensors=arrays)

    def arrays(self, inputs: Mapping[str, g.Shape], weights: Mapping[str, g.Shape]) -> dict[str, Rows]:
        """Return tensors with random numbers: the embedding whose columns are the inputs, and the weights."""
        rng = np.random.default_rng(3)
        columns = [self.numbers(name, rng, (N_VOCAB, *shape)).reshape(N_VOCAB, -1) for name, shape in inputs.items()]
        tensors = {"token_embd.weight": np.concatenate(columns, axis=1)}
        tensors |= {f"{name}.weight": self.numbers(name, rng, shape) for name, shape in weights.items()}
        return {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}

    def open(self, path: Path) -> tuple[Model, g.Value]:
        """Return the file and the operator."""
        return read_gguf(path, self.registry("quant")), self.build(*make_fields(*self.shapes()))

    def evaluate(self, path: Path, sizes: list[int]) -> tuple[g.Value, Rows]:
        """Return the operator and its rows in float64, evaluated in pieces."""
        model, value = self.open(path)
        graph = g.Graph(value, None, N_CTX)
        run, state = g.Evaluator(graph, g.read_weights(model, self.registry("quant"))), g.TextState(graph, N_TOKENS)
        rows, first = [], 0
        for size in sizes:
            rows += run(TOKENS[first : first + size], state, value)
            first += size
        return value, np.concatenate(rows)

    def evaluate_random(
        self, value: g.Value, inputs: Mapping[str, g.Shape], weights: Mapping[str, g.Shape], what: str
    ) -> Rows:
        """Return the rows of two tokens; ``what`` begins the message if they cannot be evaluated."""
        graph, arrays = g.Graph(value, None, N_CTX), self.arrays(inputs, weights)
        try:
            (rows,) = g.Evaluator(graph, arrays.__getitem__)([0, 1], g.TextState(graph, 2), value)
        except Exception as error:
            raise AssertionError(f"{what} is accepted, but its evaluation raises {error!r}") from error
        return rows

    def backends(self, path: Path, **options: Any) -> Iterator[tuple[str, Backend]]:
        """Open the file with each backend that the operator has something for; skip the test if there is none."""
        model, value = self.open(path)
        graph = g.Graph(g.flat(value), None, N_CTX)
        factories = self.registry("backend")
        names = [name for name in cast("Operator", self.registered()).backends if name in factories]
        if not names:
            pytest.skip("the operator has nothing for an installed backend")
        for name in names:
            settings = BackendOptions(**{"n_slots": N_SLOTS, "n_threads": 1} | options)
            context = BackendContext(
                model, graph, settings, self.registry("quant"), operators=self.registry("operator")
            )
            with closing(factories[name](context)) as backend:
                yield name, backend

    def check_same(self, backend: Backend, actual: Rows, expected: Rows, subject: str) -> None:
        """Fail unless rows are equal: to the last bit if the backend is exact, else within `tolerance`."""
        if backend.exact:
            assert_identical(actual, expected, f"{subject} and all at once")
        else:
            limit = self.tolerance * float(np.abs(expected).max())
            np.testing.assert_allclose(actual, expected, rtol=0, atol=limit, err_msg=subject)


TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, N_VOCAB, N_TOKENS)]


def compute(backend: Backend, sizes: list[int], *, slot: int = 0, strangers: bool = False) -> Rows:
    """Compute a text in an emptied slot in batches of some sizes; return its rows, ``(N_TOKENS, n)`` float32.

    With ``strangers``, the other slots have tokens in the same batches.
    """
    positions = {other: 0 for other in range(N_SLOTS) if other != slot} if strangers else {}
    for one in (slot, *positions):
        backend.truncate(one, 0)
    rows, first = [], 0
    for size in sizes:
        runs: list[Run] = [(other, position, TOKENS[: other + 1]) for other, position in positions.items()]
        start = len(runs[0][2]) if runs else 0
        runs.insert(1, (slot, first, TOKENS[first : first + size]))
        rows.append(backend.hidden(batch(*runs, outputs=range(start, start + size))).copy())
        first += size
        positions = {other: position + other + 1 for other, position in positions.items()}
    return np.concatenate(rows)


def make_fields(
    inputs: Mapping[str, g.Shape], weights: Mapping[str, g.Shape]
) -> tuple[dict[str, g.Value], dict[str, g.Weight]]:
    """Return inputs and weights of some shapes: the inputs are parts of an embedding."""
    sizes = [math.prod(shape) for shape in inputs.values()]
    embedding = g.embedding(g.TOKENS, g.Parameter(g.Weight("token_embd.weight", (N_VOCAB, sum(sizes)))))
    parts = zip(inputs.items(), g.split(embedding, *sizes), strict=True)
    values: dict[str, g.Value] = {name: g.Reshape(part, shape) for (name, shape), part in parts}
    return values, {name: g.Weight(f"{name}.weight", shape) for name, shape in weights.items()}
