"""The rules for architectures: descriptions are consistent with the file, and damaged files are a ModelError."""

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

INVALID_VALUES: tuple[Any, ...] = ("x", -1, 0, 2**40, 3.5, [1, 2], None)  # None: the key is missing


class ArchitectureConformance(Conformance):
    """Subclass it, give the ``name``, and `write` a tiny model, unless it is ``llama``."""

    kind = "architecture"

    def write(self, write_model: Callable[..., Path]) -> Path:
        """Write a tiny model, ``write_model(metadata={"general.architecture": …}, tensors={…})``; return its path."""
        if self.name != "llama":
            pytest.skip("implement `write`, which writes a tiny model of this architecture")
        return write_model()

    def test_description_is_consistent(self, write_model: Any) -> None:
        """The sizes in the description are valid and agree with each other and with the file."""
        self.check(self.describe(self.open(write_model)), self.open(write_model))

    def test_every_tensor_has_a_role(self, write_model: Any) -> None:
        """Every role names a tensor of the file, and every tensor of the file has a role."""
        model = self.open(write_model)
        decoder = self.describe(model)
        for role, name in tensor_names(decoder):
            assert name in model.tensors, f"the role {role} names {name}, which is not in the file"
        unused = set(model.tensors) - {name for _, name in tensor_names(decoder)} - {"rope_freqs.weight"}
        assert not unused, f"the file contains {min(unused)}, which no role names"

    def test_damaged_tensors_are_a_model_error(self, write_model: Any) -> None:
        """A tensor that is missing or has another shape is a ModelError."""
        model = self.open(write_model)
        names = [name for _, name in tensor_names(self.describe(model))]
        assert names, "the description has no tensors"
        for name in names:
            tensor = model.tensors[name]
            others = {other: value for other, value in model.tensors.items() if other != name}
            narrower = replace(tensor, shape=(*tensor.shape[:-1], tensor.shape[-1] - 1))
            deeper = replace(tensor, shape=(*tensor.shape, 2))
            for damage, tensors in (
                ("is missing", others),
                ("is one column short", others | {name: narrower}),
                ("has one more dimension", others | {name: deeper}),
            ):
                damaged = replace(model, tensors=MappingProxyType(tensors))
                self.check_damaged(damaged, f"{name} {damage}", without=name)

    def test_invalid_metadata_is_a_model_error(self, write_model: Any) -> None:
        """Missing or invalid metadata is a ModelError, or the description is still consistent."""
        model = self.open(write_model)
        keys = [key for key in model.metadata if key.startswith(f"{self.name}.")]
        assert keys, f"the file has no metadata that begin with {self.name!r}"
        for key in keys:
            for value in INVALID_VALUES:
                metadata = {other: known for other, known in model.metadata.items() if other != key}
                metadata |= {} if value is None else {key: value}
                what = f"{key} is missing" if value is None else f"{key} is {value!r}"
                self.check_damaged(replace(model, metadata=MappingProxyType(metadata)), what)

    async def test_server_runs_it(self, serve: Any, write_model: Any) -> None:
        """A server loads such a model and answers."""
        async with serve(model=self.write(write_model), plugin=self.plugins, backend="numba", threads=1) as client:
            body = {"prompt": [70, 75, 80], "n_predict": 4, "n_probs": 1, "ignore_eos": True, "temperature": 0}
            response = await client.post("/completion", json=body)
            assert response.status_code == 200, response.text
            assert len(response.json()["completion_probabilities"]) == 4

    # --- helpers

    def open(self, write_model: Any) -> Model:
        """Open the tiny model."""
        return read_gguf(self.write(write_model), self.registry("quant"))

    def describe(self, model: Model) -> Decoder:
        """Return the architecture's description of a model."""
        architecture: Architecture = self.registered()
        return architecture(model)

    def check_damaged(self, model: Model, damage: str, without: str = "") -> None:
        """Fail unless a damaged model is a ModelError, or its description is consistent and avoids ``without``."""
        try:
            decoder = self.describe(model)
        except ModelError:
            return
        except Exception as error:
            raise AssertionError(f"{damage}: it raises {error!r}, not ModelError") from error
        self.check(decoder, model, f"{damage}: ")
        used = without in [name for _, name in tensor_names(decoder)]
        assert not used, f"{damage}: there is no ModelError, and the description still uses {without}"

    def check(self, decoder: Decoder, model: Model, prefix: str = "") -> None:
        """Fail unless a description is consistent; ``prefix`` begins the message."""
        for field in ("n_vocab", "n_ctx_train", "n_embd", "n_layer", "n_head", "n_head_kv", "n_embd_head", "n_ff"):
            value = getattr(decoder, field)
            assert isinstance(value, int), f"{prefix}{field} is {value!r}, expected an integer"
            assert 0 < value < 2**31, f"{prefix}{field} is {value}, expected 1 to 2**31 - 1"
        n_head, n_head_kv = decoder.n_head, decoder.n_head_kv
        assert n_head % n_head_kv == 0, f"{prefix}n_head is {n_head}, which n_head_kv = {n_head_kv} does not divide"

        frequencies = decoder.rope_frequencies
        assert frequencies.ndim == 1, f"{prefix}rope_frequencies has the shape {frequencies.shape}, expected one row"
        assert 2 * len(frequencies) <= decoder.n_embd_head, (
            f"{prefix}{len(frequencies)} pairs are rotated, but a head has {decoder.n_embd_head} numbers"
        )
        assert frequencies.dtype == np.float64, f"{prefix}rope_frequencies has the dtype {frequencies.dtype}"
        assert np.isfinite(frequencies).all(), f"{prefix}rope_frequencies has infinities or NaN"
        for field in ("norm_eps", "rope_magnitude", "attention_scale"):
            value = getattr(decoder, field)
            assert 0 <= value < np.inf, f"{prefix}{field} is {value}, expected a finite number of at least 0"

        layers = {int(name.split(".")[1]) for name in model.tensors if name.startswith("blk.")}
        n_layer = max(layers) + 1
        assert decoder.n_layer == n_layer, f"{prefix}n_layer is {decoder.n_layer}, but the file has {n_layer} layers"


def tensor_names(decoder: Decoder) -> Iterator[tuple[str, str]]:
    """Yield the role and the name of every tensor. A tensor may have two roles."""
    for role, name in decoder.tensors.items():
        for layer in range(decoder.n_layer if "{layer}" in name else 1):
            yield role, name.format(layer=layer)
