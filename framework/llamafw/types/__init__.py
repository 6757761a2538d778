"""Values that modules pass to each other: frozen dataclasses without behaviour, one noun per file.

`Candidates` is the only mutable one: samplers change it in place. The package is independent of plugins, files, HTTP
and threads.
"""

from llamafw.types.adapters import AdapterKind, AdapterStatus, Strengths
from llamafw.types.arrays import Bytes, Floats, Ints, JsonSchema
from llamafw.types.backend_options import BackendOptions, GpuOptions, ThreadOptions
from llamafw.types.batch import Batch
from llamafw.types.candidates import Candidates
from llamafw.types.chat import ChatCapabilities, Reasoning, ReasoningTags
from llamafw.types.client import PRIORITIES, Problem, Sender, User, current_sender
from llamafw.types.embedding import Embedding, EmbedRequest, Pooling
from llamafw.types.generation import (
    AnswerDelta,
    CallDelta,
    Delta,
    Finish,
    GeneratedToken,
    GenerateRequest,
    GrammarSource,
    PromptProgress,
    StopType,
    SystemPrompt,
    Timings,
    TokenLogprob,
    ToolCall,
)
from llamafw.types.model import Model, Tensor
from llamafw.types.status import CachePages, DiskCacheStats, EngineStats, PluginInfo, PriorityStats, SlotStatus

__all__ = [
    "PRIORITIES",
    "AdapterKind",
    "AdapterStatus",
    "AnswerDelta",
    "BackendOptions",
    "Batch",
    "Bytes",
    "CallDelta",
    "CachePages",
    "Candidates",
    "ChatCapabilities",
    "Delta",
    "DiskCacheStats",
    "EmbedRequest",
    "Embedding",
    "EngineStats",
    "Finish",
    "Floats",
    "GenerateRequest",
    "GeneratedToken",
    "GpuOptions",
    "GrammarSource",
    "Ints",
    "JsonSchema",
    "Model",
    "PluginInfo",
    "PriorityStats",
    "Pooling",
    "Problem",
    "PromptProgress",
    "Reasoning",
    "ReasoningTags",
    "Sender",
    "SlotStatus",
    "StopType",
    "Strengths",
    "SystemPrompt",
    "Tensor",
    "ThreadOptions",
    "Timings",
    "TokenLogprob",
    "ToolCall",
    "User",
    "current_sender",
]
