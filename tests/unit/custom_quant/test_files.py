"""Files with ternary tensors are opened and computed, in either type, with and without a rotation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from llamafw import BackendContext, BackendOptions, Floats
from llamafw import graph as g
from llamafw.engine.components import build_graph
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing import vocabularies
from llamafw.testing.batches import logits
from llamafw.testing.gguf_file import add_metadata
from llamafw_backends.custom_quant.types import PQ2_0, PTQ1_0
from llamafw_backends.numba_cpu.backend import NumbaBackend
from support import ternary

N_EMBD, N_FF, N_VOCAB, N_LAYER = 256, 384, 320, 2
METADATA = {
    **vocabularies.gpt2(N_VOCAB),
    "qwen3.block_count": N_LAYER,
    "qwen3.context_length": 256,
    "qwen3.embedding_length": N_EMBD,
    "qwen3.feed_forward_length": N_FF,
    "qwen3.attention.head_count": 4,
    "qwen3.attention.head_count_kv": 2,
    "qwen3.attention.key_length": 64,
    "qwen3.attention.value_length": 64,
    "qwen3.attention.layer_norm_rms_epsilon": 1e-6,
}
SHAPES = {
    "attn_q": (256, N_EMBD),
    "attn_k": (128, N_EMBD),
    "attn_v": (128, N_EMBD),
    "attn_output": (N_EMBD, 256),
    "ffn_gate": (N_FF, N_EMBD),
    "ffn_up": (N_FF, N_EMBD),
    "ffn_down": (N_EMBD, N_FF),
}
NORMS = {"attn_norm": N_EMBD, "ffn_norm": N_EMBD, "attn_q_norm": 64, "attn_k_norm": 64}
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(20)]
PLUGINS = Plugins()
WRITERS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "PQ2_0": (PQ2_0.type_id, ternary.pack_pq2_0),
    "PTQ1_0": (PTQ1_0.type_id, ternary.pack_ptq1_0),
}


def matrices() -> dict[str, tuple[int, int]]:
    """Return the shapes of all matrices."""
    found = {f"blk.{i}.{name}.weight": shape for i in range(N_LAYER) for name, shape in SHAPES.items()}
    return {"token_embd.weight": (N_VOCAB, N_EMBD), "output.weight": (N_VOCAB, N_EMBD), **found}


def write(path: Path, type_name: str, keys: dict[str, Any], number: Any = None) -> Path:
    """Write a model whose matrices have random digits, the same ones in both types; return ``path``.

    ``number`` is that of the type, if the file has another one.
    """
    writer, rng = GGUFWriter(path, "qwen3"), np.random.default_rng(0)
    add_metadata(writer, {**METADATA, **keys})
    type_id, pack = WRITERS[type_name]
    for name, shape in matrices().items():
        codes, scales = ternary.random_codes(rng, shape[0] * shape[1] // ternary.BLOCK, 3)
        # as int8, because the writer looks up the block size of uint8 data among the types of ggml
        writer.add_tensor(name, pack(codes, scales).view(np.int8), raw_shape=shape, raw_dtype=number or type_id)
    for name, n in {f"blk.{i}.{name}": n for i in range(N_LAYER) for name, n in NORMS.items()}.items():
        writer.add_tensor(f"{name}.weight", rng.uniform(0.5, 1.5, n).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(N_EMBD, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rotation_keys(block_size: int) -> dict[str, Any]:
    """Return metadata that rotate the inputs of all matrices, with random signs."""
    arrays = {name: np.zeros((1, shape[1])) for name, shape in matrices().items()}
    return ternary.fold(arrays, block_size)[1]


@pytest.mark.parametrize("keys", [{}, rotation_keys(128)], ids=["plain", "rotated"])
def test_both_types_have_the_logits_of_their_weights(keys: dict[str, Any], tmp_path: Path) -> None:
    results: list[Floats] = []
    for name in WRITERS:
        model = read_gguf(write(tmp_path / f"{name}.gguf", name, keys), PLUGINS.registry("quant"), ())
        assert {tensor.type_name for tensor in model.tensors.values()} == {"F32", name}
        graph = build_graph(model, PLUGINS)
        _, expected = g.evaluate(graph, TOKENS, g.read_weights(model, PLUGINS.registry("quant")))
        assert expected is not None

        lines: list[str] = []
        options = BackendOptions(n_ctx=64, n_slots=1, n_threads=2, cache_type_k="f32", cache_type_v="f32")
        context = BackendContext(
            model, graph, options, PLUGINS.registry("quant"), lines.append, PLUGINS.registry("operator")
        )
        backend = NumbaBackend(context)
        try:
            assert not [line for line in lines if "has no kernel" in line]
            results.append(logits(backend, TOKENS))
            assert np.abs(results[-1] - expected).max() < 1e-3 * np.abs(expected).max()
            np.testing.assert_array_equal(logits(backend, TOKENS, [1, 12, 7]), results[-1])
        finally:
            backend.close()
    np.testing.assert_array_equal(results[0], results[1])


def test_older_files_have_another_number(tmp_path: Path) -> None:
    """The number 42 is that of Q2_0 now; the sizes of tensors tell which of the two a file has."""
    path = write(tmp_path / "model.gguf", "PQ2_0", {}, number=42)
    model = read_gguf(path, PLUGINS.registry("quant"), ())
    assert {tensor.type_name for tensor in model.tensors.values()} == {"F32", "PQ2_0"}


async def test_rotated_ternary_model_is_served(serve: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", "PTQ1_0", rotation_keys(64))
    async with serve(model=path, backend="numba", threads=2) as client:
        response = await client.post("/completion", json={"prompt": "the nation", "n_predict": 4, "temperature": 0})
        assert response.status_code == 200
        assert response.json()["tokens_predicted"] == 4
