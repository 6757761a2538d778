"""Restrict answers to a list of texts: the request field ``choice`` and the grammar that enforces it.

A grammar answers two questions per token: may this token come next, and which tokens may? This grammar keeps the texts
that are still possible and the number of bytes written so far. It works on bytes because a token may end within a
character.
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
    "description": "The texts to choose from: the answer is exactly one of them.",
    "example": ["yes", "no"],
}


class ChoiceCompiler:
    """A `llamafw.GrammarCompiler` whose source is a JSON array of texts."""

    def __init__(self, context: GrammarContext) -> None:
        tokenizer = context.tokenizer
        if not tokenizer.eog:
            raise RequestError("choice needs a model with an end-of-generation token; this model has none")
        self.eog = tokenizer.eog
        self.pieces = [tokenizer.piece(token) for token in range(context.n_vocab)]
        self.tokens: dict[bytes, list[int]] = {}  # bytes → the tokens with exactly these bytes
        for token, piece in enumerate(self.pieces):
            if piece and token not in self.eog:
                self.tokens.setdefault(piece, []).append(token)
        self.max_piece = max(map(len, self.tokens))  # bytes of the longest token

    def compile(self, source: str) -> Grammar:
        """Return the grammar in its start state.

        Raises
        ------
        RequestError
            If the model's tokens cannot spell one of the texts.
        """
        texts = [text.encode() for text in json.loads(source)]
        spellable = [self.spellable_from(text) for text in texts]
        for i, positions in enumerate(spellable):
            if not positions[0]:
                raise RequestError(f"the model has no tokens to write {texts[i].decode()!r}", param=str(i))

        return Choice(self, list(zip(texts, spellable, strict=True)))

    def spellable_from(self, text: bytes) -> list[bool]:
        """Return for each position whether tokens can spell the text from there to its end.

        The list has ``len(text) + 1`` entries; the last one, for the empty rest, is always true.
        """
        if all(text[i : i + 1] in self.tokens for i in range(len(text))):  # nearly all vocabularies have every byte
            return [True] * (len(text) + 1)

        spellable = [False] * len(text) + [True]
        for start in reversed(range(len(text))):
            ends = range(start + 1, min(len(text), start + self.max_piece) + 1)
            spellable[start] = any(spellable[end] and text[start:end] in self.tokens for end in ends)
        return spellable


class Choice:
    """A `llamafw.Grammar`: how much of one answer is written, and which texts start with it."""

    def __init__(self, compiler: ChoiceCompiler, texts: Sequence[tuple[bytes, list[bool]]]) -> None:
        self.compiler, self.texts = compiler, texts
        self.position = 0  # bytes written
        self.closed = False  # an end-of-generation token was accepted

    def copy(self) -> Choice:
        """Return an independent answer in the same state."""
        copy = Choice(self.compiler, self.texts)
        copy.position, copy.closed = self.position, self.closed
        return copy

    @property
    def ended(self) -> bool:
        """Whether no token may follow: a text is complete, and no longer text starts with it."""
        return self.closed or all(len(text) == self.position for text, _ in self.texts)

    def complete(self) -> bool:
        """Return whether the bytes written are one of the texts."""
        return any(len(text) == self.position for text, _ in self.texts)

    def accept(self, token: int) -> bool:
        """Advance by ``token`` and return true, or return false if it may not come next."""
        if token in self.compiler.eog:
            self.closed = self.complete()
            return self.closed

        piece, start = self.compiler.pieces[token], self.position
        end = start + len(piece)
        possible = [
            (text, spellable)
            for text, spellable in self.texts
            if piece and text.startswith(piece, start) and spellable[end]
        ]
        if possible:
            self.texts, self.position = possible, end
        return bool(possible)

    def mask(self, logits: Floats) -> None:
        """Set the logits of all tokens that may not come next to −inf."""
        tokens, start = self.compiler.tokens, self.position
        allowed = set(self.compiler.eog) if self.complete() else set()
        for text, spellable in self.texts:
            for end in range(start + 1, min(len(text), start + self.compiler.max_piece) + 1):
                if spellable[end]:
                    allowed.update(tokens.get(text[start:end], ()))

        keep = np.array(sorted(allowed), np.int64)
        kept = logits[keep]
        logits[:] = -np.inf
        logits[keep] = kept


@hookimpl
def register_grammars(register: Register) -> None:
    """Register the grammar kind ``choice``."""
    register("choice", make_compiler)


def make_compiler(context: GrammarContext) -> GrammarCompiler:
    """Return a compiler for the model."""
    return ChoiceCompiler(context)


@hookimpl
def register_fields(register: Register) -> None:
    """Add the field to every request that generates text."""
    register("choice", FIELD)


@hookimpl(wrapper=True)
def prepare_request(body: Mapping[str, Any]) -> Generator[None, GenerateRequest, GenerateRequest]:
    """Restrict the answer to the texts of ``choice`` if the request has the field."""
    request = yield

    if body.get("choice") is None:
        return request
    if request.grammar is not None:
        raise RequestError(
            f'either "{request.grammar.field}" or "choice" can be specified, but not both', param="choice"
        )

    return replace(request, grammar=GrammarSource("choice", json.dumps(body["choice"]), "choice"))
