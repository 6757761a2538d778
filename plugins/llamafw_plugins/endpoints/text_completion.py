"""POST /v1/completions: OpenAI's text completions."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from llamafw import (
    App,
    Call,
    ContextFullError,
    Delta,
    Finish,
    GeneratedToken,
    GenerateRequest,
    LoadedModel,
    RequestError,
    Tokenizer,
    event_stream,
)
from llamafw_plugins.endpoints.choices import check_n_generations, repeat_requests
from llamafw_plugins.endpoints.generations import Generation, generate_all, locate_error
from llamafw_plugins.endpoints.infill import check_infill, prepare_infill, read_parts
from llamafw_plugins.endpoints.openai_response import OpenAIResponse, finish_reason, grouped
from llamafw_plugins.endpoints.prompts import Prompt, encode_mixed, prompt_size, read_prompts, run_in_thread
from llamafw_plugins.endpoints.response_json import JSON, finite_logprob, progress_json, token_json


class TextCompletionEndpoints:
    """The operation `createTextCompletion`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Continue each prompt with ``n`` choices; the choices of prompt p begin at the index ``p * n``."""
        body, loaded = call.body, self.app.loaded
        n, best_of = read_n_choices(body)
        if body.get("suffix"):
            check_infill(loaded.tokenizer, "suffix")
        prompts = await read_prompts(body["prompt"], loaded.tokenizer)
        check_n_generations(body, len(prompts) * best_of)

        prompts, requests = await self._prepare(body, prompts)
        response = TextCompletionResponse(loaded, prompts, repeat_requests(requests, n), body, n)
        if body.get("stream"):
            return event_stream(response.events(), done=True)

        if best_of > n:  # they are compared by their log-probabilities
            requests = [replace(request, logprobs=True) for request in requests]
        tried = await generate_all(loaded.engine, repeat_requests(requests, best_of), best_of)
        groups = grouped(tried, best_of)
        return response.whole([generation for group in groups for generation in likeliest(group, n)], groups)

    async def _prepare(self, body: JSON, prompts: list[Prompt]) -> tuple[list[Prompt], list[GenerateRequest]]:
        """Return the prompts and one request for each; with a ``suffix``, infill requests."""
        if not body.get("suffix"):
            requests = [self.app.prepare(body, prompt.tokens) for prompt in prompts]
            return prompts, [with_logprobs(request, body) for request in requests]

        tokenizer, suffix = self.app.loaded.tokenizer, body["suffix"]
        fields = [{"input_prefix": prompt.original, "input_suffix": suffix} for prompt in prompts]
        size = sum(prompt_size(prompt.original) + len(suffix) for prompt in prompts)
        parts = await run_in_thread(lambda: [read_parts(each, tokenizer) for each in fields], size)
        prepared = []
        for i, each in enumerate(parts):
            try:
                prepared.append(prepare_infill(self.app, body, each))
            except ContextFullError as error:
                locate_error(error, "prompt", i if len(parts) > 1 else None)
                raise

        requests = [with_logprobs(request, body) for _, request in prepared]
        infill_prompts = [
            replace(infill_prompt, original=prompt.original)
            for prompt, (infill_prompt, _) in zip(prompts, prepared, strict=True)
        ]
        return infill_prompts, requests


class TextCompletionResponse(OpenAIResponse):
    """Builds the response to one text completion request."""

    id_prefix = "cmpl"
    object_name = chunk_object_name = "text_completion"
    prompt_field = "prompt"

    def __init__(
        self, loaded: LoadedModel, prompts: Sequence[Prompt], requests: Sequence[GenerateRequest], body: JSON, n: int
    ) -> None:
        super().__init__(loaded, requests, body, n)
        self._prompts = prompts
        self._echoes = [self._text(prompt) if body.get("echo") else "" for prompt in prompts]
        n_system = len(loaded.system_prompt.tokens)
        firsts = requests[::n]  # of each prompt
        starts = [self._start(first, n_system, echo) for first, echo in zip(firsts, self._echoes, strict=True)]
        self._logprobs = [LogprobsWriter(self.tokenizer, *starts[i // n]) for i in range(len(requests))]
        self._started: set[int] = set()  # choices whose first chunk, with the echo, has been sent

    def choice(self, index: int, generation: Generation) -> JSON:
        """Return one choice of a whole response."""
        text = self._echo(index) + generation.text
        return self._choice(index, text, generation.tokens, generation.finish, generation.prompt)

    def chunks(self, index: int, delta: Delta) -> Iterator[JSON]:
        """Yield the chunk of one delta, unless it would be empty."""
        text = delta.text if index in self._started else self._echo(index) + delta.text
        self._started.add(index)
        choice = self._choice(index, text, delta.tokens, delta.finish, delta.prompt)
        fields = self.end_fields(index, delta.finish) if delta.finish else progress_json(delta)
        has_tokens = bool(delta.tokens) and (choice["logprobs"] is not None or self.return_tokens)
        if text or fields or delta.prompt or has_tokens:
            yield self.chunk(choice, **fields)

    def is_truncated(self, index: int, finish: Finish) -> bool:
        """Return whether the prompt was shortened or the context was full."""
        return finish.truncated or self._prompts[index // self.n].truncated

    def _choice(
        self,
        index: int,
        text: str,
        tokens: Sequence[GeneratedToken],
        finish: Finish | None,
        prompt: Sequence[GeneratedToken],
    ) -> JSON:
        """Return a choice, or a piece of one.

        Parameters
        ----------
        prompt : sequence of GeneratedToken
            The prompt's tokens, if their log-probabilities are reported too.
        """
        logprobs = self._logprobs[index].write([*prompt, *tokens]) if self.requests[index].logprobs else None
        choice: JSON = {
            "index": index,
            "text": text,
            "finish_reason": finish_reason(finish) if finish else None,
            "logprobs": logprobs,
        }
        if self.return_tokens:
            choice["tokens"] = [token.id for token in tokens]
        return choice

    def _echo(self, index: int) -> str:
        """Return the text that precedes a choice: the prompt, or nothing without ``echo``."""
        return self._echoes[index // self.n]

    def _start(self, request: GenerateRequest, n_system: int, echo: str) -> tuple[int, int]:
        """Return the text offset of the first reported token, and the number of tokens before it."""
        if request.prompt_logprobs is None:
            return len(echo), 0
        # counted back from the end of the echo, because BOS, for example, is not part of the echo
        text = b"".join(self.tokenizer.piece(token, special=True) for token in request.prompt[n_system:])
        return len(echo) - len(text.decode("utf-8", "replace")), n_system

    def _text(self, prompt: Prompt) -> str:
        if isinstance(prompt.original, str):
            return prompt.original
        return self.tokenizer.decode(encode_mixed(prompt.original, self.tokenizer, "prompt"), special=True)


class LogprobsWriter:
    """Writes the ``logprobs`` of one text completion choice, piece by piece.

    Parameters
    ----------
    offset : int
        Where the first reported token begins in the text of the choice; negative if its start is not in the text.
    n_hidden : int
        Number of tokens that are not reported, because they belong to the server's system prompt.
    """

    def __init__(self, tokenizer: Tokenizer, offset: int, n_hidden: int) -> None:
        self._tokenizer, self._offset, self._n_hidden = tokenizer, offset, n_hidden
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, tokens: Sequence[GeneratedToken]) -> JSON:
        """Return the four parallel arrays for the next tokens; the first token of a prompt has no log-probability."""
        tokens, self._n_hidden = tokens[self._n_hidden :], max(self._n_hidden - len(tokens), 0)
        names: list[str] = []
        offsets: list[int] = []
        tops: list[dict[str, float] | None] = []
        for token in tokens:
            names.append(token_json(self._tokenizer, token.id)["token"])
            offsets.append(max(self._offset, 0))
            self._offset += len(self._decoder.decode(token.piece))
            top: dict[str, float] = {}
            for other in token.top:  # likeliest first; two tokens may have the same text
                top.setdefault(token_json(self._tokenizer, other.id)["token"], finite_logprob(other.logprob))
            tops.append(None if token.logprob is None else top)

        return {
            "tokens": names,
            "token_logprobs": [None if token.logprob is None else finite_logprob(token.logprob) for token in tokens],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def read_n_choices(body: JSON) -> tuple[int, int]:
    """Return the number of choices per prompt, and the number of generations that they are selected from.

    Raises
    ------
    RequestError
        Two fields of the request cannot be combined.
    """
    n = int(body.get("n") or 1)
    best_of = int(body.get("best_of") or n)

    if best_of < n:
        raise RequestError(f"best_of must be at least n, which is {n}; it is {best_of}", param="best_of")
    if best_of > n and body.get("stream"):
        message = "best_of must be equal to n in a stream: the best choices are not known before the end"
        raise RequestError(message, param="best_of")

    if body.get("echo") and body.get("logprobs") is not None:
        if body.get("suffix"):
            message = "echo cannot be combined with logprobs and suffix: the model evaluates another text than the echo"
            raise RequestError(message, param="echo")
        if body.get("truncate_prompt"):
            message = "truncate_prompt cannot be combined with echo and logprobs: removed tokens have no logprobs"
            raise RequestError(message, param="truncate_prompt")
    return n, best_of


def with_logprobs(request: GenerateRequest, body: JSON) -> GenerateRequest:
    """Return the request with the log-probabilities that ``logprobs`` and ``echo`` ask for."""
    if body.get("logprobs") is None:
        return request
    n_probs = int(body["logprobs"])
    return replace(request, logprobs=True, n_probs=n_probs, prompt_logprobs=n_probs if body.get("echo") else None)


def likeliest(generations: Sequence[Generation], n: int) -> Sequence[Generation]:
    """Return the ``n`` generations with the highest log-probability per token, best first.

    If there are only ``n``, they keep their order.
    """
    if len(generations) == n:
        return generations

    def logprob_per_token(generation: Generation) -> float:
        logprobs = [finite_logprob(token.logprob) for token in generation.tokens]
        return sum(logprobs) / max(len(logprobs), 1)

    return sorted(generations, key=logprob_per_token, reverse=True)[:n]
