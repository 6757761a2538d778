"""Answers that are one of a list of texts: the request field ``choice``, and the kind of grammar behind it.

A grammar is asked two questions per token: may this one come next, and which may? Here the state is what is left of
each text that is still possible, as bytes, since tokens need not end where characters do.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llamafw import (
    Floats,
    GenerateRequest,
    Grammar,
    GrammarCompiler,
    GrammarContext,
    GrammarSource,
    Register,
    RequestError,
    hookimpl,
)

requires_api = ">=1.0,<2"
FIELD = {
    "type": "array",
    "items": {"type": "string", "minLength": 1, "maxLength": 256},
    "minItems": 1,
    "maxItems": 256,
    "description": "The answer is one of these texts.",
    "example": ["yes", "no"],
}


class Compiler:
    """A `llamafw.GrammarCompiler`; its source is a JSON array of texts."""

    def __init__(self, context: GrammarContext) -> None:
        tokenizer = context.tokenizer
        if not tokenizer.eog:
            raise RequestError("a model without end-of-generation tokens cannot be held to a choice")
        self.eog = tokenizer.eog
        self.pieces = [tokenizer.piece(token) for token in range(context.n_vocab)]
        self.tokens: dict[bytes, list[int]] = {}  # bytes → the tokens that say them
        for token, piece in enumerate(self.pieces):
            if piece and token not in self.eog:
                self.tokens.setdefault(piece, []).append(token)
        self.longest = max(map(len, self.tokens))

    def compile(self, source: str) -> Grammar:
        """Return the grammar, at its start; RequestError if a text cannot be written with the model's tokens."""
        texts = [text.encode() for text in json.loads(source)]
        rests = [self.writable(text) for text in texts]
        for i, rest in enumerate(rests):
            if not rest[0]:
                raise RequestError(f"the model has no tokens to write {texts[i].decode()!r}", param=str(i))
        return Choice(self, list(zip(texts, rests, strict=True)))

    def writable(self, text: bytes) -> list[bool]:
        """Return for every place in ``text``, its end included, whether some tokens say what follows."""
        if all(text[i : i + 1] in self.tokens for i in range(len(text))):  # as in nearly all vocabularies
            return [True] * (len(text) + 1)
        rests = [False] * len(text) + [True]
        for start in reversed(range(len(text))):
            ends = range(start + 1, min(len(text), start + self.longest) + 1)
            rests[start] = any(rests[end] and text[start:end] in self.tokens for end in ends)
        return rests


class Choice:
    """A `llamafw.Grammar`: where one answer is, and which texts begin as it does."""

    def __init__(self, compiler: Compiler, texts: Sequence[tuple[bytes, list[bool]]]) -> None:
        self.compiler, self.texts = compiler, texts
        self.at = 0  # bytes written
        self.closed = False

    @property
    def ended(self) -> bool:
        """Whether nothing may follow: a text is whole, and none that is longer begins with it."""
        return self.closed or all(len(text) == self.at for text, _ in self.texts)

    def whole(self) -> bool:
        """Whether what is written is one of the texts."""
        return any(len(text) == self.at for text, _ in self.texts)

    def accept(self, token: int) -> bool:
        """Go on by ``token`` if it may come next."""
        if token in self.compiler.eog:
            self.closed = self.whole()
            return self.closed
        piece, at = self.compiler.pieces[token], self.at
        end = at + len(piece)
        left = [(text, rests) for text, rests in self.texts if piece and text.startswith(piece, at) and rests[end]]
        if left:
            self.texts, self.at = left, end
        return bool(left)

    def mask(self, logits: Floats) -> None:
        """Set the logits of all tokens that may not come next to −inf."""
        tokens, at = self.compiler.tokens, self.at
        allowed = set(self.compiler.eog) if self.whole() else set()
        for text, rests in self.texts:
            for end in range(at + 1, min(len(text), at + self.compiler.longest) + 1):
                if rests[end]:
                    allowed.update(tokens.get(text[at:end], ()))
        keep = np.array(sorted(allowed), np.int64)
        kept = logits[keep]
        logits[:] = -np.inf
        logits[keep] = kept


@hookimpl
def register_grammars(register: Register) -> None:
    """Offer the kind ``choice``."""
    register("choice", make)


def make(context: GrammarContext) -> GrammarCompiler:
    """Return the compiler for one model."""
    return Compiler(context)


@hookimpl
def register_fields(register: Register) -> None:
    """Add the field to every request that generates."""
    register("choice", FIELD)


@hookimpl(wrapper=True)
def prepare_request(body: Mapping[str, Any]) -> Generator[None, GenerateRequest, GenerateRequest]:
    """Hold the answer to ``choice``, if the request has it."""
    request = yield
    if body.get("choice") is None:
        return request
    if request.grammar is not None:
        raise RequestError(
            f'either "{request.grammar.field}" or "choice" can be specified, but not both', param="choice"
        )
    return replace(request, grammar=GrammarSource("choice", json.dumps(body["choice"]), "choice"))
