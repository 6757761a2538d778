"""Grammars compiled by llguidance, for one model's tokens. https://github.com/guidance-ai/llguidance"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import orjson
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from llamafw import Floats, Grammar, GrammarContext, RequestError, Tokenizer
from llamafw_plugins.grammars import embedded, gbnf, json_schema
from llamafw_plugins.grammars.budget import Budget
from llamafw_plugins.grammars.places import SchemaError

MAX_LENGTH = 2**18  # characters of a source
REMEMBERED = 64  # compiled grammars
TOO_COMPLEX = "the grammar is too complex: there are too many ways to read what it allows"

_tokenizers: WeakKeyDictionary[Tokenizer, LLTokenizer] = WeakKeyDictionary()
_lock = Lock()
_budget = Budget()


class Compiler:
    """Compiles one kind of source. Called on worker threads, several at a time."""

    def __init__(self, kind: str, context: GrammarContext) -> None:
        self._kind, self.context = kind, context
        self._tokenizer = table(context.tokenizer)
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()  # at their start
        self._lock = Lock()

    def compile(self, source: str) -> Grammar:
        """Return the grammar, at its start; RequestError if ``source`` is wrong or cannot be enforced."""
        if len(source) > MAX_LENGTH:
            raise RequestError(f"the grammar has more than {MAX_LENGTH} characters")
        with self._lock:
            matcher = self._compiled.pop(source, None)
        if matcher is None:
            matcher = _budget.run(partial(self._build, source))
        with self._lock:
            self._compiled[source] = matcher
            while len(self._compiled) > REMEMBERED:
                self._compiled.popitem(last=False)
        return Matcher(matcher.deep_copy())

    def _build(self, source: str) -> LLMatcher:
        try:
            grammar = _GRAMMARS[self._kind](source)
        except gbnf.GbnfError as error:
            raise RequestError(f"the grammar is wrong: {error}") from None
        except SchemaError as error:
            raise RequestError(str(error), param=".".join(error.place) or None) from None
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        found = [matcher.get_error()] if matcher.is_error() else matcher.get_grammar_warnings()
        if found:
            raise RequestError(f"the grammar is wrong: {_first_line(found[0])}")
        start = matcher.deep_copy()
        allowed, failed = any(start.compute_bitmask()), start.is_error()
        if failed or not (allowed or matcher.is_accepting()):  # a ring of references may end, and is an error
            raise RequestError(TOO_COMPLEX if failed and not allowed else "the grammar allows nothing at all")
        return matcher


class Matcher:
    """Where one answer is within its grammar. A `llamafw.Grammar`."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return bool(self._sound().is_stopped())

    def accept(self, token: int) -> bool:
        """Go on by ``token`` if it may come next."""
        taken = bool(self._matcher.try_consume_tokens([token]) == 1)
        self._sound()
        return taken

    def _sound(self) -> LLMatcher:
        """Return the matcher; RequestError if a limit of its own has been reached, on which it calls itself stopped."""
        if self._matcher.is_error():
            raise RequestError(TOO_COMPLEX)
        return self._matcher

    def mask(self, logits: Floats) -> None:
        """Set the logits of tokens that may not come next to −inf."""
        bits: npt.NDArray[Any] = np.frombuffer(self._sound().compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)]
        logits[: len(allowed)][allowed == 0] = -np.inf
        logits[len(allowed) :] = -np.inf


def _json_schema(source: str) -> str:
    try:
        schema = orjson.loads(source)
    except orjson.JSONDecodeError as error:
        raise SchemaError(f"the schema is no JSON: {error}", ()) from None
    schema = json_schema.normalised(schema)
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=json_schema.OPTIONS))  # type: ignore[arg-type]  # all options are optional


_GRAMMARS = {
    "gbnf": lambda source: LLMatcher.grammar_from_lark(gbnf.to_lark(source)),
    "json_schema": _json_schema,
    "lark": lambda source: LLMatcher.grammar_from_lark(embedded.normalised(source)),
    "regex": LLMatcher.grammar_from_regex,
}


class _Table:
    """A tokenizer as llguidance wants it: control tokens have their names, and never match text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        pieces = [tokenizer.piece(token) for token in range(tokenizer.n_vocab)]
        self.special_token_ids = [token for token, piece in enumerate(pieces) if not piece or token in tokenizer.eog]
        self.tokens = [piece or tokenizer.piece(token, special=True) for token, piece in enumerate(pieces)]
        self.bos_token_id = tokenizer.bos
        self.eos_token_id = tokenizer.eos if tokenizer.eos is not None else min(tokenizer.eog)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8") if isinstance(text, bytes) else text, parse_special=False)


def table(tokenizer: Tokenizer) -> LLTokenizer:
    """Return the table of a model's tokens; building it takes a fifth of a second, so it is done once."""
    if not tokenizer.eog:
        raise RequestError("a model without end-of-generation tokens cannot be held to a grammar")
    with _lock:
        if tokenizer not in _tokenizers:
            table: Any = _Table(tokenizer)
            _tokenizers[tokenizer] = LLTokenizer(
                TokenizerWrapper(table), n_vocab=tokenizer.n_vocab, eos_token=sorted(tokenizer.eog)
            )
        return _tokenizers[tokenizer]


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0][:300]
