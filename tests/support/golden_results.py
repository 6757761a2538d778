"""What is compared with other implementations: logits, hidden states or scores of a text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

import llamafw.graph as g
from checkpoints import Checkpoint, Golden, golden_prediction, types
from llamafw import Model
from llamafw.engine.rank_head import read_rank_head
from llamafw.interfaces import Quant


def assert_golden(
    checkpoint: Checkpoint, model: Model, graph: g.Graph, quants: Mapping[str, Quant], expected: Golden
) -> None:
    """Fail if the results of a graph in float64 are not those of another implementation."""
    kinds = types(checkpoint, expected.tokens).tolist()
    hidden, logits = g.evaluate(graph, expected.tokens.tolist(), g.read_weights(model, quants), types=kinds)
    rows: npt.NDArray[np.float64] | None = {"logits": logits, "hidden": hidden}.get(checkpoint.output)
    wanted = expected.rows
    if checkpoint.output == "scores":
        head = read_rank_head(model, quants, graph)
        assert head is not None
        state = {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}[head.state]
        rows, wanted = np.array([head.score(state)]), wanted[:1]  # of several scores, the first one counts
    assert rows is not None
    np.testing.assert_allclose(rows[-len(wanted) :], wanted, rtol=0, atol=checkpoint.tolerance)


def assert_golden_predictions(
    checkpoint: Checkpoint, model: Model, graph: g.Graph, quants: Mapping[str, Quant]
) -> None:
    """Fail if the block for multi-token prediction does not compute what another implementation does."""
    read, texts = g.read_weights(model, quants), golden_prediction(checkpoint.name)
    assert len(texts) > 1
    assert graph.prediction is not None
    for text in texts:
        tokens = text.tokens.tolist()
        hidden, _ = g.evaluate(graph, tokens, read)
        _, logits = g.evaluate(graph.prediction, tokens[1:], read, hidden=hidden[:-1])
        assert logits is not None
        np.testing.assert_allclose(logits[-len(text.rows) :], text.rows, rtol=0, atol=checkpoint.tolerance)
