"""Models with folded matrices compute what the plain models compute; unknown metadata are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import Checkpoint, all_checkpoints, tensors
from llamafw import BackendContext, BackendOptions, Model, ModelError
from llamafw import graph as g
from llamafw.engine.components import build_graph
from llamafw.models.gguf import read_gguf
from llamafw.plugins import Plugins
from llamafw.testing import vocabularies
from llamafw.testing.batches import logits
from llamafw.testing.gguf_file import write_gguf
from llamafw_backends.custom_quant.hadamard import Hadamard
from llamafw_backends.numba_cpu.backend import NumbaBackend
from support import ternary

CHECKPOINTS = {one.name: one for one in all_checkpoints()}
GROUPS = (2, 3)  # of the heads of qwen35's values
FOLDED = ("qwen3", "qwen3-yarn", "qwen35", "qwen35-mtp-tied", "qwen3moe", "qwen35moe", "llama")
TOKENS = [(7 * i * i + 3 * i + 1) % 100 for i in range(20)]
PLUGINS = Plugins()

Keys = Mapping[str, Any]


def groups_of(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """Return the groups and the heads in each group of the values of ``ssm_out``, if the checkpoint has one."""
    if checkpoint.architecture not in ("qwen35", "qwen35moe"):
        return None
    n_groups = checkpoint.key("ssm.group_count")
    return n_groups, checkpoint.key("ssm.time_step_rank") // n_groups


def write(path: Path, checkpoint: Checkpoint, arrays: Mapping[str, Any], keys: Keys) -> Model:
    """Write a model with float32 tensors, and open it."""
    metadata = {**vocabularies.gpt2(checkpoint.shapes["token_embd.weight"][0]), **checkpoint.metadata, **keys}
    made = {name: (np.ascontiguousarray(array, np.float32), "F32") for name, array in arrays.items()}
    write_gguf(path, checkpoint.architecture, metadata, made)
    return read_gguf(path, PLUGINS.registry("quant"), ())


def evaluate(graph: g.Graph, arrays: Mapping[str, Any]) -> Any:
    """Return the logits in float64."""
    _, rows = g.evaluate(graph, TOKENS, arrays.__getitem__)
    return rows


@pytest.fixture
def folded(tmp_path: Path) -> Callable[..., Model]:
    """Return a function that writes the checkpoint qwen35 with other keys."""
    checkpoint = CHECKPOINTS["qwen35"]
    arrays, keys = ternary.fold(tensors(checkpoint), 32, groups=GROUPS)

    def written(changes: Keys, without: tuple[str, ...] = ()) -> Model:
        changed = keys | {f"prism.{name}": value for name, value in changes.items()}
        kept = {name: array for name, array in arrays.items() if name not in without}
        return write(tmp_path / "folded.gguf", checkpoint, kept, changed)

    return written


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("name", FOLDED)
def test_folded_models_have_the_logits_of_plain_ones(name: str, explicit: bool, tmp_path: Path) -> None:
    """In float64, and with rounded weights in the Numba backend."""
    checkpoint = CHECKPOINTS[name]
    plain = tensors(checkpoint)
    expected = evaluate(build_graph(write(tmp_path / "plain.gguf", checkpoint, plain, {}), PLUGINS), plain)

    arrays, keys = ternary.fold(plain, 32, groups=groups_of(checkpoint), explicit=explicit)
    model = write(tmp_path / "folded.gguf", checkpoint, arrays, keys)
    graph = build_graph(model, PLUGINS)
    found = evaluate(graph, arrays)
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.abs(expected).max())

    options = BackendOptions(n_ctx=64, n_slots=1, n_threads=2, cache_type_k="f32", cache_type_v="f32")
    operators = PLUGINS.registry("operator")
    backend = NumbaBackend(BackendContext(model, graph, options, PLUGINS.registry("quant"), operators=operators))
    try:
        whole = logits(backend, TOKENS)
        assert np.abs(whole - expected).max() < 1e-4 * np.abs(expected).max()
        np.testing.assert_array_equal(logits(backend, TOKENS, [3, 1, 16]), whole)
    finally:
        backend.close()


def test_rotated_values_are_shared(folded: Callable[..., Model]) -> None:
    """Each layer has four: the inputs of the mixer, of its output, of the feed-forward block, and of its output."""
    graph = build_graph(folded({}), PLUGINS)
    assert sum(isinstance(value, Hadamard) for value in graph) == 8 * 4 + 2  # and the embedding and the last norm
    assert re.search(r"Hadamard\(%\d+, signs=\[.* 96 numbers, hash \w+\], inverse=False\)", g.as_text(graph))


def test_alpha_and_beta_read_unrotated_values(folded: Callable[..., Model]) -> None:
    graph, n = build_graph(folded({}), PLUGINS), 0
    for value in graph:
        if isinstance(value, g.Linear) and ("ssm_alpha" in value.weight.name or "ssm_beta" in value.weight.name):
            assert isinstance(value.x, g.RMSNorm)
            n += 1
    assert n == 12


def test_files_without_the_keys_are_not_changed(tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS["qwen3"]
    graph = build_graph(write(tmp_path / "plain.gguf", checkpoint, tensors(checkpoint), {}), PLUGINS)
    assert not any(isinstance(value, Hadamard) for value in graph)


@pytest.mark.parametrize("key", ["version", "block_size", "transform", "axis", "sign_mode", "weight_names"])
def test_each_key_is_needed(key: str, folded: Callable[..., Model]) -> None:
    with pytest.raises(ModelError, match=rf"folded\.gguf: prism\.hadamard\.{key} is missing"):
        build_graph(folded({f"hadamard.{key}": None}), PLUGINS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hadamard.version": 3}, "version is 3; it must be 1 or 2"),
        ({"hadamard.version": True}, "version is True; it must be 1 or 2"),
        ({"hadamard.version": 2}, "tied_output is False, which version 2 cannot have"),
        ({"hadamard.tied_output": True}, "tied_output is True, which version 1 cannot have"),
        ({"hadamard.version": 2, "hadamard.tied_output": True}, "tied_output is true, but the file has output.weight"),
        ({"hadamard.block_size": 24}, "block_size is 24; it must be a power of two"),
        ({"hadamard.block_size": 64}, "block_size is 64, but .* has 96 columns"),
        ({"hadamard.transform": "walsh"}, "transform is 'walsh'; it must be normalized-sylvester-walsh-hadamard"),
        ({"hadamard.axis": "output"}, "axis is 'output'; it must be input-last-dimension"),
        ({"hadamard.sign_mode": "random"}, "sign_mode is 'random'; it must be identity or explicit"),
        ({"hadamard.sign_mode": "identity"}, "sign_widths is present, but sign_mode is identity"),
        ({"hadamard.sign_widths": None}, "sign_widths is missing or not an array of whole numbers"),
        ({"hadamard.sign_values": None}, "sign_values is missing or not an array of whole numbers"),
        ({"hadamard.sign_widths": [64, 96, 64]}, "sign_widths is .*; it must have different multiples of 32"),
        ({"hadamard.sign_widths": [64, 224]}, "sign_widths has no signs for rows of 96 numbers"),
        ({"hadamard.sign_widths": [64, 96, 100]}, "sign_widths is .*; it must have different multiples of 32"),
        ({"hadamard.sign_values": [1] * 287 + [2]}, "sign_values must have 288 numbers that are 1 or -1"),
        ({"hadamard.sign_values": [1] * 287}, "sign_values must have 288 numbers that are 1 or -1"),
        ({"hadamard.weight_names": ["blk.0.ssm_alpha.weight"]}, "'blk.0.ssm_alpha.weight', which is not a matrix"),
        ({"hadamard.weight_names": ["token_embd.weight"]}, "'token_embd.weight', which is not a matrix"),
        ({"hadamard.weight_names": ["output.weight"] * 2}, "weight_names has a name twice"),
        ({"hadamard.weight_names": "output.weight"}, "weight_names is not an array of strings"),
        ({"hadamard.weight_names": ["blk.9.ffn_up.weight"]}, "folded tensor 'blk.9.ffn_up.weight' is not in the file"),
        ({"hadamard.inverse_weight_names": ["output.weight"]}, "inverse_weight_names has 'output.weight'; only"),
        ({"hadamard.gdn_v_grouped": 1}, "gdn_v_grouped is 1; it must be true or false"),
        ({"hadamard.seed": 7}, "the metadata key prism.hadamard.seed is not known"),
        ({"rotation": "new"}, "the metadata key prism.rotation is not known"),
    ],
)
def test_unknown_values_are_refused(changes: Keys, message: str, folded: Callable[..., Model]) -> None:
    with pytest.raises(ModelError, match=rf"folded\.gguf: .*{message}"):
        build_graph(folded(changes), PLUGINS)


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS["qwen2"]
    arrays, keys = ternary.fold(tensors(checkpoint), 32)
    with pytest.raises(ModelError, match="not supported for the architecture 'qwen2'"):
        build_graph(write(tmp_path / "folded.gguf", checkpoint, arrays, keys), PLUGINS)


def test_groups_of_other_architectures_are_refused(tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS["qwen3"]
    arrays, keys = ternary.fold(tensors(checkpoint), 32)
    keys["prism.hadamard.gdn_v_grouped"] = True
    with pytest.raises(ModelError, match="gdn_v_grouped is true, which is not supported for the architecture qwen3"):
        build_graph(write(tmp_path / "folded.gguf", checkpoint, arrays, keys), PLUGINS)


def test_folded_embedding_cannot_be_an_unfolded_head(folded: Callable[..., Model]) -> None:
    """Version 1 cannot say how the head of a model with tied embeddings is folded."""
    keys = ternary.fold(tensors(CHECKPOINTS["qwen35"]), 32, groups=GROUPS)[1]
    names = [name for name in keys["prism.hadamard.weight_names"] if name != "output.weight"]
    model = folded({"hadamard.weight_names": names}, without=("output.weight",))
    with pytest.raises(ModelError, match=r"folded\.gguf: .* 'token_embd.weight' cannot be used by Linear"):
        build_graph(model, PLUGINS)
