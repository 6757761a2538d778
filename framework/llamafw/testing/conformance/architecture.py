"""What every architecture keeps: its description can be run, and files that are none are an error that says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from llamafw.errors import ModelError
from llamafw.interfaces import Architecture
from llamafw.models.gguf import read_gguf
from llamafw.testing.conformance.base import Conformance
from llamafw.types import Decoder, Model

WRONG: tuple[Any, ...] = ("x", -1, 0, 2**40, 3.5, [1, 2], None)


class ArchitectureConformance(Conformance):
    """Subclass it, give the ``name``, and `write` a tiny model, unless it is ``llama``."""

    kind = "architecture"

    def write(self, write_model: Callable[..., Path]) -> Path:
        """Return the file of a tiny model: ``write_model(metadata={"general.architecture": …}, tensors={…})``."""
        if self.name != "llama":
            pytest.skip("`write` a tiny model of this architecture")
        return write_model()

    def test_its_numbers_fit_one_another(self, write_model: Any) -> None:
        self.check(self.describe(self.open(write_model)), self.open(write_model))

    def test_every_tensor_is_in_the_file(self, write_model: Any) -> None:
        model = self.open(write_model)
        decoder = self.describe(model)
        for role, name in names(decoder):
            assert name in model.tensors, f"{role} is {name}, which is not in the file"
        unused = set(model.tensors) - {name for _, name in names(decoder)} - {"rope_freqs.weight"}
        assert not unused, f"the file has {min(unused, default='')}, which no role names"

    def test_a_tensor_that_is_missing_or_has_another_shape_is_an_error(self, write_model: Any) -> None:
        model = self.open(write_model)
        for _, name in names(self.describe(model)):
            tensor = model.tensors[name]
            fewer = {other: value for other, value in model.tensors.items() if other != name}
            for what, tensors in (
                ("missing", fewer),
                ("one column short", fewer | {name: replace(tensor, shape=(*tensor.shape[:-1], tensor.shape[-1] - 1))}),
                ("with a dimension more", fewer | {name: replace(tensor, shape=(*tensor.shape, 2))}),
            ):
                changed = replace(model, tensors=MappingProxyType(tensors))
                self.refuses_or_knows(changed, f"with {name} {what}", name)

    def test_metadata_that_are_missing_or_wrong_are_an_error(self, write_model: Any) -> None:
        """Or the description is one that can be run: a key may have a default, or not matter."""
        model = self.open(write_model)
        for key in [key for key in model.metadata if key.startswith(f"{self.name}.")]:
            for value in WRONG:
                metadata = {other: known for other, known in model.metadata.items() if other != key}
                metadata |= {} if value is None else {key: value}
                self.refuses_or_knows(replace(model, metadata=MappingProxyType(metadata)), f"with {key} = {value!r}")

    async def test_a_server_runs_it(self, serve: Any, write_model: Any) -> None:
        async with serve(model=self.write(write_model), plugin=self.plugins, backend="numba", threads=1) as client:
            body = {"prompt": [70, 75, 80], "n_predict": 4, "n_probs": 1, "ignore_eos": True, "temperature": 0}
            response = await client.post("/completion", json=body)
            assert response.status_code == 200, response.text
            assert len(response.json()["completion_probabilities"]) == 4

    # --- how

    def open(self, write_model: Any) -> Model:
        """Return the tiny model."""
        return read_gguf(self.write(write_model), self.registry("quant"))

    def describe(self, model: Model) -> Decoder:
        """Return what the architecture says of a model."""
        architecture: Architecture = self.thing()
        return architecture(model)

    def refuses_or_knows(self, model: Model, what: str, name: str = "") -> None:
        """Fail unless a changed model is a ModelError, or a description that fits it and does without ``name``."""
        try:
            decoder = self.describe(model)
        except ModelError:
            return
        except Exception as error:
            raise AssertionError(f"{what}: {error!r} and no ModelError") from error
        self.check(decoder, model, what)
        assert name not in [known for _, known in names(decoder)], f"{what} the description is made all the same"

    def check(self, d: Decoder, model: Model, what: str = "") -> None:
        """Fail unless the numbers of a description fit one another, and the file."""
        for field in ("n_vocab", "n_ctx_train", "n_embd", "n_layer", "n_head", "n_head_kv", "n_embd_head", "n_ff"):
            value = getattr(d, field)
            assert isinstance(value, int), f"{what} {field} is {value!r}"
            assert 0 < value < 2**31, f"{what} {field} is {value}"
        assert d.n_head % d.n_head_kv == 0, f"{what} {d.n_head} heads share {d.n_head_kv} of keys and values"
        turns = d.rope_frequencies
        assert turns.ndim == 1, f"{what} rope_frequencies has the shape {turns.shape}"
        assert 2 * len(turns) <= d.n_embd_head, f"{what} {len(turns)} pairs are turned in heads of {d.n_embd_head}"
        assert turns.dtype == np.float64, f"{what} rope_frequencies are {turns.dtype}"
        for field in ("norm_eps", "rope_magnitude", "attention_scale"):
            assert 0 <= getattr(d, field) < np.inf, f"{what} {field} is {getattr(d, field)}"
        assert np.isfinite(turns).all(), f"{what} rope_frequencies are not all numbers"
        layers = {name for name in model.tensors if name.startswith("blk.")}
        last = max(int(name.split(".")[1]) for name in layers)
        assert d.n_layer == last + 1, f"{what} n_layer is {d.n_layer}, and the file has {last + 1}"


def names(decoder: Decoder) -> Iterator[tuple[str, str]]:
    """Yield role and name of every tensor; one tensor may have two roles."""
    for role, name in decoder.tensors.items():
        for layer in range(decoder.n_layer if "{layer}" in name else 1):
            yield role, name.format(layer=layer)
