"""POST /completion and /completions: llama-server's own format."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from llamafw import App, Call, Delta, GeneratedToken, GenerateRequest, LoadedModel, event_stream
from llamafw_plugins.endpoints.choices import check_n_generations
from llamafw_plugins.endpoints.generations import Generation, generate_all, stream_all
from llamafw_plugins.endpoints.prompts import Prompt, read_prompts
from llamafw_plugins.endpoints.response_json import (
    JSON,
    completion_probabilities_json,
    progress_json,
    settings_json,
    stopped_json,
    timings_json,
)


class CompletionEndpoints:
    """The operations `createCompletion` and `createCompletionAlias`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Continue one or several prompts."""
        body = call.body
        prompts = await read_prompts(body["prompt"], self.app.loaded.tokenizer)
        check_n_generations(body, len(prompts))
        requests = [self.app.prepare(body, prompt.tokens) for prompt in prompts]
        return await respond(self.app.loaded, prompts, requests, body)


async def respond(
    loaded: LoadedModel, prompts: Sequence[Prompt], requests: Sequence[GenerateRequest], body: JSON
) -> Any:
    """Return an object for one prompt, an array for several prompts, or one stream for all prompts."""
    response = CompletionResponse(loaded, prompts, requests, body)
    if body.get("stream"):
        return event_stream(response.events())
    generations = await generate_all(loaded.engine, requests)
    objects = [response.selected(i, generation) for i, generation in enumerate(generations)]
    return objects if len(objects) > 1 else objects[0]


class CompletionResponse:
    """Builds the response to one native completion request.

    Parameters
    ----------
    prompts, requests : sequence
        One of each per prompt.
    body : dict
        The validated request body.
    """

    def __init__(
        self, loaded: LoadedModel, prompts: Sequence[Prompt], requests: Sequence[GenerateRequest], body: JSON
    ) -> None:
        self.loaded, self.prompts, self.requests = loaded, prompts, requests
        self.stream = bool(body.get("stream"))
        self.return_tokens = bool(body.get("return_tokens"))
        self.response_fields: Sequence[str] = body.get("response_fields") or ()

    async def events(self) -> AsyncGenerator[JSON, None]:
        """Yield the chunks of all generations as they arrive; each ends with its object with an empty ``content``."""
        async with aclosing(stream_all(self.loaded.engine, self.requests)) as deltas:
            async for i, delta in deltas:
                if delta.text or delta.tokens or not delta.finish:
                    yield self.chunk(i, delta)
                if delta.finish:
                    yield self.selected(i, Generation(finish=delta.finish))

    def chunk(self, index: int, delta: Delta) -> JSON:
        """Return one piece of the generation for the prompt ``index``."""
        return {
            "content": delta.text,
            "stop": False,
            "id_slot": delta.id_slot,
            "index": index,
            "multimodal": False,
            **progress_json(delta),
            **self._token_fields(index, delta.tokens),
        }

    def selected(self, index: int, generation: Generation) -> JSON:
        """Return the object for a complete generation, or only its fields that ``response_fields`` names."""
        whole = self.whole(index, generation)
        return select_fields(whole, self.response_fields) if self.response_fields else whole

    def whole(self, index: int, generation: Generation) -> JSON:
        """Return the object for a complete generation."""
        request, finish = self.requests[index], generation.finish
        settings = settings_json(request, self.loaded, stream=self.stream)

        return {
            "content": generation.text,
            "index": index,
            "id_slot": finish.id_slot,
            "stop": True,
            "model": self.loaded.name,
            "tokens_predicted": finish.n_predicted,
            "tokens_evaluated": finish.n_prompt,
            "tokens_cached": finish.n_cached,
            "n_past": finish.n_prompt + finish.n_predicted,
            "generation_settings": {**settings, "seed_cur": finish.seed},
            "prompt": self.prompts[index].original,
            "truncated": finish.truncated or self.prompts[index].truncated,
            "stop_type": finish.stop_type,
            "stopping_word": finish.stopping_word,
            **stopped_json(finish.stop_type),
            "timings": timings_json(finish.timings),
            **({} if self.stream else self._token_fields(index, generation.tokens)),
        }

    def _token_fields(self, index: int, tokens: Sequence[GeneratedToken]) -> JSON:
        """Return the fields about tokens that the request asks for."""
        request, fields = self.requests[index], JSON()
        if self.return_tokens:
            fields["tokens"] = [token.id for token in tokens]
        if request.n_probs:
            fields["completion_probabilities"] = completion_probabilities_json(
                tokens, self.loaded.tokenizer, post_sampling=request.post_sampling_probs
            )
        return fields


def select_fields(whole: JSON, paths: Sequence[str]) -> JSON:
    """Return the fields at ``paths`` that exist; the field at the path ``a/b`` is returned as ``b``."""
    result = JSON()
    for path in paths:
        value: Any = whole
        names = path.split("/")
        for name in names:
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            result[names[-1]] = value
    return result
