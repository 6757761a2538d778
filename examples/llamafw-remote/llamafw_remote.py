"""A model that runs on another server, any that has OpenAI's ``/v1/completions`` and takes tokens there.

Text is turned into tokens and chats into prompts here, from the model's own GGUF file, whose weights are never read. So
everything in front of a model stays as it is: keys, limits, accounting, chat templates, tools. An `llamafw.Engine` is
the place for that, and not a backend: a remote server draws tokens itself and does not give its logits away.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamafw import (
    App,
    ContextFullError,
    DeadlineExceeded,
    Delta,
    Embedding,
    EmbedRequest,
    Engine,
    EngineStats,
    Finish,
    GenerateRequest,
    Model,
    NotSupported,
    RequestError,
    Settings,
    SlotStatus,
    Timings,
    Tokenizer,
    Unavailable,
    hookimpl,
)

if TYPE_CHECKING:
    import httpx

requires_api = ">=1.0,<2"
FIELDS = "temperature,top_p,presence_penalty,frequency_penalty"  # those of OpenAI's API
SLOTS, CONTEXT = 64, 8192  # where nothing says otherwise
PATIENCE = 600  # seconds for an answer without a deadline
CUT = {"choices": [{"text": "", "finish_reason": "length"}]}  # what ends an answer whose time is over


class Remote:
    """A `llamafw.Engine`: sends a request's tokens on and yields what comes back."""

    def __init__(self, url: str, settings: Settings, n_ctx: int, finished: Callable[..., None]) -> None:
        self.url = url.rstrip("/")
        self.key, self.model = settings.extra["remote_key"], settings.extra["remote_model"]
        self.fields = fields(settings)
        self.n_slots, self.n_ctx, self.failed = settings.parallel or SLOTS, settings.ctx_size or n_ctx, False
        self.finished = finished
        self.n_running = 0
        self.client: httpx.AsyncClient | None = None

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Return the answer, piece by piece. Closing the iterator closes the connection, which cancels it there."""
        if request.grammar is not None or request.logprobs:
            raise NotSupported("a remote model gives no logits: no grammars, no probabilities")
        if request.ignore_eos or request.t_max_predict_ms is not None or request.id_slot >= 0:
            raise NotSupported("a remote model is told nothing of ignore_eos, t_max_predict_ms and id_slot")
        if len(request.prompt) + (request.n_predict != 0) > self.n_ctx:
            raise ContextFullError(len(request.prompt), self.n_ctx)
        return self.answer(request)

    async def answer(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Yield the deltas of one request."""
        finish: Finish | None = None
        self.n_running += 1
        try:
            if not request.prompt or not request.n_predict:
                finish = Finish("none" if not request.prompt else "limit", n_prompt=len(request.prompt))
                yield Delta("", finish=finish)
                return
            reason, usage = "stop", dict[str, Any]()
            async with aclosing(self.events(self.body(request), request.deadline_ms)) as events:
                async for event in events:
                    usage = event.get("usage") or usage
                    for choice in event.get("choices", ()):
                        reason = choice.get("finish_reason") or reason
                        if choice.get("text"):
                            yield Delta(choice["text"])
            n_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            finish = Finish(
                "limit" if reason == "length" else "eos",
                n_prompt=usage.get("prompt_tokens", len(request.prompt)),
                n_predicted=usage.get("completion_tokens", 0),
                n_cached=n_cached,
                seed=request.seed or 0,
                timings=Timings(cache_n=n_cached, predicted_n=usage.get("completion_tokens", 0)),
            )
            yield Delta("", finish=finish)
        finally:
            self.n_running -= 1
            self.finished(request=request, finish=finish)

    def body(self, request: GenerateRequest) -> dict[str, Any]:
        """Return the request as the other server gets it."""
        room = self.n_ctx - len(request.prompt)
        body: dict[str, Any] = {
            "prompt": list(request.prompt),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": min(request.n_predict, room) if request.n_predict > 0 else room,
            **{field: request.options[field] for field in self.fields if field in request.options},
        }
        if self.model:
            body["model"] = self.model
        if request.stop:
            body["stop"] = list(request.stop)
        if request.seed is not None:
            body["seed"] = request.seed
        if request.logit_bias:
            body["logit_bias"] = {str(token): max(bias, -100.0) for token, bias in request.logit_bias.items()}
        return body

    async def events(self, body: Mapping[str, Any], deadline_ms: float | None) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of a streamed completion; errors there are errors here. A deadline ends it."""
        import httpx

        if self.client is None:  # made on the event loop that uses it
            headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
            self.client = httpx.AsyncClient(headers=headers)
        seconds = PATIENCE if deadline_ms is None else deadline_ms / 1e3
        end, begun = time.monotonic() + seconds, False
        timeout = httpx.Timeout(seconds, connect=10)
        try:
            async with self.client.stream("POST", f"{self.url}/completions", json=body, timeout=timeout) as response:
                if response.status_code != 200:
                    raise refusal(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line[6:])
                        if "error" in event:
                            raise Unavailable(f"the remote server failed: {event['error'].get('message')}")
                        yield event
                        begun = True
                        if time.monotonic() > end:
                            yield CUT
                            return
        except httpx.ReadTimeout:
            if not begun:
                raise DeadlineExceeded("the remote server has not answered in time") from None
            yield CUT
        except httpx.HTTPError as error:
            raise Unavailable(f"the remote server does not answer: {type(error).__name__}") from error

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Say that there are none."""
        raise NotSupported("a remote model gives no embeddings")

    def stats(self) -> EngineStats:
        """Return what runs now; the rest is the other server's to count."""
        return EngineStats(requests_processing=self.n_running)

    def slots(self) -> Sequence[SlotStatus]:
        """Return nothing: the slots are elsewhere."""
        return ()

    async def save_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Say that there are no slots here; so do the next two."""
        raise NotSupported("the slots of a remote model are elsewhere")

    async def restore_slot(self, id: int, path: Path) -> tuple[int, int]:
        """See `save_slot`."""
        raise NotSupported("the slots of a remote model are elsewhere")

    async def erase_slot(self, id: int) -> int:
        """See `save_slot`."""
        raise NotSupported("the slots of a remote model are elsewhere")

    async def stop(self, grace: float) -> None:
        """Close the connections."""
        if self.client is not None:
            await self.client.aclose()


def refusal(status: int, content: bytes) -> RequestError:
    """Return what a client is told of the other server's refusal: what is its own fault, and what is not."""
    try:
        message = json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"status {status}"
    kind = RequestError if status == 400 else Unavailable
    return kind(f"the remote server refused: {message}")


def fields(settings: Settings) -> tuple[str, ...]:
    """Return the options of samplers that the other server takes."""
    return tuple(field.strip() for field in settings.extra["remote_fields"].split(","))


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the flags."""
    group = parser.add_argument_group("llamafw-remote")
    group.add_argument(
        "--remote-url", metavar="URL", help="let this server, ending in /v1, run the model; -m is its GGUF file"
    )
    group.add_argument("--remote-key", metavar="KEY", help="the other server's API key")
    group.add_argument("--remote-model", metavar="NAME", help="the model's name there")
    group.add_argument(
        "--remote-fields",
        metavar="NAMES",
        default=FIELDS,
        help="options of samplers that it takes (default: %(default)s)",
    )


@hookimpl
def create_engine(
    model: Model, tokenizer: Tokenizer, settings: Settings, finished: Callable[..., None]
) -> Engine | None:
    """Answer for the model if ``--remote-url`` says so."""
    url = settings.extra.get("remote_url")
    if not url:
        return None
    n_ctx = model.metadata.get(f"{model.metadata.get('general.architecture')}.context_length", CONTEXT)
    return Remote(url, settings, int(n_ctx), finished)


@hookimpl(wrapper=True)
def prepare_request(body: Mapping[str, Any], app: App) -> Generator[None, GenerateRequest, GenerateRequest]:
    """Refuse what the other server would not hear of: options of samplers that are set and not passed on."""
    request = yield
    if app.settings.extra.get("remote_url"):
        known = fields(app.settings)
        for plugin in app.samplers.values():
            for field, schema in plugin.options.items():
                given = body.get(field)
                if field not in known and given is not None and given != schema.get("default"):
                    raise NotSupported(f"the remote server is not told of {field}; see --remote-fields", param=field)
    return request
