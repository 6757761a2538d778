"""The built-in conversions pass the suite that other authors run, with the tiny checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from checkpoints import Checkpoint, all_checkpoints
from checkpoints.folders import config_path, write_folder
from llamafw.testing.conformance import ConversionConformance

pytestmark = pytest.mark.slow


class CheckpointConformance(ConversionConformance):
    """The suite with a checkpoint instead of shapes."""

    checkpoint: ClassVar[Checkpoint]

    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        return arrays_of(self.checkpoint.name)


@cache
def arrays_of(name: str) -> Mapping[str, npt.NDArray[Any]]:
    """Return the tensors of a checkpoint by the names of transformers."""
    (checkpoint,) = [one for one in all_checkpoints() if one.name == name]
    with TemporaryDirectory() as folder:
        return load_file(write_folder(checkpoint, Path(folder)) / "model.safetensors")


def suites() -> dict[str, type[CheckpointConformance]]:
    """Return a suite for each class of transformers, with the first checkpoint of this class."""
    found: dict[str, type[CheckpointConformance]] = {}
    for checkpoint in all_checkpoints():
        path = config_path(checkpoint.name)
        if not path.exists():
            continue
        config = json.loads(path.read_text("utf-8"))
        (name,) = config["architectures"]
        members = {"name": name, "config": config, "checkpoint": checkpoint}
        found.setdefault(f"Test{name}", type(f"Test{name}", (CheckpointConformance,), members))
    return found


globals().update(suites())
