"""Find out what adapters can change, and merge them into the weights of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llamafw import BackendContext, Floats
from llamafw import graph as g
from llamafw.models.adapters import adapt_model, read_lora
from llamafw.testing.adapters import Arrays, random_factors, write_lora

NAMES = [
    "llama",  # adjacent rotary pairs: the rows of queries and keys are reordered
    "qwen3",  # norms of heads
    "phi3",  # fused tensors
    "gpt2",  # biases, learned positions
    "olmoe",  # experts
    "deepseek2-v3",  # one matrix per head, experts in groups
    "gemma3",  # windows
    "qwen35",  # gated delta net
    "falcon-h1",  # Mamba-2 beside attention
    "bert",  # an encoder
]
"""Checkpoints with which backends are tested."""

OPTIONS: dict[str, Any] = {"n_ctx": 128, "cache_type_k": "f32", "cache_type_v": "f32", "n_slots": 3}
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(40)]
STRENGTHS = (0.0, 0.0), (0.7, 0.0), (-0.4, 1.1)  # of two adapters, by slot
TOLERANCE = 1e-4  # relative to the largest number: sums are float32, in another order


def matrices_of(graph: g.Graph, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the names of the tensors of a model that LoRA adapters can change."""
    products = (value.weight.name for value in graph if isinstance(value, g.Linear | g.ExpertLinear))
    names = dict.fromkeys(["token_embd.weight", *products])
    return [name for name in names if len(shapes[name]) > 1]


def merged(
    weights: Mapping[str, npt.NDArray[Any]], factors: Arrays, scale: float
) -> dict[str, npt.NDArray[np.float64]]:
    """Return weights with ``scale · B A`` added, in float64.

    The output matrix is added as ``output.weight`` if only the embedding matrix has been there.
    """
    result = {name: np.asarray(weight, np.float64) for name, weight in weights.items()}
    for name in (one.removesuffix(".lora_a") for one in factors if one.endswith(".lora_a")):
        a, b = (factors[f"{name}.lora_{side}"].astype(np.float64) for side in "ab")
        before = result[name] if name in result else np.asarray(weights["token_embd.weight"], np.float64)
        change = scale * (a @ b.T if name == "token_embd.weight" else b @ a)
        factor = weights.get(f"{name.removesuffix('weight')}scale")
        if factor is not None and factor.shape == (1 if change.ndim == 2 else len(change),):
            change = change / factor.reshape(-1, *[1] * (change.ndim - 1))  # it multiplies the product with the weight
        result[name] = before + change
    return result


def adapted(context: BackendContext, folder: Path) -> tuple[BackendContext, Floats]:
    """Return the graph with two adapters, and the scales of the tokens of each slot."""
    shapes = {name: tensor.shape for name, tensor in context.model.tensors.items()}
    names, architecture = matrices_of(context.graph, shapes), context.model.metadata["general.architecture"]
    adapters = []
    for i, (rank, chosen) in enumerate(((3, names), (5, names[::2]))):
        factors = random_factors({name: shapes[name] for name in chosen}, rank, i)
        path = write_lora(folder / f"adapter-{i}.gguf", factors, architecture=architecture)
        adapters.append(read_lora(path, context.model, context.quants, {}))
    adaptation, model = adapt_model(context.model, context.graph, adapters, context.quants)
    rows = [[0.0 if i < 0 else factor * one[i] for i, factor in adaptation.scales] for one in STRENGTHS]
    return replace(context, model=model, graph=adaptation.graph), np.array(rows, np.float32)


def expected(context: BackendContext, scales: Floats) -> g.Array:
    """Return the logits of `TOKENS`, or the hidden states of an encoder, in float64."""
    hidden, logits = g.evaluate(context.graph, TOKENS, g.read_weights(context.model, context.quants), scales=scales)
    return hidden if logits is None else logits
