"""Measure what a grammar adds to the time of a token, and the time to compile a grammar.

    python benchmarks/grammars.py [MODEL.gguf] [--tokens 600]

The vocabulary of 49,152 tokens comes from the default model; the model itself is not run. Logits are random, and higher
for tokens that end strings and objects. "drawn again" is the time that checking, masking and the second draw add to a
token if the grammar refuses the first draw; "fits" is the time that checking adds to the others.
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
from llamafw.sampling.constraint import Constraint
from llamafw.sampling.sampler_kernels import CandidateBuffers
from llamafw_plugins.grammars.compiler import LlguidanceCompiler
from llamafw_plugins.samplers import DEFAULT_ORDER
from llamafw_plugins.tokenizers.gpt2 import Gpt2Tokenizer
from samplers import random_logits

VALUE_SCHEMAS: list[Any] = [
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
TWENTY_PROPERTIES = {
    "type": "object",
    "properties": {name: VALUE_SCHEMAS[i % 10] for i, name in enumerate(NAMES)},
    "required": NAMES,
    "additionalProperties": False,
}
SUM = 'root ::= (sum "\\n")+\nsum ::= term ([-+*/] term)*\nterm ::= [0-9]+ | "(" sum ")"\n'
SOURCES: list[tuple[str, str, str]] = [
    ("a JSON object", "json_schema", '{"type": "object"}'),
    ("20 properties", "json_schema", json.dumps(TWENTY_PROPERTIES)),
    ("an array of dates", "json_schema", '{"items": {"type": "string", "format": "date"}, "type": "array"}'),
    ("GBNF: sums", "gbnf", SUM),
]


def main() -> None:
    """Measure each grammar and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--tokens", type=int, default=600)
    args = parser.parse_args()

    plugins = Plugins()
    metadata = read_gguf(args.model or pull("smollm2-135m"), plugins.registry("quant")).metadata
    tokenizer = Gpt2Tokenizer(metadata)
    start = time.perf_counter()
    compilers = {
        kind: LlguidanceCompiler(kind, GrammarContext(tokenizer, tokenizer.n_vocab)) for kind in ("json_schema", "gbnf")
    }
    print(f"table of {tokenizer.n_vocab} tokens, built once per model: {(time.perf_counter() - start) * 1e3:.0f} ms\n")

    logits = random_logits(tokenizer.n_vocab, 100)
    ends = [token for token in range(tokenizer.n_vocab) if tokenizer.piece(token) in (b'"', b"}", b"]", b'",', b":")]
    logits[:, ends] += 6
    request = GenerateRequest(tuple(range(100, 300)), samplers=DEFAULT_ORDER)
    context = SamplerContext(request.prompt, tokenizer.n_vocab, 2048, tokenizer)

    print(f"{'milliseconds, medians (worst)':26s}{'compile':>16s}{'drawn again':>18s}{'mask':>16s}{'fits':>8s}")
    for name, kind, source in SOURCES:
        compile_ms = []
        for i in range(9):
            start = time.perf_counter()
            compilers[kind].compile(source + " " * i)  # a different text each time: compiled grammars are cached
            compile_ms.append((time.perf_counter() - start) * 1e3)
        chain = build_chain(request, 1, plugins.registry("sampler"), context)
        redrawn, masks, fits = time_tokens(chain, compilers[kind], source, logits, args.tokens)
        cells = format_times(compile_ms), format_times(redrawn, 18), format_times(masks)
        print(f"{name:26s}{''.join(cells)}{statistics.median(fits):8.3f}")


def format_times(times: list[float], width: int = 16) -> str:
    """Return the median and the maximum, aligned to the right."""
    return f"{statistics.median(times):.3f} ({max(times):.2f})".rjust(width)


class RecordingGrammar:
    """A grammar that records whether its mask was used, because then a token is drawn again."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar, self.accept, self.masked = grammar, grammar.accept, False

    @property
    def ended(self) -> bool:
        return self.grammar.ended

    def mask(self, logits: Floats) -> None:
        self.masked = True
        self.grammar.mask(logits)

    def copy(self) -> RecordingGrammar:
        return RecordingGrammar(self.grammar.copy())


def time_tokens(
    chain: Chain, compiler: LlguidanceCompiler, source: str, logits: Any, n: int
) -> tuple[list[float], ...]:
    """Return the milliseconds added to tokens that are drawn again, those of the mask, and those added to other tokens.

    ``n`` tokens are drawn, each with and without the grammar.
    """
    buffers, redrawn, masks, fits = CandidateBuffers(logits.shape[1]), [], [], []
    grammar, separate = RecordingGrammar(compiler.compile(source)), compiler.compile(source)

    for i in range(n):
        if grammar.ended:
            grammar, separate = RecordingGrammar(compiler.compile(source)), compiler.compile(source)
        rows = [logits[i % len(logits)].copy() for _ in range(3)]
        constraint = Constraint(grammar, "grammar")

        free, _ = timed(lambda rows=rows: chain.pick(buffers, rows[0]))
        grammar.masked = False
        constrained, (token, _) = timed(
            lambda rows=rows, constraint=constraint: chain.pick(buffers, rows[1], constraint)
        )
        if grammar.masked:
            redrawn.append(constrained - free)
        masks.append(timed(lambda rows=rows, separate=separate: separate.mask(rows[2]))[0])
        fits.append(timed(lambda token=token, separate=separate: separate.accept(token))[0])

    return redrawn, masks, fits


def timed(step: Any) -> tuple[float, Any]:
    """Return the milliseconds that a call takes, and its result."""
    start = time.perf_counter()
    result = step()
    return (time.perf_counter() - start) * 1e3, result


if __name__ == "__main__":
    main()
