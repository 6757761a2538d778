"""Fixtures: the built-in API in this process, on a toy model.

Every response is validated against the API document.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from llamafw import ChatContext, Drafter, Floats, GrammarSource, LoadedModel, Settings, Tensor
from llamafw.engine import BatchingEngine, EngineOptions
from llamafw.engine.chat_probe import probe_chat
from llamafw.engine.rank_head import RankHead
from llamafw.engine.speculation import SpeculationOptions
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from llamafw_plugins.chat_formats.jinja import JinjaChatFormat
from support.api_client import wait_until_loaded
from support.toy_model import EOS, ToyBackend, ToyTokenizer

PRE, SUF, MID, REP, SEP = range(259, 264)  # tokens for infill

TEMPLATE = (
    "{% for message in messages %}{{ message.role[0] }}:{{ message.content }};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}{{ suffix }}"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz"

Open = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


class InfillTokenizer(ToyTokenizer):
    """A toy tokenizer with tokens for infill.

    Each byte of a text is a token.
    """

    # read-only, as in the protocol
    fim: Mapping[str, int] = {"pre": PRE, "suf": SUF, "mid": MID, "rep": REP, "sep": SEP}


class InfillTokenizerWithBos(InfillTokenizer):
    """The same, with a BOS token before texts."""

    add_bos = True


def alphabet(prefix: Sequence[int]) -> Floats:
    """Return the logits of a model that continues the alphabet; it ends after ``z`` and after other characters.

    After ``:``, where the answer of a chat begins, it starts with ``a``.
    """
    last, following = chr(prefix[-1]), EOS
    if last in LETTERS[:-1]:
        following = ord(last) + 1
    elif last == ":":
        following = ord("a")

    row = np.zeros(264, np.float32)
    row[following] = 20
    return row


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return Plugins()


@pytest.fixture(scope="session")
def opened(plugins: Plugins) -> Open:
    """Return a function that opens a client: ``opened(scores=..., tokenizer=..., **settings)``."""

    @contextlib.asynccontextmanager
    async def open_client(
        *,
        scores: Any = alphabet,
        tokenizer: Any = None,
        backend: ToyBackend | None = None,
        plugins: Plugins = plugins,
        template: str = TEMPLATE,
        n_ctx: int = 64,
        grammar: GrammarSource | None = None,
        rank_head: RankHead | None = None,
        metadata: Mapping[str, Any] | None = None,
        name: str = "toy",
        tool_parser: str = "hermes",
        drafters: Mapping[str, Drafter] | None = None,
        **settings: Any,
    ) -> AsyncIterator[httpx.AsyncClient]:
        tokenizer = tokenizer or ToyTokenizer()
        backend = backend or ToyBackend(scores, n_slots=2, n_ctx=n_ctx)

        def load() -> LoadedModel:
            weights = Tensor("w", (3, 4), "F32", np.zeros(48, np.uint8))
            model: Any = SimpleNamespace(
                path=Path("toy.gguf"),
                metadata={"tokenizer.ggml.model": "gpt2", **(metadata or {})},
                tensors={"w": weights},
                n_bytes=48,
            )
            graph: Any = SimpleNamespace(n_vocab=tokenizer.n_vocab, n_ctx_train=64, n_embd=8, causal=True, n_types=1)

            chat = JinjaChatFormat(template, ChatContext())
            options = EngineOptions(n_batch=32, prompt_cache=2**20, rank_head=rank_head)
            options = replace(options, max_queue=settings.get("max_queue", options.max_queue))
            always = SpeculationOptions(adaptive=False)
            options = replace(options, drafters=drafters or {}, speculation=always)
            engine = BatchingEngine(
                backend,
                tokenizer,
                plugins.registry("sampler"),
                options,
                finished=partial(plugins.notify, "request_finished"),
                grammars=plugins.registry("grammar"),
            )
            parser = plugins.registry("tool_parser")[tool_parser]
            return LoadedModel(
                name,
                model,
                graph,
                tokenizer,
                chat,
                engine,
                parser,
                grammar,
                chat_capabilities=probe_chat(chat, tokenizer),
            )

        chosen = Settings(**{"validate_responses": True, "context_shift": False} | settings)
        asgi, app, loading = build_app(chosen, plugins, load)
        transport = httpx.ASGITransport(asgi)
        async with (
            loading.lifespan(None),
            httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client,
        ):
            await wait_until_loaded(app)
            yield client

    return open_client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(opened: Open) -> AsyncIterator[httpx.AsyncClient]:
    """Yield one client for all tests of a module, which share an event loop: an application takes 0.5 s to build."""
    async with opened() as shared_client:
        yield shared_client


Post = Callable[..., Any]


@pytest.fixture
def post(client: httpx.AsyncClient) -> Post:
    """Return a function that posts a body and returns the JSON of the 200: ``await post(path, **fields)``."""

    async def send(path: str, **fields: Any) -> Any:
        response = await client.post(path, json=fields)
        assert response.status_code == 200, response.text
        return response.json()

    return send


@pytest.fixture
def events(client: httpx.AsyncClient) -> Post:
    """Return a function that returns the events of a stream, see `read_events`: ``await events(path, **fields)``."""

    async def send(path: str, **fields: Any) -> list[Any]:
        response = await client.post(path, json={"stream": True, **fields})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return read_events(response.text)

    return send


@pytest.fixture
def refused(client: httpx.AsyncClient) -> Post:
    """Return a function that returns the status, param and message of an error: ``await refused(path, **fields)``."""

    async def send(path: str, **fields: Any) -> tuple[int, str | None, str]:
        response = await client.post(path, json=fields)
        error: Mapping[str, Any] = response.json()["error"]
        assert error["code"] == response.status_code
        return error["code"], error.get("param"), error["message"]

    return send


def read_events(text: str) -> list[Any]:
    """Return the parsed data of each event; ``[DONE]`` stays text.

    Comments, which a slow machine sends, are left out.
    """
    lines = [event.removeprefix("data: ") for event in text.split("\n\n") if event and event != ":"]
    return [data if data == "[DONE]" else json.loads(data) for data in lines]
