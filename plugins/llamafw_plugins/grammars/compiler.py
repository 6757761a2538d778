"""Compiles grammars for the tokens of one model, with llguidance: https://github.com/guidance-ai/llguidance."""

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
from llamafw_plugins.grammars import gbnf, json_schema, lark
from llamafw_plugins.grammars.compile_threads import CompileThreads
from llamafw_plugins.grammars.schema_paths import SchemaError

MAX_LENGTH = 2**18  # characters of a source
CACHE_SIZE = 64  # compiled grammars per kind
TOO_COMPLEX = "the grammar is too complex: parsing the response exceeds a limit"

_token_tables: WeakKeyDictionary[Tokenizer, LLTokenizer] = WeakKeyDictionary()
_lock = Lock()
_compile_threads = CompileThreads()


class LlguidanceCompiler:
    """Compiles one kind of source.

    Implements `llamafw.GrammarCompiler`; called on several worker threads at once.
    """

    def __init__(self, kind: str, context: GrammarContext) -> None:
        self._kind, self.context = kind, context
        self._token_table = token_table(context.tokenizer)
        self._cache: OrderedDict[str, LLMatcher] = OrderedDict()  # by source, least recently used first; never advanced
        self._lock = Lock()

    def compile(self, source: str) -> Grammar:
        """Return the grammar described by ``source``, in its initial state.

        Raises
        ------
        RequestError
            ``source`` is invalid, too complex, or cannot be enforced.
        Unavailable
            Too many grammars are being compiled.
        """
        if len(source) > MAX_LENGTH:
            raise RequestError(f"the grammar has {len(source)} characters; the maximum is {MAX_LENGTH}")
        with self._lock:
            matcher = self._cache.pop(source, None)
        if matcher is None:
            matcher = _compile_threads.run(partial(self._build, source))
        with self._lock:
            self._cache[source] = matcher
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return LlguidanceGrammar(matcher.deep_copy(), self.context.tokenizer.n_vocab)

    def _build(self, source: str) -> LLMatcher:
        try:
            grammar = _TO_LLGUIDANCE[self._kind](source)
        except gbnf.GbnfError as error:
            raise RequestError(f"the grammar is invalid: {error}") from None
        except SchemaError as error:
            raise RequestError(str(error), param=".".join(error.path) or None) from None

        matcher = LLMatcher(self._token_table, grammar, log_level=0)
        problems = [matcher.get_error()] if matcher.is_error() else matcher.get_grammar_warnings()
        if problems:
            raise RequestError(f"the grammar is invalid: {_first_line(problems[0])}")

        start = matcher.deep_copy()
        allowed, failed = any(start.compute_bitmask()), start.is_error()
        # A grammar of rules that only refer to each other is accepting but fails to compute a mask.
        if failed or not (allowed or matcher.is_accepting()):
            raise RequestError(TOO_COMPLEX if failed and not allowed else "the grammar is empty: it allows no response")
        return matcher


class LlguidanceGrammar:
    """Tracks one response within a grammar.

    Implements `llamafw.Grammar`.
    """

    def __init__(self, matcher: LLMatcher, n_tokens: int) -> None:
        self._matcher, self._n_tokens = matcher, n_tokens

    @property
    def ended(self) -> bool:
        """Whether the response is complete and must end here."""
        return bool(self._checked_matcher().is_stopped())

    def accept(self, token: int) -> bool:
        """Advance by ``token`` and return True if the grammar allows it; otherwise return False and change nothing."""
        if token >= self._n_tokens:  # models may have more logits than tokens; llguidance would fail for good
            return False
        accepted = bool(self._matcher.try_consume_tokens([token]) == 1)
        self._checked_matcher()
        return accepted

    def mask(self, logits: Floats) -> None:
        """Set to −inf the ``logits``, ``(n_vocab,)`` float32, of all tokens that the grammar does not allow next."""
        bits: npt.NDArray[Any] = np.frombuffer(self._checked_matcher().compute_bitmask(), np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)]
        logits[: len(allowed)][allowed == 0] = -np.inf
        logits[len(allowed) :] = -np.inf

    def copy(self) -> LlguidanceGrammar:
        """Return an independent grammar in the same state."""
        return LlguidanceGrammar(self._matcher.deep_copy(), self._n_tokens)

    def _checked_matcher(self) -> LLMatcher:
        """Return the matcher; RequestError if it has stopped because it exceeded a limit of llguidance."""
        if self._matcher.is_error():
            raise RequestError(TOO_COMPLEX)
        return self._matcher


def _gbnf_to_llguidance(source: str) -> str:
    return LLMatcher.grammar_from_lark(gbnf.to_lark(source))


def _json_schema_to_llguidance(source: str) -> str:
    try:
        schema = orjson.loads(source)
    except orjson.JSONDecodeError as error:
        raise SchemaError(f"the schema is not valid JSON: {error}", ()) from None
    options: Any = json_schema.options_of(schema)
    schema = json_schema.to_llguidance(schema)
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=options))


def _lark_to_llguidance(source: str) -> str:
    return LLMatcher.grammar_from_lark(lark.to_llguidance(source))


_TO_LLGUIDANCE = {
    "gbnf": _gbnf_to_llguidance,
    "json_schema": _json_schema_to_llguidance,
    "lark": _lark_to_llguidance,
    "regex": LLMatcher.grammar_from_regex,
}
"""Kind of grammar → function from source to llguidance's own format."""


def token_table(tokenizer: Tokenizer) -> LLTokenizer:
    """Return llguidance's table of the model's tokens, built once per tokenizer because that takes 0.2 s."""
    if not tokenizer.eog:
        raise RequestError("grammars need a model with an end-of-generation token, and this model has none")
    with _lock:
        if tokenizer not in _token_tables:
            source: Any = _TokenSource(tokenizer)
            _token_tables[tokenizer] = LLTokenizer(
                TokenizerWrapper(source), n_vocab=tokenizer.n_vocab, eos_token=sorted(tokenizer.eog)
            )
        return _token_tables[tokenizer]


class _TokenSource:
    """Describes a tokenizer in the form that llguidance reads.

    Control tokens are listed as special tokens, which never match the text of a grammar.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        pieces = [tokenizer.piece(token) for token in range(tokenizer.n_vocab)]
        self.special_token_ids = [token for token, piece in enumerate(pieces) if not piece or token in tokenizer.eog]
        self.tokens = [piece or tokenizer.piece(token, special=True) for token, piece in enumerate(pieces)]
        self.bos_token_id = tokenizer.bos
        self.eos_token_id = tokenizer.eos if tokenizer.eos is not None else min(tokenizer.eog)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8") if isinstance(text, bytes) else text, parse_special=False)


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0][:300]
