"""Graphs of tiny checkpoints in float64 against the logits that other implementations compute for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import Checkpoint, all_checkpoints, golden, golden_path, write
from llamafw import Model
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins

CHECKPOINTS = list(all_checkpoints())
TEXTS = [pytest.param(one, i, id=f"{one.name}-{n}") for one in CHECKPOINTS for i, n in enumerate(one.lengths)]

Open = Callable[[Checkpoint], tuple[Model, g.Graph]]


@pytest.fixture(scope="module")
def open_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Return a function that writes a checkpoint, opens it and builds its graph."""
    plugins, folder = Plugins(), tmp_path_factory.mktemp("checkpoints")

    @cache
    def open_by_name(name: str) -> tuple[Model, g.Graph]:
        (checkpoint,) = [one for one in CHECKPOINTS if one.name == name]
        model = read_gguf(write(checkpoint, Path(folder / f"{name}.gguf")), plugins.registry("quant"))
        return model, plugins.registry("architecture")[checkpoint.architecture](model)

    return lambda checkpoint: open_by_name(checkpoint.name)


@pytest.mark.parametrize(("checkpoint", "text"), TEXTS)
def test_logits_match_another_implementation(open_checkpoint: Open, checkpoint: Checkpoint, text: int) -> None:
    model, graph = open_checkpoint(checkpoint)
    expected = golden(checkpoint.name)[text]
    _, logits = g.evaluate(graph, expected.tokens.tolist(), g.read_weights(model, Plugins().registry("quant")))
    assert logits is not None
    assert len(expected.tokens) == checkpoint.lengths[text]
    np.testing.assert_allclose(logits[-len(expected.logits) :], expected.logits, rtol=0, atol=checkpoint.tolerance)


def test_every_golden_file_has_a_checkpoint() -> None:
    stored = {path.name for path in golden_path("").parent.glob("*.npz")}
    assert stored == {f"{one.name}.npz" for one in CHECKPOINTS}
