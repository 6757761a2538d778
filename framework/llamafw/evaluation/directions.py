"""Find the directions in which hidden states of two kinds of prompts differ: the numbers of a control vector.

A model is changed so that its hidden state is the outputs of all its layers, one after the other. Every backend can run
such a model, so the directions are those of the model as it runs otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llamafw import graph as g
from llamafw.errors import ModelError
from llamafw.graph import Graph, LayerOutput
from llamafw.interfaces import Backend
from llamafw.types import Batch, Floats, Ints

Method = Literal["pca", "mean"]
Doubles = npt.NDArray[np.float64]


def observe_layers(graph: Graph) -> tuple[Graph, list[int]]:
    """Return a graph whose hidden states are the outputs of layers, one after the other, and the layers.

    The first layer, 0, is not among them: files of control vectors have no direction for it.

    Raises
    ------
    ModelError
        The model has only one layer.
    """
    outputs = [value for value in graph if isinstance(value, LayerOutput) and value.layer > 0]
    if not outputs:
        raise ModelError("the model has only one layer; control vectors begin with the second")
    return Graph(g.concat(*outputs), None, graph.n_ctx_train), [output.layer for output in outputs]


def last_states(backend: Backend, prompt: Ints) -> Floats:
    """Return the hidden state of the last token of a prompt, ``(n_embd,)`` float32; slot 0 is used."""
    backend.truncate(0, 0)
    n_batch = len(prompt) if backend.whole_texts else backend.n_batch
    rows: Floats = np.empty((0, backend.n_embd), np.float32)
    for start in range(0, len(prompt), n_batch):
        tokens = prompt[start : start + n_batch]
        positions = np.arange(start, start + len(tokens), dtype=np.int32)
        last = np.array([len(tokens) - 1], np.int32)
        rows = backend.hidden(Batch(tokens, positions, np.zeros(len(tokens), np.int32), last))
    last_row: Floats = rows[0].copy()
    return last_row


def find_directions(
    layers: Iterable[int], positive: npt.NDArray[Any], negative: npt.NDArray[Any], method: Method
) -> Mapping[int, Floats]:
    """Return a direction of length 1 for each layer.

    Parameters
    ----------
    layers : iterable of int
        The layers.
    positive, negative : (n_pairs, n_layers · n_embd) array
        The outputs of the layers after both prompts of each pair.
    method : {"pca", "mean"}
        The first principal component of the differences (without centring, as llama.cpp does), or their mean. The
        component points to where the positive prompts are.

    Raises
    ------
    ModelError
        The prompts of all pairs have the same outputs, or an output is not finite.
    """
    layers = list(layers)
    differences = (positive.astype(np.float64) - negative).reshape(len(positive), len(layers), -1)
    if not np.isfinite(differences).all():
        raise ModelError("an output of a layer is not finite")
    directions = {}
    for i, layer in enumerate(layers):
        mean = differences[:, i].mean(0)
        direction = _principal(differences[:, i]) if method == "pca" else mean
        size = np.linalg.norm(direction)
        if not size or not differences[:, i].any():
            raise ModelError(f"the outputs of layer {layer} do not differ between positive and negative prompts")
        sign = -1.0 if direction @ mean < 0 else 1.0
        directions[layer] = (sign / size * direction).astype(np.float32)
    return directions


def _principal(differences: Doubles) -> Doubles:
    """Return the direction in which the sum of the squares of ``(n, n_embd)`` differences is largest."""
    _, _, components = np.linalg.svd(differences, full_matrices=False)
    first: Doubles = components[0]
    return first
