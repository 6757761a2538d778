"""Graphs of tiny checkpoints in float64 against what other implementations compute for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llamafw.graph as g
from checkpoints import Checkpoint, all_checkpoints, golden, golden_path, has_prediction, prediction_path, write
from llamafw import Model
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from support.golden_results import assert_golden, assert_golden_predictions

CHECKPOINTS = list(all_checkpoints())
PREDICTING = [one for one in CHECKPOINTS if has_prediction(one)]
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
def test_results_match_another_implementation(open_checkpoint: Open, checkpoint: Checkpoint, text: int) -> None:
    model, graph = open_checkpoint(checkpoint)
    expected = golden(checkpoint.name)[text]
    assert len(expected.tokens) == checkpoint.lengths[text]
    assert_golden(checkpoint, model, graph, Plugins().registry("quant"), expected)


@pytest.mark.parametrize("checkpoint", PREDICTING, ids=lambda one: one.name)
def test_predictions_match_another_implementation(open_checkpoint: Open, checkpoint: Checkpoint) -> None:
    model, graph = open_checkpoint(checkpoint)
    assert_golden_predictions(checkpoint, model, graph, Plugins().registry("quant"))


def test_every_golden_file_of_predictions_has_a_checkpoint() -> None:
    stored = {path.name for path in prediction_path("").parent.glob("*.npz")}
    assert stored == {f"{one.name}.npz" for one in PREDICTING}


def test_every_golden_file_has_a_checkpoint() -> None:
    stored = {path.name for path in golden_path("").parent.glob("*.npz")}
    assert stored == {f"{one.name}.npz" for one in CHECKPOINTS}


def test_qwen3_of_the_page_matches_transformers(open_checkpoint: Open) -> None:
    """docs/plugins/architecture.md describes it from nothing."""
    page = (Path(__file__).parents[3] / "docs/plugins/architecture.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n# qwen3.py\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # the code of the page
    (checkpoint,) = [one for one in CHECKPOINTS if one.name == "qwen3"]
    model, _ = open_checkpoint(checkpoint)
    read = g.read_weights(model, Plugins().registry("quant"))
    for expected in golden("qwen3"):
        _, logits = g.evaluate(names["qwen3"](model), expected.tokens.tolist(), read)
        assert logits is not None
        np.testing.assert_allclose(logits[-len(expected.rows) :], expected.rows, rtol=0, atol=1e-8)
