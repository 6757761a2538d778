"""The protocols that plugins implement, one noun per file.

Each docstring says when an object is created, who calls it, how often, and on which thread. The engine thread owns
sequences and slots; the event loop belongs to the HTTP server. `hookspecs` says how to register an implementation.
"""

from llamafw.interfaces.backend import (
    Backend,
    BackendContext,
    BackendFactory,
    CandidateBackend,
    SharingBackend,
    SnapshotBackend,
)
from llamafw.interfaces.chat import (
    ChatContext,
    ChatFormat,
    ChatFormatFactory,
    ToolContext,
    ToolParser,
    ToolParserPlugin,
)
from llamafw.interfaces.grammar import Grammar, GrammarCompiler, GrammarContext, GrammarFactory
from llamafw.interfaces.model import Architecture, Quant, Quantizer
from llamafw.interfaces.operator import Operator
from llamafw.interfaces.register import Register
from llamafw.interfaces.sampler import Sampler, SamplerContext, SamplerPlugin
from llamafw.interfaces.tokenizer import Tokenizer

__all__ = [
    "Architecture",
    "Backend",
    "BackendContext",
    "BackendFactory",
    "CandidateBackend",
    "ChatContext",
    "ChatFormat",
    "ChatFormatFactory",
    "Grammar",
    "GrammarCompiler",
    "GrammarContext",
    "GrammarFactory",
    "Operator",
    "Quant",
    "Quantizer",
    "Register",
    "Sampler",
    "SamplerContext",
    "SamplerPlugin",
    "SharingBackend",
    "SnapshotBackend",
    "Tokenizer",
    "ToolContext",
    "ToolParser",
    "ToolParserPlugin",
]
