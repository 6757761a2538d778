"""What files of a checkpoint say besides weights and tokens: templates, sampling, pooling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoints import all_checkpoints
from checkpoints.folders import conversions, write_folder
from llamafw.checkpoints import folder_name, open_checkpoint
from llamafw.checkpoints.chat_templates import chat_template_metadata
from llamafw.checkpoints.dense import read_dense_tensors
from llamafw.checkpoints.files import files_metadata
from llamafw.checkpoints.generation_config import sampling_metadata
from llamafw.checkpoints.sentence_transformers import (
    DenseLayer,
    read_sentence_transformer,
    sentence_transformer_metadata,
)
from llamafw.errors import ModelError
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer


def write(folder: Path, **files: Any) -> Path:
    """Write JSON files; in names, ``__`` stands for a slash."""
    for name, value in files.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value), "utf-8")
    return folder


# --- chat templates


def test_the_template_of_the_tokenizer_config(tmp_path: Path) -> None:
    folder = write(tmp_path, tokenizer_config={"chat_template": "{{ a }}"})
    assert chat_template_metadata(folder) == {"tokenizer.chat_template": "{{ a }}"}


def test_templates_with_names(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "d"}, {"name": "tool-use", "template": "t"}]
    assert chat_template_metadata(write(tmp_path, tokenizer_config={"chat_template": templates})) == {
        "tokenizer.chat_template": "d",
        "tokenizer.chat_template.tool_use": "t",
        "tokenizer.chat_templates": ["tool_use"],
    }


def test_files_with_templates_take_precedence(tmp_path: Path) -> None:
    folder = write(tmp_path, tokenizer_config={"chat_template": "config"}, chat_template={"chat_template": "json"})
    assert chat_template_metadata(folder)["tokenizer.chat_template"] == "json"
    (folder / "chat_template.jinja").write_text("file", "utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("rag", "utf-8")
    assert chat_template_metadata(folder) == {
        "tokenizer.chat_template": "file",
        "tokenizer.chat_template.rag": "rag",
        "tokenizer.chat_templates": ["rag"],
    }


def test_a_checkpoint_without_a_template(tmp_path: Path) -> None:
    assert chat_template_metadata(write(tmp_path, tokenizer_config={})) == {}


@pytest.mark.parametrize("value", [5, [], [{"name": "a"}], [{"name": 1, "template": "x"}], {"default": "x"}])
def test_a_template_that_is_not_text_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="chat_template is neither"):
        chat_template_metadata(write(tmp_path, tokenizer_config={"chat_template": value}))


# --- sampling


def test_recommended_settings_have_the_keys_of_llama_cpp(tmp_path: Path) -> None:
    config = {
        "temperature": 1,
        "top_k": 20.0,
        "top_p": 0.95,
        "repetition_penalty": 1.05,
        "eos_token_id": [1, 2],
        "min_p": None,
    }
    found = sampling_metadata(write(tmp_path, generation_config=config))
    assert found == {
        "general.sampling.temp": 1.0,
        "general.sampling.top_k": 20,
        "general.sampling.top_p": 0.95,
        "general.sampling.penalty_repeat": 1.05,
    }
    assert type(found["general.sampling.temp"]) is float
    assert type(found["general.sampling.top_k"]) is int


def test_no_settings_without_the_file(tmp_path: Path) -> None:
    assert sampling_metadata(tmp_path) == {}


@pytest.mark.parametrize(("key", "value"), [("top_k", 1.5), ("top_p", "x"), ("temperature", True), ("sequence", 1)])
def test_settings_of_another_type_are_refused(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"generation_config\.json: {key} is"):
        sampling_metadata(write(tmp_path, generation_config={key: value}))


# --- sentence-transformers

MODULES = [
    {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
    for i, (path, kind) in enumerate(
        (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize"))
    )
]
DENSE = {"in_features": 8, "out_features": 4, "bias": False, "activation_function": "torch.nn.modules.activation.Tanh"}


def test_what_follows_the_transformer_is_read(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        modules=MODULES,
        **{
            "1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
            "2_Dense__config": DENSE,
        },
        config_sentence_transformers={"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"},
        sentence_bert_config={"max_seq_length": 512},
    )
    model = read_sentence_transformer(folder)
    assert (model.pooling, model.normalizes, model.max_length) == ("cls", True, 512)
    assert model.dense == (DenseLayer("2_Dense", 8, 4, bias=False, activation="tanh"),)
    assert (model.prompts, model.default_prompt) == ({"query": "query: ", "document": ""}, "query")
    assert sentence_transformer_metadata(folder, "bert") == {
        "bert.pooling_type": 2,
        "bert.dense_2_feat_in": 8,
        "bert.dense_2_feat_out": 4,
        "sentence_transformers.prompts.query": "query: ",
        "sentence_transformers.prompts.document": "",
        "sentence_transformers.default_prompt": "query",
    }


@pytest.mark.parametrize(
    ("config", "number"),
    [
        ({"pooling_mode_mean_tokens": True}, 1),
        ({"pooling_mode_cls_token": True}, 2),
        ({"pooling_mode_lasttoken": True}, 3),
        ({"pooling_mode": "lasttoken"}, 3),
    ],
)
def test_pooling_has_the_numbers_of_gguf(config: dict[str, Any], number: int, tmp_path: Path) -> None:
    folder = write(tmp_path, modules=MODULES[:2], **{"1_Pooling__config": config})
    assert sentence_transformer_metadata(folder, "bert") == {"bert.pooling_type": number}


@pytest.mark.parametrize(
    "config",
    [{}, {"pooling_mode_max_tokens": True}, {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
     {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}],
)  # fmt: skip
def test_other_pooling_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="only pooling by mean"):
        read_sentence_transformer(write(tmp_path, modules=MODULES[:2], **{"1_Pooling__config": config}))


def test_other_modules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the module 'CNN' is not supported"):
        read_sentence_transformer(write(tmp_path, modules=[{"type": "a.CNN", "path": "1_CNN"}]))
    with pytest.raises(ModelError, match="is not a list of modules"):
        read_sentence_transformer(write(tmp_path, modules=[{"type": "a.CNN"}]))


def test_a_checkpoint_without_modules_has_no_pooling(tmp_path: Path) -> None:
    assert sentence_transformer_metadata(tmp_path, "bert") == {}


def test_dense_layers_have_the_names_of_gguf(tmp_path: Path) -> None:
    config = DENSE | {"activation_function": "torch.nn.modules.linear.Identity", "bias": True}
    modules = [*MODULES[:3], MODULES[2] | {"path": "3_Dense"}]
    sizes = {"3_Dense__config": config | {"in_features": 4, "out_features": 2, "bias": False}}
    folder = write(
        tmp_path,
        modules=modules,
        **{"1_Pooling__config": {"pooling_mode_mean_tokens": True}, "2_Dense__config": config},
        **sizes,
    )
    first, bias, second = (
        np.random.default_rng(1).normal(size=size).astype(np.float32) for size in ((4, 8), 4, (2, 4))
    )
    save_file({"linear.weight": first, "linear.bias": bias}, folder / "2_Dense" / "model.safetensors")
    save_file({"linear.weight": second}, folder / "3_Dense" / "model.safetensors")
    tensors = read_dense_tensors(folder)
    for name, array in (("dense_2.weight", first), ("dense_2.bias", bias), ("dense_3.weight", second)):
        np.testing.assert_array_equal(tensors[name].data.view(np.float32).reshape(tensors[name].shape), array)
    assert set(tensors) == {"dense_2.weight", "dense_2.bias", "dense_3.weight"}

    save_file({"linear.weight": first}, folder / "3_Dense" / "model.safetensors")
    with pytest.raises(ModelError, match=r"linear\.weight does not have the shape \(2, 4\)"):
        read_dense_tensors(folder)
    write(folder, **{"2_Dense__config": DENSE})
    with pytest.raises(ModelError, match="activation_function is tanh"):
        read_dense_tensors(folder)


# --- all


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no tokenizer of a known kind"):
        files_metadata(tmp_path, "llama", 10, lambda folder, n_vocab: None)


def test_a_folder_of_the_hub_has_the_name_of_its_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--meta--Tiny-3.2--x" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    assert folder_name(snapshot) == "Tiny-3.2--x"
    assert folder_name(tmp_path / "a" / ".." / "Tiny-3.2") == "Tiny-3.2"


def test_arrays_have_the_types_that_llama_cpp_accepts(tmp_path: Path) -> None:
    folder = write_folder(next(one for one in all_checkpoints() if one.name == "gemma4"), tmp_path / "model")

    def read_tokenizer(path: Path, n_vocab: int) -> dict[str, Any]:
        metadata = read_checkpoint_tokenizer(path, n_vocab)
        assert metadata is not None
        return metadata | {"tokenizer.ggml.scores": [0.5] * n_vocab}

    metadata = open_checkpoint(folder, conversions(), read_tokenizer).metadata
    types = {key: value.dtype.name for key, value in metadata.items() if isinstance(value, np.ndarray)}
    assert types["tokenizer.ggml.token_type"] == types["gemma4.attention.head_count_kv"] == "int32"
    assert types["tokenizer.ggml.scores"] == "float32"
    assert types["gemma4.attention.sliding_window_pattern"] == "bool"
    assert set(types.values()) == {"int32", "float32", "bool"}
    assert isinstance(metadata["tokenizer.ggml.tokens"], list)
