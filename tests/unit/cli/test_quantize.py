"""``llamafw quantize`` writes rounded models, and ``llamafw convert`` checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import load_file, save_file

from checkpoints import all_checkpoints
from checkpoints.folders import write_folder
from llamafw import Model
from llamafw.cli.main import main
from llamafw.engine.load import open_model
from llamafw.models.gguf import read_gguf, read_raw_metadata
from llamafw.models.imatrix import Sums, write_imatrix
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.testing.tiny import write_tiny_gguf

QUANTS = Plugins().registry("quant")
NF2 = """
import numpy as np
from llamafw import hookimpl

class Quarter:
    name, type_id, block_size, type_size = "QUARTER", 0x5151, 1, 1
    def dequantize(self, data, shape):
        return (data.view(np.int8).astype(np.float32) / 4).reshape(shape)
    def quantize(self, values, importance=None):
        return np.rint(values * 4).clip(-127, 127).astype(np.int8).view(np.uint8)

@hookimpl
def register_quants(register): register("QUARTER", Quarter())
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_tiny_gguf(folder / "tiny.gguf", n_embd=256, n_ff=256, n_layer=4, types="BF16", biases=True)


def run(*words: object) -> int:
    return main([str(word) for word in words])


def write_checkpoint(name: str, folder: Path) -> Path:
    (checkpoint,) = [one for one in all_checkpoints() if one.name == name]
    return write_folder(checkpoint, folder)


def read(path: Path) -> Model:
    return read_gguf(path, QUANTS)


def test_tensors_are_rounded_and_metadata_copied(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    assert run("quantize", source, target, "--type", "q4_k_m", "--quiet") == 0
    old, new = read(source), read(target)
    assert list(new.tensors) == list(old.tensors)
    types = {name: tensor.type_name for name, tensor in new.tensors.items()}
    assert types["blk.0.attn_q.weight"] == "Q4_K"
    assert types["token_embd.weight"] == types["blk.3.ffn_down.weight"] == "Q6_K"  # tied; the last layer
    assert types["blk.0.attn_norm.weight"] == types["blk.0.attn_q.bias"] == "F32"

    for name, tensor in new.tensors.items():
        before, quant = old.tensors[name], QUANTS[tensor.type_name]
        assert tensor.shape == before.shape
        weights = QUANTS[before.type_name].dequantize(before.data, before.shape)
        expected = before.data if tensor.type_name == before.type_name else quant.quantize(weights).reshape(-1)
        np.testing.assert_array_equal(tensor.data, expected)
    before_raw, after_raw = read_raw_metadata(source), read_raw_metadata(target)
    assert {key: after_raw[key] for key in before_raw} == before_raw
    assert set(after_raw) - set(before_raw) == {"general.file_type", "general.quantization_version"}
    assert new.metadata["general.file_type"] == 15


def test_types_can_be_named(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "small.gguf"
    flags = ["--tensor-type", "attn_[kv]=q8_0", "--token-embedding-type", "Q5_K", "--pure", "--type", "q4_0"]
    assert run("quantize", source, target, *flags, "--quiet") == 0
    types = {name: tensor.type_name for name, tensor in read(target).tensors.items()}
    assert types["token_embd.weight"] == "Q5_K"
    assert types["blk.2.attn_v.weight"] == types["blk.2.attn_k.weight"] == "Q8_0"
    assert types["blk.2.attn_q.weight"] == types["blk.3.ffn_down.weight"] == "Q4_0"


def test_types_of_plugins_can_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "quarter.py").write_text(NF2)
    target = tmp_path / "small.gguf"
    assert run("quantize", source, target, "--type", "quarter", "--plugin", tmp_path / "quarter.py", "--quiet") == 0
    quants = Plugins(extra=[str(tmp_path / "quarter.py")]).registry("quant")
    new = read_gguf(target, quants)
    assert new.tensors["blk.0.attn_q.weight"].type_name == "QUARTER"
    assert "general.file_type" not in new.metadata


def test_importance_changes_the_result(source: Path, tmp_path: Path) -> None:
    old = read(source)
    rng = np.random.default_rng(0)
    sums = {
        name: Sums(rng.gamma(0.3, size=(1, tensor.shape[-1])).astype(np.float32), np.ones(1, np.float32))
        for name, tensor in old.tensors.items()
        if name.startswith("blk.") and len(tensor.shape) == 2
    }
    write_imatrix(tmp_path / "imatrix.gguf", sums, "text.txt", n_chunks=5, n_ctx=512, force=False)
    target = tmp_path / "small.gguf"
    assert run("quantize", source, target, "--type", "q4_k_s", "--imatrix", tmp_path / "imatrix.gguf", "--quiet") == 0
    new, name = read(target), "blk.3.attn_q.weight"
    weights = QUANTS["BF16"].dequantize(old.tensors[name].data, old.tensors[name].shape)
    expected = QUANTS["Q4_K"].quantize(weights, sums[name].squares[0])
    np.testing.assert_array_equal(new.tensors[name].data, expected.reshape(-1))
    assert new.metadata["quantize.imatrix.entries_count"] == len(sums)
    assert new.metadata["quantize.imatrix.dataset"] == "text.txt"


@pytest.mark.parametrize("flags", [("--type", "q8_0"), ("--type", "q2_k_s", "--dry-run")])
def test_importance_matrix_of_a_model_with_other_names_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    ones = Sums(np.ones((1, 256), np.float32), np.ones(1, np.float32))
    path, target = tmp_path / "hf.gguf", tmp_path / "small.gguf"
    write_imatrix(path, {"layers.1.wq": ones, "layers.0.wk": ones}, "text.txt", n_chunks=1, n_ctx=8, force=False)
    assert run("quantize", source, target, "--imatrix", path, *flags) == 1
    assert capsys.readouterr().err == (
        f"llamafw: {path}: the importance matrix has no entry for a tensor of {source}: "
        "it has names such as 'layers.0.wk', and the model has names such as 'token_embd.weight'\n"
    )
    assert not target.exists()


def test_importance_matrix_with_few_entries_is_noted(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ones = Sums(np.ones((1, 256), np.float32), np.ones(1, np.float32))
    path, target = tmp_path / "few.gguf", tmp_path / "small.gguf"
    write_imatrix(path, {"blk.3.ffn_up.weight": ones, "wk": ones}, "text.txt", n_chunks=1, n_ctx=8, force=False)
    assert run("quantize", source, target, "--type", "q8_0", "--imatrix", path, "--quiet") == 0
    assert f"{path} has entries for 1 of 29 tensors that are rounded" in capsys.readouterr().err


def test_parts_become_one_file(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf", types="F16", part_tensors=9)
    (first,) = tmp_path.glob("*-00001-of-*.gguf")
    target = tmp_path / "one.gguf"
    assert run("quantize", first, target, "--type", "q8_0", "--quiet") == 0
    new = read(target)
    assert set(new.tensors) == set(read(first).tensors)
    assert not [key for key in new.metadata if key.startswith("split.")]


def test_dry_run_writes_nothing(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("quantize", source, tmp_path / "small.gguf", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "BF16 -> Q4_K\n" in printed
    assert "would become" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--type", "iq2_xs"], 2, "weights cannot be rounded to IQ2_XS; such files can be run"),
        (["--type", "q4_k_x"], 2, "there is no type 'q4_k_x'; the types are F32"),
        (["--tensor-type", "attn_v"], 2, "'attn_v' is not PATTERN=TYPE"),
        (["--tensor-type", "(=q8_0"], 2, "'(' is not a regular expression"),
        (["--tensor-type", "attn_v=iq1_s"], 2, "--tensor-type: weights cannot be rounded to IQ1_S"),
        (["--tensor-type", "atn_v=q8_0"], 2, "--tensor-type: 'atn_v' is in no name of a tensor that can be rounded"),
        (["--tensor-type", "attn_norm=q8_0"], 2, "--tensor-type: 'attn_norm' is in no name of a tensor"),
        (["--output-tensor-type", "q9"], 2, "--output-tensor-type: no plugin provides the tensor type 'q9'"),
        (["--imatrix", "missing.gguf"], 1, "missing.gguf cannot be read"),
        (["--type", "q2_k_s"], 1, "Q2_K_S needs an importance matrix (--imatrix)"),
    ],
)
def test_invalid_arguments_are_an_error(
    source: Path, tmp_path: Path, flags: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quantize", source, tmp_path / "small.gguf", *flags) == code
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_existing_files_need_force(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "small.gguf"
    target.write_text("mine")
    assert run("quantize", source, target, "--type", "q8_0", "--quiet") == 1
    assert "exists; --force replaces it" in capsys.readouterr().err
    assert target.read_text() == "mine"
    assert run("quantize", source, target, "--type", "q8_0", "--quiet", "--force") == 0
    assert read(target).metadata["general.file_type"] == 7


def test_model_is_not_replaced_by_itself(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = source.read_bytes()
    assert run("quantize", source, source, "--type", "q8_0", "--force", "--quiet") == 1
    assert "is the model itself" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_weights_that_are_not_finite_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = np.ones((64, 64), np.float32)
    weights[3, 5] = np.nan
    path = write_tiny_gguf(tmp_path / "tiny.gguf", tensors={"blk.1.attn_q.weight": weights})
    assert run("quantize", path, tmp_path / "small.gguf", "--type", "q8_0", "--quiet") == 1
    assert "'blk.1.attn_q.weight' has weights that are not finite" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["tiny.gguf"]


def test_rounded_models_are_rounded_again_only_if_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = write_tiny_gguf(tmp_path / "tiny.gguf", types="Q8_0"), tmp_path / "small.gguf"
    assert run("quantize", path, target, "--type", "q4_0", "--quiet") == 1
    assert "use --allow-requantize, which costs quality" in capsys.readouterr().err
    assert run("quantize", path, target, "--type", "q4_0", "--quiet", "--allow-requantize") == 0
    assert read(target).tensors["blk.0.attn_q.weight"].type_name == "Q4_0"


def test_rounded_models_can_become_f32(tmp_path: Path) -> None:
    path, target = write_tiny_gguf(tmp_path / "tiny.gguf", types="Q4_0"), tmp_path / "large.gguf"
    assert run("quantize", path, target, "--type", "f32", "--quiet") == 0
    old, new = (read(one).tensors["blk.0.attn_q.weight"] for one in (path, target))
    expected = dequantize(np.frombuffer(old.data, np.uint8), GGMLQuantizationType.Q4_0)
    np.testing.assert_array_equal(np.frombuffer(new.data, np.float32), expected)


@pytest.mark.parametrize("name", ["llama", "qwen3", "llama-experts"])
@pytest.mark.parametrize("flags", [[], ["--type", "q8_0"]])
def test_checkpoints_are_converted(name: str, flags: list[str], tmp_path: Path) -> None:
    """The file has the tensors and metadata that the folder has when it is loaded."""
    folder, target = write_checkpoint(name, tmp_path / "model"), tmp_path / "model.gguf"
    assert run("convert", folder, target, *flags, "--quiet") == 0
    old, new = open_model(folder, Settings(), Plugins()), read(target)
    assert set(new.tensors) == set(old.tensors)
    for tensor_name, tensor in new.tensors.items():
        before = old.tensors[tensor_name]
        values = QUANTS[before.type_name].dequantize(before.data, before.shape)
        if tensor.type_name != before.type_name:
            assert (flags[1:], tensor.type_name) == (["q8_0"], "Q8_0")
            values = QUANTS["Q8_0"].dequantize(
                QUANTS["Q8_0"].quantize(values.reshape(-1, values.shape[-1])).reshape(-1), values.shape
            )
        found = QUANTS[tensor.type_name].dequantize(tensor.data, tensor.shape)
        np.testing.assert_array_equal(found, values)
    for key, value in old.metadata.items():
        expected = np.float32(value) if isinstance(value, float) else value
        np.testing.assert_array_equal(new.metadata[key], expected)
    assert any(tensor.type_name == "Q8_0" for tensor in new.tensors.values()) == bool(flags)


@pytest.mark.parametrize(
    ("tensor", "shape", "message"),
    [
        ("model.layers.1.mlp.up_proj.weight", None, "the tensor 'blk.1.ffn_up.weight' is missing"),
        ("model.layers.0.mlp.down_proj.weight", (96, 64), "the tensor 'blk.0.ffn_down.weight' has shape (96, 64)"),
        ("model.layers.9.mlp.up_proj.weight", (96, 64), "the tensor 'blk.9.ffn_up.weight' is not part of"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_not_converted(
    tensor: str, shape: tuple[int, int] | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = write_checkpoint("llama", tmp_path / "model"), tmp_path / "model.gguf"
    tensors = load_file(folder / "model.safetensors")
    if shape is None:
        del tensors[tensor]
    else:
        tensors[tensor] = np.zeros(shape, np.float32)
    save_file(tensors, folder / "model.safetensors")
    assert run("convert", folder, target, "--quiet") == 1
    assert f"{folder}: {message}" in capsys.readouterr().err
    assert not target.exists()


@pytest.mark.parametrize("command", ["quantize", "convert"])
def test_unknown_types_are_reported_before_a_model_is_opened(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.gguf"
    assert run(command, missing, tmp_path / "model.gguf", "--type", "q4_k_mm") == 2
    error = capsys.readouterr().err
    assert "--type: there is no type 'q4_k_mm'; the types are F32, F16, BF16, Q4_0, " in error
    assert error.endswith("; did you mean 'Q4_K_M'?\n")


@pytest.mark.parametrize("command", ["quantize", "convert"])
@pytest.mark.parametrize("words", [[], ["model.gguf"]])
def test_missing_files_are_a_usage_error(command: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, *words) == 2
    assert "SRC and DST are needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--imatrix", "importance.gguf"],
        ["--pure"],
        ["--leave-output-tensor"],
        ["--output-tensor-type", "q8_0"],
        ["--token-embedding-type", "q8_0"],
        ["--tensor-type", "attn_v=q8_0"],
        ["--allow-requantize"],
    ],
)
def test_conversion_needs_a_type_for_the_flags_of_rounding(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", tmp_path, tmp_path / "model.gguf", *words) == 2
    assert f"{words[0]} needs --type: without it, all tensors keep their types" in capsys.readouterr().err


def test_unknown_types_are_answered_with_one_list(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quantize", source, tmp_path / "model.gguf", "--type", "magic") == 2
    assert capsys.readouterr().err.count("Q4_K_M") == 1
