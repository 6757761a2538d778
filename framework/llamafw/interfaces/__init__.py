"""The protocols that plugins implement, one noun per file.

Each docstring says when an object is created, who calls it, how often, and on which thread. The engine thread owns
sequences and slots; the event loop belongs to the HTTP server. `hookspecs` says how to register an implementation.
"""

from llamafw.interfaces.backend import (
    AdaptingBackend,
    Backend,
    BackendContext,
    BackendFactory,
    CandidateBackend,
    HiddenBackend,
    HoldingBackend,
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
from llamafw.interfaces.drafter import (
    Drafter,
    DrafterContext,
    DrafterFactory,
    DraftModel,
    DraftRequest,
    EvaluatedTokens,
    HiddenDrafter,
    WithHidden,
)
from llamafw.interfaces.grammar import Grammar, GrammarCompiler, GrammarContext, GrammarFactory
from llamafw.interfaces.model import Architecture, Quant, Quantizer
from llamafw.interfaces.operator import Operator
from llamafw.interfaces.register import Register
from llamafw.interfaces.sampler import Sampler, SamplerContext, SamplerPlugin
from llamafw.interfaces.tokenizer import Tokenizer

__all__ = [
    "AdaptingBackend",
    "Architecture",
    "Backend",
    "BackendContext",
    "BackendFactory",
    "CandidateBackend",
    "ChatContext",
    "ChatFormat",
    "ChatFormatFactory",
    "Drafter",
    "DrafterContext",
    "DrafterFactory",
    "DraftModel",
    "DraftRequest",
    "EvaluatedTokens",
    "Grammar",
    "GrammarCompiler",
    "GrammarContext",
    "GrammarFactory",
    "HiddenBackend",
    "HiddenDrafter",
    "HoldingBackend",
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
    "WithHidden",
]
