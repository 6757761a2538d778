"""The rules for backends that can run adapters: each token is computed with the scales of its own request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from llamafw.errors import RequestError
from llamafw.graph import evaluate, read_weights
from llamafw.interfaces import AdaptingBackend, BackendContext
from llamafw.models.adapters import adapt_model, read_control_vector, read_lora
from llamafw.models.gguf import read_gguf
from llamafw.testing.adapters import random_factors, write_control_vector, write_lora
from llamafw.testing.batches import batch
from llamafw.testing.conformance.backend_base import F32_CACHE, N_TOKENS, TOKENS, BackendTests, WriteModel
from llamafw.types import BackendOptions, Batch, Floats

_STRENGTHS = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.5, -1.0, 0.7))  # of two LoRA adapters and a control vector, per slot


class BackendAdapterTests(BackendTests):
    """The part of `BackendConformance` that tests adapters."""

    def test_tokens_have_the_adapters_of_their_slot(self, write_model: WriteModel) -> None:
        """In one batch, each token is computed with its own scales; scales of 0 give the logits of the model itself."""
        with self.open_adapted(write_model(), n_slots=3, **F32_CACHE) as (backend, scales, expected):
            alone = backend.forward(batch((0, 0, TOKENS))).copy()
            backend.truncate(0, 0)
            both = batch(*((slot, 0, TOKENS) for slot in range(3)))
            rows = backend.forward(replace(both, scales=np.repeat(scales, N_TOKENS, 0)))
            rows = rows.reshape(3, N_TOKENS, -1).copy()
            self.check_same(backend, rows[0], alone, "logits with scales of 0 and without scales")
            if self.follows_the_model:
                for slot in (1, 2):
                    self.check_close(rows[slot], expected[slot], f"logits with the strengths {_STRENGTHS[slot]}")

    def test_logits_do_not_depend_on_the_adapters_of_others(self, write_model: WriteModel) -> None:
        """A slot's logits with adapters are the same alone and beside slots with others, token by token or at once."""
        with self.open_adapted(write_model(), n_slots=3, **F32_CACHE) as (backend, scales, _):

            def forward(part: Batch) -> Floats:
                return backend.forward(replace(part, scales=scales[part.slots])).copy()

            alone = forward(batch((2, 0, TOKENS)))
            backend.truncate(2, 0)
            beside = [forward(batch((0, 0, TOKENS), (2, 0, TOKENS[:20])))[N_TOKENS:]]
            beside += [
                forward(batch((1, i, TOKENS[i : i + 1]), (2, 20 + i, TOKENS[20 + i : 21 + i])))[1:] for i in range(20)
            ]
            self.check_same(backend, np.concatenate(beside), alone, "logits beside other slots and alone")

    def test_adapters_can_be_removed(self, write_model: WriteModel) -> None:
        """After `set_adapters(None)`, the model is as before, slots keep their contents, and scales are refused."""
        with self.open_adapted(write_model(), n_slots=3, **F32_CACHE) as (backend, scales, _):
            first = backend.forward(batch((0, 0, TOKENS[:20]))).copy()
            backend.set_adapters(None)
            rest = backend.forward(batch((0, 20, TOKENS[20:]))).copy()
            whole = backend.forward(batch((1, 0, TOKENS)))
            self.check_same(backend, np.concatenate([first, rest]), whole, "logits before and after the removal")
            with pytest.raises(RequestError):
                backend.forward(replace(batch((2, 0, TOKENS)), scales=np.repeat(scales[:1], N_TOKENS, 0)))

    @contextmanager
    def open_adapted(self, path: Path, **options: Any) -> Iterator[tuple[AdaptingBackend, Floats, list[Floats]]]:
        """Open a model with adapters; yield the backend, each slot's scales, and each slot's logits in float64.

        Skips the test if the backend cannot run adapters.
        """
        quants = self.registry("quant")
        model = read_gguf(path, quants)
        shapes = {name: tensor.shape for name, tensor in model.tensors.items() if len(tensor.shape) == 2}
        factors = [random_factors(shapes, 4, 0), random_factors(dict(list(shapes.items())[::2]), 3, 1)]
        files = [write_lora(path.with_name(f"lora-{i}.gguf"), one) for i, one in enumerate(factors)]
        n_embd = shapes["token_embd.weight"][1]
        vector = {1: np.linspace(-1, 1, n_embd, dtype=np.float32)}
        adapters = [read_lora(file, model, quants, {}) for file in files]
        adapters.append(read_control_vector(write_control_vector(path.with_name("vector.gguf"), vector), model, quants))
        graph = self.registry("architecture")["llama"](model)
        adaptation, with_stacks = adapt_model(model, graph, adapters, quants)
        rows = [[0.0 if i < 0 else factor * one[i] for i, factor in adaptation.scales] for one in _STRENGTHS]
        scales = np.array(rows, np.float32)

        chosen = BackendOptions(**{"n_slots": 2, "n_threads": 1} | self.options | options)
        context = BackendContext(with_stacks, adaptation.graph, chosen, quants, operators=self.registry("operator"))
        with self.open(path, **options) as opened:
            if not hasattr(opened, "set_adapters"):
                pytest.skip("the backend cannot run adapters: it has no `set_adapters`")
            backend = cast("AdaptingBackend", opened)
            backend.set_adapters(context)
            read = read_weights(with_stacks, quants)
            expected = [evaluate(adaptation.graph, TOKENS, read, scales=one)[1] for one in scales]
            yield backend, scales, [logits for logits in expected if logits is not None]
