"""Values that modules pass to each other: frozen dataclasses without behaviour, one noun per file.

`Candidates` is the only mutable one: samplers change it in place. The package is independent of plugins, files, HTTP
and threads.
"""

from llamafw.types.arrays import Bytes, Floats, Ints, JsonSchema
from llamafw.types.backend_options import BackendOptions, GpuOptions, ThreadOptions
from llamafw.types.batch import Batch
from llamafw.types.candidates import Candidates
from llamafw.types.chat import ChatCapabilities, Reasoning, ReasoningTags
from llamafw.types.client import Problem, User
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
from llamafw.types.status import CachePages, EngineStats, PluginInfo, SlotStatus

__all__ = [
    "AnswerDelta",
    "BackendOptions",
    "Batch",
    "Bytes",
    "CallDelta",
    "CachePages",
    "Candidates",
    "ChatCapabilities",
    "Delta",
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
    "Pooling",
    "Problem",
    "PromptProgress",
    "Reasoning",
    "ReasoningTags",
    "SlotStatus",
    "StopType",
    "SystemPrompt",
    "Tensor",
    "ThreadOptions",
    "Timings",
    "TokenLogprob",
    "ToolCall",
    "User",
]
