"""POST /infill: what stands between a prefix and a suffix.

The order of parts: Bavarian et al., Efficient training of language models to fill in the middle (2022), and for other
files of a repository the model cards of Qwen2.5-Coder.
"""

from __future__ import annotations

from typing import Any

from llamafw import App, Call, NotSupported, Tokenizer
from llamafw_plugins.endpoints.completion import Completion
from llamafw_plugins.endpoints.prompts import Prompt, aside, bos, encode_mixed, size_of
from llamafw_plugins.endpoints.shapes import JSON

NEEDED = {"pre": "prefix", "suf": "suffix", "mid": "middle"}


class Infill:
    """The operation `createInfill`."""

    def __init__(self, app: App) -> None:
        self.app, self.completion = app, Completion(app)

    async def create(self, call: Call) -> Any:
        """Answer like a completion."""
        body, tokenizer = call.body, self.app.loaded.tokenizer
        check_infill(tokenizer)
        suffix_first = self.app.settings.spm_infill
        size = sum(size_of(body.get(field) or "") for field in ("input_prefix", "input_suffix", "prompt"))
        size += sum(len(file["text"]) for file in body.get("input_extra") or ())
        tokens = await aside(lambda: infill_tokens(body, tokenizer, suffix_first=suffix_first), size)
        # a shift would drop the tokens that say what is prefix and what is suffix
        return await self.completion.answer(body, [Prompt(list(tokens), tuple(tokens))], context_shift=False)


def check_infill(tokenizer: Tokenizer, param: str | None = None) -> None:
    """Raise NotSupported if the model lacks tokens for it; ``param`` is the field that asks."""
    missing = [f"{name} token is missing." for key, name in NEEDED.items() if key not in tokenizer.fim]
    if missing:
        raise NotSupported(f"Infill is not supported by this model: {' '.join(missing)}", param=param)


def infill_tokens(body: JSON, tokenizer: Tokenizer, *, suffix_first: bool) -> list[int]:
    """Return the prompt: other files, then prefix and suffix, each behind its token, then the token for the middle.

    ``prompt`` is what has been written of the middle already.
    """
    fim = tokenizer.fim
    prefix = [fim["pre"], *_tokens(body, "input_prefix", tokenizer)]
    suffix = [fim["suf"], *_tokens(body, "input_suffix", tokenizer)]
    parts = [*suffix, *prefix] if suffix_first else [*prefix, *suffix]
    middle = _tokens(body, "prompt", tokenizer)
    return [*bos(tokenizer), *_files(body.get("input_extra") or (), tokenizer), *parts, fim["mid"], *middle]


def _tokens(body: JSON, field: str, tokenizer: Tokenizer) -> list[int]:
    given = body.get(field) or ""
    if isinstance(given, str):
        return tokenizer.encode(given, parse_special=False)
    return encode_mixed(given, tokenizer, field, parse_special=False)


def _files(files: Any, tokenizer: Tokenizer) -> list[int]:
    """Return other files of the repository, as far as the model has tokens that tell them apart."""
    fim, tokens = tokenizer.fim, list[int]()
    if files and "rep" in fim:
        tokens += [fim["rep"], *tokenizer.encode("repository\n", parse_special=False)]
    for file in files:
        name, text = file.get("filename") or "file", file["text"]
        head = [fim["sep"]] if "sep" in fim else []
        line = f"{name}\n" if "sep" in fim else f"--- {name} ---\n"
        tokens += [*head, *tokenizer.encode(f"{line}{text}", parse_special=False)]
    return tokens
