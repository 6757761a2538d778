"""POST /v1/completions: OpenAI's text completions."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

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
from llamafw_plugins.endpoints.infill import check_infill, infill_tokens
from llamafw_plugins.endpoints.prompts import Prompt, aside, encode_mixed, read_prompts, size_of
from llamafw_plugins.endpoints.run import Answer, collect, stream
from llamafw_plugins.endpoints.shapes import JSON, finish_reason, finite, head, on_the_way, timings, token_shape, usage

T = TypeVar("T")


class TextCompletion:
    """The operation `createTextCompletion`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Answer each prompt ``n`` times; the choices of prompt p are numbered from ``p * n``."""
        body, loaded = call.body, self.app.loaded
        n, best_of = numbers(body)
        prompts = await self._read(body)
        check_answers(body, len(prompts) * best_of)
        requests = [self._prepare(body, prompt) for prompt in prompts]
        rows = Rows(loaded, prompts, choices_of(requests, n), body, n)
        if body.get("stream"):
            return event_stream(rows.events(), done=True)
        if best_of > n:
            requests = [replace(request, logprobs=True) for request in requests]
        tried = grouped(await collect(loaded.engine, choices_of(requests, best_of), best_of), best_of)
        answers = [answer for group in tried for answer in likeliest(group, n)]
        return {
            **rows.head,
            "choices": [
                rows.choice(i, rows.echo(i) + answer.text, answer.tokens, answer.finish, answer.prompt)
                for i, answer in enumerate(answers)
            ],
            "usage": usage([[answer.finish for answer in group] for group in tried]),
            "timings": timings(answers[0].finish.timings),
        }

    async def _read(self, body: JSON) -> list[Prompt]:
        """Return the prompts; with a ``suffix``, as a model that fills in the middle takes them."""
        tokenizer, suffix = self.app.loaded.tokenizer, body.get("suffix")
        if not suffix:
            return await read_prompts(body["prompt"], tokenizer)
        check_infill(tokenizer, "suffix")
        prompts = await read_prompts(body["prompt"], tokenizer)
        suffix_first = self.app.settings.spm_infill

        def around() -> list[Prompt]:
            parts = [{"input_prefix": prompt.given, "input_suffix": suffix} for prompt in prompts]
            tokens = [infill_tokens(part, tokenizer, suffix_first=suffix_first) for part in parts]
            return [Prompt(prompt.given, tuple(ids)) for prompt, ids in zip(prompts, tokens, strict=True)]

        return await aside(around, sum(size_of(prompt.given) + len(suffix) for prompt in prompts))

    def _prepare(self, body: JSON, prompt: Prompt) -> GenerateRequest:
        request = self.app.prepare(body, prompt.tokens)
        if body.get("suffix"):  # a shift would drop the tokens that say what is prefix and what is suffix
            request = replace(request, context_shift=False)
        if body.get("logprobs") is not None:
            n = int(body["logprobs"])
            request = replace(request, logprobs=True, n_probs=n, prompt_logprobs=n if body.get("echo") else None)
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
        n_system = len(loaded.system_prompt.tokens)
        begins = [self._begin(one, n_system, echo) for one, echo in zip(requests[::n], self.echoes, strict=True)]
        self.logprobs = [Logprobs(self.tokenizer, *begins[i // n]) for i in range(len(requests))]

    def choice(
        self,
        index: int,
        text: str,
        tokens: Sequence[GeneratedToken],
        finish: Finish | None,
        prompt: Sequence[GeneratedToken],
    ) -> JSON:
        """Return a choice, or a piece of one; ``prompt``: its tokens, if they are to be reported too."""
        wanted = self.requests[index].logprobs
        shape: JSON = {
            "index": index,
            "text": text,
            "finish_reason": finish_reason(finish) if finish else None,
            "logprobs": self.logprobs[index].feed([*prompt, *tokens]) if wanted else None,
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
                choice = self.choice(i, text, delta.tokens, delta.finish, delta.prompt)
                more = on_the_way(delta)
                if delta.finish:
                    finishes[i], more = delta.finish, {"timings": timings(delta.finish.timings)}
                if text or more or delta.prompt or (delta.tokens and (choice["logprobs"] or self.return_tokens)):
                    yield {**self.head, "choices": [choice], **self.usage_to_come, **more}
        if self.usage:
            yield {**self.head, "choices": [], "usage": usage(grouped(finishes, self.n))}

    def echo(self, index: int) -> str:
        """Return what is put before the text of a choice: the prompt, if asked for."""
        return self.echoes[index // self.n]

    def _begin(self, request: GenerateRequest, n_system: int, echo: str) -> tuple[int, int]:
        """Return where the text of the first token reported begins, and how many tokens before it are not reported."""
        if request.prompt_logprobs is None:
            return len(echo), 0
        # counted from the prompt's end: BOS, for one, is no text of the client's
        text = b"".join(self.tokenizer.piece(token, special=True) for token in request.prompt[n_system:])
        return len(echo) - len(text.decode("utf-8", "replace")), n_system

    def _text(self, prompt: Prompt) -> str:
        if isinstance(prompt.given, str):
            return prompt.given
        return self.tokenizer.decode(encode_mixed(prompt.given, self.tokenizer, "prompt"), special=True)


class Logprobs:
    """Writes OpenAI's older ``logprobs`` of one choice, piece by piece.

    Parameters
    ----------
    offset : int
        Where in the choice's text that of the first token reported begins; below 0 if its start is not in it.
    n_hidden : int
        Tokens to come that are the server's own, and are not reported.
    """

    def __init__(self, tokenizer: Tokenizer, offset: int, n_hidden: int) -> None:
        self.tokenizer, self.offset, self.n_hidden = tokenizer, offset, n_hidden
        self.characters = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Sequence[GeneratedToken]) -> JSON:
        """Return the four parallel arrays for these tokens; the first of a prompt has no log-probability."""
        tokens, self.n_hidden = tokens[self.n_hidden :], max(self.n_hidden - len(tokens), 0)
        names: list[str] = []
        offsets: list[int] = []
        tops: list[dict[str, float] | None] = []
        for token in tokens:
            names.append(token_shape(self.tokenizer, token.id)["token"])
            offsets.append(max(self.offset, 0))
            self.offset += len(self.characters.decode(token.piece))
            top: dict[str, float] = {}
            for other in token.top:  # likeliest first; two tokens may read alike
                top.setdefault(token_shape(self.tokenizer, other.id)["token"], finite(other.logprob))
            tops.append(None if token.logprob is None else top)
        return {
            "tokens": names,
            "token_logprobs": [None if token.logprob is None else finite(token.logprob) for token in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def numbers(body: JSON) -> tuple[int, int]:
    """Return how many answers each prompt gets, and of how many they are the best; refuse what does not go together."""
    n = int(body.get("n") or 1)
    best_of = int(body.get("best_of") or n)
    if best_of < n:
        raise RequestError(f"best_of is {best_of}, and n, which is {n}, may be no more", param="best_of")
    if best_of > n and body.get("stream"):
        raise RequestError("more answers than n, of which the best are chosen, cannot be streamed", param="best_of")
    if body.get("suffix") and body.get("echo") and body.get("logprobs") is not None:
        raise RequestError("with suffix, logprobs of the echo would be those of another prompt", param="echo")
    return n, best_of


def likeliest(answers: Sequence[Answer], n: int) -> Sequence[Answer]:
    """Return the ``n`` answers with the highest log-probability per token, best first; all of them as they come."""
    if len(answers) == n:
        return answers

    def per_token(answer: Answer) -> float:
        return sum(finite(token.logprob) for token in answer.tokens) / max(len(answer.tokens), 1)

    return sorted(answers, key=per_token, reverse=True)[:n]


def grouped(items: Sequence[T], n: int) -> list[Sequence[T]]:
    """Return the items, ``n`` in a group: those of one prompt."""
    return [items[i : i + n] for i in range(0, len(items), n)]
