"""The hooks that a plugin can implement: the plugin author's manual.

A plugin is a module, an object, or a class without constructor arguments; of a class, the server creates one object. An
entry point in the group ``llamafw`` of an installed distribution can name any of these; ``llamafw serve --plugin``
loads a module or a ``.py`` file. The hooks of a module are its functions or, if none of them is a hook, the methods of
its one class that has hooks. A plugin marks its hooks with `llamafw.hookimpl`. A hook is a plain function, not
``async def``, and may take any subset of the parameters below, by name. There are two kinds of hooks:

- *All*: every plugin is called, in the order of loading: built-in ones, installed ones by name, those of ``--plugin``.
- *First*: plugins are asked in reverse order, built-in ones last, until one returns something other than None. None
  always means "not mine, ask the next one". Such a hook can be wrapped with ``@hookimpl(wrapper=True)``: the function
  yields once, receives the result of the other plugins from the ``yield``, and returns the final result.

Each docstring says which kind a hook is, how often it is called, and on which thread: the *main thread* at start-up,
before the server listens; the *loading thread* while a model loads and the server answers 503; or the *event loop*,
where all requests wait until the hook returns. No hook is called per token. docs/plugins/index.md says what happens
when a hook fails.
"""

from llamafw.hookspecs.markers import API_VERSION, NAME, hookimpl, hookspec
from llamafw.hookspecs.registration import (
    add_options,
    configure,
    register_architectures,
    register_backends,
    register_chat_formats,
    register_commands,
    register_conversions,
    register_drafters,
    register_error_formats,
    register_fields,
    register_grammars,
    register_operators,
    register_quants,
    register_samplers,
    register_tokenizers,
    register_tool_parsers,
)
from llamafw.hookspecs.running import (
    choose_backend,
    choose_chat_format,
    create_engine,
    explain_error,
    extend_openapi,
    model_loaded,
    model_unloaded,
    open_model,
    prepare_request,
    read_tokenizer,
    register_authenticators,
    register_endpoints,
    request_finished,
    rewrite_graph,
    server_started,
    server_stopping,
    wrap_asgi,
)

__all__ = [
    "API_VERSION",
    "NAME",
    "add_options",
    "choose_backend",
    "choose_chat_format",
    "configure",
    "create_engine",
    "explain_error",
    "extend_openapi",
    "hookimpl",
    "hookspec",
    "model_loaded",
    "model_unloaded",
    "open_model",
    "prepare_request",
    "read_tokenizer",
    "register_architectures",
    "register_authenticators",
    "register_backends",
    "register_chat_formats",
    "register_commands",
    "register_conversions",
    "register_drafters",
    "register_endpoints",
    "register_error_formats",
    "register_fields",
    "register_grammars",
    "register_operators",
    "register_quants",
    "register_samplers",
    "register_tokenizers",
    "register_tool_parsers",
    "request_finished",
    "rewrite_graph",
    "server_started",
    "server_stopping",
    "wrap_asgi",
]
