"""Prints the table of docs/onnx.md: which nodes the models of each architecture consist of, by provider.

Run it as ``python -m support.onnx_table PROVIDER…`` in the folder of the tests; ``none`` is a provider that has
standard nodes only.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from checkpoints import Checkpoint, all_checkpoints, tensors
from llamafw import BackendContext
from llamafw import graph as g
from llamafw.testing import vocabularies
from llamafw.testing.gguf_file import write_gguf
from llamafw_backends.onnx.placement import support_of
from llamafw_backends.onnx.providers import choose
from llamafw_backends.onnx.support import Support
from support.onnx_nodes import NoSupport, kinds, make_lowering, open_context

COLUMNS = {
    "GroupQueryAttention": (g.Attention,),
    "GatedDeltaNet": (g.LinearAttention, g.SelectiveScan),
    "VarlenCausalConvWithState": (g.Conv,),
    "QMoE": (g.ExpertLinear,),
    "MatMulNBits": (g.Linear,),
}
"""The best nodes of operators that do not become one on every provider."""


def support(provider: str) -> Support:
    """Return what a provider can run; ``none`` runs standard nodes only."""
    if provider == "none":
        return NoSupport([("CPUExecutionProvider", {})], np.dtype(np.float32))
    return support_of(choose(provider))


def open_tiny(checkpoint: Checkpoint, folder: Path) -> BackendContext:
    """Return a model whose matrices are of the type Q4_0."""
    metadata = {**vocabularies.gpt2(checkpoint.shapes["token_embd.weight"][0]), **checkpoint.metadata}
    arrays = {
        name: (array, "Q4_0" if array.ndim > 1 and array.shape[-1] % 32 == 0 else "F32")
        for name, array in tensors(checkpoint).items()
    }
    write_gguf(folder / "model.gguf", checkpoint.architecture, metadata, arrays)
    return open_context(folder / "model.gguf")


def row(context: BackendContext, providers: Mapping[str, Support]) -> list[str]:
    """Return the cells of a model: the providers that use the best node of each column."""
    operators = {type(value) for value in context.graph}
    used = {name: set(kinds(make_lowering(context, found))) for name, found in providers.items()}
    cells = []
    for node, replaced in COLUMNS.items():
        names = [name for name, found in used.items() if node in found]
        cells.append((", ".join(names) or "none") if operators.intersection(replaced) else "")
    return cells


def table(providers: Mapping[str, Support]) -> str:
    """Return the table as Markdown: a row for each architecture, and one for each of its models that differs."""
    rows: dict[tuple[str, ...], list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for one in all_checkpoints():
            cells = row(open_tiny(one, Path(folder)), providers)
            rows.setdefault((one.architecture, *cells), []).append(one.name)
    lines = [f"| Model | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    lines += [f"| {names[0]} | {' | '.join(cells)} |" for (_, *cells), names in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table({name: support(name) for name in sys.argv[1:]}))
