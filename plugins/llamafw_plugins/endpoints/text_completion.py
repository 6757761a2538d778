"""POST /v1/completions: OpenAI's text completions."""
from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from llamafw import (
    App,
    Call,
    Finish,
    GeneratedToken,
    GenerateRequest,
    LoadedModel,
    RequestError,
    Tokenizer,
    event_stream,
)
from llamafw_plugins.endpoints.choices import check_answers, choices_of, include_usage, usage_to_come
from llamafw_plugins.endpoints.prompts import Prompt, read_prompts
from llamafw_plugins.endpoints.run import collect, stream
from llamafw_plugins.endpoints.shapes import JSON, finish_reason, finite, head, timings, token_shape, usage


class TextCompletion:
    """The operation `createTextCompletion`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Answer each prompt ``n`` times; the choices of prompt p are numbered from ``p * n``."""
        body, loaded = call.body, self.app.loaded
        _refuse(body)
        prompts = await read_prompts(body["prompt"], loaded.tokenizer)
        n = int(body.get("n") or 1)
        check_answers(body, len(prompts) * n)
        requests = choices_of([self._prepare(body, prompt) for prompt in prompts], n)
        rows = Rows(loaded, prompts, requests, body, n)
        if body.get("stream"):
            return event_stream(rows.events(), done=True)
        answers = await collect(loaded.engine, requests, n)
        return {
            **rows.head,
            "choices": [
                rows.choice(i, rows.echo(i) + answer.text, answer.tokens, answer.finish)
                for i, answer in enumerate(answers)
            ],
            "usage": usage(rows.by_prompt([answer.finish for answer in answers])),
            "timings": timings(answers[0].finish),
        }

    def _prepare(self, body: JSON, prompt: Prompt) -> GenerateRequest:
        request = self.app.prepare(body, prompt.tokens)
        if body.get("logprobs") is not None:
            request = replace(request, logprobs=True, n_probs=int(body["logprobs"]))
        return request


class Rows:
    """Writes the choices of one call."""

    def __init__(
        self, loaded: LoadedModel, prompts: Sequence[Prompt], requests: Sequence[GenerateRequest], body: JSON, n: int
    ) -> None:
        self.engine, self.tokenizer, self.requests, self.n = loaded.engine, loaded.tokenizer, requests, n
        self.head = head("cmpl", "text_completion", body.get("model") or loaded.name)
        self.return_tokens = bool(body.get("return_tokens"))
        self.usage, self.usage_to_come = include_usage(body), usage_to_come(body)
        self.echoes = [self._text(prompt) if body.get("echo") else "" for prompt in prompts]
        self.logprobs = [Logprobs(self.tokenizer, len(self.echo(i))) for i in range(len(requests))]

    def by_prompt(self, finishes: Sequence[Finish]) -> list[Sequence[Finish]]:
        """Return the ends of all choices, a group per prompt."""
        return [finishes[i : i + self.n] for i in range(0, len(finishes), self.n)]

    def choice(self, index: int, text: str, tokens: Sequence[GeneratedToken], finish: Finish | None) -> JSON:
        """Return a choice, or a piece of one."""
        wanted = self.requests[index].logprobs
        shape: JSON = {
            "index": index,
            "text": text,
            "finish_reason": finish_reason(finish) if finish else None,
            "logprobs": self.logprobs[index].feed(tokens) if wanted else None,
        }
        if self.return_tokens:
            shape["tokens"] = [token.id for token in tokens]
        return shape

    async def events(self) -> AsyncGenerator[JSON, None]:
        """Yield the chunks, and at the end, if asked for, one with the usage."""
        finishes: list[Finish] = [Finish("none")] * len(self.requests)
        begun: set[int] = set()
        async with aclosing(stream(self.engine, self.requests, self.n)) as pieces:
            async for i, delta in pieces:
                text = delta.text if i in begun else self.echo(i) + delta.text
                begun.add(i)
                choice = self.choice(i, text, delta.tokens, delta.finish)
                if delta.finish:
                    finishes[i] = delta.finish
                    yield {**self.head, "choices": [choice], **self.usage_to_come, "timings": timings(delta.finish)}
                elif text or (delta.tokens and (choice["logprobs"] or self.return_tokens)):
                    yield {**self.head, "choices": [choice], **self.usage_to_come}
        if self.usage:
            yield {**self.head, "choices": [], "usage": usage(self.by_prompt(finishes))}

    def echo(self, index: int) -> str:
        """Return what is put before the text of a choice: the prompt, if asked for."""
        return self.echoes[index // self.n]

    def _text(self, prompt: Prompt) -> str:
        return prompt.given if isinstance(prompt.given, str) else self.tokenizer.decode(prompt.tokens, special=True)


class Logprobs:
    """Writes OpenAI's older ``logprobs`` of one choice, piece by piece."""

    def __init__(self, tokenizer: Tokenizer, offset: int) -> None:
        self.tokenizer, self.offset = tokenizer, offset  # characters of the choice's text so far
        self.characters = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Sequence[GeneratedToken]) -> JSON:
        """Return the four parallel arrays for these tokens."""
        names, offsets, tops = [], [], []
        for token in tokens:
            names.append(token_shape(self.tokenizer, token.id)["token"])
            offsets.append(self.offset)
            self.offset += len(self.characters.decode(token.piece))
            top: dict[str, float] = {}
            for other in token.top:  # likeliest first; two tokens may read alike
                top.setdefault(token_shape(self.tokenizer, other.id)["token"], finite(other.logprob))
            tops.append(top)
        return {
            "tokens": names,
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def _refuse(body: JSON) -> None:
    if body.get("suffix"):
        raise RequestError("suffix is not supported", param="suffix")
    if body.get("best_of") not in (None, 1, body.get("n") or 1):
        raise RequestError("best_of is not supported, unless it is 1 or the same as n", param="best_of")
