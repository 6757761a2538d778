"""POST /tokenize and /detokenize."""

from __future__ import annotations

from llamafw import App, Call, Tokenizer
from llamafw_plugins.endpoints.prompts import bos_tokens, encode_mixed, prompt_size, run_in_thread
from llamafw_plugins.endpoints.response_json import JSON


class TokenEndpoints:
    """The operations `tokenize` and `detokenize`."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def tokenize(self, call: Call) -> JSON:
        """Return the tokens of ``content``, a text or an array of texts and token ids."""
        body, tokenizer = call.body, self.app.loaded.tokenizer
        return await run_in_thread(lambda: tokenize(body, tokenizer), prompt_size(body["content"]))

    async def detokenize(self, call: Call) -> JSON:
        """Return the text of ``tokens``; special tokens are included."""
        tokenizer = self.app.loaded.tokenizer
        tokens = encode_mixed(call.body["tokens"], tokenizer, "tokens")
        return {"content": await run_in_thread(lambda: tokenizer.decode(tokens, special=True), len(tokens))}


def tokenize(body: JSON, tokenizer: Tokenizer) -> JSON:
    """Return the response to a validated request body."""
    content, add_special = body["content"], bool(body.get("add_special"))
    parse_special = body.get("parse_special") is not False
    if isinstance(content, str):
        tokens = tokenizer.encode(content, add_special=add_special, parse_special=parse_special)
    else:
        tokens = encode_mixed(content, tokenizer, "content", parse_special=parse_special)
        if add_special:
            eos = [tokenizer.eos] if tokenizer.add_eos and tokenizer.eos is not None else []
            bos = bos_tokens(tokenizer) if not content or isinstance(content[0], str) else []  # as in prompts
            tokens = [*bos, *tokens, *eos]

    if body.get("with_pieces"):
        return {"tokens": [{"id": token, "piece": piece_json(tokenizer, token)} for token in tokens]}
    return {"tokens": tokens}


def piece_json(tokenizer: Tokenizer, token: int) -> str | list[int]:
    """Return a token's text, or its bytes as numbers if they are not valid UTF-8."""
    piece = tokenizer.piece(token, special=True)
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return list(piece)
