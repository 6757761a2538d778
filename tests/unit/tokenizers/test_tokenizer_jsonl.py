"""``tokenizer.jsonl``, the file that PLaMo 2 has for its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import all_checkpoints
from checkpoints.folders import write_folder
from llamafw import ModelError
from llamafw.engine.components import build_graph, make_tokenizer
from llamafw.engine.load import open_model
from llamafw.plugins import Plugins
from llamafw.settings import Settings
from llamafw.testing import vocabularies
from llamafw_plugins.tokenizers import make_plamo2
from llamafw_plugins.tokenizers.checkpoint import read_checkpoint_tokenizer

FIELDS = vocabularies.plamo2()
IDS = {text: id for id, text in enumerate(FIELDS["tokenizer.ggml.tokens"])}
TYPES = {1: "NORMAL", 2: "UNKNOWN", 3: "CONTROL", 6: "BYTE"}
ROWS = [
    [text, score, TYPES[kind]]
    for text, score, kind in zip(
        *(FIELDS[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type")), strict=True
    )
]


def write(folder: Path, rows: list[Any] = ROWS, **files: Any) -> Path:
    """Write the file, with others by name: ``tokenizer_config={…}``."""
    (folder / "tokenizer.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value), "utf-8")
    return folder


def read(folder: Path, n_vocab: int | None = None) -> dict[str, Any]:
    metadata = read_checkpoint_tokenizer(folder, n_vocab)
    assert metadata is not None
    return metadata


def test_file_becomes_the_metadata_of_its_tokens(tmp_path: Path) -> None:
    metadata = read(write(tmp_path, tokenizer_config={"add_bos_token": True}), len(ROWS) + 2)
    padded = vocabularies.plamo2(len(ROWS) + 2)
    assert metadata["tokenizer.ggml.tokens"][:-2] == padded["tokenizer.ggml.tokens"][:-2]
    for name in set(padded) - {"tokenizer.ggml.tokens"}:
        assert metadata[name] == padded[name], name
    text = "the nation日<|plamo:op|>"
    assert make_plamo2(metadata).encode(text, add_special=True) == make_plamo2(padded).encode(text, add_special=True)


def test_checkpoint_is_opened_with_it(tmp_path: Path) -> None:
    (checkpoint,) = [one for one in all_checkpoints() if one.name == "plamo2"]
    folder = write(write_folder(checkpoint, tmp_path / "model"), ROWS[:300])
    (folder / "tokenizer.json").unlink()
    plugins = Plugins()
    model = open_model(folder, Settings(), plugins)
    tokenizer = make_tokenizer(model, plugins)
    assert model.metadata["tokenizer.ggml.model"] == "plamo2"
    assert tokenizer.n_vocab == build_graph(model, plugins).n_vocab > 300  # the others are unused
    assert tokenizer.encode("the") == [IDS["the"]]


def test_bos_is_not_added_by_default(tmp_path: Path) -> None:
    assert read(write(tmp_path))["tokenizer.ggml.add_bos_token"] is False


def test_tokens_named_like_control_tokens_are_such(tmp_path: Path) -> None:
    rows = [*ROWS, ["<|plamo:reserved:0x04|>", 0.0, "NORMAL"], ["no type", -1.0]]
    metadata = read(write(tmp_path, rows))
    assert metadata["tokenizer.ggml.token_type"][-2:] == [3, 1]


def test_scores_are_rounded_as_in_the_original(tmp_path: Path) -> None:
    """As float32, this score would be rounded to another number."""
    score = -4.000149999
    metadata = read(write(tmp_path, [*ROWS, ["word", score, "NORMAL"]]))
    stored = np.array(metadata["tokenizer.ggml.scores"], np.float32)[-1]
    assert round(float(stored) * 10_000) == round(score * 10_000) == -40_001
    assert round(float(np.float32(score)) * 10_000) == -40_002


def test_token_that_begins_a_message_ends_a_generation(tmp_path: Path) -> None:
    folder = write(tmp_path, generation_config={"eos_token_id": [2, 4, 300]})
    metadata = read(folder)
    assert metadata["tokenizer.ggml.eot_token_id"] == 4
    assert metadata["tokenizer.ggml.eom_token_id"] == 300
    assert make_plamo2(metadata).eog == {2, 4, 300}


def test_config_names_other_tokens(tmp_path: Path) -> None:
    metadata = read(write(tmp_path, tokenizer_config={"pad_token": "<|plamo:eos|>", "mask_token": None}))
    assert metadata["tokenizer.ggml.padding_token_id"] == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "line 1 is '\"text\"'; it must be a list of a text, a score and a type"),
        ([1, 2.0, "NORMAL"], "line 1 is"),
        (["a", "b", "NORMAL"], "line 1 is"),
        (["a", True, "NORMAL"], "line 1 is"),
        (["a", 10**400, "NORMAL"], "line 1 is"),
        (["a", -1.0, "OTHER"], "line 1 is .*NORMAL, UNKNOWN, CONTROL, BYTE"),
        (["a", -1.0, []], "line 1 is"),
        (["the", -1.0, "NORMAL"], "lines 1 and 278 have the same token, 'the'"),
    ],
)
def test_invalid_lines_are_model_errors(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read(write(tmp_path, [row, *ROWS]))


def test_damaged_files_are_model_errors(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.jsonl"
    for content in (b"{\n", b"\n\n", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"tokenizer\.jsonl"):
            read(tmp_path)


def test_tokenizers_that_split_texts_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, tokenizer_config={"break_around_repeated_chars_threshold": 4})
    with pytest.raises(ModelError, match="break_around_repeated_chars_threshold is 4, which GGUF cannot say"):
        read(folder)
