"""The suite for architectures names the rule that an architecture breaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llamafw import Model
from llamafw import graph as g
from llamafw.testing.conformance import ArchitectureConformance
from llamafw_plugins.architectures.llama import llama
from support.conformance import assert_fails, suite


def architecture(function: Any) -> Any:
    return suite(ArchitectureConformance, function, name="llama")


@dataclass(frozen=True, slots=True, eq=False)
class NextToken(g.Value):
    """The row of the token after this one."""

    x: g.Value

    def infer_shape(self) -> g.Shape:
        return self.x.shape

    def evaluate(self, inputs: Mapping[str, Any], run: g.Evaluation) -> g.Array:
        return np.roll(inputs["x"], -1, 0)


def changed(model: Model, **fields: Any) -> g.Graph:
    return replace(llama(model), **fields)


def test_infinite_logits_are_reported(write_model: Any) -> None:
    made = architecture(lambda model: changed(model, logits=llama(model).hidden * float("inf")))
    assert_fails(made.test_evaluation_is_finite, "logits are infinite or not a number", write_model)


def test_other_objects_than_graphs_are_reported(write_model: Any) -> None:
    made = architecture(lambda model: "a graph")
    assert_fails(made.test_evaluation_is_finite, "'a graph', not a Graph", write_model)


def test_invalid_context_is_reported(write_model: Any) -> None:
    made = architecture(lambda model: changed(model, n_ctx_train=0))
    assert_fails(made.test_evaluation_is_finite, "n_ctx_train is 0", write_model)


def test_unknown_tensor_is_reported(write_model: Any) -> None:
    def build(model: Model) -> g.Graph:
        hidden = llama(model).hidden
        return changed(model, logits=g.Linear(hidden, g.Weight("nowhere", (5, *hidden.shape))))

    message = "the graph uses nowhere, which is not in the file"
    assert_fails(architecture(build).test_every_tensor_is_used, message, write_model)


def test_unused_tensors_are_reported(write_model: Any) -> None:
    def build(model: Model) -> g.Graph:
        embedding = g.embedding(g.TOKENS, g.Parameters.of(model)["token_embd"])
        return g.Graph(embedding, None, 64)

    message = "the file contains blk.0.attn_k.weight, which the graph does not use"
    assert_fails(architecture(build).test_every_tensor_is_used, message, write_model)


def test_dependence_on_later_tokens_is_reported(write_model: Any) -> None:
    made = architecture(lambda model: changed(model, hidden=NextToken(llama(model).hidden)))
    assert_fails(made.test_causal_graphs_do_not_look_ahead, "depend on later tokens", write_model)


def test_ignored_damage_is_reported(write_model: Any) -> None:
    graph = llama(architecture(llama).open(write_model))
    made = architecture(lambda model: graph)
    assert_fails(made.test_damaged_tensors_are_a_model_error, "the graph still uses", write_model)
    made = architecture(lambda model: changed(model, n_ctx_train=model.metadata["llama.block_count"]))
    assert_fails(made.test_invalid_metadata_is_a_model_error, "KeyError|n_ctx_train", write_model)
