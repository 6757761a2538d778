"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from llamafw import App, Call, Tokenizer
from llamafw_plugins.endpoints.prompts import aside, bos, encode_mixed, size_of
from llamafw_plugins.endpoints.shapes import JSON


class Tokens:
    """The operations `tokenize` and `detokenize`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def tokenize(self, call: Call) -> JSON:
        """Return the tokens of ``content``, a text, or an array of texts and token ids."""
        body, tokenizer = call.body, self.app.loaded.tokenizer
        return await aside(lambda: tokenized(body, tokenizer), size_of(body["content"]))

    async def detokenize(self, call: Call) -> JSON:
        """Return the text of ``tokens``, that of special tokens included."""
        tokenizer = self.app.loaded.tokenizer
        tokens = encode_mixed(call.body["tokens"], tokenizer, "tokens")
        return {"content": await aside(lambda: tokenizer.decode(tokens, special=True), len(tokens))}


def tokenized(body: JSON, tokenizer: Tokenizer) -> JSON:
    """Return the answer to a validated body."""
    content, add_special = body["content"], bool(body.get("add_special"))
    parse_special = body.get("parse_special") is not False
    if isinstance(content, str):
        tokens = tokenizer.encode(content, add_special=add_special, parse_special=parse_special)
    else:
        tokens = encode_mixed(content, tokenizer, "content", parse_special=parse_special)
        if add_special:
            after = [tokenizer.eos] if tokenizer.add_eos and tokenizer.eos is not None else []
            tokens = [*bos(tokenizer), *tokens, *after]
    if body.get("with_pieces"):
        return {"tokens": [{"id": token, "piece": piece(tokenizer, token)} for token in tokens]}
    return {"tokens": tokens}


def piece(tokenizer: Tokenizer, token: int) -> Any:
    """Return a token's text, or its bytes as numbers if they are no UTF-8."""
    found = tokenizer.piece(token, special=True)
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError:
        return list(found)
