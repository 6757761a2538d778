"""Build the ASGI application from the API document, the plugins and the settings. Everything is put together once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from connexion.exceptions import InvalidSpecification
from connexion.middleware.lifespan import LifespanMiddleware
from connexion.middleware.main import ConnexionMiddleware
from connexion.middleware.swagger_ui import SwaggerUIMiddleware
from connexion.options import SwaggerUIOptions
from connexion.resolver import Resolver
from starlette.types import ASGIApp

from llamafw import spec
from llamafw.errors import PluginError, SpecError
from llamafw.hookspecs import NAME
from llamafw.plugins import Plugins, is_ours, shown
from llamafw.registry import Registry
from llamafw.server.access import AccessLog
from llamafw.server.allow import Allow
from llamafw.server.auth import Door, authenticators
from llamafw.server.dispatch import Dispatcher
from llamafw.server.edge import Edge, cors
from llamafw.server.errors import ErrorMiddleware, explainer
from llamafw.server.lifespan import Loading, LoadingGate
from llamafw.server.response_contract import ResponseChecks
from llamafw.server.routing import Routing, for_routing
from llamafw.server.running_app import RunningApp
from llamafw.server.schema import Schemas
from llamafw.server.timeouts import WriteTimeout
from llamafw.server.validation import ValidationMiddleware
from llamafw.serving import LoadedModel
from llamafw.settings import Settings

logging.getLogger("connexion").setLevel(logging.ERROR)  # it logs every client error as a warning; `errors` answers them


def build_app(
    settings: Settings,
    plugins: Plugins,
    load: Callable[[], LoadedModel],
    *,
    failed: Callable[[], None] = lambda: None,
    document: spec.Document | None = None,
) -> tuple[ASGIApp, RunningApp, Loading]:
    """Return the application, what endpoints see of it, and what loads its model.

    Parameters
    ----------
    load : callable
        Returns the model; called on a thread when the lifespan starts.
    failed : callable
        Called on the event loop if it raised.
    document : dict, optional
        The API document before plugins extend it, instead of the installed one.

    Raises
    ------
    SpecError
        The document and the endpoints disagree.
    """
    merged = spec.merged_document(plugins, settings, document)
    app = RunningApp(settings, plugins, merged)
    endpoints, guards = Registry("endpoint"), authenticators(settings)
    plugins.fill(guards, app=app)
    if plugins.fill(endpoints, app=app):  # the operations of plugins that had to be left out go, too
        merged = spec.merged_document(plugins, settings, document)
        app.describe(merged)
    if any(guards.owner(name) != NAME for name in guards):
        spec.add_refusals(merged)
        app.describe(merged)
    spec.check(merged, endpoints)
    plugins.report()
    schemas = Schemas(merged)
    explain = explainer(plugins)
    loading = Loading(app, load, failed)
    errors = partial(ErrorMiddleware, explain=explain, allow=Allow(merged))
    middlewares = [
        errors,
        SwaggerUIMiddleware,
        Routing,
        partial(LoadingGate, app=app),
        partial(Door, document=merged, authenticators=guards),
        partial(
            ValidationMiddleware,
            document=merged,
            schemas=schemas,
            limit=settings.max_body_mb << 20,
            timeout=settings.timeout,
            strict=settings.strict_fields,
        ),
        LifespanMiddleware,
    ]
    if settings.validate_responses:
        blame = partial(blame_owner, endpoints, plugins)
        middlewares.insert(0, partial(ResponseChecks, document=merged, schemas=schemas, blame=blame))
    connexion = ConnexionMiddleware(
        Dispatcher(endpoints, explain),
        import_name="llamafw",
        lifespan=loading.lifespan,
        middlewares=middlewares,
        resolver=Resolver(endpoints.__getitem__),
        swagger_ui_options=SwaggerUIOptions(serve_spec=False, spec_path="/openapi.json", swagger_ui_path="/docs"),
    )
    try:
        connexion.add_api(for_routing(merged))
    except InvalidSpecification as error:
        while error.context:  # "none of these fits": say why the one that came furthest does not
            error = max(error.context, key=lambda cause: len(cause.absolute_path))
        place, who = ".".join(map(str, error.absolute_path)), spec.author(error.absolute_path, plugins)
        raise SpecError(f"the API document is not valid at {place}, of {who}: {error.message:.300}") from None
    patient = WriteTimeout(connexion, settings.timeout)
    asgi = errors(wrapped(patient, plugins, app))  # once more, for what the plugins' wrappers raise
    methods = {method.upper() for _, method, _ in spec.operations(merged)}
    return Edge(AccessLog(cors(asgi, settings.cors_origins, methods))), app, loading


def blame_owner(endpoints: Registry, plugins: Plugins, operation: str) -> str | None:
    """Count a failure of the plugin whose endpoint an operation has; return its name for clients unless it is ours."""
    owner = endpoints.owner(operation)
    plugins.blame.count(owner, "request")
    return None if is_ours(owner) else shown(owner)


def wrapped(asgi: ASGIApp, plugins: Plugins, app: RunningApp) -> ASGIApp:
    """Return ``asgi`` inside what plugins' ``wrap_asgi`` put around it: the first plugin's innermost."""
    for name, wrap in plugins.calls("wrap_asgi"):
        outer = wrap(asgi=asgi, app=app)
        if outer is not None and not callable(outer):
            raise PluginError(f"plugin {name}: wrap_asgi returned {outer!r}, which is no application")
        asgi = outer or asgi
    return asgi
