"""The sampler chain of one request: from a row of logits to a token.

First what the request says about single tokens (`logit_bias`, `ignore_eos`), then its samplers in their order, then
the draw. Knows samplers only as the protocol has them; knows nothing of text, slots or threads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

import numpy as np

from llamafw.errors import FAULTS, GenerationError, LlamafwError, RequestError, suggest
from llamafw.interfaces import Grammar, Sampler, SamplerContext, SamplerPlugin
from llamafw.sampling.kernels import CandidateBuffers, FusedKernels, SamplerKernel
from llamafw.types import Candidates, Floats, GenerateRequest

log = logging.getLogger(__name__)

_MOST_BIAS = 1e30  # far beyond any logit, and no sum of it leaves float32
_BLOCK = 256  # candidates per block when drawing from many


class DeadEnd(Exception):
    """The grammar and the request's biases together allow no token: the answer ends here."""


class SamplerError(GenerationError):
    """A sampler failed. Its name is for the client; the cause, in ``__cause__``, for the log."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the sampler {name!r} failed", source=("sampler", name))


class Chain:
    """The samplers of one request, and its random numbers."""

    def __init__(self, samplers: Sequence[tuple[str, Sampler]], bias: Mapping[int, float], seed: int) -> None:
        self._samplers, self._steps = samplers, _steps(samplers)
        self._bias_ids = np.array(list(bias), np.int32)
        self._bias = np.array([_clip(value) for value in bias.values()], np.float32)
        self._random = np.random.default_rng(seed)
        self.grammar: Grammar | None = None
        self.field: str | None = None  # of the request, that the grammar comes from

    def pick(self, vocabulary: CandidateBuffers, row: Floats) -> tuple[int, Candidates]:
        """Draw a token; return it and the candidates that survived.

        Parameters
        ----------
        vocabulary : CandidateBuffers
            Of the calling thread.
        row : (n_vocab,) float32
            Its tokens' logits; overwritten. The candidates are part of it.

        Raises
        ------
        GenerationError
            The row is no set of logits, or a sampler failed or left no candidate.
        RequestError
            The request forbids every token.
        DeadEnd
            What the request does not forbid, its grammar does.
        """
        # As llama.cpp does it: most tokens fit, and to ask about one is cheaper than to mask all.
        raw = None if self.grammar is None else row.copy()
        token, candidates = self._draw(vocabulary, row)
        if self.grammar is not None and raw is not None and not self._fits(self.grammar, token):
            self._mask(self.grammar, raw)
            token, candidates = self._draw(vocabulary, raw)
            if not self._fits(self.grammar, token):
                raise GenerationError("the grammar refuses a token that it allowed")
        for name, sampler in self._samplers:
            try:
                sampler.accept(token)
            except RequestError:
                raise
            except FAULTS as exc:
                raise SamplerError(name) from exc
        return token, candidates

    def _fits(self, grammar: Grammar, token: int) -> bool:
        try:
            return grammar.accept(token)
        except RequestError as error:
            error.param = error.param or self.field
            raise
        except FAULTS as exc:
            raise GenerationError("the grammar failed") from exc

    def _mask(self, grammar: Grammar, row: Floats) -> None:
        try:
            grammar.mask(row)
        except RequestError as error:
            error.param = error.param or self.field
            raise
        except FAULTS as exc:
            raise GenerationError("the grammar failed") from exc
        if len(self._bias_ids):
            row[self._bias_ids[self._bias == -np.inf]] = -np.inf
        if row.max() == -np.inf:
            raise DeadEnd

    def _draw(self, vocabulary: CandidateBuffers, row: Floats) -> tuple[int, Candidates]:
        """Draw a token by logits, biases and samplers alone."""
        candidates = Candidates(vocabulary.ids, row if row.flags.writeable else row.copy())
        if len(self._bias_ids):
            candidates.logits[self._bias_ids] += self._bias
        peak = candidates.logits.max()
        if not peak < np.inf:
            raise GenerationError("the model computed scores that are not numbers")
        if peak == -np.inf:
            raise RequestError("no token is left to draw: all are forbidden", param="logit_bias")
        for names, step in self._steps:
            if isinstance(step, FusedKernels):
                failed = step.run(candidates, vocabulary)
                if failed >= 0:
                    raise SamplerError(names[failed]) from ValueError("it left no candidate, or more than there were")
                continue
            try:
                step.apply(candidates)
                _check(candidates)
            except RequestError:
                raise
            except FAULTS as exc:
                raise SamplerError(names[0]) from exc
        return draw(candidates, self._random), candidates


def _steps(samplers: Sequence[tuple[str, Sampler]]) -> list[tuple[tuple[str, ...], Sampler | FusedKernels]]:
    """Return the samplers in order, with their names; neighbours that are compiled are one."""
    steps: list[tuple[tuple[str, ...], Sampler | FusedKernels]] = []
    for compiled, group in groupby(samplers, lambda one: isinstance(getattr(one[1], "kernel", None), SamplerKernel)):
        members = list(group)
        if compiled:
            kernels = [sampler.kernel for _, sampler in members]  # type: ignore[attr-defined]  # just asked for
            steps.append((tuple(name for name, _ in members), FusedKernels(kernels)))
        else:
            steps += [((name,), sampler) for name, sampler in members]
    return steps


def _check(candidates: Candidates) -> None:
    """Raise ValueError if a sampler has left what compiled ones must not be given."""
    ids, logits = candidates.ids, candidates.logits
    if not ids.ndim == logits.ndim == 1 or len(ids) != len(logits):
        raise ValueError(f"it left ids of shape {ids.shape} and logits of shape {logits.shape}")
    if not len(ids):
        raise ValueError("it left no candidate")
    if not -np.inf < logits.max() < np.inf:
        raise ValueError("it left scores that are not numbers")


def draw(candidates: Candidates, random: np.random.Generator) -> int:
    """Draw one of the candidates with the softmax of their logits as probabilities.

    Sums are float64. A single candidate needs no random number.
    """
    ids, logits = candidates.ids, candidates.logits
    if len(ids) == 1:
        return int(ids[0])
    peak = logits.max()
    if not np.isfinite(peak):
        raise GenerationError("the samplers left scores that cannot be drawn from")
    weights = np.exp(logits - peak)
    start = 0
    at = random.random()
    if len(weights) > 4 * _BLOCK:  # find the block first: a running float64 sum of 49k is slow
        whole = len(weights) // _BLOCK * _BLOCK
        sums = weights[:whole].reshape(-1, _BLOCK).sum(axis=1, dtype=np.float64)
        ends = np.append(sums, weights[whole:].sum(dtype=np.float64)).cumsum()
        at *= ends[-1]
        block = _find(ends, at)
        at -= ends[block - 1] if block else 0.0
        start = block * _BLOCK
        ends = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
    else:
        ends = weights.cumsum(dtype=np.float64)
        at *= ends[-1]
    return int(ids[start + _find(ends, at)])


def _find(ends: np.ndarray[tuple[int], np.dtype[np.float64]], at: float) -> int:
    """Return the first index whose running sum exceeds ``at``; rounding never finds one of weight zero."""
    i = int(ends.searchsorted(at, side="right"))
    return i if i < len(ends) else int(ends.searchsorted(ends[-1], side="left"))


def build_chain(
    request: GenerateRequest, seed: int, plugins: Mapping[str, SamplerPlugin], context: SamplerContext
) -> Chain:
    """Make the chain of one request. Runs on the event loop.

    At temperature ≤ 0 the likeliest token wins: samplers that only remove unlikely ones are left out, and
    ``temperature`` comes last.

    Raises
    ------
    RequestError
        A sampler is unknown or refuses its options, or a biased token is not in the vocabulary.
    GenerationError
        A sampler cannot be made.
    """
    names = request.samplers
    for name in names:
        if name not in plugins:
            raise RequestError(f"there is no sampler {name!r}{suggest(name, plugins)}", param="samplers")
    if _temperature(request, plugins) <= 0:
        names = tuple(name for name in names if not plugins[name].truncates and name != "temperature")
        names += ("temperature",) if "temperature" in plugins else ()
    samplers = [(name, made) for name in names if (made := _make(name, plugins[name], request, context)) is not None]
    return Chain(samplers, _bias(request, context), seed)


def warm_up_samplers(plugins: Mapping[str, SamplerPlugin], context: SamplerContext) -> None:
    """Let every sampler act once, with its defaults: the first time, compiled ones may take seconds.

    What fails here fails again in a request, which can be told so.
    """
    for name in plugins:
        with suppress(LlamafwError):
            made = build_chain(GenerateRequest((), samplers=(name,)), 0, plugins, context)
            made.pick(CandidateBuffers(context.n_vocab), np.zeros(context.n_vocab, np.float32))


def _temperature(request: GenerateRequest, plugins: Mapping[str, SamplerPlugin]) -> float:
    if "temperature" not in plugins:
        return 1.0
    return float(_options(plugins["temperature"], request)["temperature"])


def _options(plugin: SamplerPlugin, request: GenerateRequest) -> dict[str, Any]:
    given = request.options
    return {name: given[name] if name in given else schema["default"] for name, schema in plugin.options.items()}


def _make(name: str, plugin: SamplerPlugin, request: GenerateRequest, context: SamplerContext) -> Sampler | None:
    try:
        return plugin.create(_options(plugin, request), context)
    except RequestError:
        raise
    except FAULTS as exc:
        log.exception("the sampler %r cannot be made", name)
        raise SamplerError(name) from exc


def _clip(bias: float) -> float:
    return bias if bias == -np.inf else min(max(bias, -_MOST_BIAS), _MOST_BIAS)


def _bias(request: GenerateRequest, context: SamplerContext) -> dict[int, float]:
    """Return what is added to which logits; -inf forbids a token."""
    bias = dict(request.logit_bias)
    for token, value in bias.items():
        if not 0 <= token < context.n_vocab:
            raise RequestError(f"token {token} is not in the vocabulary of {context.n_vocab}", param="logit_bias")
        if not value < np.inf:
            raise RequestError(f"the bias of token {token} is not a number", param="logit_bias")
    if request.ignore_eos:
        bias.update(dict.fromkeys(context.tokenizer.eog, -np.inf))
    return bias
