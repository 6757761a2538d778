"""All errors of llamafw, in one tree.

* LlamafwError
  x PluginError           a plugin cannot be loaded, or it failed in a hook
  x SpecError             the API document and the endpoints do not match, or two plugins define the same part of it
  x SettingsError         the command line, environment or configuration file is wrong (exit code 2)
  x StartupError          a command cannot start: its port is in use, or a package is not installed
  x ModelError            a model file cannot be read or run
  x DownloadError         a model cannot be fetched
  x RequestError          a request fails, and its client is told why (400)
    x ContextFullError    the prompt does not fit into the context of a slot (400)
    x Forbidden           the client may not do this (403)
    x NotSupported        the server does not support this with the settings it was started with (501)
    x Unavailable         the server cannot answer now: it is loading, or shutting down (503)
    x TooManyRequests     too many requests are waiting (429)
    x DeadlineExceeded    the request's time was over before it was answered (504)
    x GenerationError     a sampler, a grammar or the model failed (500)

A command that fails prints the error in one line and returns its exit code: 2 for a usage error, 1 for everything else.
The server turns errors into JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamafw.near_names import nearest

FAULTS = (Exception, SystemExit)
"""What to catch around the code of a plugin. `sys.exit` in a plugin must not end the server."""


class LlamafwError(Exception):
    """Base class of all errors of llamafw."""

    exit_code = 1
    """What a command that ends with this error returns."""


class PluginError(LlamafwError):
    """A plugin cannot be loaded, or it failed in a hook.

    The message names the plugin.
    """


class SpecError(LlamafwError):
    """The API document is invalid, or does not match the endpoints.

    The message names the parts and their owners.
    """


class SettingsError(LlamafwError):
    """The command line, the environment or the configuration file is wrong."""

    exit_code = 2  # as for usage errors of argparse


class StartupError(LlamafwError):
    """A command cannot start, though its settings are right: its port is in use, or a package is not installed."""


class ModelError(LlamafwError):
    """A model file cannot be read or run.

    The message names the file.
    """


class DownloadError(LlamafwError):
    """A model cannot be fetched.

    The message says what to do.
    """


class RequestError(LlamafwError):
    """A request fails, and its client is told why.

    The class attributes ``status`` and ``type`` are the HTTP status and the error type of the response.

    Parameters
    ----------
    message : str
        One sentence for the client.
    param : str, optional
        Path of the request field at fault: ``messages.0.content``.
    extra : dict, optional
        Further members of the error object in the response.
    """

    status = 400
    type = "invalid_request_error"
    logged = False  # whether the engine has logged the failure; if so, the server does not log it again

    def __init__(self, message: str, *, param: str | None = None, extra: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.extra = message, param, extra or {}


class ContextFullError(RequestError):
    """The prompt does not fit into the context of a slot.

    Parameters
    ----------
    n_prompt_tokens : int
        Length of the prompt in tokens.
    n_ctx : int
        Positions per slot.
    param : str, optional
        The request field that has the prompt.
    can_truncate : bool
        Whether the request could set ``truncate_prompt``; the message then says so.
    """

    type = "exceed_context_size_error"

    def __init__(
        self, n_prompt_tokens: int, n_ctx: int, *, param: str | None = "prompt", can_truncate: bool = False
    ) -> None:
        message = f"the prompt has {n_prompt_tokens} tokens, but the context of a slot has only {n_ctx}"
        if n_prompt_tokens == n_ctx:
            message = f"the prompt has {n_prompt_tokens} tokens and leaves no room for an answer in a slot's context"
        if can_truncate:
            message += "; truncate_prompt: true shortens it"
        super().__init__(message, param=param, extra={"n_prompt_tokens": n_prompt_tokens, "n_ctx": n_ctx})


class Forbidden(RequestError):
    """The client is known, but may not do this."""

    status = 403
    type = "permission_error"


class NotSupported(RequestError):
    """The server does not support the request with the settings it was started with."""

    status = 501
    type = "not_supported_error"


class Unavailable(RequestError):
    """The server cannot answer now.

    The same request may succeed later.
    """

    status = 503
    type = "unavailable_error"


class TooManyRequests(RequestError):
    """Too many requests are waiting.

    The client may try again after ``retry_after`` seconds.

    Parameters
    ----------
    message : str
        One sentence for the client.
    retry_after : int
        Seconds; the value of the header Retry-After.
    """

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(RequestError):
    """The time that the request or the server allows was over before the request was answered."""

    status = 504
    type = "timeout_error"


class GenerationError(RequestError):
    """A sampler, a grammar or the model failed.

    The client is told what failed; the log has the cause.

    Parameters
    ----------
    message : str
        One sentence for the client.
    param : str, optional
        Path of the request field at fault.
    source : tuple of str, optional
        Kind and name of the registered object that failed: ``("sampler", "top_k")``.
    """

    status = 500
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, source: tuple[str, str] | None = None) -> None:
        super().__init__(message, param=param)
        self.source = source
        self.plugin: str | None = None  # the responsible plugin, as distribution:entry, once it is known


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for an unknown name; "" if no name in ``known`` is near."""
    near = nearest(name, known)
    return f"; did you mean {near[0]!r}?" if near else ""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the result of `did_you_mean`; if no name is near, list all names: ``"; available: a, b"``."""
    known = tuple(known)
    return did_you_mean(name, known) or f"; available: {', '.join(known) or 'none'}"
