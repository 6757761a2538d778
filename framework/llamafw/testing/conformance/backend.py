"""What every backend keeps: the model's numbers, whatever the batch; a cache to cut, move and save; its threads.

Models are tiny random ones of the Llama architecture, whose logits have a spread of about 3.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pytest

from llamafw.errors import LlamafwError
from llamafw.interfaces import Backend, BackendContext
from llamafw.models.gguf import read_gguf
from llamafw.testing.batches import batch, logits
from llamafw.testing.conformance.base import Conformance, same
from llamafw.testing.reference import Reference
from llamafw.types import BackendOptions

N = 40  # tokens of the text that all tests run
TOKENS = [int(token) for token in np.random.default_rng(1).integers(0, 300, N)]
SHORT: dict[str, Any] = {"n_predict": 8, "ignore_eos": True, "temperature": 0, "return_tokens": True}
EXACT = {"cache_type_k": "f32", "cache_type_v": "f32"}

WriteModel = Callable[..., Path]


class BackendConformance(Conformance):
    """Subclass it, and give the ``name``.

    Attributes
    ----------
    types : tuple of str
        Tensor types of the models whose logits are compared with float64.
    tolerance : float
        Largest difference of a logit from float64's, weights being what the file says and the cache float32.
    follows_the_model : bool
        False: it computes something else, as a backend for tests may, and is compared with itself alone.
    options : dict
        Settings for `llamafw.BackendOptions`, on top of what each test needs: ``{"extra": {"device": "cpu"}}``.
    """

    kind = "backend"
    types: ClassVar[tuple[str, ...]] = ("F32", "F16", "Q8_0", "Q4_1")
    tolerance: ClassVar[float] = 0.02
    follows_the_model: ClassVar[bool] = True
    options: ClassVar[dict[str, Any]] = {}

    # --- numbers

    def test_logits_are_those_of_float64(self, write_model: WriteModel) -> None:
        if not self.follows_the_model:
            pytest.skip("it does not follow the model")
        for kind in self.types:
            path = write_model(types=kind)
            with self.open(path, **EXACT) as backend:
                self.check_close(logits(backend, TOKENS, [17, 1, 22]), Reference(path).logits(TOKENS), kind)

    def test_heads_biases_and_output_matrices_of_other_shapes_count(self, write_model: WriteModel) -> None:
        if not self.follows_the_model:
            pytest.skip("it does not follow the model")
        for shape in ({"n_head": 4, "n_head_kv": 1, "n_embd_head": 32}, {"biases": True, "tied": False, "n_layer": 1}):
            path = write_model(**shape)
            with self.open(path, **EXACT) as backend:
                self.check_close(logits(backend, TOKENS), Reference(path).logits(TOKENS), str(shape))

    def test_hidden_states_are_those_of_float64(self, write_model: WriteModel) -> None:
        if not self.follows_the_model:
            pytest.skip("it does not follow the model")
        path = write_model()
        with self.open(path, **EXACT) as backend:
            found = backend.hidden(batch((0, 0, TOKENS), outputs=[0, 5, N - 1]))
            assert found.shape == (3, backend.n_embd), f"hidden states of 3 tokens have the shape {found.shape}"
            self.check_close(found, Reference(path).hidden(TOKENS)[[0, 5, N - 1]], "hidden states")

    # --- batches

    def test_it_has_what_it_was_asked_for(self, write_model: WriteModel) -> None:
        with self.open(write_model(), n_slots=3, n_ctx=96, n_batch=64) as backend:
            found = backend.n_slots, backend.n_ctx, backend.n_batch, backend.n_vocab
            assert found == (3, 96, 64, Reference(write_model()).n_vocab), f"slots, context, batch, vocabulary: {found}"
            assert isinstance(backend.describe().get("n_threads"), int), "describe() says no n_threads"
        with self.open(write_model()) as backend:
            assert backend.n_ctx == 512, f"n_ctx=0 is the model's context of 512, and not {backend.n_ctx}"

    def test_only_the_wanted_rows_are_returned(self, write_model: WriteModel) -> None:
        with self.open(write_model()) as backend:
            whole = logits(backend, TOKENS)
            assert whole.dtype == np.float32, f"logits are {whole.dtype}"
            some = backend.forward(batch((1, 0, TOKENS), outputs=[0, 3, N - 1]))
            same(some, whole[[0, 3, N - 1]], "rows 0, 3 and the last, alone")
            none = backend.forward(batch((0, N, [5]), outputs=[]))
            assert none.shape == (0, backend.n_vocab), f"without outputs the shape is {none.shape}"

    def test_logits_are_the_callers_to_write_into(self, write_model: WriteModel) -> None:
        with self.open(write_model()) as backend:
            first = backend.forward(batch((0, 0, TOKENS)))
            kept = first.copy()
            first[...] = np.nan
            same(backend.forward(batch((0, 0, TOKENS))), kept, "the same batch again, after the rows were written into")

    def test_any_cut_of_a_prompt_gives_the_same(self, write_model: WriteModel) -> None:
        with self.open(write_model(types="Q8_0"), n_ubatch=16) as backend:
            whole = logits(backend, TOKENS)
            for sizes in ([1] * N, [39, 1], [1, 39], [7, 16, 17], [15, 16, 9]):
                same(logits(backend, TOKENS, sizes), whole, f"the prompt in pieces of {sizes}")

    def test_sequences_of_any_length_side_by_side(self, write_model: WriteModel) -> None:
        """Ragged batches: one slot runs the text, the others anything, in the same batches."""
        rng = np.random.default_rng(4)
        with self.open(write_model(types="Q8_0"), n_slots=4) as backend:
            alone = logits(backend, TOKENS)
            for _ in range(3):
                for slot in range(4):
                    backend.truncate(slot, 0)
                done, held = 0, [0] * 4
                while done < N:
                    runs, wanted, n = [], range(0), 0
                    for slot in rng.permutation(4).tolist():
                        size = int(rng.choice([1, 1, 2, 7, 20]))
                        text = rng.integers(0, 300, size).tolist()
                        if slot == 2:
                            text = TOKENS[done : done + size]
                            wanted = range(n, n + len(text))
                        runs.append((slot, held[slot], text))
                        held[slot] += len(text)
                        n += len(text)
                    found = backend.forward(batch(*runs, outputs=wanted))
                    same(found, alone[done : held[2]], f"tokens {done} to {held[2] - 1}, beside other sequences")
                    done = held[2]

    # --- threads

    def test_the_number_of_threads_changes_nothing(self, write_model: WriteModel) -> None:
        path, found = write_model(types="Q8_0"), []
        for n in (1, 2, 3):
            with self.open(path, n_threads=n, n_threads_batch=4 - n) as backend:
                found.append(logits(backend, TOKENS, [20, 1, 1, 18]))
        for n, rows in ((2, found[1]), (3, found[2])):
            same(rows, found[0], f"with {n} threads instead of 1")

    def test_it_is_made_on_one_thread_and_called_on_another(self, write_model: WriteModel) -> None:
        with self.open(write_model()) as backend:
            here, there = logits(backend, TOKENS), []
            thread = threading.Thread(target=lambda: there.append(logits(backend, TOKENS)))
            thread.start()
            thread.join()
            same(there[0], here, "on another thread")

    def test_threads_end_when_it_is_closed(self, write_model: WriteModel) -> None:
        path, pause = write_model(), threading.Event()
        process = psutil.Process()
        counts: list[int] = []
        for _ in range(3):
            with self.open(path, n_threads=2) as backend:
                logits(backend, TOKENS[:4])
            for _ in range(500 if counts else 0):  # until the system has ended them
                if process.num_threads() <= counts[0]:
                    break
                pause.wait(0.01)
            counts.append(process.num_threads())
        assert counts[-1] <= counts[0], f"after each opening and closing there are {counts} threads"

    # --- the cache

    def test_a_truncated_slot_goes_on_from_there(self, write_model: WriteModel) -> None:
        with self.open(write_model()) as backend:
            whole = logits(backend, TOKENS)
            logits(backend, [*TOKENS[:20], 5, 6, 7, 8])
            backend.truncate(0, 20)
            same(backend.forward(batch((0, 20, TOKENS[20:]))), whole[20:], "after truncate(0, 20)")
            backend.truncate(0, 10_000)  # more than it holds: all of it
            same(backend.forward(batch((0, N - 1, TOKENS[-1:]))), whole[-1:], "after a truncate beyond what it holds")

    def test_shifted_positions_are_as_if_evaluated_there(self, write_model: WriteModel) -> None:
        """With one layer, what a cache holds of a token depends on the token and its position alone."""
        with self.open(write_model(n_layer=1), **EXACT) as backend:
            for first, n in ((0, 1), (4, 16), (8, 4), (10, 30)):
                logits(backend, TOKENS)
                backend.shift(0, first, n)
                went_on = backend.forward(batch((0, N - n, [5]))).copy()
                evaluated = logits(backend, [*TOKENS[:first], *TOKENS[first + n :], 5], slot=1)[-1:]
                self.check_close(went_on, evaluated, f"after shift(0, {first}, {n})")

    def test_what_is_restored_goes_on_to_the_bit(self, write_model: WriteModel) -> None:
        with self.open(write_model(types="Q8_0"), n_slots=3) as backend:
            whole = logits(backend, TOKENS)
            for n in (1, 16, 17, 33):
                state = backend.save(0, n)
                assert state.ndim == 1, f"save() returned the shape {state.shape}"
                assert state.dtype == np.uint8, f"save() returned {state.dtype}"
                logits(backend, TOKENS[::-1], slot=2)
                backend.restore(2, n, state)
                same(backend.save(2, n), state, f"{n} positions saved, restored and saved again")
                same(backend.forward(batch((2, n, TOKENS[n:]))), whole[n:], f"{n} positions restored into another slot")

    def test_a_state_is_a_copy(self, write_model: WriteModel) -> None:
        with self.open(write_model()) as backend:
            logits(backend, TOKENS)
            state = backend.save(0, 20)
            kept = state.copy()
            logits(backend, TOKENS[::-1])
            same(state, kept, "a state, after its slot was used for something else")

    def test_a_foreign_state_is_refused_and_changes_nothing(self, write_model: WriteModel) -> None:
        with self.open(write_model(), n_ctx=64) as backend:
            whole = logits(backend, TOKENS)
            state = backend.save(0, 20)
            for n, wrong in ((20, np.append(state, np.uint8(0))), (65, state)):
                if not len(state) and n > 20:  # a model without a cache
                    continue
                with pytest.raises(LlamafwError):
                    backend.restore(0, n, wrong)
                found = backend.forward(batch((0, N - 1, TOKENS[-1:])))
                same(found, whole[-1:], f"after {len(wrong)} bytes were refused for {n} positions")

    # --- in a server

    async def test_a_client_that_goes_disturbs_nobody(self, write_model: WriteModel, serve_http: Any) -> None:
        import httpx

        async with self.serve(serve_http, write_model()) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
            alone = await self.answer(client)
            endless = {"prompt": TOKENS, "n_predict": -1, "ignore_eos": True, "stream": True}
            async with client.stream("POST", "/completion", json=endless) as response:
                await anext(response.aiter_lines())
                beside = await self.answer(client)
            after = list(await asyncio.gather(self.answer(client), self.answer(client)))  # which needs both slots
            assert beside == alone, f"beside another client: {beside} and not {alone}"
            assert after == [alone, alone], f"after a client has gone: {after} and not {alone}"

    # --- how

    @contextmanager
    def open(self, path: Path, **options: Any) -> Iterator[Backend]:
        """Open a backend on a model, close it after."""
        quants = self.registry("quant")
        model = read_gguf(path, quants)
        decoder = self.registry("architecture")["llama"](model)
        given = {"n_slots": 2, "n_threads": 1} | self.options | options
        backend: Backend = self.thing()(BackendContext(model, decoder, BackendOptions(**given), quants))
        try:
            yield backend
        finally:
            backend.close()

    def serve(self, serve_http: Any, model: Path) -> Any:
        """Return a server with this backend and two slots."""
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
        response = await client.post("/completion", json={**SHORT, "prompt": TOKENS[:20]})
        assert response.status_code == 200, response.text
        tokens: list[int] = response.json()["tokens"]
        return tokens

    def check_close(self, found: Any, expected: Any, what: str) -> None:
        """Fail unless logits are near those of the reference."""
        assert found.shape == expected.shape, f"{what}: the shape is {found.shape} and not {expected.shape}"
        far = float(np.abs(found - expected).max())
        assert far <= self.tolerance, f"{what}: up to {far:.3g} away from float64, and {self.tolerance} is allowed"
