"""What a grammar adds to a token, and what it takes to compile one.

    python benchmarks/grammars.py [MODEL.gguf] [--tokens 600]

The vocabulary is the default model's, 49,152 tokens; nothing is computed with it. The scores are random, and fond of
what ends strings and objects. "drawn again" are the tokens that the grammar refused at first: what checking, masking
and the second draw add to them. "fits" are the others: what checking adds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from llamafw import Floats, GenerateRequest, Grammar, GrammarContext, SamplerContext
from llamafw.models.gguf import read_gguf
from llamafw.models.wheels import pull
from llamafw.plugins import Plugins
from llamafw.sampling.chain import Chain, build_chain
from llamafw.sampling.kernels import CandidateBuffers
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from llamafw_plugins.quants import TYPES
from llamafw_plugins.samplers import DEFAULT_ORDER
from llamafw_plugins.tokenizers.gpt2 import Gpt2Tokenizer
from samplers import rows

KINDS: list[Any] = [
    {"type": "string"},
    {"type": "integer", "minimum": 0, "maximum": 9999},
    {"type": "number"},
    {"type": "string", "maxLength": 40},
    {"enum": ["red", "green", "blue"]},
    {"type": "boolean"},
    {"type": "array", "items": {"type": "string"}, "maxItems": 5},
    {"type": "string", "format": "date"},
    {"type": "string", "pattern": "^[A-Z]{2}[0-9]{4}$"},
    {"anyOf": [{"type": "string"}, {"type": "null"}]},
]
NAMES = [f"property_{i}" for i in range(20)]
TWENTY = {
    "type": "object",
    "properties": {name: KINDS[i % 10] for i, name in enumerate(NAMES)},
    "required": NAMES,
    "additionalProperties": False,
}
SUM = 'root ::= (sum "\\n")+\nsum ::= term ([-+*/] term)*\nterm ::= [0-9]+ | "(" sum ")"\n'
SOURCES: list[tuple[str, str, str]] = [
    ("a JSON object", "json_schema", '{"type": "object"}'),
    ("20 properties", "json_schema", json.dumps(TWENTY)),
    ("an array of dates", "json_schema", '{"items": {"type": "string", "format": "date"}, "type": "array"}'),
    ("GBNF: sums", "gbnf", SUM),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=600)
    args = parser.parse_args()
    metadata = read_gguf(args.model or pull("smollm2-135m"), {quant.name: quant for quant in TYPES}).metadata
    tokenizer = Gpt2Tokenizer(metadata)
    start = time.perf_counter()
    compilers = {
        kind: LlguidanceCompiler(kind, GrammarContext(tokenizer, tokenizer.n_vocab)) for kind in ("json_schema", "gbnf")
    }
    print(f"the table of {tokenizer.n_vocab} tokens, once per model: {(time.perf_counter() - start) * 1e3:.0f} ms\n")
    logits = rows(tokenizer.n_vocab, 100)
    ends = [token for token in range(tokenizer.n_vocab) if tokenizer.piece(token) in (b'"', b"}", b"]", b'",', b":")]
    logits[:, ends] += 6
    request = GenerateRequest(tuple(range(100, 300)), samplers=DEFAULT_ORDER)
    context = SamplerContext(request.prompt, tokenizer.n_vocab, 2048, tokenizer)
    samplers = Plugins().registry("sampler")
    print(f"{'milliseconds, medians (worst)':26s}{'compile':>16s}{'drawn again':>18s}{'mask':>16s}{'fits':>8s}")
    for name, kind, source in SOURCES:
        compile_ms = []
        for i in range(9):
            start = time.perf_counter()
            compilers[kind].compile(source + " " * i)  # another one each time
            compile_ms.append((time.perf_counter() - start) * 1e3)
        chain = build_chain(request, 1, samplers, context)
        adds, masks, fits = tokens(chain, compilers[kind], source, logits, args.tokens)
        print(f"{name:26s}{shown(compile_ms)}{shown(adds, 18)}{shown(masks)}{statistics.median(fits):8.3f}")


def shown(times: list[float], width: int = 16) -> str:
    return f"{statistics.median(times):.3f} ({max(times):.2f})".rjust(width)


class Watched:
    """A grammar that says whether a token was drawn again."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar, self.accept, self.masked = grammar, grammar.accept, False

    @property
    def ended(self) -> bool:
        return self.grammar.ended

    def mask(self, logits: Floats) -> None:
        self.masked = True
        self.grammar.mask(logits)


def tokens(chain: Chain, compiler: LlguidanceCompiler, source: str, logits: Any, n: int) -> tuple[list[float], ...]:
    """Return times in milliseconds: what the grammar adds to a token that is drawn again, the mask, one that fits."""
    vocabulary, adds, masks, fits = CandidateBuffers(logits.shape[1]), [], [], []
    held_to, again = Watched(compiler.compile(source)), compiler.compile(source)
    for i in range(n):
        if held_to.ended:
            held_to, again = Watched(compiler.compile(source)), compiler.compile(source)
        rows = [logits[i % len(logits)].copy() for _ in range(3)]
        chain.grammar = None
        free, _ = timed(lambda rows=rows: chain.pick(vocabulary, rows[0]))
        chain.grammar, held_to.masked = held_to, False
        held, (token, _) = timed(lambda rows=rows: chain.pick(vocabulary, rows[1]))
        if held_to.masked:
            adds.append(held - free)
        masks.append(timed(lambda rows=rows, again=again: again.mask(rows[2]))[0])
        fits.append(timed(lambda token=token, again=again: again.accept(token))[0])
    return adds, masks, fits


def timed(step: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = step()
    return (time.perf_counter() - start) * 1e3, result


if __name__ == "__main__":
    main()
