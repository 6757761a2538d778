"""What checkpoints say about embeddings becomes metadata: pooling, prompts, and sizes of shorter vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafw import ModelError
from llamafw.checkpoints.sentence_transformers import sentence_transformer_metadata

PREFIX = "sentence_transformers."
PROMPTS = {"prompts": {"query": "query: ", "document": "passage: "}, "default_prompt_name": "query"}


def write(folder: Path, **files: Any) -> Path:
    """Write JSON files, named without suffix, into a folder; return it."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_prompts_and_sizes_are_metadata(tmp_path: Path) -> None:
    write(tmp_path, config={"matryoshka_dimensions": [512, 256]}, config_sentence_transformers=PROMPTS)
    assert sentence_transformer_metadata(tmp_path, "bert") == {
        f"{PREFIX}prompts.query": "query: ",
        f"{PREFIX}prompts.document": "passage: ",
        f"{PREFIX}default_prompt": "query",
        "bert.matryoshka_dimensions": [512, 256],
    }


def test_checkpoints_without_these_files_have_no_metadata(tmp_path: Path) -> None:
    assert sentence_transformer_metadata(write(tmp_path, config={}), "bert") == {}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": {"matryoshka_dimensions": [0]}}, "matryoshka_dimensions is not a list of positive integers"),
        ({"config": {"matryoshka_dimensions": "all"}}, "matryoshka_dimensions is not a list of positive integers"),
        ({"config_sentence_transformers": {"prompts": {"query": 1}}}, "prompts has a value that is not a string"),
    ],
)
def test_wrong_values_are_errors(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        sentence_transformer_metadata(write(tmp_path, **files), "bert")


@pytest.mark.parametrize(("mode", "is_error"), [("mean", True), ("cls", False), ("lasttoken", False)])
def test_prompts_that_the_mean_leaves_out_are_an_error(tmp_path: Path, mode: str, is_error: bool) -> None:
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (tmp_path / "1_Pooling").mkdir()
    write(tmp_path / "1_Pooling", config={"pooling_mode": mode, "include_prompt": False})
    write(tmp_path, modules=modules)
    assert "bert.pooling_type" in sentence_transformer_metadata(tmp_path, "bert")  # without prompts it is the same

    write(tmp_path, config_sentence_transformers=PROMPTS)
    if not is_error:
        assert "bert.pooling_type" in sentence_transformer_metadata(tmp_path, "bert")
        return
    with pytest.raises(ModelError, match=r"1_Pooling/config.json: include_prompt is false, which is not supported"):
        sentence_transformer_metadata(tmp_path, "bert")
