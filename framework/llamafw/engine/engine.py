"""The loop: inbox → scheduler → backend → samplers → deltas. It knows nothing of HTTP and of model files.

One thread, the engine thread, owns the backend, the slots and every sequence from its arrival on. The event loop hands
it sequences through the inbox, and once more those whose client has gone; it answers through outboxes.
"""
from __future__ import annotations

import asyncio
import logging
import queue
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Sequence as Seq
from functools import partial

from llamafw.engine import chain
from llamafw.engine.grammars import Grammars
from llamafw.engine.outbox import Outbox
from llamafw.engine.scheduler import Part, Scheduler, as_batch
from llamafw.engine.sequence import Sequence, as_prompt
from llamafw.engine.slots import Slots
from llamafw.errors import ContextFullError, GenerationError, RequestError, Unavailable
from llamafw.interfaces import Backend, GrammarContext, GrammarFactory, SamplerContext, SamplerPlugin, Tokenizer
from llamafw.types import Delta, Finish, Floats, GenerateRequest

log = logging.getLogger(__name__)

_LAST_PASS = 60.0  # seconds a forward pass may take when the server stops


class Engine:
    """Answers requests, many at a time, on a thread of its own. A `llamafw.Engine`.

    Parameters
    ----------
    samplers : mapping
        What requests may name as samplers.
    n_batch : int
        Most tokens in one forward pass; no more than the backend takes.
    n_ubatch : int
        Most tokens in one forward pass if several sequences share it; see `scheduler`.
    finished : callable
        ``finished(request=…, finish=…)`` is called on the event loop when a generation has ended; ``finish`` is None
        if it was cut short. It must not raise.
    """

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        samplers: Mapping[str, SamplerPlugin],
        n_batch: int = 2048,
        n_ubatch: int = 512,
        finished: Callable[..., None] = lambda **facts: None,
        grammars: Mapping[str, GrammarFactory] | None = None,
    ) -> None:
        self.n_slots, self.n_ctx = backend.n_slots, backend.n_ctx
        self._n_vocab = min(backend.n_vocab, tokenizer.n_vocab)  # some models have scores for tokens without text
        self._backend, self._tokenizer, self._samplers = backend, tokenizer, samplers
        self._scheduler = Scheduler(Slots(self.n_slots, self.n_ctx), min(n_batch, backend.n_batch), n_ubatch)
        self._finished = finished
        self.grammars = Grammars(grammars or {}, GrammarContext(tokenizer, self._n_vocab))
        self._ids = chain.every_token(self._n_vocab)
        self._inbox: queue.SimpleQueue[Sequence | None] = queue.SimpleQueue()
        self._outboxes: list[Outbox] = []  # one per event loop, which is one
        self._refuse: Callable[[], RequestError] | None = None  # makes what new requests get
        self.failed = False
        self._closed = False
        self._n_active = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._thread = threading.Thread(target=self._run, name="llamafw-engine", daemon=True)
        self._thread.start()

    # --- on the event loop

    def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:
        """Return the answer, piece by piece; the last delta has ``finish``. Closing the iterator cancels the request.

        Raises
        ------
        RequestError
            The request cannot be served. Raised here already if that can be told from the request alone.
        """
        if self._refuse:
            raise self._refuse()
        seed = secrets.randbits(32) if request.seed is None or request.seed < 0 else request.seed
        if not -1 <= request.id_slot < self.n_slots:
            raise RequestError(f"there is no slot {request.id_slot}; there are {self.n_slots}", param="id_slot")
        if len(request.prompt) + (request.n_predict != 0) > self.n_ctx:  # first: millions of tokens take their time
            raise ContextFullError(len(request.prompt), self.n_ctx)
        prompt = as_prompt(request, self._n_vocab)
        context = SamplerContext(request.prompt, self._n_vocab, self.n_ctx, self._tokenizer, request.min_keep)
        built = chain.build(request, seed, self._samplers, context)
        if not len(prompt):
            return _nothing(seed)
        outbox, mailbox = self._outbox(), asyncio.Queue[Delta | RequestError]()
        send = partial(outbox.put, mailbox)
        return self._answer(Sequence(request, prompt, built, seed, self._tokenizer, self.n_ctx, send), mailbox)

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

    async def _answer(self, sequence: Sequence, mailbox: asyncio.Queue[Delta | RequestError]) -> AsyncIterator[Delta]:
        if sequence.request.grammar is not None:
            sequence.hold_to(await self.grammars.compile(sequence.request.grammar))
        self._n_active += 1
        self._quiet.clear()
        self._inbox.put(sequence)
        finish: Finish | None = None
        try:
            # The thread closes first and then empties the inbox: one of the two sees the sequence.
            if self._closed and self._refuse:
                raise self._refuse()
            while True:
                item = await mailbox.get()
                if isinstance(item, RequestError):
                    raise item
                finish = item.finish
                yield item
                if finish:
                    return
        finally:
            if not sequence.done:
                sequence.cancelled = True
                self._inbox.put(sequence)
            self._n_active -= 1
            if not self._n_active:
                self._quiet.set()
            self._finished(request=sequence.request, finish=finish)

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
                self._admit()
                self._evaluate(self._scheduler.next_parts())
                self._flush()
        except BaseException:
            log.critical("the engine has failed; nothing can be answered any more", exc_info=True)
            self.failed = True
            error = _dead
        self._close(error)

    def _receive(self) -> bool:
        """Take in new sequences and drop cancelled ones; wait if there is nothing to do. False: stop."""
        while True:
            try:
                sequence = self._inbox.get(block=self._scheduler.idle)
            except queue.Empty:
                return True
            if sequence is None:
                return False
            if not sequence.cancelled:
                self._scheduler.waiting.append(sequence)
            elif not sequence.done:
                sequence.done = True
                self._scheduler.remove(sequence)

    def _admit(self) -> None:
        for sequence, slot, common in self._scheduler.admit():
            # One token at least is evaluated, for its logits.
            n = min(common, len(sequence.prompt) - 1)
            sequence.begin(slot, n)
            if n < slot.n:
                try:
                    self._backend.truncate(slot.id, n)
                    slot.n = n
                except Exception:
                    log.exception("the backend cannot shorten the cache of slot %d", slot.id)
                    self._fail(sequence, GenerationError("the model failed"))

    def _evaluate(self, parts: Seq[Part]) -> None:
        """Run one forward pass and draw tokens. If it fails, find out whose fault it is, and go on with the rest."""
        if not parts:
            return
        batch = as_batch(parts)
        try:
            rows = self._backend.forward(batch)
            if len(rows) != len(batch.outputs):
                raise ValueError(f"{len(rows)} rows of logits for {len(batch.outputs)} outputs")
        except Exception:
            if len(parts) == 1:
                log.exception("the backend failed on %d tokens of slot %d", len(batch.tokens), parts[0].slot.id)
                self._forget(parts[0])
                return self._fail(parts[0].sequence, GenerationError("the model failed"))
            log.warning("the backend failed on a batch of %d sequences; trying each alone", len(parts), exc_info=True)
            for part in parts:
                self._retry(part)
            return
        row = iter(rows)
        for part in parts:
            part.slot.extend(part.tokens)
            sequence = part.sequence
            if part.output:
                self._pick(sequence, next(row))
            elif not sequence.n_left:  # only the prompt was to be evaluated
                sequence.finish("limit")
            if sequence.done:
                self._scheduler.remove(sequence)

    def _retry(self, part: Part) -> None:
        try:
            self._backend.truncate(part.slot.id, part.slot.n)  # the failed pass may have gone some of the way
        except Exception:
            log.exception("the backend cannot shorten the cache of slot %d", part.slot.id)
            return self._fail(part.sequence, GenerationError("the model failed"))
        self._evaluate([part])

    def _pick(self, sequence: Sequence, row: Floats) -> None:
        try:
            sequence.pick(self._ids, row[: self._n_vocab])
        except RequestError as exc:
            if exc.status >= 500:
                log.error("a request failed: %s", exc.message, exc_info=exc)
            sequence.fail(exc)
        except Exception:
            log.exception("a request failed")
            sequence.fail(GenerationError("the answer could not be continued"))

    def _fail(self, sequence: Sequence, error: RequestError) -> None:
        sequence.fail(error)
        self._scheduler.remove(sequence)

    def _forget(self, part: Part) -> None:
        """Empty the slot of a failed pass: what its cache holds now is anyone's guess."""
        try:
            self._backend.truncate(part.slot.id, 0)
        except Exception:
            log.exception("the backend cannot empty slot %d", part.slot.id)
        part.slot.n = 0

    def _flush(self) -> None:
        for outbox in self._outboxes:
            outbox.flush()

    def _close(self, error: Callable[[], RequestError]) -> None:
        """End every sequence with ``error``: those in slots, those waiting and those still in the inbox."""
        self._refuse = self._refuse or error
        self._closed = True
        left = [*self._scheduler.running, *self._scheduler.waiting]
        while not self._inbox.empty():
            sequence = self._inbox.get()
            if sequence is not None:
                left.append(sequence)
        for sequence in left:
            sequence.fail(error())
        self._flush()
        try:
            self._backend.close()
        except Exception:
            log.exception("the backend cannot be closed")


async def _nothing(seed: int) -> AsyncIterator[Delta]:
    """Answer the empty prompt: nothing, at once."""
    yield Delta("", finish=Finish("none", seed=seed))


def _shutting_down() -> RequestError:
    return Unavailable("the server is shutting down")


def _dead() -> RequestError:
    return GenerationError("the engine has failed; the server must be restarted")
