"""Tensors get the types that llama-quantize of llama.cpp b11434 gives them."""

from __future__ import annotations

import json
import re
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest

from llamafw import Model
from llamafw.models.file_types import FILE_TYPES
from llamafw.models.gguf import read_gguf
from llamafw.models.imatrix import read_imatrix
from llamafw.models.quantize import Choice, make_plan
from llamafw.plugins import Plugins
from support.layered_models import MODELS, write_importance, write_layered

QUANTS = Plugins().registry("quant")
EXPECTED: dict[str, dict[str, str]] = json.loads(
    Path(__file__).with_name("llama_quantize_types.json").read_text(encoding="utf-8")
)
"""Model, file type and "imatrix" → for each role of a tensor, its types from the first layer to the last."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@cache
def model_and_imatrix(folder: Path, name: str) -> tuple[Model, Path]:
    path = write_layered(folder / f"{name}.gguf", name)
    return read_gguf(path, QUANTS), write_importance(folder / f"{name}.imatrix", path)


def summary(types: dict[str, str]) -> dict[str, str]:
    """Return the types of each role, from the first layer to the last."""
    roles: dict[str, list[tuple[int, str]]] = {}
    for name, type_name in types.items():
        layer = re.search(r"\d+", name)
        role = re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")
        roles.setdefault(role, []).append((int(layer[0]) if layer else 0, type_name))
    return {
        role: " ".join(f"{kind}*{len(list(run))}" for kind, run in groupby(kind for _, kind in sorted(found)))
        for role, found in sorted(roles.items())
    }


def test_all_file_types_and_models_are_compared() -> None:
    keys = {f"{model} {name}{suffix}" for model in MODELS for name in FILE_TYPES for suffix in ("", " imatrix")}
    assert set(EXPECTED) == keys


CASES = [
    (name, file_type, has_importance)
    for name in MODELS
    for file_type in FILE_TYPES
    for has_importance in (False, True)
    # llama-quantize plans these without an importance matrix, but does not write them
    if file_type != "Q2_K_S" or has_importance or name.endswith("columns")
]


@pytest.mark.parametrize(("name", "file_type", "has_importance"), CASES)
def test_types_are_those_of_llama_quantize(folder: Path, name: str, file_type: str, has_importance: bool) -> None:
    model, imatrix = model_and_imatrix(folder, name)
    key = f"{name} {file_type}{' imatrix' if has_importance else ''}"
    choice = Choice(file_type=FILE_TYPES[file_type], imatrix=read_imatrix(imatrix, QUANTS) if has_importance else None)
    plan = make_plan(model, choice, QUANTS)
    assert summary({step.tensor.name: step.type_name for step in plan.steps}) == EXPECTED[key]
