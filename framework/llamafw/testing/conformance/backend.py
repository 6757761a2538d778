"""The rules for backends: exact logits, independent slots, a cache that can be cut, shifted, saved and restored.

The models are tiny random Llamas, whose logits have a standard deviation of about 3.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil

from llamafw.errors import ModelError
from llamafw.graph import evaluate, read_weights
from llamafw.interfaces import CandidateBackend
from llamafw.models.gguf import read_gguf
from llamafw.testing.batches import Run, batch, logits
from llamafw.testing.conformance.backend_adapters import BackendAdapterTests
from llamafw.testing.conformance.backend_base import F32_CACHE, N_TOKENS, TOKENS, WriteModel
from llamafw.testing.conformance.backend_cache import BackendCacheTests
from llamafw.testing.conformance.base import assert_identical
from llamafw.testing.graphs import Variation, variations
from llamafw.testing.reference import Reference

SHORT_ANSWER: dict[str, Any] = {"n_predict": 8, "ignore_eos": True, "temperature": 0, "return_tokens": True}
REQUEST_TIMEOUT = 300  # seconds; the first request may wait for a compiler


class BackendConformance(BackendCacheTests, BackendAdapterTests):
    """Subclass it and give the ``name``.

    Attributes
    ----------
    types : tuple of str
        Tensor types of the models whose logits are compared with float64.
    tolerance : float
        Largest allowed difference between a logit and float64, with the weights of the file and a float32 cache.
    follows_the_model : bool
        False for a backend that does not compute the model, such as a fake: its logits are only compared with its own.
    options : dict
        Further arguments of `llamafw.BackendOptions` for all tests: ``{"extra": {"device": "cpu"}}``.
    """

    # --- numbers

    def test_logits_match_float64(self, write_model: WriteModel) -> None:
        """Logits differ from a float64 evaluation by `tolerance` at most, for every tensor type in `types`."""
        self.skip_unless_it_follows_the_model()
        assert self.types, "`types` is empty"
        for type_name in self.types:
            path = write_model(types=type_name)
            with self.open(path, **F32_CACHE) as backend:
                actual = logits(backend, TOKENS, [17, 1, 22])
            self.check_close(actual, Reference(path).logits(TOKENS), f"{type_name}: logits and those of float64")

    def test_logits_match_float64_for_other_shapes(self, write_model: WriteModel) -> None:
        """Logits also match float64 with other head sizes, with biases, and with a separate output matrix."""
        self.skip_unless_it_follows_the_model()
        for shape in ({"n_head": 4, "n_head_kv": 1, "n_embd_head": 32}, {"biases": True, "tied": False, "n_layer": 1}):
            path = write_model(**shape)
            with self.open(path, **F32_CACHE) as backend:
                subject = f"a model with {shape}: logits and those of float64"
                self.check_close(logits(backend, TOKENS), Reference(path).logits(TOKENS), subject)

    def test_hidden_states_match_float64(self, write_model: WriteModel) -> None:
        """`hidden` returns the states after the output norm, as close to float64 as logits."""
        self.skip_unless_it_follows_the_model()
        path = write_model()
        outputs = [0, 5, N_TOKENS - 1]
        with self.open(path, **F32_CACHE) as backend:
            states = backend.hidden(batch((0, 0, TOKENS), outputs=outputs))
            expected = (3, backend.n_embd)
            assert states.shape == expected, f"hidden states of 3 tokens have the shape {states.shape}, not {expected}"
            self.check_close(states, Reference(path).hidden(TOKENS)[outputs], "hidden states and those of float64")

    def test_other_operators_are_computed_or_refused(self, write_model: WriteModel) -> None:
        """A graph with another operator is computed correctly, or refused with a ModelError that names the operator.

        `llamafw.testing.graphs` has the graphs.
        """
        self.skip_unless_it_follows_the_model()
        n_checked = 0
        for variation in variations():
            path = write_model(tensors=variation.tensors())
            error = self.refusal(path, variation)
            if error is None:
                self.check_variation(path, variation)
            else:
                message = f"a model with {variation.name} is refused, but the error does not name {variation.operator}"
                assert variation.operator in error, f"{message}: {error}"
            n_checked += 1
        assert n_checked, "there are no graphs"

    # --- batches

    def test_sizes_match_the_options(self, write_model: WriteModel) -> None:
        """`n_slots`, `n_ctx` and `n_batch` are those of the options; ``n_ctx=0`` means the model's context."""
        with self.open(write_model(), n_slots=3, n_ctx=96, n_batch=64) as backend:
            sizes = backend.n_slots, backend.n_ctx, backend.n_batch, backend.n_vocab
            expected = (3, 96, 64, Reference(write_model()).n_vocab)
            assert sizes == expected, f"(n_slots, n_ctx, n_batch, n_vocab) is {sizes}, expected {expected}"
            n_threads = backend.describe().get("n_threads")
            assert isinstance(n_threads, int), f"describe()['n_threads'] is {n_threads!r}, expected an integer"
        with self.open(write_model()) as backend:
            assert backend.n_ctx == 512, f"with n_ctx=0, n_ctx is {backend.n_ctx}, expected the model's context of 512"

    def test_attributes_about_rules_are_booleans(self, write_model: WriteModel) -> None:
        """`exact`, `whole_texts`, `can_cut` and `can_shift` are True or False."""
        with self.open(write_model()) as backend:
            for name in ("exact", "whole_texts", "can_cut", "can_shift"):
                value = getattr(backend, name)
                assert isinstance(value, bool), f"{name} is {value!r}, expected True or False"

    def test_forward_returns_requested_rows_only(self, write_model: WriteModel) -> None:
        """`forward` returns a float32 row for each output, and no rows if there are no outputs.

        `top_logits`, if the backend has it, returns the highest of the same numbers.
        """
        with self.open(write_model()) as backend:
            whole = logits(backend, TOKENS)
            assert whole.dtype == np.float32, f"logits are {whole.dtype}, expected float32"
            outputs = [0, 3, N_TOKENS - 1]
            some = backend.forward(batch((1, 0, TOKENS), outputs=outputs))
            self.check_same(backend, some, whole[outputs], f"the outputs {outputs} alone and among all")
            none = backend.forward(batch((0, N_TOKENS, [5]), outputs=[]))
            expected = (0, backend.n_vocab)
            assert none.shape == expected, f"without outputs the shape is {none.shape}, expected {expected}"
            if hasattr(backend, "top_logits"):
                self.check_top_logits(cast("CandidateBackend", backend), whole[outputs])

    def test_caller_may_overwrite_logits(self, write_model: WriteModel) -> None:
        """Writing into the result of `forward` does not change later results."""
        with self.open(write_model()) as backend:
            first = backend.forward(batch((0, 0, TOKENS)))
            kept = first.copy()
            first[...] = np.nan
            again = logits(backend, TOKENS)
            assert_identical(again, kept, "the same batch after and before its logits were overwritten")

    def test_logits_do_not_depend_on_batch_size(self, write_model: WriteModel) -> None:
        """A prompt gives the same logits, however it is divided into batches: bit for bit if ``exact`` is True."""
        with self.open(write_model(types="Q8_0"), n_ubatch=16) as backend:
            whole = logits(backend, TOKENS)
            for sizes in ([1] * N_TOKENS, [39, 1], [1, 39], [7, 16, 17], [15, 16, 9]):
                divided = logits(backend, TOKENS, sizes)
                self.check_same(backend, divided, whole, f"the prompt in batches of {sizes} and in one")

    def test_logits_do_not_depend_on_other_slots(self, write_model: WriteModel) -> None:
        """A sequence gives the same logits alone and beside others in batches of mixed lengths.

        They are the same bit for bit if ``exact`` is True.
        """
        rng = np.random.default_rng(4)
        own_slot = 2
        with self.open(write_model(types="Q8_0"), n_slots=4) as backend:
            alone = logits(backend, TOKENS)
            for _ in range(3):
                for slot in range(4):
                    backend.truncate(slot, 0)

                lengths = [0] * 4
                while (start := lengths[own_slot]) < N_TOKENS:
                    runs: list[Run] = []
                    outputs = range(0)
                    for slot in rng.permutation(4).tolist():
                        size = int(rng.choice([1, 1, 2, 7, 20]))
                        tokens = rng.integers(0, 300, size).tolist()
                        if slot == own_slot:
                            tokens = TOKENS[start : start + size]
                            n_before = sum(len(run[2]) for run in runs)
                            outputs = range(n_before, n_before + len(tokens))
                        runs.append((slot, lengths[slot], tokens))
                        lengths[slot] += len(tokens)

                    rows = backend.forward(batch(*runs, outputs=outputs))
                    end = lengths[own_slot]
                    subject = f"tokens {start} to {end - 1} beside other slots and alone"
                    self.check_same(backend, rows, alone[start:end], subject)

    # --- threads

    def test_logits_do_not_depend_on_threads(self, write_model: WriteModel) -> None:
        """The number of threads does not change the logits, not even a bit if ``exact`` is True."""
        path, results = write_model(types="Q8_0"), []
        for n in (1, 2, 3):
            with self.open(path, n_threads=n, n_threads_batch=4 - n) as backend:
                results.append(logits(backend, TOKENS, [20, 1, 1, 18]))
                self.check_same(backend, results[-1], results[0], f"logits with {n} threads and with 1")

    def test_may_be_called_on_another_thread(self, write_model: WriteModel) -> None:
        """A backend that was created on one thread works on another."""
        with self.open(write_model()) as backend:
            here, there = logits(backend, TOKENS), []
            thread = threading.Thread(target=lambda: there.append(logits(backend, TOKENS)))
            thread.start()
            thread.join()
            assert there, "`forward` failed on another thread; the exception is above"
            self.check_same(backend, there[0], here, "logits on another thread and on this one")

    def test_close_ends_its_threads(self, write_model: WriteModel) -> None:
        """`close` ends all threads of the backend."""
        path, pause = write_model(), threading.Event()
        process = psutil.Process()
        counts: list[int] = []
        for _ in range(3):
            with self.open(path, n_threads=2) as backend:
                logits(backend, TOKENS[:4])
            for _ in range(3000 if counts else 0):  # the system takes a moment to end them
                if process.num_threads() <= counts[0]:
                    break
                pause.wait(0.01)
            counts.append(process.num_threads())
        assert counts[-1] <= counts[0], f"opened and closed three times, it leaves more and more threads: {counts}"

    # --- in a server

    async def test_disconnected_client_does_not_affect_others(self, write_model: WriteModel, serve_http: Any) -> None:
        """Answers are the same alone, beside another client, and after that client has disconnected."""
        import httpx

        async with (
            self.serve(serve_http, write_model()) as url,
            httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT) as client,
        ):
            alone = await self.answer(client)
            endless = {"prompt": TOKENS, "n_predict": -1, "ignore_eos": True, "stream": True}
            async with client.stream("POST", "/completion", json=endless) as response:
                await anext(response.aiter_lines())
                beside = await self.answer(client)
            after = list(await asyncio.gather(self.answer(client), self.answer(client)))  # these need both slots
            assert beside == alone, f"beside another client the answer is {beside}, alone {alone}"
            assert after == [alone, alone], f"after a client has disconnected the answers are {after}, alone {alone}"

    # --- helpers

    def serve(self, serve_http: Any, model: Path) -> Any:
        """Start a server with this backend and two slots."""
        return serve_http(
            model=model,
            backend=self.name,
            plugin=self.plugins,
            parallel=2,
            threads=1,
            context_shift=True,
            extra=self.options.get("extra", {}),
        )

    async def answer(self, client: Any) -> list[int]:
        """Return the tokens of a short answer."""
        response = await client.post("/completion", json={**SHORT_ANSWER, "prompt": TOKENS[:20]})
        assert response.status_code == 200, response.text
        tokens: list[int] = response.json()["tokens"]
        return tokens

    def refusal(self, path: Path, variation: Variation) -> str | None:
        """Return the message of the backend's ModelError for a graph; None if the backend accepts it."""
        try:
            with self.open(path, build=variation.build):
                return None
        except ModelError as error:
            return str(error)

    def check_variation(self, path: Path, variation: Variation) -> None:
        """Compare the hidden states and logits of a graph with its evaluation in float64."""
        quants = self.registry("quant")
        model = read_gguf(path, quants)
        graph = variation.build(model)
        types = [i // 3 % 2 for i in range(N_TOKENS)] if graph.n_types > 1 else None
        states, rows = evaluate(graph, TOKENS, read_weights(model, quants), types=types)

        with self.open(path, build=variation.build, **F32_CACHE) as backend:
            actual = backend.hidden(batch((0, 0, TOKENS), types=types))
            self.check_close(actual, states, f"a model with {variation.name}: hidden states and those of float64")
            if rows is None or types:
                return

            for sizes in ([N_TOKENS],) if backend.whole_texts else ([N_TOKENS], [17, 1, 22]):
                actual = logits(backend, TOKENS, sizes)
                subject = f"a model with {variation.name}, in batches of {sizes}: logits and those of float64"
                self.check_close(actual, rows, subject)
