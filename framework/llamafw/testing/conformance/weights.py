"""What every weight source keeps: it opens what is its own, leaves the rest to others, and says what is damaged."""

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


class WeightsConformance(Conformance):
    """Subclass it, give as ``name`` the plugin with ``open_model``, and `write` a tiny model as such files are.

    As ``name``, its distribution or what ``llamafw plugins`` lists.
    """

    kind = "weights"

    def write(self, folder: Path, gguf: Path) -> Path:
        """Write the model of a GGUF file, a tiny Llama, into an empty folder; return what ``-m`` would be given."""
        pytest.skip("`write` a tiny model")

    @classmethod
    def thing(cls) -> Callable[..., Model | None]:
        """Return the plugin's ``open_model``."""
        calls = dict(load(cls.plugins).calls("open_model"))
        for owner, call in calls.items():
            if cls.name in (owner, owner.partition(":")[0]):
                return call
        pytest.fail(f"no plugin {cls.name!r} has open_model; there are {', '.join(calls) or 'none'}")

    def test_it_leaves_other_files_alone(self, tmp_path: Path, tiny_model: Path) -> None:
        (tmp_path / "folder").mkdir()
        (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 16)
        (tmp_path / "empty").touch()
        for path in (tiny_model, *tmp_path.iterdir(), tmp_path / "nothing.here"):
            assert self.open(path) is None, f"it opens {path.name}, which is none of its files"

    def test_tensors_have_the_bytes_that_their_types_say(self, tmp_path: Path, tiny_model: Path) -> None:
        model, quants = self.model(tmp_path, tiny_model), self.registry("quant")
        for name, tensor in model.tensors.items():
            assert tensor.name == name, f"the tensor {name} is called {tensor.name}"
            assert tensor.type_name in quants, f"{name} has the type {tensor.type_name!r}, which nobody knows"
            quant, n = quants[tensor.type_name], math.prod(tensor.shape)
            assert tensor.data.dtype == np.uint8, f"{name}: data are {tensor.data.dtype}"
            n_bytes = n // quant.block_size * quant.type_size
            assert tensor.data.shape == (n_bytes,), f"{name}: {tensor.data.shape} bytes, where {n_bytes} are needed"
        total = sum(tensor.data.size for tensor in model.tensors.values())
        assert model.n_bytes == total, f"n_bytes is {model.n_bytes}, and all tensors have {total}"

    def test_its_metadata_name_what_is_registered(self, tmp_path: Path, tiny_model: Path) -> None:
        model = self.model(tmp_path, tiny_model)
        for key, kind in (("general.architecture", "architecture"), ("tokenizer.ggml.model", "tokenizer")):
            value = model.metadata.get(key)
            assert value in self.registry(kind), f"{key} is {value!r}, and no such {kind} is registered"
        self.registry("architecture")[model.metadata["general.architecture"]](model)

    def test_damage_is_a_model_error(self, tmp_path: Path, tiny_model: Path) -> None:
        """Every file in turn cut to half, emptied, or gone: an error, or it did not matter."""
        whole = tmp_path / "whole"
        whole.mkdir()
        path = self.write(whole, tiny_model)
        for number, file in enumerate(sorted(file for file in whole.rglob("*") if file.is_file())):
            for change in ("half", "empty", "gone"):
                copy = tmp_path / f"{number}-{change}"
                shutil.copytree(whole, copy)
                damaged = copy / file.relative_to(whole)
                damaged.write_bytes(file.read_bytes()[: file.stat().st_size // 2 if change == "half" else 0])
                if change == "gone":
                    damaged.unlink()
                self.opens_or_says(copy / path.relative_to(whole), f"with {file.name} {change}")

    async def test_a_server_runs_it(self, tmp_path: Path, tiny_model: Path, serve: Any) -> None:
        """With the probabilities of the GGUF file, from weights that are the same or nearly so."""
        body = {"prompt": "the nation", "n_predict": 1, "n_probs": 5, "ignore_eos": True, "temperature": 0}
        found = []
        for path in (self.write(tmp_path, tiny_model), tiny_model):
            async with serve(model=path, plugin=self.plugins, backend="numba", threads=1) as client:
                response = await client.post("/completion", json=body)
                assert response.status_code == 200, response.text
                (token,) = response.json()["completion_probabilities"]
                found.append({one["id"]: one["logprob"] for one in token["top_logprobs"]})
        ours, gguf = found
        best = max(gguf, key=lambda token: gguf[token])
        assert best in ours, f"the likeliest token is {best}, and not among {sorted(ours)}"
        assert abs(ours[best] - gguf[best]) < 0.3, f"log p of token {best} is {ours[best]:.2f} and not {gguf[best]:.2f}"

    # --- how

    def open(self, path: Path) -> Model | None:
        """Return what the plugin makes of a path."""
        return self.thing()(path=path, settings=Settings())

    def model(self, folder: Path, gguf: Path) -> Model:
        """Return the tiny model, opened."""
        path = self.write(folder, gguf)
        model = self.open(path)
        assert model is not None, f"it does not open {path.name}, which it should"
        return model

    def opens_or_says(self, path: Path, what: str) -> None:
        """Fail unless opening and describing a model works, is left to others, or is a ModelError."""
        try:
            model = self.open(path)
            if model is not None:
                self.registry("architecture")[model.metadata["general.architecture"]](model)
        except ModelError:
            return
        except Exception as error:
            cause = error.__cause__ or error
            assert isinstance(cause, ModelError), f"{what}: {cause!r} and no ModelError"
