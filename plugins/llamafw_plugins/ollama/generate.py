"""POST /api/generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llamafw import App, Call, Finish, GenerateRequest, NotSupported, RequestError
from llamafw_plugins.endpoints.answers import AnswerReader
from llamafw_plugins.endpoints.chat_requests import prepare_chat
from llamafw_plugins.endpoints.infill import check_infill, prepare_infill, read_parts
from llamafw_plugins.endpoints.prompts import read_prompts, run_in_thread
from llamafw_plugins.endpoints.response_json import JSON
from llamafw_plugins.ollama.lines import LineBuilder, respond
from llamafw_plugins.ollama.options import errors_about, format_fields, read_options, refuse_images, thinking_fields

NOT_WITH_RAW = ("system", "context", "suffix")
NOT_WITH_SUFFIX = ("system", "context")


class OllamaGenerateEndpoints:
    """The operation `createOllamaCompletion`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Answer a prompt, continue it (``raw``), or fill the gap between a prompt and a suffix."""
        body = call.body
        refuse_images(body.get("images"), "images")
        if body.get("template"):
            message = "templates of requests are not supported; the model's own chat template is used"
            raise RequestError(message, param="template")
        fields = {**read_options(call, self.app), **format_fields(body)}

        builder = CompletionLines(self.app, body)
        if not body.get("prompt") and not body.get("suffix"):
            return builder.loaded()
        with errors_about(body):
            if body.get("raw"):
                request, reader = await self._raw(body, fields), AnswerReader(None)
            elif body.get("suffix"):
                request, reader = await self._infill(body, fields), AnswerReader(None)
            else:
                request, reader = await self._chat(body, {**fields, **thinking_fields(body)})
                builder.prompt = request.prompt
        return await respond(self.app, request, reader, builder, body)

    async def _raw(self, body: JSON, fields: JSON) -> GenerateRequest:
        """Return the request that continues the prompt as it is."""
        refuse_together(body, "raw", NOT_WITH_RAW)
        (prompt,) = await read_prompts(body["prompt"], self.app.loaded.tokenizer)
        return self.app.prepare(fields, prompt.tokens)

    async def _infill(self, body: JSON, fields: JSON) -> GenerateRequest:
        """Return the request that generates the text between the prompt and the suffix."""
        refuse_together(body, "suffix", NOT_WITH_SUFFIX)
        tokenizer = self.app.loaded.tokenizer
        try:
            check_infill(tokenizer)
        except NotSupported as error:  # Ollama's clients expect a 400
            raise RequestError(error.message, param="suffix") from None
        prefix, suffix = body.get("prompt") or "", body["suffix"]
        sources = {"input_prefix": prefix, "input_suffix": suffix}
        parts = await run_in_thread(lambda: read_parts(sources, tokenizer), len(prefix) + len(suffix))
        return prepare_infill(self.app, fields, parts)[1]

    async def _chat(self, body: JSON, fields: JSON) -> tuple[GenerateRequest, AnswerReader]:
        """Return the request that answers the prompt as a user's message."""
        messages = [{"role": "user", "content": body["prompt"]}]
        if body.get("system"):
            messages.insert(0, {"role": "system", "content": body["system"]})
        chat = await prepare_chat(self.app, {**fields, "messages": messages})
        request, reader = chat.requests[0], chat.reader()
        if not body.get("context"):
            return request, reader

        (context,) = await read_prompts(body["context"], self.app.loaded.tokenizer, "context")
        has_bos = request.prompt[:1] == (self.app.loaded.tokenizer.bos,)
        prompt = (*context.tokens, *request.prompt[has_bos:])
        return replace(request, prompt=prompt, n_answer_start=None), reader


class CompletionLines(LineBuilder):
    """Builds lines with a ``response``."""

    prompt: tuple[int, ...] | None = None  # of a chat, for the `context` of the next request

    def content(self, text: str, thinking: str, calls: Sequence[JSON]) -> JSON:
        """Return the text and the thinking."""
        return {"response": text, "thinking": thinking} if thinking else {"response": text}

    def read_content(self, line: JSON) -> tuple[str, str, Sequence[JSON]]:
        """Return the text and the thinking of a line, which has no calls."""
        return line["response"], line.get("thinking", ""), ()

    def end_fields(self, finish: Finish) -> JSON:
        """Return the usual fields, and the tokens with which the next request continues."""
        fields = super().end_fields(finish)
        return fields if self.prompt is None else {**fields, "context": [*self.prompt, *finish.tokens]}


def refuse_together(body: JSON, field: str, others: Sequence[str]) -> None:
    """Raise RequestError if a request has ``field`` together with one of ``others``."""
    for name in others:
        if body.get(name):
            raise RequestError(f"{name} cannot be combined with {field}", param=name)
