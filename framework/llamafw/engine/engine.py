"""The engine: accepts requests on the event loop and answers them on the engine thread.

The engine thread owns the backend, the slots, and every task from its arrival on. The event loop passes it tasks and
cancelled tasks through the inbox; it sends results back through outboxes. `worker` has the thread's steps.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from llamafw.engine import debug_log
from llamafw.engine.embed_sequence import EmbedSequence
from llamafw.engine.engine_options import EngineOptions
from llamafw.engine.grammars import Grammars
from llamafw.engine.outbox import Outbox, receive_or_raise
from llamafw.engine.prompt import PreparedPrompt, as_tokens, prepare_prompt
from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.scheduler import Scheduler
from llamafw.engine.sequence import Sequence as GeneratedSequence
from llamafw.engine.slot_actions import SlotActions
from llamafw.engine.slots import Slot, Slots
from llamafw.engine.stats import slot_status
from llamafw.engine.task import Task
from llamafw.engine.worker import ReportFailure, SlotJob, Worker, ignore_blame
from llamafw.errors import ContextFullError, GenerationError, NotSupported, RequestError, TooManyRequests, Unavailable
from llamafw.interfaces import Backend, GrammarContext, GrammarFactory, SamplerContext, SamplerPlugin, Tokenizer
from llamafw.sampling.chain import Chain, build_chain
from llamafw.sampling.constraint import Constraint
from llamafw.types import Delta, Embedding, EmbedRequest, EngineStats, Finish, GenerateRequest, Ints, SlotStatus

log = logging.getLogger(__name__)

_MAX_LAST_STEP = 60.0  # seconds that the last step may take when the engine stops
_MAX_RETRY_AFTER = 60  # seconds


class BatchingEngine:
    """A `llamafw.Engine` that answers many requests at the same time on its own thread.

    Parameters
    ----------
    backend : Backend
        Runs the model.
    tokenizer : Tokenizer
        The model's tokenizer.
    samplers : mapping of str to SamplerPlugin
        The samplers that requests may name.
    options : EngineOptions, optional
        The engine's settings.
    finished : callable
        ``finished(request=…, finish=…)`` is called on the event loop when a generation ends; ``finish`` is None if it
        was interrupted. It must not raise.
    grammars : mapping of str to GrammarFactory
        The kinds of grammars that requests may use.
    report_failure : callable
        Counts a failure of a plugin; see `ReportFailure`.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        samplers: Mapping[str, SamplerPlugin],
        options: EngineOptions | None = None,
        *,
        finished: Callable[..., None] = lambda **facts: None,
        grammars: Mapping[str, GrammarFactory] | None = None,
        report_failure: ReportFailure = ignore_blame,
    ) -> None:
        self._options = options = options or EngineOptions()
        n_batch = min(options.n_batch, backend.n_batch)
        self.n_slots = backend.n_slots
        self.n_ctx = min(backend.n_ctx, n_batch) if backend.whole_texts else backend.n_ctx
        # some models have logits for tokens without text, others have no logits
        self._n_vocab = min(backend.n_vocab or tokenizer.n_vocab, tokenizer.n_vocab)
        self._tokenizer, self._samplers = tokenizer, samplers
        self._backend, self._finished = backend, finished
        self.grammars = Grammars(grammars or {}, GrammarContext(tokenizer, self._n_vocab))

        self._slots = Slots(self.n_slots, self.n_ctx, options.similarity)
        self._scheduler = Scheduler(
            self._slots,
            n_batch,
            options.n_ubatch,
            continuous=options.continuous,
            whole_texts=backend.whole_texts,
            copies_prefixes=(options.prompt_cache != 0 or hasattr(backend, "share_prefix")) and not backend.whole_texts,
        )
        self._cache = PromptCache(options.prompt_cache)
        self._worker = Worker(
            backend,
            self._slots,
            self._scheduler,
            self._cache,
            self._n_vocab,
            options.timeout,
            log_caches=options.log_caches,
            report_failure=report_failure,
        )
        self._slot_actions = SlotActions(self._run_job, self._worker.caches, options.fingerprint, self.n_ctx)

        self._inbox: queue.SimpleQueue[Task | SlotJob | None] = queue.SimpleQueue()
        self._outboxes: list[Outbox] = []  # one per event loop: that of the server, and that of `preload`
        self._refusal: Callable[[], RequestError] | None = None  # makes the error that new requests get
        self.failed = False
        self._closed = False
        self._n_active = self._n_rejected = 0
        self._all_done = asyncio.Event()
        self._all_done.set()
        self._thread = threading.Thread(target=self._run, name="llamafw-engine", daemon=True)
        self._thread.start()

    # --- on the event loop

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Yield the response in pieces; the last one has ``finish``, and closing the generator cancels the request.

        Raises
        ------
        RequestError
            The request cannot be served. If it is invalid, the call itself raises this, otherwise the generator.
        """
        self._raise_if_refusing()
        self._check_slot(request.id_slot)
        self._check_can_generate()
        if request.prompt_logprobs is not None:  # cached tokens and truncated ones have no log-probabilities
            request = replace(request, cache_prompt=False, context_shift=False, truncate_prompt=False)
        prompt = prepare_prompt(request, self._n_vocab, self.n_ctx, add_bos=self._tokenizer.add_bos)
        self._log_prompt(prompt.tokens)

        seed = secrets.randbits(32) if request.seed is None or request.seed < 0 else request.seed
        context = SamplerContext(request.prompt, self._n_vocab, self.n_ctx, self._tokenizer, request.min_keep, seed)
        chain = build_chain(request, seed, self._samplers, context, self._options.slow_calls)
        if not len(prompt.tokens):
            return _respond_to_empty_prompt(seed)
        self._check_queue()
        return self._respond(request, prompt, chain, seed, perf_counter())

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return the embedding of a text; cancelling the call cancels the request.

        Raises
        ------
        RequestError
            The request cannot be served.
        """
        self._raise_if_refusing()
        self._check_slot(request.id_slot)
        if request.pooling == "rank" and self._options.rank_head is None:
            raise NotSupported("this model cannot rerank: it has no rank head")
        if not 0 < len(request.prompt) <= self.n_ctx:
            raise ContextFullError(len(request.prompt), self.n_ctx)
        prompt = as_tokens(request.prompt, self._n_vocab)
        self._log_prompt(prompt)
        self._check_queue()

        mailbox = asyncio.Queue[Embedding | RequestError]()
        task = EmbedSequence(request, prompt, self._sender(mailbox), self._options.rank_head)
        async with self._active(task):
            embedding: Embedding = await receive_or_raise(mailbox)
        return embedding

    async def preload(self, prompt: tuple[int, ...]) -> None:
        """Evaluate a prompt into the last slot, so that requests that begin with it can reuse its cache."""
        self._check_can_generate()
        if len(prompt) > self.n_ctx:
            raise ContextFullError(len(prompt), self.n_ctx)
        tokens = as_tokens(prompt, self._n_vocab)
        self._log_prompt(tokens)
        await self._run_job(self.n_slots - 1, lambda slot: self._worker.evaluate_prompt(slot, tokens))

    def stats(self) -> EngineStats:
        """Return the counters since the start."""
        n_running = len(self._scheduler.running)
        return replace(
            self._worker.counters.totals(),
            requests_processing=n_running,
            requests_deferred=max(self._n_active - n_running, 0),
            requests_rejected=self._n_rejected,
            slow_tokens=self._options.slow_calls.counts,
            cache_tokens=sum(slot.n for slot in self._slots.all),
            cache_size=self.n_slots * self.n_ctx,
            cache_pages=self._worker.caches.page_counts(),
            prompt_cache_bytes=self._cache.n_bytes,
            prompt_cache_limit=self._cache.limit,
        )

    def slots(self) -> Sequence[SlotStatus]:
        """Return the current state of each slot."""
        return [slot_status(slot) for slot in self._slots.all]

    async def save_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Write a slot's cache to a file once the slot is free; return the number of tokens and of bytes."""
        return await self._slot_actions.save(id, path)

    async def restore_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Read a file that `save_slot` wrote into a slot; return the number of tokens and of bytes."""
        self._check_slot(id, lowest=0)
        return await self._slot_actions.restore(id, path)

    async def erase_slot(self, id: int) -> int:
        """Empty a slot's cache once the slot is free; return how many tokens it held."""
        return await self._slot_actions.erase(id)

    async def stop(self, grace: float) -> None:
        """Refuse new requests, let running ones finish for ``grace`` seconds, end the others, close the backend."""
        self._refusal = self._refusal or _shutting_down
        try:
            await asyncio.wait_for(self._all_done.wait(), grace)
        except TimeoutError:
            log.warning("shutting down: %d requests end early", self._n_active)
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join, _MAX_LAST_STEP)
        if self._thread.is_alive():
            log.error("the backend did not return within %.0f s; shutting down without waiting for it", _MAX_LAST_STEP)

    async def _respond(
        self, request: GenerateRequest, prompt: PreparedPrompt, chain: Chain, seed: int, arrived: float
    ) -> AsyncGenerator[Delta, None]:
        constraint: Constraint | None = None
        if request.grammar is not None:
            constraint = await self.grammars.constrain(request.grammar)
            self._check_queue()  # again, because other requests may have arrived during the compilation

        mailbox = asyncio.Queue[Delta | RequestError]()
        send = self._sender(mailbox)
        sequence = GeneratedSequence(
            request, prompt, chain, constraint, seed, self._tokenizer, self.n_ctx, send, arrived
        )
        finish: Finish | None = None
        try:
            async with self._active(sequence):
                while finish is None:
                    delta = await receive_or_raise(mailbox)
                    finish = delta.finish
                    yield delta
        finally:
            self._finished(request=request, finish=finish)

    @asynccontextmanager
    async def _active(self, task: Task) -> AsyncIterator[None]:
        """Pass a task to the engine thread; cancel it if it is not done when the context ends."""
        self._n_active += 1
        self._all_done.clear()
        self._inbox.put(task)
        try:
            self._raise_if_closed()
            yield
        finally:
            if not task.done:
                task.cancelled = True
                self._inbox.put(task)
            self._n_active -= 1
            if not self._n_active:
                self._all_done.set()

    async def _run_job(self, id: int, work: Callable[[Slot], Any]) -> Any:
        """Run a function on the engine thread as soon as a slot is free; return its result."""
        self._raise_if_refusing()
        self._check_slot(id, lowest=0)
        mailbox = asyncio.Queue[Any]()
        job = SlotJob(id, work, self._sender(mailbox), perf_counter())
        self._inbox.put(job)
        try:
            self._raise_if_closed()
            return await receive_or_raise(mailbox)
        finally:
            job.cancelled = True

    def _raise_if_refusing(self) -> None:
        if self._refusal:
            raise self._refusal()

    def _raise_if_closed(self) -> None:
        # Must be called after an item was put into the inbox. The thread first sets `_closed`, then empties the inbox:
        # if it misses the item, this check raises.
        if self._closed:
            self._raise_if_refusing()

    def _log_prompt(self, prompt: Ints) -> None:
        if self._options.log_prompts:
            log.info("%s", debug_log.describe_prompt(prompt, self._tokenizer))

    def _check_slot(self, id: int, lowest: int = -1) -> None:
        if not lowest <= id < self.n_slots:
            message = f"slot {id} does not exist: slots are numbered from 0 to {self.n_slots - 1}"
            raise RequestError(message, param="id_slot")

    def _check_can_generate(self) -> None:
        if self._backend.whole_texts or not self._backend.n_vocab:
            raise NotSupported("this model embeds texts; it cannot generate")

    def _check_queue(self) -> None:
        n_waiting = self._n_active - self.n_slots
        if n_waiting >= self._options.max_queue:
            self._n_rejected += 1
            seconds = self._worker.counters.seconds_per_request * (n_waiting + 1) / self.n_slots
            message = f"the queue is full: {n_waiting} requests are waiting (see --max-queue)"
            raise TooManyRequests(message, min(max(round(seconds), 1), _MAX_RETRY_AFTER))

    def _sender(self, mailbox: asyncio.Queue[Any]) -> Callable[[Any], None]:
        return partial(self._outbox().put, mailbox)

    def _outbox(self) -> Outbox:
        """Return the outbox of the running event loop."""
        loop = asyncio.get_running_loop()
        for outbox in self._outboxes:
            if outbox.loop is loop:
                return outbox
        outbox = Outbox(loop)
        self._outboxes = [*(outbox for outbox in self._outboxes if not outbox.loop.is_closed()), outbox]
        return outbox

    # --- on the engine thread

    def _run(self) -> None:
        error: Callable[[], RequestError] = _shutting_down
        try:
            while self._receive():
                self._worker.step()
                self._flush()
        except BaseException:
            log.critical("the engine has failed; the server cannot answer requests any more", exc_info=True)
            self.failed = True
            error = _engine_failed
        self._close(error)

    def _receive(self) -> bool:
        """Receive new and cancelled tasks, and wait if there is nothing else to do; return False to stop the engine."""
        while True:
            try:
                item = self._inbox.get(block=self._worker.idle)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, SlotJob):
                self._worker.jobs.append(item)
            elif not item.cancelled:
                self._scheduler.waiting.append(item)
            elif not item.done:
                item.done = True
                self._worker.drop(item)

    def _flush(self) -> None:
        for outbox in self._outboxes:
            outbox.flush()

    def _close(self, error: Callable[[], RequestError]) -> None:
        """End all tasks and jobs with ``error``, and close the backend."""
        self._refusal = self._refusal or error
        self._closed = True
        unfinished: list[Task | SlotJob] = [
            *self._scheduler.running,
            *self._scheduler.waiting,
            *self._worker.jobs,
        ]
        while not self._inbox.empty():
            item = self._inbox.get()
            if item is not None:
                unfinished.append(item)
        for item in unfinished:
            if isinstance(item, SlotJob):
                item.send(error())
            else:
                item.fail(error())
        self._flush()
        try:
            self._backend.close()
        except Exception:
            log.exception("the backend cannot be closed")


async def _respond_to_empty_prompt(seed: int) -> AsyncGenerator[Delta, None]:
    yield Delta("", finish=Finish("none", seed=seed))


def _shutting_down() -> RequestError:
    return Unavailable("the server is shutting down")


def _engine_failed() -> RequestError:
    return GenerationError("the engine has failed; restart the server")
