"""POST /infill: generate the text between a prefix and a suffix.

The parts are ordered as in Bavarian et al., Efficient training of language models to fill in the middle (2022). Other
files of a repository are added as the model cards of Qwen2.5-Coder describe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llamafw import App, Call, ContextFullError, GenerateRequest, NotSupported, Tokenizer
from llamafw_plugins.endpoints.choices import check_n_generations
from llamafw_plugins.endpoints.completion import respond
from llamafw_plugins.endpoints.prompts import Prompt, bos_tokens, encode_mixed, prompt_size, run_in_thread
from llamafw_plugins.endpoints.response_json import JSON

REQUIRED_TOKENS = {"pre": "prefix", "suf": "suffix", "mid": "middle"}  # key in `Tokenizer.fim` → name
SHORTENED_SHARE = 0.75  # of the context, for a prompt that was too long; the rest is for the response
SUFFIX_SHARE = 0.25  # of the tokens that remain of prefix and suffix, if both are long


@dataclass(frozen=True, slots=True)
class InfillParts:
    """The tokens of each part of an infill prompt, without the special tokens between the parts."""

    files: tuple[tuple[int, ...], ...]  # other files of the repository
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    middle: tuple[int, ...]  # the beginning of the response, which the request provides


class InfillEndpoints:
    """The operation `createInfill`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def create(self, call: Call) -> Any:
        """Generate the middle; the response has the format of a completion."""
        body, tokenizer = call.body, self.app.loaded.tokenizer
        check_infill(tokenizer)
        check_n_generations(body, 1)

        size = sum(prompt_size(body.get(field) or "") for field in ("input_prefix", "input_suffix", "prompt"))
        size += sum(len(file["text"]) for file in body.get("input_extra") or ())
        parts = await run_in_thread(lambda: read_parts(body, tokenizer), size)
        prompt, request = prepare_infill(self.app, body, parts)
        return await respond(self.app.loaded, [prompt], [request], body)


def check_infill(tokenizer: Tokenizer, param: str | None = None) -> None:
    """Raise NotSupported if the model lacks the tokens that infill needs.

    Parameters
    ----------
    param : str, optional
        The request field that asks for infill.
    """
    missing = [f"{name} token is missing." for key, name in REQUIRED_TOKENS.items() if key not in tokenizer.fim]
    if missing:
        raise NotSupported(f"Infill is not supported by this model: {' '.join(missing)}", param=param)


def read_parts(body: JSON, tokenizer: Tokenizer) -> InfillParts:
    """Return the tokens of the fields of an infill request; special tokens in texts are plain text."""
    return InfillParts(
        files=_read_files(body.get("input_extra") or (), tokenizer),
        prefix=_read_tokens(body, "input_prefix", tokenizer),
        suffix=_read_tokens(body, "input_suffix", tokenizer),
        middle=_read_tokens(body, "prompt", tokenizer),
    )


def prepare_infill(app: App, body: JSON, parts: InfillParts) -> tuple[Prompt, GenerateRequest]:
    """Return the infill prompt, and the request that generates the middle.

    The engine must neither shorten the prompt nor shift the context, because both would drop the special tokens before
    the prefix and the suffix. If the client sets ``truncate_prompt``, the parts are shortened here.

    Raises
    ------
    ContextFullError
        Even without prefix, suffix and files, the prompt would take more than three quarters of the context.
    """
    loaded, suffix_first = app.loaded, app.settings.spm_infill
    tokens = join_parts(parts, loaded.tokenizer, suffix_first=suffix_first)
    request = app.prepare(body, tokens)

    n_ctx = loaded.engine.n_ctx
    is_shortened = request.truncate_prompt and len(request.prompt) + (request.n_predict != 0) > n_ctx
    if is_shortened:
        shorter = shorten_parts(parts, len(request.prompt) - int(n_ctx * SHORTENED_SHARE))
        if shorter is None:
            raise ContextFullError(len(request.prompt), n_ctx)
        tokens = join_parts(shorter, loaded.tokenizer, suffix_first=suffix_first)
        request = app.prepare(body, tokens)

    request = replace(request, context_shift=False, truncate_prompt=False)
    return Prompt(list(tokens), tuple(tokens), truncated=is_shortened), request


def join_parts(parts: InfillParts, tokenizer: Tokenizer, *, suffix_first: bool) -> list[int]:
    """Return the prompt: other files, prefix, suffix and the start of the middle, with special tokens before each."""
    fim = tokenizer.fim
    files = [token for file in parts.files for token in file]
    if files and "rep" in fim:
        files = [fim["rep"], *tokenizer.encode("repository\n", parse_special=False), *files]
    prefix, suffix = [fim["pre"], *parts.prefix], [fim["suf"], *parts.suffix]
    both = [*suffix, *prefix] if suffix_first else [*prefix, *suffix]
    return [*bos_tokens(tokenizer), *files, *both, fim["mid"], *parts.middle]


def shorten_parts(parts: InfillParts, n_excess: int) -> InfillParts | None:
    """Return the parts without at least ``n_excess`` of their tokens; None if prefix, suffix and files have fewer.

    Whole files are removed first, from the first one on; then the start of the prefix and the end of the suffix, which
    are farthest from the middle.
    """
    files = list(parts.files)
    while files and n_excess > 0:
        n_excess -= len(files.pop(0))
    if n_excess <= 0:
        return replace(parts, files=tuple(files))

    n_prefix, n_suffix = len(parts.prefix), len(parts.suffix)
    n_left = n_prefix + n_suffix - n_excess
    if n_left < 0:
        return None
    n_suffix_left = min(n_suffix, max(int(n_left * SUFFIX_SHARE), n_left - n_prefix))
    n_prefix_left = n_left - n_suffix_left
    return replace(
        parts, files=(), prefix=parts.prefix[n_prefix - n_prefix_left :], suffix=parts.suffix[:n_suffix_left]
    )


def _read_tokens(body: JSON, field: str, tokenizer: Tokenizer) -> tuple[int, ...]:
    value = body.get(field) or ""
    if isinstance(value, str):
        return tuple(tokenizer.encode(value, parse_special=False))
    return tuple(encode_mixed(value, tokenizer, field, parse_special=False))


def _read_files(files: Any, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of each file, with its name in a line before it."""
    fim, result = tokenizer.fim, []
    for file in files:
        name, text = file.get("filename") or "file", file["text"]
        mark = [fim["sep"]] if "sep" in fim else []
        title = f"{name}\n" if "sep" in fim else f"--- {name} ---\n"
        result.append((*mark, *tokenizer.encode(f"{title}{text}", parse_special=False)))
    return tuple(result)
