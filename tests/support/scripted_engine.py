"""A plugin whose engine writes the texts that a test has chosen, at the pace that the test allows.

Everything around the engine is real: HTTP, templates, reasoning, tool calls and streams. `script` belongs to the engine
of this process.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

from llamafw import (
    ContextFullError,
    Delta,
    EngineStats,
    Finish,
    GeneratedToken,
    GenerateRequest,
    NotSupported,
    PromptProgress,
    SlotStatus,
    Timings,
    Tokenizer,
    TokenLogprob,
    hookimpl,
)

PIECE = re.compile(r"\s*\S+|\s+")
MAX_PIECES = 1000  # of answers that are held


class Script:
    """What the engine answers.

    Attributes
    ----------
    answers : list of str or Exception
        The next answers, in order; an exception is raised instead. Without one, the engine repeats the last message.
    prompts : list of str
        The prompts so far.
    n_ctx : int
        The context. Longer prompts are refused.
    pace : float or None
        Pieces per second. None: as fast as possible.
    """

    def __init__(self) -> None:
        self.answers: list[str | Exception] = []
        self.prompts: list[str] = []
        self.requests: list[GenerateRequest] = []
        self.n_ctx = 4096
        self.pace: float | None = None
        self._due = 0.0  # when the next piece is due, by the clock of the loop
        self.idle = threading.Event()  # set while nothing is generated
        self.loop: asyncio.AbstractEventLoop | None = None  # of the server
        self._allowed: asyncio.Semaphore | None = None

    def hold(self) -> None:
        """From now on, each piece of an answer waits for `allow`."""
        self._allowed = asyncio.Semaphore(0)

    def allow(self, n: int) -> None:
        """Allow ``n`` more pieces, from any thread."""
        assert self.loop
        self.loop.call_soon_threadsafe(self._release, n)

    def release(self) -> None:
        """Allow all pieces from now on."""
        if self._allowed is not None and self.loop is not None:
            held, self._allowed = self._allowed, None
            for _ in range(MAX_PIECES):
                self.loop.call_soon_threadsafe(held.release)

    def reset(self) -> None:
        """Forget everything."""
        self.release()
        self.answers, self.prompts, self.requests, self.n_ctx, self.pace = [], [], [], 4096, None

    def _release(self, n: int) -> None:
        for _ in range(n if self._allowed else 0):
            assert self._allowed
            self._allowed.release()

    async def wait(self) -> None:
        """Wait until the next piece is allowed."""
        if self._allowed is not None:
            await self._allowed.acquire()
        elif self.pace is not None:
            now = asyncio.get_running_loop().time()
            self._due = max(now, self._due + 1 / self.pace)
            await asyncio.sleep(self._due - now)
        else:
            await asyncio.sleep(0)


script = Script()
"""What the engine of this process answers."""


class ScriptedEngine:
    """A `llamafw.Engine` that answers what `script` says."""

    n_slots, failed = 2, False

    def __init__(self, tokenizer: Tokenizer, finished: Callable[..., None]) -> None:
        self.tokenizer, self.finished = tokenizer, finished
        self.n_predicted = 0

    @property
    def n_ctx(self) -> int:
        """The context of each slot."""
        return script.n_ctx

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Yield the next answer of the script, one word at a time."""
        script.requests.append(request)
        prompt = self.tokenizer.decode(request.prompt, special=True)
        script.prompts.append(prompt)
        answer = script.answers.pop(0) if script.answers else f"You said: {_last_message(prompt)}"
        if isinstance(answer, Exception):
            raise answer
        n_prompt = len(request.prompt)
        if n_prompt >= script.n_ctx and not request.truncate_prompt:
            raise ContextFullError(n_prompt, script.n_ctx)

        finish, n = None, 0
        script.idle.clear()
        try:
            for processed in (0, n_prompt // 2, n_prompt):
                await script.wait()
                if request.return_progress:
                    yield Delta("", progress=PromptProgress(n_prompt, 0, processed, float(processed)))
            pieces = PIECE.findall(answer)
            limit = request.n_predict if request.n_predict >= 0 else len(pieces)
            for piece in pieces[:limit]:
                await script.wait()
                n, self.n_predicted = n + 1, self.n_predicted + 1
                timings = self.timings(n_prompt, n) if request.timings_per_token else None
                yield Delta(piece, tokens=self.tokens(piece, request.logprobs), timings=timings)
            await script.wait()
            finish = Finish(
                "limit" if limit < len(pieces) else "eos",
                n_prompt=n_prompt,
                n_predicted=n,
                truncated=n_prompt >= script.n_ctx,
                timings=self.timings(n_prompt, n),
            )
            yield Delta("", finish=finish)
        finally:
            script.idle.set()
            self.finished(request=request, finish=finish)

    def timings(self, n_prompt: int, n: int) -> Timings:
        """Return timings with 50 tokens per second."""
        return Timings(prompt_n=n_prompt, prompt_ms=100.0, predicted_n=n, predicted_ms=20.0 * (n - 1))

    def tokens(self, piece: str, logprobs: bool) -> tuple[GeneratedToken, ...]:
        """Return the tokens of a piece if asked for, each with a probability of 50 % and two alternatives."""
        a, b = (self.tokenizer.encode(letter)[-1] for letter in "ab")
        top = (TokenLogprob(a, math.log(0.3)), TokenLogprob(b, math.log(0.1)))
        tokens = self.tokenizer.encode(piece) if logprobs else []
        return tuple(GeneratedToken(token, self.tokenizer.piece(token), math.log(0.5), top) for token in tokens)

    async def embed(self, request: Any) -> Any:
        """Refuse: there is no model."""
        raise NotSupported("this engine does not compute embeddings")

    def stats(self) -> EngineStats:
        """Return the load."""
        return EngineStats(requests_processing=int(not script.idle.is_set()), predicted_tokens=self.n_predicted)

    def slots(self) -> tuple[SlotStatus, ...]:
        """Return no slots."""
        return ()

    async def save_slot(self, id: int, path: Any) -> Any:
        """Refuse: there are no slots."""
        raise NotSupported("this engine has no slots")

    restore_slot = erase_slot = save_slot

    async def stop(self, grace: float) -> None:
        """Let held answers end."""
        script.release()


def _last_message(prompt: str) -> str:
    """Return the last message of the user in a ChatML prompt."""
    return prompt.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0].strip()


@hookimpl
def create_engine(tokenizer: Tokenizer, finished: Callable[..., None]) -> ScriptedEngine:
    """Return the engine; the model's weights are not read."""
    return ScriptedEngine(tokenizer, finished)
