"""Build the ASGI application from the API document, the plugins and the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from connexion.middleware.lifespan import LifespanMiddleware
from connexion.middleware.main import ConnexionMiddleware
from connexion.resolver import Resolver
from starlette.types import ASGIApp

from llamafw import spec
from llamafw.errors import PluginError, SpecError
from llamafw.hookspecs import NAME
from llamafw.plugins import Plugins, is_builtin, public_name
from llamafw.registry import Registry
from llamafw.server.access_log import AccessLogMiddleware
from llamafw.server.allowed_methods import AllowedMethods
from llamafw.server.authentication import AuthenticationMiddleware, key_registry
from llamafw.server.common_headers import CommonHeadersMiddleware
from llamafw.server.compression import CompressionMiddleware
from llamafw.server.cors import with_cors
from llamafw.server.dispatch import Dispatcher
from llamafw.server.error_formats import ErrorFormats
from llamafw.server.errors import ErrorMiddleware, explainer
from llamafw.server.lifespan import LoadingMiddleware, ModelLoader
from llamafw.server.prefix import PrefixMiddleware
from llamafw.server.response_contract import ResponseContractMiddleware
from llamafw.server.routing import StrictRoutingMiddleware, routing_document
from llamafw.server.running_app import RunningApp
from llamafw.server.schema import Schemas
from llamafw.server.validation import ValidationMiddleware
from llamafw.server.write_timeout import WriteTimeoutMiddleware
from llamafw.serving import LoadedModel
from llamafw.settings import Settings

logging.getLogger("connexion").setLevel(logging.ERROR)  # it logs clients' errors as warnings; ErrorMiddleware answers


def build_app(
    settings: Settings,
    plugins: Plugins,
    load: Callable[[], LoadedModel],
    *,
    ready: Callable[[], None] = lambda: None,
    failed: Callable[[], None] = lambda: None,
    document: spec.Document | None = None,
) -> tuple[ASGIApp, RunningApp, ModelLoader]:
    """Return the ASGI application, the `RunningApp` that endpoints see, and the loader of its model.

    Parameters
    ----------
    settings : Settings
        All settings.
    plugins : Plugins
        All plugins.
    load : callable
        Returns the model; called on a thread when the lifespan starts.
    ready : callable
        Called on the event loop when the model is loaded.
    failed : callable
        Called on the event loop when ``load`` has raised an exception.
    document : dict, optional
        The API document before plugins extend it. By default, the installed ``openapi.yaml``.

    Raises
    ------
    SpecError
        The document and the endpoints disagree.
    """
    merged = spec.merged_document(plugins, settings, document)
    app = RunningApp(settings, plugins, merged)
    authenticators, endpoints = key_registry(settings), Registry("endpoint")
    plugins.fill(authenticators, app=app)
    if plugins.fill(endpoints, app=app):  # a plugin was disabled: its operations must not stay in the document
        merged = spec.merged_document(plugins, settings, document)
        app.describe(merged)
    if any(authenticators.owner(name) != NAME for name in authenticators):
        spec.add_refusals(merged)
        app.describe(merged)
    spec.check_endpoints(merged, endpoints)
    plugins.log_disabled()

    loader = ModelLoader(app, load, ready=ready, failed=failed)
    explain = explainer(plugins)
    with_errors = partial(
        ErrorMiddleware, explain=explain, allowed_methods=AllowedMethods(merged), format_error=ErrorFormats(plugins)
    )
    middlewares = _middlewares(app, authenticators, endpoints, with_errors)
    routed = _route(
        merged, Dispatcher(endpoints, explain, settings.sse_ping_interval), middlewares, loader, endpoints, plugins
    )

    timed = WriteTimeoutMiddleware(routed, settings.timeout)
    wrapped = with_errors(wrap_with_plugins(timed, plugins, app))  # a second time: plugins' wrappers may raise, too
    methods = {method.upper() for _, method, _ in spec.operations(merged)}
    if settings.api_prefix:
        wrapped = with_errors(PrefixMiddleware(wrapped, settings.api_prefix))
    public = with_cors(wrapped, settings.cors_origins, methods)
    return CommonHeadersMiddleware(AccessLogMiddleware(CompressionMiddleware(public))), app, loader


def _middlewares(
    app: RunningApp, authenticators: Registry, endpoints: Registry, with_errors: Callable[[ASGIApp], ASGIApp]
) -> list[Callable[..., ASGIApp]]:
    """Return the middlewares between the write timeout and the dispatcher, outermost first."""
    settings, document = app.settings, app.document
    schemas = Schemas(document)

    middlewares: list[Callable[..., ASGIApp]] = [
        with_errors,
        StrictRoutingMiddleware,
        partial(LoadingMiddleware, app=app),
        partial(AuthenticationMiddleware, document=document, authenticators=authenticators),
        partial(
            ValidationMiddleware,
            document=document,
            schemas=schemas,
            limit=settings.max_body_mb << 20,
            timeout=settings.timeout,
            strict=settings.strict_fields,
        ),
        LifespanMiddleware,
    ]

    if settings.validate_responses:
        blame = partial(blame_owner, endpoints, app.plugins)
        check = partial(
            ResponseContractMiddleware,
            document=document,
            schemas=schemas,
            blame=blame,
            format_error=ErrorFormats(app.plugins),
        )
        middlewares.insert(0, check)
    return middlewares


def _route(
    document: spec.Document,
    dispatcher: Dispatcher,
    middlewares: list[Callable[..., ASGIApp]],
    loader: ModelLoader,
    endpoints: Registry,
    plugins: Plugins,
) -> ConnexionMiddleware:
    """Return connexion's application, which routes requests to operations.

    Raises
    ------
    SpecError
        The document is not valid OpenAPI.
    """
    if fault := spec.find_fault(document):
        author = spec.defined_by(fault.path, plugins)
        raise SpecError(f"the API document is not valid at {fault.place}, which {author} defines: {fault.message:.300}")

    connexion = ConnexionMiddleware(
        dispatcher,
        import_name="llamafw",
        lifespan=loader.lifespan,
        middlewares=middlewares,
        resolver=Resolver(endpoints.__getitem__),
    )
    connexion.add_api(routing_document(document))
    return connexion


def blame_owner(endpoints: Registry, plugins: Plugins, operation_id: str) -> str | None:
    """Count a failure of the plugin that owns an endpoint; return its name for clients, or None if it is built in."""
    owner = endpoints.owner(operation_id)
    plugins.failures.count(owner, "request")
    return None if is_builtin(owner) else public_name(owner)


def wrap_with_plugins(asgi: ASGIApp, plugins: Plugins, app: RunningApp) -> ASGIApp:
    """Return ``asgi`` inside the applications that plugins' ``wrap_asgi`` return; the first plugin's is innermost."""
    for name, wrap in plugins.implementations("wrap_asgi"):
        outer = wrap(asgi=asgi, app=app)
        if outer is not None and not callable(outer):
            raise PluginError(f"plugin {name}: wrap_asgi returned {outer!r}, which is not an ASGI application")
        asgi = outer or asgi
    return asgi
