"""Folders are opened whole, in the form they have, or refused with the file and the tensor or key."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

from checkpoints import Checkpoint, all_checkpoints, tensors
from checkpoints.folders import conversions, write_folder
from llamafw import Model, ModelError
from llamafw.checkpoints import ConvertedTensor, open_checkpoint
from llamafw.plugins import Plugins
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer

CHECKPOINTS = {one.name: one for one in all_checkpoints()}
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def llama() -> Checkpoint:
    return CHECKPOINTS["llama"]


@pytest.fixture
def folder(llama: Checkpoint, tmp_path: Path) -> Path:
    """Write a Llama."""
    return write_folder(llama, tmp_path / "model")


def open_folder(folder: Path, *, mapped: bool = True) -> Model:
    """Open a checkpoint."""
    return open_checkpoint(folder, conversions(), read_checkpoint_tokenizer, mapped=mapped)


def rewrite(folder: Path, change: Callable[[dict[str, npt.NDArray[Any]]], Any]) -> None:
    """Change the tensors of a folder in place."""
    arrays = {name: array.astype(np.float32) for name, array in load_file(folder / "model.safetensors").items()}
    change(arrays)
    save_file(arrays, folder / "model.safetensors")


def configure(folder: Path, **values: Any) -> None:
    """Change keys of a folder's config; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), "utf-8")


def numbers(model: Model) -> dict[str, npt.NDArray[Any]]:
    """Return the numbers of all tensors."""
    quants = Plugins().registry("quant")
    return {name: quants[one.type_name].dequantize(one.data, one.shape) for name, one in model.tensors.items()}


def shard(folder: Path) -> None:
    """Divide the tensors of a folder into two files with an index."""
    arrays = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(arrays))}
    for file in set(files.values()):
        save_file({name: arrays[name] for name in files if files[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


@pytest.mark.parametrize("name", ["bert", "bert-roberta", "eurobert"])
@pytest.mark.parametrize(("length", "n_ctx"), [(24, 24), (1000, None), (None, None)])
def test_length_of_sentence_transformers_limits_the_context(
    name: str, length: int | None, n_ctx: int | None, tmp_path: Path
) -> None:
    """Without a smaller one, the context is that of the config."""
    checkpoint = CHECKPOINTS[name]
    folder = write_folder(checkpoint, tmp_path / "model")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length}), "utf-8")
    model = open_folder(folder)
    graph = Plugins().registry("architecture")[checkpoint.architecture](model)
    expected = n_ctx or checkpoint.key("context_length")
    assert graph.n_ctx_train == graph.context_length(0) == expected

    positions = tensors(checkpoint).get("position_embd.weight")
    if positions is not None:
        np.testing.assert_array_equal(numbers(model)["position_embd.weight"], positions[:expected])


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_tensors_are_those_of_the_gguf_file(llama: Checkpoint, folder: Path, sharded: bool, mapped: bool) -> None:
    if sharded:
        shard(folder)
    model, expected = open_folder(folder, mapped=mapped), tensors(llama)
    found = numbers(model)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert model.n_bytes == sum(one.data.nbytes for one in model.tensors.values())


def test_matrices_keep_their_type(folder: Path) -> None:
    arrays = load_file(folder / "model.safetensors")
    written = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    header, end = {}, 0
    for name, array in written.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    parts = [len(content).to_bytes(8, "little"), content, *(array.tobytes() for array in written.values())]
    (folder / "model.safetensors").write_bytes(b"".join(parts))
    model = open_folder(folder)
    types = {name: tensor.type_name for name, tensor in model.tensors.items()}
    assert types["blk.0.attn_q.weight"] == types["token_embd.weight"] == "BF16"
    assert types["output_norm.weight"] == "F32"
    found = numbers(model)["token_embd.weight"]
    np.testing.assert_array_equal(found, written[EMBEDDING].astype(np.float32))


def test_unchanged_tensors_stay_in_the_file(folder: Path) -> None:
    rewrite(folder, lambda arrays: None)  # float32 instead of float64
    model = open_folder(folder)
    converted = {name for name, tensor in model.tensors.items() if isinstance(tensor, ConvertedTensor)}
    assert converted == {f"blk.{i}.attn_{role}.weight" for i in range(4) for role in "qk"}


def test_converted_data_are_kept_only_while_they_are_used(folder: Path) -> None:
    tensor = open_folder(folder).tensors["blk.0.attn_q.weight"]
    data = tensor.data
    assert tensor.data is data
    kept = weakref.ref(data)
    del data
    assert kept() is None
    assert tensor.n_bytes == tensor.data.nbytes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.pop(EMBEDDING), "the embedding of tokens is missing"),
        (lambda a: a.pop(Q), "blk.0.attn_q"),
        (lambda a: a.update({Q: a[Q][:6]}), r"model.safetensors: the tensor 'model.layers.0.self_attn.q_proj.weight'"),
        (lambda a: a.update(vision=a[NORM]), r"model.safetensors: the tensor 'vision' is not part of a LlamaForCausal"),
        (
            lambda a: a.update({Q: a[Q].astype(np.int32)}),
            r"'model.layers.0.self_attn.q_proj.weight' has numbers of type",
        ),
    ],
)
def test_damaged_tensors_are_named(folder: Path, damage: Callable[[Any], Any], message: str) -> None:
    rewrite(folder, damage)
    architecture = Plugins().registry("architecture")["llama"]
    with pytest.raises(ModelError, match=message):
        architecture(open_folder(folder))


def test_missing_experts_are_named(tmp_path: Path) -> None:
    folder = write_folder(CHECKPOINTS["llama-experts"], tmp_path / "model")
    name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    rewrite(folder, lambda arrays: arrays.pop(name))
    with pytest.raises(ModelError, match=f"the tensor '{name}' is missing"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"architectures": None}, r"config.json: architectures is .*; it must be a list of names of classes"),
        ({"architectures": [1]}, r"config.json: architectures is \[1\]; it must be a list of names of classes"),
        ({"architectures": ["LlamaForCausalLm"]}, r"no plugin can convert a LlamaForCausalLm; did you mean .*LlamaFor"),
        ({"hidden_size": None}, r"config.json: hidden_size is missing"),
        ({"hidden_size": "64"}, r"config.json: hidden_size is '64'; it must be a whole number"),
        ({"hidden_act": "gelu"}, r"config.json: hidden_act is \"gelu\", which is not supported"),
        ({"rope_parameters": {"rope_type": "cubic"}}, r"config.json: rope_parameters.rope_type is 'cubic'"),
        (
            {"quantization_config": {"quant_method": "magic"}},
            r"config.json: quantization_config.quant_method is 'magic'",
        ),
    ],
)
def test_invalid_configs_are_named(folder: Path, values: dict[str, Any], message: str) -> None:
    configure(folder, **values)
    with pytest.raises(ModelError, match=message):
        open_folder(folder)


def test_damaged_files_are_named(folder: Path) -> None:
    shard(folder)
    second = folder / "model-00002-of-00002.safetensors"
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"model-00002-of-00002.safetensors cannot be read as safetensors"):
        open_folder(folder)
    second.unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002.safetensors does not exist"):
        open_folder(folder)


def test_folders_without_safetensors_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no \*.safetensors file; only safetensors files can be read"):
        open_folder(folder)


def test_tied_output_is_left_out(folder: Path) -> None:
    configure(folder, tie_word_embeddings=True)
    assert "output.weight" not in open_folder(folder).tensors


def test_old_rope_keys_are_read(folder: Path) -> None:
    expected = open_folder(folder).metadata
    config = json.loads((folder / "config.json").read_text("utf-8"))
    configure(folder, rope_parameters=None, rope_theta=config["rope_parameters"]["rope_theta"])
    found = open_folder(folder).metadata
    assert {key: found[key] for key in expected if ".rope." in key} == {
        key: value for key, value in expected.items() if ".rope." in key
    }


@pytest.mark.parametrize("name", ["bert", "bert-reranker", "bert-roberta"])
@pytest.mark.parametrize(("key", "value"), [("is_decoder", True), ("position_embedding_type", "relative_key")])
def test_encoders_that_are_computed_in_another_way_are_refused(tmp_path: Path, name: str, key: str, value: Any) -> None:
    (checkpoint,) = [one for one in all_checkpoints() if one.name == name]
    folder = write_folder(checkpoint, tmp_path / "model")
    configure(folder, **{key: value})
    with pytest.raises(ModelError, match=f"config.json: {key} is .*, which is not supported"):
        open_folder(folder)
