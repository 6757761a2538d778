"""A tiny deterministic model for tests of the engine: bytes as tokens, and scores that are a function of the prefix."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llamafw import Batch, Bytes, Delta, Engine, Finish, Floats, GeneratedToken, GenerateRequest, LlamafwError

BOS, EOS, EOT = 256, 257, 258
HEART, EURO_HEAD, EURO_TAIL, HELLO, WORLD = 259, 260, 261, 262, 263
PIECES = {
    HEART: "❤".encode(),
    EURO_HEAD: "€".encode()[:2],  # a token may end within a character
    EURO_TAIL: "€".encode()[2:],
    HELLO: b"Hello",
    WORLD: b" world",
}
PATIENCE = 50  # seconds: samplers may have to be compiled first
N_VOCAB, N_EMBD = 264, 8


class ToyTokenizer:
    """Every byte is a token; some tokens are several bytes."""

    n_vocab = N_VOCAB
    bos: int | None = BOS
    eos: int | None = EOS
    eog = frozenset({EOS, EOT})
    add_bos = add_eos = False
    fim: Mapping[str, int] = {}  # a protocol's attribute

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return list(text.encode())

    def piece(self, token: int, *, special: bool = False) -> bytes:
        if not 0 <= token < N_VOCAB:
            raise IndexError(token)
        return bytes([token]) if token < 256 else PIECES.get(token, b"")

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")


class WithBos(ToyTokenizer):
    """The same, with a BOS token before texts."""

    add_bos = True

    def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return [BOS] * add_special + super().encode(text)


def noise(prefix: Sequence[int]) -> Floats:
    """Scores that look like a model's: any prefix has its own."""
    seed = zlib.crc32(np.array(prefix, np.int32).tobytes())
    return (np.random.default_rng(seed).standard_normal(N_VOCAB) * 3).astype(np.float32)


def forever(prefix: Sequence[int]) -> Floats:
    """Scores of a model that says a, b, c … for ever, if asked greedily."""
    row = np.zeros(N_VOCAB, np.float32)
    row[97 + len(prefix) % 26] = 9
    return row


def saying(*tokens: int, after: int = 0) -> Callable[[Sequence[int]], Floats]:
    """Scores that make a greedy answer of ``tokens`` to a prompt of ``after`` tokens, then end-of-sequence."""

    def scores(prefix: Sequence[int]) -> Floats:
        i = len(prefix) - after
        row = np.zeros(N_VOCAB, np.float32)
        row[tokens[i] if i < len(tokens) else EOS] = 20
        return row

    return scores


class ToyBackend:
    """Holds the tokens of each slot, and refuses batches that do not continue them.

    Parameters
    ----------
    scores : callable
        From all tokens of a slot to the logits of the last one.
    hold : bool
        True: each forward pass waits for a permit, see `allow`.
    """

    def __init__(
        self,
        scores: Callable[[Sequence[int]], Floats] = noise,
        *,
        n_slots: int = 2,
        n_ctx: int = 64,
        n_batch: int = 32,
        hold: bool = False,
    ) -> None:
        self.scores, self.n_slots, self.n_ctx, self.n_batch, self.n_vocab = scores, n_slots, n_ctx, n_batch, N_VOCAB
        self.n_embd, self.state_format = N_EMBD, "toy-1"
        self.slots: list[list[int]] = [[] for _ in range(n_slots)]
        self.batches: list[Batch] = []  # all, in order
        self.embedded: list[Batch] = []  # those of `hidden`
        self.cuts: list[tuple[int, int]] = []
        self.shifts: list[tuple[int, int, int]] = []
        self.closed = False
        self.fail_on: Callable[[Batch], bool] = lambda batch: False
        self.thread: int | None = None
        self._permits = threading.Semaphore(0) if hold else None
        self._arrived = threading.Semaphore(0)

    def allow(self, n: int = 1) -> None:
        """Let ``n`` more forward passes happen, if they are held."""
        if self._permits:
            self._permits.release(n)

    async def begun(self) -> None:
        """Wait until one more forward pass has begun."""
        assert await asyncio.to_thread(self._arrived.acquire, timeout=PATIENCE)

    def forward(self, batch: Batch) -> Floats:
        return self._run(batch, self.scores, self.n_vocab)

    def hidden(self, batch: Batch) -> Floats:
        self.embedded.append(batch)
        return self._run(batch, lambda prefix: noise(prefix)[:N_EMBD], N_EMBD)

    def _run(self, batch: Batch, function: Callable[[Sequence[int]], Floats], width: int) -> Floats:
        self._check(batch)
        self.batches.append(batch)
        self._arrived.release()
        if self._permits:
            assert self._permits.acquire(timeout=PATIENCE)
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
        slots = batch.slots.tolist()
        seen = [slot for i, slot in enumerate(slots) if i == 0 or slot != slots[i - 1]]
        assert len(seen) == len(set(seen)), "tokens of a slot are not adjacent"
        for slot in seen:
            positions = batch.positions[batch.slots == slot].tolist()
            start = len(self.slots[slot])
            assert positions == list(range(start, start + len(positions))), "does not continue the slot"
            assert start + len(positions) <= self.n_ctx

    def truncate(self, slot: int, n: int) -> None:
        assert 0 <= n <= len(self.slots[slot])
        self.cuts.append((slot, n))
        del self.slots[slot][n:]

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
    """All deltas of one request."""

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
        assert [bool(delta.finish) for delta in self.deltas[:-1]] == [False] * (len(self.deltas) - 1)
        finish = self.deltas[-1].finish
        assert finish
        return finish


async def answer(engine: Engine, prompt: Sequence[int], **fields: Any) -> Answer:
    """Generate, greedily unless told otherwise, and gather the answer."""
    fields = {"samplers": ("temperature",), "options": {"temperature": 0}} | fields
    return Answer([delta async for delta in engine.generate(GenerateRequest(tuple(prompt), **fields))])
