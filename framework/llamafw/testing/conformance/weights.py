"""The rules for weight sources: they open their own files, leave others alone, and report damage as a ModelError."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafw.errors import ModelError
from llamafw.settings import Settings
from llamafw.testing.conformance.base import Conformance, load
from llamafw.types import Model

MAX_LOGPROB_DIFFERENCE = 0.3  # the file may store the weights with less precision


class WeightsConformance(Conformance):
    """Subclass it, give the plugin's ``name``, and `write` a tiny model in its file format.

    The ``name`` is the distribution, or what ``llamafw plugins`` lists.
    """

    kind = "weights"

    def write(self, folder: Path, gguf: Path) -> Path:
        """Convert a tiny Llama to the plugin's file format; return the path for ``llamafw serve -m``.

        Parameters
        ----------
        folder : Path
            An empty folder to write to.
        gguf : Path
            The model as a GGUF file.
        """
        pytest.skip("implement `write` to write a tiny model in this file format")

    @classmethod
    def registered(cls) -> Callable[..., Model | None]:
        """Return the plugin's ``open_model``."""
        calls = dict(load(cls.plugins).implementations("open_model"))
        for owner, call in calls.items():
            if cls.name in (owner, owner.partition(":")[0]):
                return call
        known = ", ".join(calls) or "none"
        pytest.fail(f"no plugin {cls.name!r} implements open_model; plugins that do: {known}")

    def test_other_files_are_left_alone(self, tmp_path: Path, tiny_model: Path) -> None:
        """`open_model` returns None for files of other formats, for folders, and for paths that do not exist."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 16)
        (tmp_path / "empty").touch()
        for path in (tiny_model, *tmp_path.iterdir(), tmp_path / "missing.file"):
            assert self.open(path) is None, f"open_model returns a model for {path.name}, which is not of its format"

    def test_tensor_data_matches_types_and_shapes(self, tmp_path: Path, tiny_model: Path) -> None:
        """Each tensor has a registered type, and as many bytes as its type and shape need."""
        model, quants = self.model(tmp_path, tiny_model), self.registry("quant")
        assert model.tensors, "the model has no tensors"
        for name, tensor in model.tensors.items():
            assert tensor.name == name, f"the tensor {name} has the name {tensor.name!r}"
            assert tensor.type_name in quants, f"{name} has the type {tensor.type_name!r}, which is not registered"
            quant, n_weights = quants[tensor.type_name], math.prod(tensor.shape)
            assert tensor.data.dtype == np.uint8, f"{name}: the data have the dtype {tensor.data.dtype}, expected uint8"
            n_bytes = n_weights // quant.block_size * quant.type_size
            shape = tensor.data.shape
            assert shape == (n_bytes,), f"{name}: the data have the shape {shape}, expected ({n_bytes},)"
        total = sum(tensor.data.size for tensor in model.tensors.values())
        assert model.n_bytes == total, f"n_bytes is {model.n_bytes}, but the tensors have {total} bytes"

    def test_architecture_and_tokenizer_are_registered(self, tmp_path: Path, tiny_model: Path) -> None:
        """The metadata name a registered architecture, which can describe the model, and a registered tokenizer."""
        model = self.model(tmp_path, tiny_model)
        for key, kind in (("general.architecture", "architecture"), ("tokenizer.ggml.model", "tokenizer")):
            value = model.metadata.get(key)
            assert value in self.registry(kind), f"{key} is {value!r}, which is not a registered {kind}"
        self.registry("architecture")[model.metadata["general.architecture"]](model)

    def test_damaged_files_are_a_model_error(self, tmp_path: Path, tiny_model: Path) -> None:
        """A file that is cut in half, empty or missing is a ModelError, or has no effect."""
        intact = tmp_path / "intact"
        intact.mkdir()
        path = self.write(intact, tiny_model)
        files = sorted(file for file in intact.rglob("*") if file.is_file())
        assert files, f"`write` has written nothing to {intact}"
        for number, file in enumerate(files):
            for damage in ("cut in half", "empty", "missing"):
                copy = tmp_path / f"{number} {damage}"
                shutil.copytree(intact, copy)
                damaged = copy / file.relative_to(intact)
                damaged.write_bytes(file.read_bytes()[: file.stat().st_size // 2 if damage == "cut in half" else 0])
                if damage == "missing":
                    damaged.unlink()
                self.check_damaged(copy / path.relative_to(intact), f"{file.name} is {damage}")

    async def test_server_answers_match_the_gguf_file(self, tmp_path: Path, tiny_model: Path, serve: Any) -> None:
        """A server gives the most likely token about the same probability as with the GGUF file."""
        body = {"prompt": "the nation", "n_predict": 1, "n_probs": 5, "ignore_eos": True, "temperature": 0}
        logprobs = []
        for path in (self.write(tmp_path, tiny_model), tiny_model):
            async with serve(model=path, plugin=self.plugins, backend="numba", threads=1) as client:
                response = await client.post("/completion", json=body)
                assert response.status_code == 200, response.text
                (token,) = response.json()["completion_probabilities"]
                logprobs.append({candidate["id"]: candidate["logprob"] for candidate in token["top_logprobs"]})

        own, gguf = logprobs
        best = max(gguf, key=lambda token: gguf[token])
        assert best in own, f"the most likely token {best} of the GGUF file is not among the first 5, {sorted(own)}"
        difference = abs(own[best] - gguf[best])
        assert difference < MAX_LOGPROB_DIFFERENCE, (
            f"the log probability of token {best} is {own[best]:.2f}, but {gguf[best]:.2f} with the GGUF file"
        )

    # --- helpers

    def open(self, path: Path) -> Model | None:
        """Return what ``open_model`` returns for ``path``."""
        return self.registered()(path=path, settings=Settings())

    def model(self, folder: Path, gguf: Path) -> Model:
        """Write and open the tiny model."""
        path = self.write(folder, gguf)
        model = self.open(path)
        assert model is not None, f"open_model returns None for {path.name}, which `write` has written"
        return model

    def check_damaged(self, path: Path, damage: str) -> None:
        """Fail unless a damaged model is a ModelError, is left to other plugins, or works all the same."""
        try:
            model = self.open(path)
            if model is not None:
                self.registry("architecture")[model.metadata["general.architecture"]](model)
        except ModelError:
            return
        except Exception as error:
            cause = error.__cause__ or error
            assert isinstance(cause, ModelError), f"{damage}: it raises {cause!r}, not ModelError"
