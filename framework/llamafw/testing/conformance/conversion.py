"""The rules for conversions of checkpoints: they can be undone, fit an architecture, and refuse damaged checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llamafw.checkpoints import Config, Convert, convert_checkpoint, read_config, to_checkpoint, to_gguf
from llamafw.checkpoints.safetensors_files import read_safetensors
from llamafw.errors import ModelError
from llamafw.graph import Graph
from llamafw.testing.conformance.base import Conformance
from llamafw.types import Model

INVALID_VALUES: tuple[Any, ...] = ("x", -1, 3.5, [1], {}, None)  # None: the key is missing

Arrays = Mapping[str, npt.NDArray[Any]]


class ConversionConformance(Conformance):
    """Subclass it, give the ``name`` of the class of transformers, a tiny ``config``, and the ``shapes``."""

    kind = "conversion"
    config: Mapping[str, Any] = {}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of all tensors of the tiny checkpoint, by the checkpoint's names."""
        pytest.skip("implement `shapes` to describe the tensors of a tiny checkpoint")

    def test_the_graph_is_built(self, tmp_path: Path) -> None:
        """The architecture is registered, and builds a graph of the converted checkpoint."""
        assert isinstance(self.build(self.open(self.write(tmp_path))), Graph)

    def test_rules_can_be_undone(self, tmp_path: Path) -> None:
        """The converted tensors, converted back, are those of the checkpoint."""
        folder, arrays = self.write(tmp_path), self.arrays()
        config = read_config(folder)
        conversion = self.convert(config)
        quants = self.registry("quant")
        tensors = to_gguf(conversion, read_safetensors(folder), self.name, folder)
        values = {
            name: quants[tensor.type_name].dequantize(tensor.data, tensor.shape).astype(np.float64)
            for name, tensor in tensors.items()
        }
        restored = to_checkpoint(conversion, values)
        assert restored.keys() <= arrays.keys(), f"{min(restored.keys() - arrays.keys())} is not in the checkpoint"
        assert restored, "no tensor is left"
        for name, array in restored.items():
            np.testing.assert_allclose(array, arrays[name], atol=1e-5, err_msg=f"{name} differs after undoing")

    def test_missing_tensors_are_a_model_error(self, tmp_path: Path) -> None:
        """A checkpoint without one of its tensors, or with one of another shape, is a ModelError, or still runs."""
        arrays = dict(self.arrays())
        for number, (name, array) in enumerate(arrays.items()):
            rest = {other: one for other, one in arrays.items() if other != name}
            for damage, damaged in (("is missing", rest), ("has one more axis", rest | {name: array[..., None]})):
                folder = tmp_path / f"{number} {damage}"
                self.check_damaged(partial(self.write, folder, damaged), f"{name} {damage}")
                shutil.rmtree(folder, ignore_errors=True)  # each is as large as the whole checkpoint

    def test_unknown_tensors_are_a_model_error(self, tmp_path: Path) -> None:
        """A tensor that no rule has is a ModelError that names it."""
        folder = self.write(tmp_path, arrays={**self.arrays(), "unknown.numbers": np.zeros(3, np.float32)})
        with pytest.raises(ModelError, match="unknown.numbers"):
            self.open(folder)

    def test_invalid_configs_are_a_model_error(self, tmp_path: Path) -> None:
        """A config without one of its keys, or with an invalid value, is a ModelError, or still gives a graph."""
        self.write(tmp_path)
        assert self.config, "give a `config`"
        for key in self.config.keys() - {"architectures"}:
            for value in INVALID_VALUES:
                config = {other: one for other, one in self.config.items() if other != key}
                config |= {} if value is None else {key: value}
                (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
                damage = f"{key} is missing" if value is None else f"{key} is {value!r}"
                self.check_damaged(lambda: tmp_path, damage)

    # --- helpers

    def arrays(self) -> Arrays:
        """Return random tensors."""
        rng = np.random.default_rng(7)
        return {name: rng.normal(size=shape).astype(np.float32) for name, shape in self.shapes().items()}

    def write(self, folder: Path, arrays: Arrays | None = None) -> Path:
        """Write the tiny checkpoint, without a tokenizer."""
        from safetensors.numpy import save_file

        found = self.arrays() if arrays is None else arrays
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config), "utf-8")
        save_file({name: np.array(array, order="C") for name, array in found.items()}, folder / "model.safetensors")
        return folder

    def convert(self, config: Config) -> Any:
        """Return the conversion of a config."""
        convert: Convert = self.registered()
        return convert(config)

    def open(self, folder: Path) -> Model:
        """Return the checkpoint as a model without a tokenizer."""
        conversion = self.convert(read_config(folder))
        metadata, tensors = convert_checkpoint(conversion, read_safetensors(folder), self.name, folder)
        return Model(folder, metadata, tensors, 0)

    def build(self, model: Model) -> Graph:
        """Return the graph of a model."""
        name = model.metadata["general.architecture"]
        architectures = self.registry("architecture")
        assert name in architectures, f"the conversion names the architecture {name!r}, which is not registered"
        graph: Graph = architectures[name](model)
        return graph

    def check_damaged(self, write: Callable[[], Path], damage: str) -> None:
        """Fail if a damaged checkpoint raises another error than ModelError."""
        try:
            self.build(self.open(write()))
        except ModelError:
            return
        except Exception as error:
            raise AssertionError(f"{damage}: it raises {error!r}, not ModelError") from error
