"""A model that ``--requantize`` rounds computes the same as a file of that type."""

from __future__ import annotations

import gc
import weakref
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from llamafw import Backend, BackendOptions, Model, ModelError, PluginError, Settings, SettingsError
from llamafw.cli.main import main
from llamafw.engine.components import build_graph, make_backend, make_context
from llamafw.engine.fingerprint import fingerprint
from llamafw.engine.load import load_model, open_model
from llamafw.engine.start_checks import check_names
from llamafw.models.requantize import RequantizedTensor, requantize
from llamafw.plugins import Plugins
from llamafw.testing.batches import logits
from llamafw.testing.tiny import write_tiny_gguf

PLUGINS = Plugins()
TOKENS = [5, 9, 200, 31, 7, 7, 64]


def rounded_model(path: Path, type_name: str | None, plugins: Plugins = PLUGINS) -> Model:
    settings = Settings(model=str(path), requantize=type_name, threads=1)
    model = open_model(path, settings, plugins)
    return requantize(model, build_graph(model, plugins), settings, plugins.registry("quant"), lambda line: None)


def open_backend(path: Path, type_name: str | None, plugins: Plugins = PLUGINS) -> Backend:
    model = rounded_model(path, type_name, plugins)
    settings = Settings(parallel=1, threads=1)
    return make_backend(
        "numba", make_context(model, build_graph(model, plugins), settings, plugins, lambda line: None), plugins
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("type_name", ["Q8_0", "F16"])
def test_logits_are_those_of_a_file_of_the_type(tmp_path: Path, type_name: str, tied: bool) -> None:
    """The writer of the tests rounds the same weights with the `gguf` package."""
    source = write_tiny_gguf(tmp_path / "source.gguf", tied=tied)
    rounded = write_tiny_gguf(tmp_path / "rounded.gguf", types=type_name, tied=tied)
    with closing(open_backend(source, type_name)) as one, closing(open_backend(rounded, None)) as other:
        np.testing.assert_array_equal(logits(one, TOKENS), logits(other, TOKENS))
    with closing(open_backend(source, None)) as one, closing(open_backend(source, type_name)) as other:
        assert (logits(one, TOKENS) != logits(other, TOKENS)).any()


@pytest.mark.parametrize("type_name", ["q6_k", "q4_k", "iq4_nl"])
def test_logits_are_those_of_a_file_with_the_rounded_weights(tmp_path: Path, type_name: str) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", n_embd=256, n_ff=512)
    model = rounded_model(path, type_name)
    weights = {}
    for name, tensor in model.tensors.items():
        if isinstance(tensor, RequantizedTensor):
            blocks = tensor.data.reshape(*tensor.shape[:-1], -1)
            weights[name] = dequantize(blocks, GGMLQuantizationType[tensor.type_name])
    assert len(weights) == 15
    other = write_tiny_gguf(tmp_path / "rounded.gguf", n_embd=256, n_ff=512, tensors=weights)

    with closing(open_backend(path, type_name)) as one, closing(open_backend(other, None)) as exact:
        found, expected = logits(one, TOKENS), logits(exact, TOKENS)
    assert np.abs(found - expected).max() < 0.01 * expected.std()


def test_backend_keeps_no_rounded_matrix_but_the_embedding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays: dict[str, weakref.ref[Any]] = {}
    round_tensor = RequantizedTensor._compute

    def remembered(tensor: RequantizedTensor) -> Any:
        assert tensor.name not in arrays, "it was rounded twice"
        data = round_tensor(tensor)
        arrays[tensor.name] = weakref.ref(data)
        return data

    monkeypatch.setattr(RequantizedTensor, "_compute", remembered)
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    with closing(open_backend(path, "q8_0")):
        gc.collect()
        assert len(arrays) == 15  # 7 in each layer, and the embedding
        assert [name for name, array in arrays.items() if array() is not None] == ["token_embd.weight"]


def test_fingerprint_depends_on_the_type(tmp_path: Path) -> None:
    def state_id(path: Path, type_name: str | None) -> bytes:
        model = rounded_model(path, type_name)
        return fingerprint(model, build_graph(model, PLUGINS), BackendOptions(), "numba", "numba-1")

    path, other = write_tiny_gguf(tmp_path / "a.gguf"), write_tiny_gguf(tmp_path / "b.gguf", seed=1)
    ids = [state_id(path, None), state_id(path, "q8_0"), state_id(path, "q4_0"), state_id(other, "q8_0")]
    assert len(set(ids)) == 4
    assert state_id(path, "Q8_0") == ids[1]


def test_error_of_a_tensor_ends_loading(tmp_path: Path) -> None:
    path = write_tiny_gguf(
        tmp_path / "tiny.gguf", tensors={"blk.1.ffn_up.weight": np.full((128, 64), np.nan, np.float32)}
    )
    settings = Settings(model=str(path), requantize="q8_0", parallel=1, threads=1)
    with pytest.raises(
        ModelError, match=r"tiny.gguf: the tensor 'blk.1.ffn_up.weight' has weights that are not finite"
    ):
        load_model(path, settings, Plugins(), lambda line: None)


class BadType:
    """A tensor type that returns too few blocks."""

    name, type_id, block_size, type_size = "BAD", 0x424144, 32, 32

    def dequantize(self, data: Any, shape: Any) -> Any:
        return data.astype(np.float32).reshape(shape)

    def quantize(self, values: Any, importance: Any = None) -> Any:
        return np.zeros((1, 1), np.uint8)


def test_result_of_the_wrong_size_is_a_plugin_error(tmp_path: Path) -> None:
    plugins = Plugins()
    plugins.registry("quant").add("BAD", BadType(), owner="bad")
    with pytest.raises(PluginError, match="the tensor type 'BAD' returned"):
        open_backend(write_tiny_gguf(tmp_path / "tiny.gguf", tied=False), "bad", plugins)


def test_type_is_checked_before_the_server_listens() -> None:
    check_names(Settings(requantize="q4_k"), PLUGINS)
    with pytest.raises(SettingsError, match="^--requantize: weights cannot be rounded to IQ1_S"):
        check_names(Settings(requantize="iq1_s"), PLUGINS)


def test_step_shows_the_rounded_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert main(["graph", str(path), "--step", "--requantize", "q4_0"]) == 0
    printed = capsys.readouterr()
    assert "matrix blk.0.attn_output.weight Q4_0" in printed.out
    assert "matrix token_embd.weight Q8_0" in printed.out
    assert "--requantize Q4_0: matrices are rounded from F32 to Q4_0 ×14, F32 to Q8_0" in printed.err
    assert main(["graph", str(path), "--requantize", "q4_0"]) == 2
    assert "--requantize: add --step" in capsys.readouterr().err


def test_bench_measures_the_rounded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    assert main(["bench", "-m", str(path), "--requantize", "q8_0", "-p", "4", "-n", "0", "-r", "1", "--json"]) == 0
    printed = capsys.readouterr()
    assert '"model": "tiny.gguf as Q8_0"' in printed.out
    assert "F32 to Q8_0 ×15" in printed.err
