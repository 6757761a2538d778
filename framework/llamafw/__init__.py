"""llamafw: an LLM inference server built from plugins.

Everything a plugin may use is importable from here; nothing else is public.
"""
from llamafw.errors import (
    ContextFullError,
    DeadlineExceeded,
    DownloadError,
    GenerationError,
    LlamafwError,
    ModelError,
    NotSupported,
    PluginError,
    RequestError,
    SettingsError,
    SpecError,
    TooManyRequests,
    Unavailable,
)
from llamafw.hookspecs import hookimpl
from llamafw.interfaces import (
    App,
    Architecture,
    Backend,
    BackendContext,
    BackendFactory,
    Call,
    ChatContext,
    ChatFormat,
    ChatFormatFactory,
    Endpoint,
    Engine,
    Grammar,
    GrammarCompiler,
    GrammarContext,
    GrammarFactory,
    LoadedModel,
    Quant,
    Register,
    Sampler,
    SamplerContext,
    SamplerPlugin,
    Tokenizer,
    ToolParser,
    ToolParserPlugin,
)
from llamafw.ranking import largest
from llamafw.server.access import request_id
from llamafw.server.responses import JSONResponse
from llamafw.server.sse import event_stream
from llamafw.settings import Settings
from llamafw.types import (
    BackendOptions,
    Batch,
    Bytes,
    Candidates,
    Decoder,
    Delta,
    Embedding,
    EmbedRequest,
    EngineStats,
    Finish,
    Floats,
    GeneratedToken,
    GenerateRequest,
    GpuOptions,
    GrammarSource,
    Ints,
    JsonSchema,
    Model,
    Pooling,
    Problem,
    PromptProgress,
    SlotStatus,
    StopType,
    SystemPrompt,
    Tensor,
    ThreadOptions,
    Timings,
    TokenLogprob,
    ToolCall,
)

__version__ = "0.1.0"

__all__ = [
    "__version__", "App", "Architecture", "Backend", "BackendContext", "BackendFactory", "BackendOptions", "Batch",
    "Bytes", "Call", "Candidates", "ChatContext", "ChatFormat", "ChatFormatFactory", "ContextFullError",
    "DeadlineExceeded", "Decoder", "Delta", "DownloadError", "Embedding", "EmbedRequest", "Endpoint", "Engine",
    "EngineStats", "event_stream", "Finish", "Floats", "GeneratedToken", "GenerateRequest", "GenerationError",
    "GpuOptions", "Grammar", "GrammarCompiler", "GrammarContext", "GrammarFactory", "GrammarSource", "hookimpl",
    "Ints", "JSONResponse", "JsonSchema", "largest", "LlamafwError", "LoadedModel", "Model", "ModelError",
    "NotSupported", "PluginError", "Pooling", "Problem", "PromptProgress", "Quant", "Register", "request_id",
    "RequestError", "Sampler", "SamplerContext", "SamplerPlugin", "Settings", "SettingsError", "SlotStatus",
    "SpecError", "StopType", "SystemPrompt", "Tensor", "ThreadOptions", "Timings", "Tokenizer", "TokenLogprob",
    "ToolCall", "ToolParser", "ToolParserPlugin", "TooManyRequests", "Unavailable",
]
