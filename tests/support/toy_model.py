"""A toy model for tests of the engine: its tokens are bytes, and its logits are a function of the prefix."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from llamafw import Batch, Bytes, Delta, Engine, Finish, Floats, GeneratedToken, GenerateRequest, LlamafwError

BOS, EOS, EOT = 256, 257, 258
HEART, EURO_HEAD, EURO_TAIL, HELLO, WORLD = 259, 260, 261, 262, 263
PIECES = {
    HEART: "❤".encode(),
    EURO_HEAD: "€".encode()[:2],  # a token may end inside a character
    EURO_TAIL: "€".encode()[2:],
    HELLO: b"Hello",
    WORLD: b" world",
}
TIMEOUT = 50  # seconds, because samplers may have to be compiled first
N_VOCAB, N_EMBD = 264, 8

LogitsFunction = Callable[[Sequence[int]], Floats]
"""From all tokens of a slot to the logits of the next token, ``(N_VOCAB,) float32``."""


class ToyTokenizer:
    """Encodes each byte as one token.

    The tokens in `PIECES` stand for several bytes. The model may generate them, but no text is encoded as them.
    """

    n_vocab = N_VOCAB
    bos: int | None = BOS
    eos: int | None = EOS
    eog = frozenset({EOS, EOT})
    add_bos = add_eos = False
    fim: Mapping[str, int] = {}

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return list(text.encode())

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if not 0 <= token < N_VOCAB:
            raise IndexError(token)
        return bytes([token]) if token < 256 else PIECES.get(token, b"")

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")


class ToyTokenizerWithBos(ToyTokenizer):
    """A `ToyTokenizer` that puts a BOS token in front of texts."""

    add_bos = True

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return [BOS] * add_special + super().encode(text)


def random_logits(prefix: Sequence[int]) -> Floats:
    """Return random logits whose seed is the prefix."""
    seed = zlib.crc32(np.array(prefix, np.int32).tobytes())
    return (np.random.default_rng(seed).standard_normal(N_VOCAB) * 3).astype(np.float32)


def alphabet_logits(prefix: Sequence[int]) -> Floats:
    """Return logits with which a greedy answer is the alphabet, again and again, without end."""
    row = np.zeros(N_VOCAB, np.float32)
    row[97 + len(prefix) % 26] = 9
    return row


def scripted_logits(*tokens: int, after: int = 0) -> LogitsFunction:
    """Return a function whose greedy answer is ``tokens`` and EOS, for a prompt of ``after`` tokens."""

    def logits(prefix: Sequence[int]) -> Floats:
        i = len(prefix) - after
        row = np.zeros(N_VOCAB, np.float32)
        row[tokens[i] if i < len(tokens) else EOS] = 20
        return row

    return logits


class ToyBackend:
    """Holds the tokens of each slot, and refuses batches that do not continue them.

    Parameters
    ----------
    logits : LogitsFunction
        Computes the logits.
    hold : bool
        If true, each forward pass waits until `allow_forward` allows it.

    Attributes
    ----------
    slots : list of list of int
        The tokens of each slot.
    batches, hidden_batches : list of Batch
        All batches so far, and those that `hidden` received.
    truncations : list of (int, int)
        The arguments of all calls of `truncate`.
    shifts : list of (int, int, int)
        The arguments of all calls of `shift`.
    fail_on : callable
        Returns whether the forward pass of a batch fails. Replace it to let one fail.
    thread : int or None
        The thread that calls the backend.
    """

    exact, whole_texts, can_cut, can_shift = True, False, True, True

    def __init__(
        self,
        logits: LogitsFunction = random_logits,
        *,
        n_slots: int = 2,
        n_ctx: int = 64,
        n_batch: int = 32,
        hold: bool = False,
    ) -> None:
        self.n_slots, self.n_ctx, self.n_batch = n_slots, n_ctx, n_batch
        self.n_vocab, self.n_embd, self.state_format = N_VOCAB, N_EMBD, "toy-1"
        self.logits = logits
        self.fail_on: Callable[[Batch], bool] = lambda batch: False
        self.slots: list[list[int]] = [[] for _ in range(n_slots)]
        self.batches: list[Batch] = []
        self.hidden_batches: list[Batch] = []
        self.truncations: list[tuple[int, int]] = []
        self.shifts: list[tuple[int, int, int]] = []
        self.closed = False
        self.thread: int | None = None
        self._allowed = threading.Semaphore(0) if hold else None
        self._started = threading.Semaphore(0)

    def allow_forward(self, n: int = 1) -> None:
        """Allow ``n`` more forward passes, if the backend was created with ``hold``."""
        if self._allowed:
            self._allowed.release(n)

    @property
    def n_evaluated(self) -> int:
        """The number of tokens of all batches so far."""
        return sum(len(batch.tokens) for batch in self.batches)

    async def wait_for_forward(self) -> None:
        """Wait until one more forward pass has started."""
        assert await asyncio.to_thread(self._started.acquire, timeout=TIMEOUT)

    def forward(self, batch: Batch) -> Floats:
        return self._run(batch, self.logits, self.n_vocab)

    def hidden(self, batch: Batch) -> Floats:
        self.hidden_batches.append(batch)
        return self._run(batch, lambda prefix: random_logits(prefix)[:N_EMBD], N_EMBD)

    def _run(self, batch: Batch, function: LogitsFunction, width: int) -> Floats:
        self._check(batch)
        self.batches.append(batch)
        self._started.release()
        if self._allowed:
            assert self._allowed.acquire(timeout=TIMEOUT)
        if self.fail_on(batch):
            raise RuntimeError("out of luck in /secret/place")

        rows = []
        wanted = set(batch.outputs.tolist())
        for i, (token, slot) in enumerate(zip(batch.tokens.tolist(), batch.slots.tolist(), strict=True)):
            self.slots[slot].append(token)
            if i in wanted:
                rows.append(function(self.slots[slot]))
        return np.array(rows, np.float32).reshape(len(rows), width)

    def _check(self, batch: Batch) -> None:
        self.thread = self.thread or threading.get_ident()
        assert self.thread == threading.get_ident(), "called on several threads"

        n = len(batch.tokens)
        assert 0 < n <= self.n_batch
        assert all(part.dtype == np.int32 for part in (batch.tokens, batch.positions, batch.slots, batch.outputs))
        assert len(batch.positions) == len(batch.slots) == n
        assert sorted(set(batch.outputs.tolist())) == batch.outputs.tolist()

        runs = [slot for slot, _ in groupby(batch.slots.tolist())]
        assert len(runs) == len(set(runs)), "the tokens of a slot are not adjacent"
        for slot in runs:
            positions = batch.positions[batch.slots == slot].tolist()
            start = len(self.slots[slot])
            assert positions == list(range(start, start + len(positions))), "the positions do not continue the slot"
            assert start + len(positions) <= self.n_ctx

    def truncate(self, slot: int, n: int) -> int:
        assert 0 <= n <= len(self.slots[slot])
        self.truncations.append((slot, n))
        del self.slots[slot][n:]
        return n

    def shift(self, slot: int, first: int, n: int) -> None:
        assert 0 <= first <= first + n <= len(self.slots[slot])
        self.shifts.append((slot, first, n))
        del self.slots[slot][first : first + n]

    def state_size(self, n: int) -> int:
        return 4 * n

    def save(self, slot: int, n: int) -> Bytes:
        assert 0 <= n <= len(self.slots[slot])
        return np.array(self.slots[slot][:n], np.int32).view(np.uint8)

    def restore(self, slot: int, n: int, state: Bytes) -> None:
        if state.nbytes != 4 * n or n > self.n_ctx:
            raise LlamafwError("the state does not fit")
        self.slots[slot] = state.view(np.int32).tolist()

    def describe(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@dataclass(frozen=True)
class Answer:
    """Holds all deltas of one request."""

    deltas: list[Delta]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def tokens(self) -> list[GeneratedToken]:
        return [token for delta in self.deltas for token in delta.tokens]

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]

    @property
    def finish(self) -> Finish:
        *others, finish = [delta.finish for delta in self.deltas]
        assert not any(others), "only the last delta may have a finish"
        assert finish
        return finish


async def generate_answer(engine: Engine, prompt: Sequence[int], **fields: Any) -> Answer:
    """Return the complete answer to a prompt, generated greedily unless the fields of the request say otherwise."""
    fields = {"samplers": ("temperature",), "options": {"temperature": 0}} | fields
    return Answer([delta async for delta in engine.generate(GenerateRequest(tuple(prompt), **fields))])
