"""Every error llamafw raises, in one tree.

* LlamafwError
  x PluginError        a plugin cannot be loaded, or failed in a hook
  x SpecError          the API document and the endpoints disagree
  x SettingsError      the command line, environment or configuration file is wrong (exit code 2)
  x StartupError       a command cannot start: its port is in use, or a package is not installed
  x ModelError         a model file cannot be read or run; the message names the place
  x DownloadError      a model cannot be fetched; the message says what to do
  x RequestError       the client is told why its request failed, with an HTTP status
    x ContextFullError the prompt does not fit the context of a slot (400)
    x Forbidden        the sender is known, and may not do that (403)
    x NotSupported     this server, as it was started, does not do that (501)
    x Unavailable      not now: still loading, or shutting down (503)
    x TooManyRequests  too many are waiting (429)
    x DeadlineExceeded  the time allowed was over before there was an answer (504)
    x GenerationError  a sampler or the model failed while answering; the log says how (500)

`did_you_mean` and `suggest` end the message about an unknown name. A command that fails prints the error in one line
and returns its exit code: 2 for a usage error, 1 for everything else. The server turns errors into JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llamafw.near_names import nearest

FAULTS = (Exception, SystemExit)
"""What the code of a plugin raises by mistake. What ends a script, `sys.exit`, is not to end a server."""


class LlamafwError(Exception):
    """Base class of all errors of llamafw."""

    exit_code = 1
    """What a command that ends with this error returns."""


class PluginError(LlamafwError):
    """A plugin cannot be loaded, or failed in a hook. The message names its distribution."""


class SpecError(LlamafwError):
    """The API document and the registered endpoints disagree."""


class SettingsError(LlamafwError):
    """The command line, the environment or the configuration file is wrong."""

    exit_code = 2  # as for usage errors of argparse


class StartupError(LlamafwError):
    """A command cannot start, though its settings are right: its port is in use, or a package is not installed."""


class ModelError(LlamafwError):
    """A model file cannot be read or run."""


class DownloadError(LlamafwError):
    """A model cannot be fetched."""


class RequestError(LlamafwError):
    """A request failed in a way that its client is told.

    Parameters
    ----------
    message : str
        One sentence for the client.
    param : str, optional
        The request field at fault, as a dotted path (``messages.0.content``).
    extra : dict, optional
        Further members of the error object.
    """

    status = 400
    type = "invalid_request_error"
    logged = False  # whether the engine has logged the failure, so that the server need not

    def __init__(self, message: str, *, param: str | None = None, extra: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message, self.param, self.extra = message, param, extra or {}


class ContextFullError(RequestError):
    """The prompt has more tokens than a slot has room for.

    Parameters
    ----------
    n_prompt_tokens : int
        Tokens of the prompt.
    n_ctx : int
        Positions of a slot.
    param : str, optional
        The request field that the prompt came from.
    """

    type = "exceed_context_size_error"

    def __init__(self, n_prompt_tokens: int, n_ctx: int, *, param: str | None = "prompt") -> None:
        super().__init__(
            f"the prompt has {n_prompt_tokens} tokens, and the context of a slot is {n_ctx}",
            param=param,
            extra={"n_prompt_tokens": n_prompt_tokens, "n_ctx": n_ctx},
        )


class Forbidden(RequestError):
    """The sender is known, and may not do that."""

    status = 403
    type = "permission_error"


class NotSupported(RequestError):
    """This server, as it was started, cannot do what was asked."""

    status = 501
    type = "not_supported_error"


class Unavailable(RequestError):
    """The server cannot answer now; the same request may succeed later."""

    status = 503
    type = "unavailable_error"


class TooManyRequests(RequestError):
    """Too many requests are waiting; this one may come again after ``retry_after`` seconds.

    Parameters
    ----------
    message : str
        One sentence for the client.
    retry_after : int
        Seconds, for the header Retry-After.
    """

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(RequestError):
    """The time that the request, or the server, allows was over before there was an answer."""

    status = 504
    type = "timeout_error"


class GenerationError(RequestError):
    """A sampler or the model failed while a request was answered. The client learns what failed, the log how.

    Parameters
    ----------
    message : str
        One sentence for the client.
    param : str, optional
        The request field at fault, as a dotted path.
    source : tuple of str, optional
        What failed, as it is registered: its kind and its name, ``("sampler", "top_k")``.
    """

    status = 500
    type = "server_error"

    def __init__(self, message: str, *, param: str | None = None, source: tuple[str, str] | None = None) -> None:
        super().__init__(message, param=param)
        self.source = source
        self.plugin: str | None = None  # whose fault it is, as `distribution:entry`, once that is known


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for an unknown name; "" if no name in ``known`` is near."""
    near = nearest(name, known)
    return f"; did you mean {near[0]!r}?" if near else ""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `did_you_mean`, or if no name is near, all names: ``"; there are a, b"``."""
    known = tuple(known)
    return did_you_mean(name, known) or f"; there are {', '.join(known) or 'none'}"
