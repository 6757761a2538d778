"""Lowers models for ONNX Runtime, and compares ragged batches with float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llamafw import BackendContext, BackendOptions
from llamafw import graph as g
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing.batches import batch
from llamafw_backends.onnx.backend import OnnxBackend, lower
from llamafw_backends.onnx.lowering import Lowering
from llamafw_backends.onnx.support import Support

N_SLOTS, N_CTX, N_UBATCH = 4, 300, 32
TEXTS = [[(7 * i * i + 3 * i + slot) % 300 for i in range(60)] for slot in range(N_SLOTS)]
STEPS = [  # how many tokens of each slot are in a batch
    [5, 1, 0, 0],
    [1, 0, 0, 12],
    [0, 17, 0, 1],
    [1, 1, 0, 1],
    [31, 1, 0, 0],
    [1, 20, 0, 8],
    [1, 0, 0, 1],
]
PLUGINS = Plugins()
F32: dict[str, Any] = {"cache_type_k": "f32", "cache_type_v": "f32"}


def open_context(path: Path, build: Callable[[Any], g.Graph] | None = None, **options: Any) -> BackendContext:
    """Return the argument of the backend's factory; ``build`` makes the graph, by default the architecture."""
    quants = PLUGINS.registry("quant")
    model = read_gguf(path, quants, ())
    build = build or PLUGINS.registry("architecture")[model.metadata["general.architecture"]]
    options["extra"] = {"onnx_provider": "cpu"} | options.get("extra", {})
    given = {"n_slots": N_SLOTS, "n_ctx": N_CTX, "n_ubatch": N_UBATCH} | options
    return BackendContext(model, build(model), BackendOptions(**given), quants, print)


def make_lowering(context: BackendContext, support: Support | None = None) -> Lowering:
    """Lower a model for the CPU, or for another provider."""
    return lower(context, support or Support([("CPUExecutionProvider", {})], np.dtype(np.float32)), N_CTX)


def kinds(lowering: Lowering) -> list[str]:
    """Return the kinds of all nodes."""
    return [node.op_type for node in lowering.builder.nodes]


def evaluate(context: BackendContext, text: list[int], n_ctx: int = N_CTX) -> g.Array:
    """Return the logits of a text in float64."""
    assert context.graph.logits is not None
    evaluator = g.Evaluator(context.graph, g.read_weights(context.model, context.quants))
    return evaluator(text, g.TextState(context.graph, n_ctx), context.graph.logits)[0]


def worst_error(context: BackendContext) -> float:
    """Return the largest error of the logits of a ragged batch, as a part of the largest logit."""
    expected = [evaluate(context, text) for text in TEXTS]
    backend, ends = OnnxBackend(context), [0] * N_SLOTS
    errors = []
    for sizes in STEPS:
        runs = [(slot, ends[slot], TEXTS[slot][ends[slot] : ends[slot] + n]) for slot, n in enumerate(sizes) if n]
        rows = np.split(backend.forward(batch(*runs)), np.cumsum([len(run) for _, _, run in runs])[:-1])
        for (slot, first, run), actual in zip(runs, rows, strict=True):
            errors.append(np.abs(actual - expected[slot][first : first + len(run)]).max())
            ends[slot] += len(run)
    backend.close()
    assert ends == [40, 40, 0, 23]
    return float(max(errors) / max(np.abs(array).max() for array in expected))


class NoSupport(Support):
    """A provider that runs standard operators only."""

    def runs(self, name: str, make: Any) -> bool:
        return False


class GpuLike(Support):
    """The CPU, with the nodes that a GPU would get."""

    is_cpu = False
