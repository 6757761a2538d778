"""The rules for architectures: graphs agree with the file, and damaged files are a ModelError."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llamafw.errors import ModelError
from llamafw.graph import Graph, Weight, evaluate, read_weights
from llamafw.graph.values import operand_names
from llamafw.interfaces import Architecture
from llamafw.models.gguf import read_gguf
from llamafw.testing.conformance.base import Conformance
from llamafw.types import Model

Doubles = npt.NDArray[np.float64]

TOKENS = (70, 75, 80, 5, 9, 70)
INVALID_VALUES: tuple[Any, ...] = ("x", -1, 0, 2**40, 3.5, [1, 2], None)  # None: the key is missing


class ArchitectureConformance(Conformance):
    """Subclass it, give the ``name``, and implement `write`, unless the name is ``llama``."""

    kind = "architecture"

    def write(self, write_model: Callable[..., Path]) -> Path:
        """Write a tiny model, ``write_model(metadata={"general.architecture": …}, tensors={…})``; return its path."""
        if self.name != "llama":
            pytest.skip("implement `write` to write a tiny model of this architecture")
        return write_model()

    def test_evaluation_is_finite(self, write_model: Any) -> None:
        """The graph of the tiny model has finite hidden states and logits in float64."""
        self.check(self.build(self.open(write_model)), self.open(write_model))

    def test_every_tensor_is_used(self, write_model: Any) -> None:
        """The graph uses every tensor of the file, and no others."""
        model = self.open(write_model)
        used = tensor_names(self.build(model))
        unknown, unused = used - set(model.tensors), set(model.tensors) - used - {"rope_freqs.weight"}
        assert not unknown, f"the graph uses {min(unknown)}, which is not in the file"
        assert not unused, f"the file contains {min(unused)}, which the graph does not use"

    def test_causal_graphs_do_not_look_ahead(self, write_model: Any) -> None:
        """The hidden states of a token do not depend on later tokens, unless the graph says that it is not causal."""
        model = self.open(write_model)
        graph = self.build(model)
        if not graph.causal:
            pytest.skip("the graph is not causal")
        read = read_weights(model, self.registry("quant"))
        whole, part = (evaluate(graph, TOKENS[:n], read)[0] for n in (len(TOKENS), 4))
        np.testing.assert_allclose(whole[:4], part, err_msg="hidden states depend on later tokens")

    def test_damaged_tensors_are_a_model_error(self, write_model: Any) -> None:
        """A tensor that is missing or has another shape is a ModelError."""
        model = self.open(write_model)
        names = tensor_names(self.build(model))
        assert names, "the graph has no tensors"

        for name in sorted(names):
            tensor = model.tensors[name]
            others = {other: value for other, value in model.tensors.items() if other != name}
            narrower = replace(tensor, shape=(*tensor.shape[:-1], tensor.shape[-1] - 1))
            flatter = replace(tensor, shape=tensor.shape[:-1])
            deeper = replace(tensor, shape=(*tensor.shape, 2))
            for damage, tensors in (
                ("is missing", others),
                ("is one column short", others | {name: narrower}),
                ("has one dimension less", others | {name: flatter}),
                ("has one more dimension", others | {name: deeper}),
            ):
                damaged = replace(model, tensors=MappingProxyType(tensors))
                self.check_damaged(damaged, f"{name} {damage}", tensor=name)

    def test_invalid_metadata_is_a_model_error(self, write_model: Any) -> None:
        """Missing or invalid metadata is a ModelError, or the graph can still be evaluated."""
        model = self.open(write_model)
        keys = [key for key in model.metadata if key.startswith(f"{self.name}.")]
        assert keys, f"the file has no metadata keys that begin with '{self.name}.'"
        for key in keys:
            for value in INVALID_VALUES:
                metadata = {other: known for other, known in model.metadata.items() if other != key}
                metadata |= {} if value is None else {key: value}
                damage = f"{key} is missing" if value is None else f"{key} is {value!r}"
                self.check_damaged(replace(model, metadata=MappingProxyType(metadata)), damage)

    async def test_server_runs_it(self, serve: Any, write_model: Any) -> None:
        """A server loads the tiny model and generates, or embeds if the model has no logits."""
        can_generate = self.build(self.open(write_model)).logits is not None
        async with serve(model=self.write(write_model), plugin=self.plugins, backend="numba", threads=1) as client:
            if not can_generate:
                response = await client.post("/embedding", json={"content": [[70, 75, 80], [70]]})
                assert response.status_code == 200, response.text
                assert len(response.json()) == 2
                return
            body = {"prompt": [70, 75, 80], "n_predict": 4, "n_probs": 1, "ignore_eos": True, "temperature": 0}
            response = await client.post("/completion", json=body)
            assert response.status_code == 200, response.text
            assert len(response.json()["completion_probabilities"]) == 4

    # --- helpers

    def open(self, write_model: Any) -> Model:
        """Open the tiny model."""
        return read_gguf(self.write(write_model), self.registry("quant"))

    def build(self, model: Model) -> Graph:
        """Return the architecture's graph of a model."""
        architecture: Architecture = self.registered()
        return architecture(model)

    def evaluate(self, model: Model, tokens: Sequence[int]) -> tuple[Doubles, Doubles | None]:
        """Return the hidden states and the logits of a text in float64, to compare them with another implementation.

        Parameters
        ----------
        model : Model
            The model, from `open`.
        tokens : sequence of int
            The text's tokens, ``(n_tokens,)``.

        Returns
        -------
        hidden : (n_tokens, n_embd) float64
            The hidden states.
        logits : (n_tokens, n_vocab) float64, or None
            The logits, if the model has them.
        """
        return evaluate(self.build(model), tokens, read_weights(model, self.registry("quant")))

    def check_damaged(self, model: Model, damage: str, tensor: str = "") -> None:
        """Fail unless a damaged model is a ModelError, or its graph can be evaluated without the damaged ``tensor``."""
        try:
            graph = self.build(model)
        except ModelError:
            return
        except Exception as error:
            raise AssertionError(f"{damage}: it raises {error!r}, not ModelError") from error
        is_used = tensor in tensor_names(graph)
        assert not is_used, f"{damage}: there is no ModelError, and the graph still uses {tensor}"
        self.check(graph, model, f"{damage}: ")

    def check(self, graph: Graph, model: Model, prefix: str = "") -> None:
        """Fail unless the graph's hidden states and logits are finite; ``prefix`` begins the message."""
        assert isinstance(graph, Graph), f"{prefix}it returned {graph!r:.80}, not a Graph"
        n_ctx = graph.n_ctx_train
        assert isinstance(n_ctx, int), f"{prefix}n_ctx_train is {n_ctx!r}, expected an integer"
        assert 0 < n_ctx < 2**31, f"{prefix}n_ctx_train is {n_ctx}, expected 1 to 2**31 - 1"
        hidden, logits = evaluate(graph, TOKENS, read_weights(model, self.registry("quant")))
        assert np.isfinite(hidden).all(), f"{prefix}hidden states are infinite or not a number"
        assert logits is None or np.isfinite(logits).all(), f"{prefix}logits are infinite or not a number"


def tensor_names(graph: Graph) -> set[str]:
    """Return the names of the tensors that a graph uses."""
    fields = (getattr(value, name) for value in graph for name in operand_names(type(value)))
    return {field.name for field in fields if isinstance(field, Weight)}
