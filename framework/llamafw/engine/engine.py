"""The engine as the server sees it: requests in, deltas out. It knows nothing of HTTP and of model files.

One thread, the engine thread, owns the backend, the slots and every sequence from its arrival on. The event loop hands
it sequences through the inbox, and once more those whose client has gone; it answers through outboxes. What the thread
does is `worker`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from collections.abc import Sequence as Seq
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from llamafw.engine import context_shift, debug_log, slot_files
from llamafw.engine.embed_sequence import EmbedSequence
from llamafw.engine.grammars import Grammars
from llamafw.engine.outbox import Outbox
from llamafw.engine.prompt_cache import PromptCache
from llamafw.engine.rank_head import RankHead
from llamafw.engine.scheduler import Scheduler, Task
from llamafw.engine.sequence import Sequence, as_prompt
from llamafw.engine.slots import SIMILAR, Slot, Slots
from llamafw.engine.stats import slot_status
from llamafw.engine.worker import Blamed, Job, Worker, nobody
from llamafw.errors import (
    ContextFullError,
    GenerationError,
    NotSupported,
    RequestError,
    TooManyRequests,
    Unavailable,
)
from llamafw.interfaces import Backend, GrammarContext, GrammarFactory, SamplerContext, SamplerPlugin, Tokenizer
from llamafw.sampling.chain import build_chain
from llamafw.types import Bytes, Delta, Embedding, EmbedRequest, EngineStats, Finish, GenerateRequest, Ints, SlotStatus

log = logging.getLogger(__name__)

_LAST_PASS = 60.0  # seconds a forward pass may take when the server stops
_LONGEST_RETRY = 60  # seconds that a refused client is told to wait, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine is to run."""

    n_batch: int = 2048  # most tokens in one forward pass; no more than the backend takes
    n_ubatch: int = 512  # most tokens in one forward pass if several sequences share it; see `scheduler`
    similar: float = SIMILAR  # see `Slots`
    continuous: bool = True  # see `Scheduler`
    prompt_cache: int | None = 0  # bytes of states kept in memory; None: no limit
    max_queue: int = 1024  # requests that may wait for a slot
    timeout: float = 600.0  # seconds that they may
    fingerprint: bytes = bytes(32)  # of the model and its cache, for the files of slots
    rank_head: RankHead | None = None  # what makes scores, for rerankers
    log_prompts: bool = False  # with their tokens
    log_cache: bool = False  # after every step


class BatchingEngine:
    """Answers requests, many at a time, on a thread of its own. A `llamafw.Engine`.

    Parameters
    ----------
    samplers : mapping
        What requests may name as samplers.
    finished : callable
        ``finished(request=…, finish=…)`` is called on the event loop when a generation has ended; ``finish`` is None
        if it was cut short. It must not raise.
    grammars : mapping
        What requests may be held to, by kind.
    blamed : callable
        ``blamed(error, "token")`` counts a failure and says whose it was.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        samplers: Mapping[str, SamplerPlugin],
        options: EngineOptions = EngineOptions(),  # frozen
        *,
        finished: Callable[..., None] = lambda **facts: None,
        grammars: Mapping[str, GrammarFactory] | None = None,
        blamed: Blamed = nobody,
    ) -> None:
        self.n_slots, self.n_ctx = backend.n_slots, backend.n_ctx
        self._n_vocab = min(backend.n_vocab, tokenizer.n_vocab)  # some models have scores for tokens without text
        self._tokenizer, self._samplers, self._options = tokenizer, samplers, options
        self._slots = Slots(self.n_slots, self.n_ctx, options.similar)
        n_batch = min(options.n_batch, backend.n_batch)
        self._scheduler = Scheduler(self._slots, n_batch, options.n_ubatch, continuous=options.continuous)
        self._cache = PromptCache(options.prompt_cache)
        self._worker = Worker(
            backend,
            self._slots,
            self._scheduler,
            self._cache,
            self._n_vocab,
            options.timeout,
            log_cache=options.log_cache,
            blamed=blamed,
        )
        self._backend = backend
        self._finished = finished
        self.grammars = Grammars(grammars or {}, GrammarContext(tokenizer, self._n_vocab))
        self._inbox: queue.SimpleQueue[Task | Job | None] = queue.SimpleQueue()
        self._outboxes: list[Outbox] = []  # one per event loop: the server's, and that of `preload`
        self._refuse: Callable[[], RequestError] | None = None  # makes what new requests get
        self.failed = False
        self._closed = False
        self._n_active = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._thread = threading.Thread(target=self._run, name="llamafw-engine", daemon=True)
        self._thread.start()

    # --- on the event loop

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Return the answer, piece by piece; the last delta has ``finish``. Closing the generator cancels the request.

        Raises
        ------
        RequestError
            The request cannot be served. Raised here already if that can be told from the request alone.
        """
        if self._refuse:
            raise self._refuse()
        if request.prompt_logprobs is not None:  # what the cache holds has none, nor has what is cut out
            request = replace(request, cache_prompt=False, context_shift=False)
        seed = secrets.randbits(32) if request.seed is None or request.seed < 0 else request.seed
        self._check_slot(request.id_slot)
        too_long = len(request.prompt) + (request.n_predict != 0) > self.n_ctx
        if too_long and not request.context_shift:  # first: millions of tokens take their time
            raise ContextFullError(len(request.prompt), self.n_ctx)
        prompt = as_prompt(request.prompt, self._n_vocab)
        n_keep = context_shift.kept(request.n_keep, len(prompt), self.n_ctx, bos=self._tokenizer.add_bos)
        if too_long:
            prompt = context_shift.shortened(prompt, n_keep, self.n_ctx)
        self._log_prompt(prompt)
        given = SamplerContext(request.prompt, self._n_vocab, self.n_ctx, self._tokenizer, request.min_keep, seed)
        built = build_chain(request, seed, self._samplers, given)
        if not len(prompt):
            return _nothing(seed)
        self._check_queue()
        mailbox = asyncio.Queue[Delta | RequestError]()
        send = self._sender(mailbox)
        sequence = Sequence(request, prompt, built, seed, self._tokenizer, self.n_ctx, send, n_keep, too_long)
        return self._answer(sequence, mailbox)

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Return the embedding of a text; cancelling the call cancels the request.

        Raises
        ------
        RequestError
            The request cannot be served.
        """
        if self._refuse:
            raise self._refuse()
        self._check_slot(request.id_slot)
        if request.pooling == "rank" and self._options.rank_head is None:
            raise NotSupported("this model cannot rerank: it has no rank head")
        if not 0 < len(request.prompt) <= self.n_ctx:
            raise ContextFullError(len(request.prompt), self.n_ctx)
        prompt = as_prompt(request.prompt, self._n_vocab)
        self._log_prompt(prompt)
        self._check_queue()
        mailbox = asyncio.Queue[Embedding | RequestError]()
        task = EmbedSequence(request, prompt, self._sender(mailbox), self._options.rank_head)
        async with self._active(task):
            embedding: Embedding = await _taken(mailbox)
        return embedding

    async def preload(self, prompt: tuple[int, ...]) -> None:
        """Evaluate a prompt into the slot that others get last, so that requests which begin with it need not."""
        if len(prompt) > self.n_ctx:
            raise ContextFullError(len(prompt), self.n_ctx)
        tokens = as_prompt(prompt, self._n_vocab)
        self._log_prompt(tokens)
        await self._job(self.n_slots - 1, lambda slot: self._worker.evaluate(slot, tokens))

    def stats(self) -> EngineStats:
        """Return the counts since the start."""
        counts, n_running = self._worker.counts, len(self._scheduler.running)
        return EngineStats(
            n_decode=counts.n_decode,
            n_busy_slots=counts.n_busy_slots,
            prompt_tokens=counts.prompt_tokens,
            prompt_tokens_cached=counts.prompt_tokens_cached,
            prompt_seconds=counts.prompt_seconds,
            predicted_tokens=counts.predicted_tokens,
            predicted_seconds=counts.predicted_seconds,
            requests_processing=n_running,
            requests_deferred=max(self._n_active - n_running, 0),
            requests_rejected=counts.rejected,
            cache_tokens=sum(slot.n for slot in self._slots.all),
            cache_size=self.n_slots * self.n_ctx,
            prompt_cache_bytes=self._cache.n_bytes,
            prompt_cache_limit=self._cache.limit,
        )

    def slots(self) -> Seq[SlotStatus]:
        """Return what each slot is doing."""
        return [slot_status(slot) for slot in self._slots.all]

    async def save_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Write the cache of a slot to a file, when nobody uses it; return its tokens and the bytes written."""

        def copy(slot: Slot) -> tuple[Ints, Bytes]:
            tokens = slot.reusable.copy()
            return tokens, self._backend.save(slot.id, len(tokens))

        tokens, state = await self._job(id, copy)
        return len(tokens), await asyncio.to_thread(slot_files.write, path, self._options.fingerprint, tokens, state)

    async def restore_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Read what `save_slot` wrote into a slot; return its tokens and the bytes read."""
        self._check_slot(id, lowest=0)
        read = partial(slot_files.read, path, self._options.fingerprint, self.n_ctx)
        tokens, state, n_bytes = await asyncio.to_thread(read)
        await self._job(id, lambda slot: self._worker.put(slot, tokens, state))
        return len(tokens), n_bytes

    async def erase_slot(self, id: int) -> int:
        """Empty the cache of a slot, when nobody uses it; return how many tokens it held."""

        def erase(slot: Slot) -> int:
            n = slot.n
            self._backend.truncate(slot.id, 0)
            slot.shorten(0)
            return n

        return int(await self._job(id, erase))

    async def stop(self, grace: float) -> None:
        """Refuse new requests, let running ones finish for ``grace`` seconds, cut the rest, close the backend."""
        self._refuse = self._refuse or _shutting_down
        try:
            await asyncio.wait_for(self._quiet.wait(), grace)
        except TimeoutError:
            log.warning("%d requests are cut, as the server stops", self._n_active)
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join, _LAST_PASS)
        if self._thread.is_alive():
            log.error("the backend has not come back for %.0f s; it is left behind", _LAST_PASS)

    async def _answer(
        self, sequence: Sequence, mailbox: asyncio.Queue[Delta | RequestError]
    ) -> AsyncGenerator[Delta, None]:
        if (source := sequence.request.grammar) is not None:
            sequence.hold_to(await self.grammars.compile(source), source.field)
            self._check_queue()  # once more: while it was compiled, others have come
        finish: Finish | None = None
        try:
            async with self._active(sequence):
                while finish is None:
                    delta = await _taken(mailbox)
                    finish = delta.finish
                    yield delta
        finally:
            self._finished(request=sequence.request, finish=finish)

    @asynccontextmanager
    async def _active(self, task: Task) -> AsyncIterator[None]:
        """Hand a task to the thread; take it back if it has not ended when the context does."""
        self._n_active += 1
        self._quiet.clear()
        self._inbox.put(task)
        try:
            # The thread closes first and then empties the inbox: one of the two sees the task.
            if self._closed and self._refuse:
                raise self._refuse()
            yield
        finally:
            if not task.done:
                task.cancelled = True
                self._inbox.put(task)
            self._n_active -= 1
            if not self._n_active:
                self._quiet.set()

    async def _job(self, id: int, work: Callable[[Slot], Any]) -> Any:
        if self._refuse:
            raise self._refuse()
        self._check_slot(id, lowest=0)
        mailbox = asyncio.Queue[Any]()
        job = Job(id, work, self._sender(mailbox), perf_counter())
        self._inbox.put(job)
        try:
            if self._closed and self._refuse:
                raise self._refuse()
            return await _taken(mailbox)
        finally:
            job.cancelled = True

    def _log_prompt(self, prompt: Ints) -> None:
        if self._options.log_prompts:
            log.info("%s", debug_log.prompt_tokens(prompt, self._tokenizer))

    def _check_slot(self, id: int, lowest: int = -1) -> None:
        if not lowest <= id < self.n_slots:
            raise RequestError(f"there is no slot {id}; there are {self.n_slots}", param="id_slot")

    def _check_queue(self) -> None:
        n_waiting = self._n_active - self.n_slots
        if n_waiting >= self._options.max_queue:
            counts = self._worker.counts
            counts.rejected += 1
            seconds = counts.seconds * (n_waiting + 1) / self.n_slots
            message = f"{n_waiting} requests are waiting, and no more may; see --max-queue"
            raise TooManyRequests(message, min(max(round(seconds), 1), _LONGEST_RETRY))

    def _sender(self, mailbox: asyncio.Queue[Any]) -> Callable[[Any], None]:
        return partial(self._outbox().put, mailbox)

    def _outbox(self) -> Outbox:
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
            log.critical("the engine has failed; nothing can be answered any more", exc_info=True)
            self.failed = True
            error = _dead
        self._close(error)

    def _receive(self) -> bool:
        """Take in new tasks and drop cancelled ones; wait if there is nothing to do. False: stop."""
        while True:
            try:
                item = self._inbox.get(block=self._worker.idle)
            except queue.Empty:
                return True
            if item is None:
                return False
            if isinstance(item, Job):
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
        """End every task with ``error``: those in slots, those waiting and those still in the inbox."""
        self._refuse = self._refuse or error
        self._closed = True
        left: list[Task | Job] = [*self._scheduler.running, *self._scheduler.waiting, *self._worker.jobs]
        while not self._inbox.empty():
            item = self._inbox.get()
            if item is not None:
                left.append(item)
        for item in left:
            if isinstance(item, Job):
                item.send(error())
            else:
                item.fail(error())
        self._flush()
        try:
            self._backend.close()
        except Exception:
            log.exception("the backend cannot be closed")


async def _taken(mailbox: asyncio.Queue[Any]) -> Any:
    """Return the next thing in a mailbox; raise it if it is an error."""
    item = await mailbox.get()
    if isinstance(item, RequestError):
        raise item
    return item


async def _nothing(seed: int) -> AsyncGenerator[Delta, None]:
    """Answer the empty prompt: nothing, at once."""
    yield Delta("", finish=Finish("none", seed=seed))


def _shutting_down() -> RequestError:
    return Unavailable("the server is shutting down")


def _dead() -> RequestError:
    return GenerationError("the engine has failed; the server must be restarted")
