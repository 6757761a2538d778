"""The engine: accepts requests on the event loop and answers them on the engine thread.

The engine thread owns the backend, the slots, and every task from its arrival on. The event loop passes it tasks and
cancelled tasks through the inbox; it sends results back through outboxes. `engine_thread` is that thread.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from llamafw.engine import debug_log
from llamafw.engine.adapters import Adapters
from llamafw.engine.disk_reads import DiskReads
from llamafw.engine.embed_sequence import EmbedSequence
from llamafw.engine.engine_options import EngineOptions
from llamafw.engine.engine_thread import EngineThread, Item
from llamafw.engine.grammars import Grammars
from llamafw.engine.outbox import Outboxes, receive_or_raise
from llamafw.engine.pausing import n_bytes_kept
from llamafw.engine.prompt import PreparedPrompt, as_tokens, prepare_prompt
from llamafw.engine.prompt_budget import PromptBudget
from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.queue_limits import QueueLimits
from llamafw.engine.scheduler import Scheduler
from llamafw.engine.sequence import Sequence as GeneratedSequence
from llamafw.engine.slot_actions import SlotActions
from llamafw.engine.slot_caches import CANNOT_MOVE_CHUNKS, can_move_chunks
from llamafw.engine.slots import Slot, Slots
from llamafw.engine.speculation import Speculation
from llamafw.engine.stats import slot_status
from llamafw.engine.task import Task
from llamafw.engine.worker import ReportFailure, SlotJob, Worker, ignore_blame
from llamafw.errors import ContextFullError, NotSupported, RequestError, TooManyRequests
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
    adapters : Adapters, optional
        The adapters of the start.
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
        adapters: Adapters | None = None,
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
        inbox: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._disk = options.disk_cache
        self._cache = PromptCache(
            options.prompt_cache, self._disk, options.free_memory, lambda: n_bytes_kept(self._scheduler.waiting)
        )
        disk_reads = DiskReads(self._disk, self._cache, self._slots.all, inbox.put)
        self._scheduler = Scheduler(
            self._slots,
            n_batch,
            options.n_ubatch,
            continuous=options.continuous,
            whole_texts=backend.whole_texts,
            copies_prefixes=(options.prompt_cache != 0 or hasattr(backend, "share_prefix")) and not backend.whole_texts,
            is_delayed=disk_reads.delays,
            aging=options.priority_aging,
            prompt_budget=None
            if options.max_slowdown is None
            else PromptBudget(options.max_slowdown, options.prompt_gap),
        )
        self.adapters = adapters or Adapters()
        self.adapters.attach(self._run_job, backend, lambda: [*self._scheduler.waiting, *self._scheduler.running])
        speculation = Speculation(options.drafters, options.speculation, self._n_vocab, report_failure)
        self._worker = Worker(
            backend,
            self._slots,
            self._scheduler,
            self._cache,
            disk_reads,
            self._n_vocab,
            options.timeout,
            speculation,
            adapters=self.adapters,
            log_caches=options.log_caches,
            report_failure=report_failure,
        )
        self._slot_actions = SlotActions(
            self._run_slot_job, self._worker.caches, options.fingerprint, self.n_ctx, self.adapters.are_loaded
        )

        self._queue = QueueLimits(self.n_slots, options.max_queue, options.max_queue_by_priority)
        self._n_rejected = Counter[int]()  # by priority
        self._n_embeddings = self._n_embedding_tokens = 0
        self._all_done = asyncio.Event()
        self._all_done.set()
        self._outboxes = Outboxes()
        self.failed = False
        self._thread = EngineThread(
            self._worker,
            backend,
            speculation,
            self._outboxes,
            self._disk,
            inbox,
            on_failure=self._note_failure,
            sleep_after=options.sleep_after,
        )
        self._thread.start()

    # --- on the event loop

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Yield the response in pieces; the last one has ``finish``, and closing the generator cancels the request.

        Raises
        ------
        RequestError
            The request cannot be served. If it is invalid, the call itself raises this, otherwise the generator.
        """
        self._thread.raise_if_refusing()
        self._check_slot(request.id_slot)
        self._check_can_generate()
        if request.n_cache_reuse and not can_move_chunks(self._backend):
            raise NotSupported(CANNOT_MOVE_CHUNKS, param="n_cache_reuse")
        if request.prompt_logprobs is not None:  # cached tokens and truncated ones have no log-probabilities
            request = replace(request, cache_prompt=False, context_shift=False, truncate_prompt=False)
        adapters = self.adapters.strengths(request.lora, request.control_vectors)
        add_bos = self._tokenizer.add_bos
        prompt = prepare_prompt(request, self._n_vocab, self.n_ctx, add_bos=add_bos, adapters=adapters)
        self._log_prompt(prompt.tokens)

        seed = secrets.randbits(32) if request.seed is None or request.seed < 0 else request.seed
        context = SamplerContext(request.prompt, self._n_vocab, self.n_ctx, self._tokenizer, request.min_keep, seed)
        chain = build_chain(request, seed, self._samplers, context, self._options.slow_calls)
        if not len(prompt.tokens):
            return _respond_to_empty_prompt(seed)
        self._check_queue(request.sender.priority)
        return self._respond(request, prompt, chain, seed, perf_counter())

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return the embedding of a text; cancelling the call cancels the request.

        Raises
        ------
        RequestError
            The request cannot be served.
        """
        self._thread.raise_if_refusing()
        self._check_slot(request.id_slot)
        if request.pooling == "rank" and self._options.rank_head is None:
            raise NotSupported("this model cannot rerank: it has no rank head")
        if not 0 < len(request.prompt) <= self.n_ctx:
            raise ContextFullError(len(request.prompt), self.n_ctx)
        prompt = as_tokens(request.prompt, self._n_vocab)
        self._log_prompt(prompt)
        self._check_queue(request.sender.priority)

        options, mailbox = self._options, asyncio.Queue[Embedding | RequestError]()
        send, adapters = self._outboxes.sender(mailbox), self.adapters.strengths()
        task = EmbedSequence(request, prompt, send, options.rank_head, options.dense, adapters)
        async with self._active(task):
            embedding: Embedding = await receive_or_raise(mailbox)
        self._n_embeddings += 1
        self._n_embedding_tokens += embedding.n_prompt
        return embedding

    async def preload(self, prompt: tuple[int, ...]) -> None:
        """Evaluate a prompt into the last slot, so that requests that begin with it can reuse its cache."""
        self._check_can_generate()
        if len(prompt) > self.n_ctx:
            raise ContextFullError(len(prompt), self.n_ctx)
        tokens = as_tokens(prompt, self._n_vocab)
        self._log_prompt(tokens)
        evaluate = partial(self._worker.evaluate_prompt, prompt=tokens, adapters=self.adapters.strengths())
        await self._run_slot_job(self.n_slots - 1, evaluate)

    def stats(self) -> EngineStats:
        """Return the counters since the start."""
        running = Counter(task.request.sender.priority for task in list(self._scheduler.running))
        n_running = running.total()
        return replace(
            self._worker.counters.totals(),
            requests_processing=n_running,
            requests_deferred=max(self._queue.n_active - n_running, 0),
            requests_rejected=self._n_rejected.total(),
            by_priority=self._queue.stats(running, self._n_rejected, dict(self._worker.counters.preemptions)),
            embeddings=self._n_embeddings,
            embedding_tokens=self._n_embedding_tokens,
            slow_tokens=self._options.slow_calls.counts,
            cache_tokens=sum(slot.n for slot in self._slots.all),
            cache_size=self.n_slots * self.n_ctx,
            cache_pages=self._worker.caches.page_counts(),
            prompt_cache_bytes=self._cache.n_bytes,
            prompt_cache_limit=self._cache.limit,
            sleeping=self._thread.sleeping,
            disk_cache=None if self._disk is None else self._disk.stats(),
        )

    def slots(self) -> Sequence[SlotStatus]:
        """Return the current state of each slot."""
        return [slot_status(slot, speculative=self._worker.speculative) for slot in self._slots.all]

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
        self._thread.refuse()
        try:
            await asyncio.wait_for(self._all_done.wait(), grace)
        except TimeoutError:
            log.warning("shutting down: %d requests end early", self._queue.n_active)
        if not await asyncio.to_thread(self._thread.stop, _MAX_LAST_STEP):
            log.error("the backend did not return within %.0f s; shutting down without waiting for it", _MAX_LAST_STEP)

    async def _respond(
        self, request: GenerateRequest, prompt: PreparedPrompt, chain: Chain, seed: int, arrived: float
    ) -> AsyncGenerator[Delta, None]:
        constraint: Constraint | None = None
        if request.grammar is not None:
            constraint = await self.grammars.constrain(request.grammar)
            self._check_queue(request.sender.priority)  # again: others may have arrived during the compilation

        mailbox = asyncio.Queue[Delta | RequestError]()
        send = self._outboxes.sender(mailbox)
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
        priority = task.request.sender.priority
        self._queue.add(priority)
        self._all_done.clear()
        self._thread.put(task)
        try:
            self._thread.raise_if_closed()
            yield
        finally:
            if not task.done:
                task.cancelled = True
                self._thread.put(task)
            self._queue.remove(priority)
            if not self._queue.n_active:
                self._all_done.set()

    async def _run_slot_job(self, id: int, work: Callable[[Slot], Any]) -> Any:
        """Run a function on the engine thread as soon as a slot is free; return its result."""
        self._check_slot(id, lowest=0)
        return await self._run_job(work, id)

    async def _run_job(self, work: Callable[[Any], Any], slot: int | None = None) -> Any:
        """Run a function on the engine thread between two steps; return its result."""
        self._thread.raise_if_refusing()
        mailbox = asyncio.Queue[Any]()
        job = SlotJob(slot, work, self._outboxes.sender(mailbox), perf_counter())
        self._thread.put(job)
        try:
            self._thread.raise_if_closed()
            return await receive_or_raise(mailbox)
        finally:
            job.cancelled = True

    def _note_failure(self) -> None:
        self.failed = True

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

    def _check_queue(self, priority: int) -> None:
        full = self._queue.full_for(priority)
        if full is None:
            return
        self._n_rejected[priority] += 1
        n_waiting = self._queue.n_waiting(full)
        seconds = self._worker.counters.seconds_per_request * (n_waiting + 1) / self.n_slots
        raise TooManyRequests(self._queue.describe(full), min(max(round(seconds), 1), _MAX_RETRY_AFTER))


async def _respond_to_empty_prompt(seed: int) -> AsyncGenerator[Delta, None]:
    yield Delta("", finish=Finish("none", seed=seed))
