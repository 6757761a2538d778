"""Run the model on another server that has OpenAI's ``/v1/completions`` and accepts token ids there.

Chats are rendered and text is tokenized here, with the vocabulary of the model's GGUF file, whose weights are not read.
Everything around the model works as usual: keys, limits, accounting, chat templates and tools. This is a
`llamafw.Engine` and not a backend, because the remote server samples tokens itself and does not return logits.
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
DEFAULT_FIELDS = "temperature,top_p,presence_penalty,frequency_penalty"  # the ones of OpenAI's API
DEFAULT_SLOTS, DEFAULT_CONTEXT = 64, 8192  # without flags, and without the key in the file
TIMEOUT = 600  # seconds, for requests without a deadline
DEADLINE_EVENT = {"choices": [{"text": "", "finish_reason": "length"}]}  # ends an answer at its deadline
NO_SLOTS = "slots are not available with a remote model: they are on the other server"


class RemoteEngine:
    """A `llamafw.Engine` that sends requests to another server and yields its answers."""

    def __init__(self, url: str, settings: Settings, n_ctx: int, finished: Callable[..., None]) -> None:
        self.url = url.rstrip("/")
        self.key, self.model = settings.extra["remote_key"], settings.extra["remote_model"]
        self.fields = remote_fields(settings)
        self.n_slots, self.n_ctx, self.failed = settings.parallel or DEFAULT_SLOTS, settings.ctx_size or n_ctx, False
        self.finished = finished
        self.n_running = 0
        self.client: httpx.AsyncClient | None = None

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Return an iterator over the pieces of the answer.

        Closing the iterator closes the connection, which cancels the request on the other server.
        """
        if request.grammar is not None or request.logprobs:
            raise NotSupported("a remote model returns no logits, which grammars and log-probabilities need")
        if request.ignore_eos or request.t_max_predict_ms is not None or request.id_slot >= 0:
            raise NotSupported("ignore_eos, t_max_predict_ms and id_slot are not supported with a remote model")
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
        """Return the JSON body for the other server."""
        max_tokens = self.n_ctx - len(request.prompt)
        body: dict[str, Any] = {
            "prompt": list(request.prompt),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": min(request.n_predict, max_tokens) if request.n_predict > 0 else max_tokens,
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
        """Yield the events of a streamed completion, until its end or the deadline.

        Raises
        ------
        RequestError
            If the other server refuses the request with status 400.
        Unavailable
            If the other server fails or cannot be reached.
        DeadlineExceeded
            If nothing arrives before the deadline.
        """
        import httpx

        if self.client is None:  # created here, on the event loop that uses it
            headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
            self.client = httpx.AsyncClient(headers=headers)
        seconds = TIMEOUT if deadline_ms is None else deadline_ms / 1e3
        deadline, has_event = time.monotonic() + seconds, False
        timeout = httpx.Timeout(seconds, connect=10)

        try:
            async with self.client.stream("POST", f"{self.url}/completions", json=body, timeout=timeout) as response:
                if response.status_code != 200:
                    raise refusal_error(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line[6:])
                        if "error" in event:
                            raise Unavailable(f"the remote server failed: {event['error'].get('message')}")
                        yield event
                        has_event = True
                        if time.monotonic() > deadline:
                            yield DEADLINE_EVENT
                            return
        except httpx.ReadTimeout:
            if not has_event:
                raise DeadlineExceeded("the remote server did not answer before the deadline") from None
            yield DEADLINE_EVENT
        except httpx.HTTPError as error:
            raise Unavailable(f"the remote server does not answer: {type(error).__name__}") from error

    async def embed(self, request: EmbedRequest) -> Embedding:
        """Raise `NotSupported`."""
        raise NotSupported("embeddings are not supported with a remote model")

    def stats(self) -> EngineStats:
        """Return the number of running requests; the other server counts the rest."""
        return EngineStats(requests_processing=self.n_running)

    def slots(self) -> Sequence[SlotStatus]:
        """Return an empty list: the slots are on the other server."""
        return ()

    async def save_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Raise `NotSupported`."""
        raise NotSupported(NO_SLOTS)

    async def restore_slot(self, id: int, path: Path) -> tuple[int, int]:
        """Raise `NotSupported`."""
        raise NotSupported(NO_SLOTS)

    async def erase_slot(self, id: int) -> int:
        """Raise `NotSupported`."""
        raise NotSupported(NO_SLOTS)

    async def stop(self, grace: float) -> None:
        """Close the connections to the other server."""
        if self.client is not None:
            await self.client.aclose()


def refusal_error(status: int, content: bytes) -> RequestError:
    """Return the error for the client: a 400 stays a 400, any other status becomes a 503."""
    try:
        message = json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"status {status}"
    kind = RequestError if status == 400 else Unavailable
    return kind(f"the remote server refused: {message}")


def remote_fields(settings: Settings) -> tuple[str, ...]:
    """Return the sampler options that are sent to the other server."""
    return tuple(field.strip() for field in settings.extra["remote_fields"].split(","))


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the flags of the other server."""
    group = parser.add_argument_group("llamafw-remote")
    group.add_argument(
        "--remote-url",
        metavar="URL",
        help="run the model on this server (the address ends in /v1); -m names its GGUF file",
    )
    group.add_argument("--remote-key", metavar="KEY", help="the other server's API key")
    group.add_argument("--remote-model", metavar="NAME", help="the model's name on the other server")
    group.add_argument(
        "--remote-fields",
        metavar="NAMES",
        default=DEFAULT_FIELDS,
        help="sampler options to send to the other server (default: %(default)s)",
    )


@hookimpl
def create_engine(
    model: Model, tokenizer: Tokenizer, settings: Settings, finished: Callable[..., None]
) -> Engine | None:
    """Return the engine if ``--remote-url`` is given."""
    url = settings.extra.get("remote_url")
    if not url:
        return None
    n_ctx = model.metadata.get(f"{model.metadata.get('general.architecture')}.context_length", DEFAULT_CONTEXT)
    return RemoteEngine(url, settings, int(n_ctx), finished)


@hookimpl(wrapper=True)
def prepare_request(body: Mapping[str, Any], app: App) -> Generator[None, GenerateRequest, GenerateRequest]:
    """Refuse requests with sampler options that would not be sent to the other server."""
    request = yield
    if app.settings.extra.get("remote_url"):
        sent = remote_fields(app.settings)
        for plugin in app.samplers.values():
            for field, schema in plugin.options.items():
                value = body.get(field)
                if field not in sent and value is not None and value != schema.get("default"):
                    raise NotSupported(f"{field} is not sent to the remote server; see --remote-fields", param=field)
    return request
