"""POST /completion and /completions: llama-server's own shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from llamafw import App, Call, Delta, Finish, GeneratedToken, GenerateRequest, LoadedModel, event_stream
from llamafw_plugins.endpoints.choices import check_answers
from llamafw_plugins.endpoints.prompts import Prompt, read_prompts
from llamafw_plugins.endpoints.run import collect, stream
from llamafw_plugins.endpoints.shapes import JSON, native_probabilities, on_the_way, settings_shape, stopped, timings


class Completion:
    """The operations `createCompletion` and `createCompletionAlias`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Answer one prompt with an object, several with an array, or all with one stream."""
        return await self.answer(call.body, await read_prompts(call.body["prompt"], self.app.loaded.tokenizer))

    async def answer(self, body: JSON, prompts: Sequence[Prompt], **changes: Any) -> Any:
        """Answer prompts that have been read, here or by an operation that makes its own; ``changes`` its requests."""
        loaded = self.app.loaded
        check_answers(body, len(prompts))
        requests = [replace(self.app.prepare(body, prompt.tokens), **changes) for prompt in prompts]
        rows = Rows(loaded, prompts, requests, body)
        if body.get("stream"):
            return event_stream(rows.events())
        answers = await collect(loaded.engine, requests)
        found = [rows.asked_for(i, answer.text, answer.tokens, answer.finish) for i, answer in enumerate(answers)]
        return found if len(found) > 1 else found[0]


class Rows:
    """Writes the answers to one call."""

    def __init__(
        self, loaded: LoadedModel, prompts: Sequence[Prompt], requests: Sequence[GenerateRequest], body: JSON
    ) -> None:
        self.loaded, self.prompts, self.requests = loaded, prompts, requests
        self.stream = bool(body.get("stream"))
        self.return_tokens = bool(body.get("return_tokens"))
        self.paths: Sequence[str] = body.get("response_fields") or ()

    async def events(self) -> AsyncGenerator[JSON, None]:
        """Yield a chunk per piece, and at the end of each answer the whole object, with empty ``content``."""
        async with aclosing(stream(self.loaded.engine, self.requests)) as pieces:
            async for i, delta in pieces:
                if delta.text or delta.tokens or not delta.finish:
                    yield self.chunk(i, delta)
                if delta.finish:
                    yield self.asked_for(i, "", (), delta.finish)

    def chunk(self, index: int, delta: Delta) -> JSON:
        """Return one piece of the answer to prompt ``index``."""
        return {
            "content": delta.text,
            "stop": False,
            "id_slot": delta.id_slot,
            "index": index,
            "multimodal": False,
            **on_the_way(delta),
            **self.extras(index, delta.tokens),
        }

    def asked_for(self, index: int, text: str, tokens: Sequence[GeneratedToken], finish: Finish) -> JSON:
        """Return the whole object, or what ``response_fields`` names of it."""
        whole = self.whole(index, text, tokens, finish)
        return selected(whole, self.paths) if self.paths else whole

    def whole(self, index: int, text: str, tokens: Sequence[GeneratedToken], finish: Finish) -> JSON:
        """Return the object that an answer, or its stream, ends with."""
        request = self.requests[index]
        return {
            "content": text,
            "index": index,
            "id_slot": finish.id_slot,
            "stop": True,
            "model": self.loaded.name,
            "tokens_predicted": finish.n_predicted,
            "tokens_evaluated": finish.n_prompt,
            "tokens_cached": finish.n_cached,
            "n_past": finish.n_prompt + finish.n_predicted,
            "generation_settings": {
                **settings_shape(request, self.loaded, stream=self.stream),
                "seed_cur": finish.seed,
            },
            "prompt": self.prompts[index].given,
            "truncated": finish.truncated,
            "stop_type": finish.stop_type,
            "stopping_word": finish.stopping_word,
            **stopped(finish.stop_type),
            "timings": timings(finish.timings),
            **({} if self.stream else self.extras(index, tokens)),
        }

    def extras(self, index: int, tokens: Sequence[GeneratedToken]) -> JSON:
        """Return what only some requests ask for."""
        request, extras = self.requests[index], JSON()
        if self.return_tokens:
            extras["tokens"] = [token.id for token in tokens]
        if request.n_probs:
            extras["completion_probabilities"] = native_probabilities(
                tokens, self.loaded.tokenizer, post_sampling=request.post_sampling_probs
            )
        return extras


def selected(row: JSON, paths: Sequence[str]) -> JSON:
    """Return the members at ``paths``; that at ``a/b`` is called ``b``. Those that are not there are left out."""
    found = JSON()
    for path in paths:
        value: Any = row
        for name in (names := path.split("/")):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            found[names[-1]] = value
    return found
