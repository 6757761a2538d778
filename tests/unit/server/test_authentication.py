"""Authentication by API keys and by the authenticators of plugins."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import httpx
import pytest

from llamafw import (
    App,
    Credentials,
    Forbidden,
    PluginError,
    Register,
    RequestError,
    Settings,
    SettingsError,
    TooManyRequests,
    User,
    hookimpl,
)
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from llamafw.server.authentication import ApiKeys
from support import api
from support.api_client import OpenClient, client_opener


class UserAuthenticator:
    """Knows the keys ``user-…``; some of them make it fail."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    async def authenticate(self, credentials: Credentials) -> User | None:
        self.calls.append(credentials.keys)
        key = credentials.keys[0] if credentials.keys else credentials.http.headers.get("x-other", "")
        match key:
            case "user-forbidden":
                raise Forbidden("this user may not call")
            case "user-often":
                raise TooManyRequests("too many requests", 7)
            case "user-broken":
                raise ZeroDivisionError("secret")
        return User(key, {"group": "a"}) if key.startswith("user-") else None


class AuthenticatorPlugin:
    """A plugin that registers an authenticator."""

    def __init__(self) -> None:
        self.authenticator = UserAuthenticator()

    @hookimpl
    def register_authenticators(self, register: Register, app: App) -> None:
        register("users", self.authenticator)


class UserRecorder:
    """A plugin that records the user of each request."""

    users: list[Any]

    @hookimpl
    def wrap_asgi(self, asgi: Any) -> Any:
        self.users = []

        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("state", {})
            await asgi(scope, receive, send)
            self.users.append(scope["state"].get("user"))

        return wrapped


@pytest.fixture
def plugin() -> AuthenticatorPlugin:
    return AuthenticatorPlugin()


@pytest.fixture
def recorder() -> UserRecorder:
    return UserRecorder()


@pytest.fixture
def guarded(plugin: AuthenticatorPlugin, recorder: UserRecorder, monkeypatch: pytest.MonkeyPatch) -> OpenClient:
    return client_opener(plugins_with(monkeypatch, plugin.register_authenticators, recorder.wrap_asgi))


def plugins_with(monkeypatch: pytest.MonkeyPatch, *hooks: Any) -> Plugins:
    """Return the built-in plugins, the plugin of the small API, and a plugin with these hooks."""
    module = ModuleType("test_plugin")
    module.__dict__.update({hook.__name__: hook for hook in hooks})
    monkeypatch.setitem(sys.modules, "test_plugin", module)
    return Plugins(extra=["support.api", "test_plugin"], block=api.BUILT_IN_APIS)


async def echo(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/echo", json={}, headers=names)


async def test_only_users_that_a_plugin_knows_may_call(
    guarded: OpenClient, plugin: AuthenticatorPlugin, recorder: UserRecorder
) -> None:
    async with guarded() as client:
        assert (await echo(client, authorization="Bearer user-a")).status_code == 200
        assert (await echo(client, x_api_key="user-b")).status_code == 200
        assert (await echo(client, x_other="user-c")).status_code == 200  # authenticators see all headers

        refused = await echo(client, authorization="Bearer unknown")
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert (await echo(client)).status_code == 401

        n_calls = len(plugin.authenticator.calls)
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/nowhere")).status_code == 404
        assert len(plugin.authenticator.calls) == n_calls  # neither needs a user

    names = ["user-a", "user-b", "user-c"]
    assert recorder.users == [*(User(name, {"group": "a"}) for name in names), None, None, None, None]
    assert plugin.authenticator.calls[:3] == [("user-a",), ("user-b",), ()]


async def test_api_keys_are_tried_before_plugins(
    guarded: OpenClient, plugin: AuthenticatorPlugin, recorder: UserRecorder
) -> None:
    async with guarded(api_key=("one",)) as client:
        assert (await echo(client, authorization="Bearer one")).status_code == 200
        assert plugin.authenticator.calls == []
        assert (await echo(client, authorization="Bearer user-a")).status_code == 200
        assert (await echo(client, authorization="Bearer two")).status_code == 401
    key, user, unknown = recorder.users
    assert key.name.startswith("key-")
    assert "one" not in key.name
    assert (user.name, unknown) == ("user-a", None)


@pytest.mark.parametrize(
    ("key", "status", "type"),
    [("forbidden", 403, "permission_error"), ("often", 429, "rate_limit_error"), ("broken", 500, "server_error")],
)
async def test_errors_of_authenticators_refuse_the_request(
    guarded: OpenClient, key: str, status: int, type: str
) -> None:
    async with guarded(api_key=("one",)) as client:
        response = await echo(client, authorization=f"Bearer user-{key}")
        assert (response.status_code, response.json()["error"]["type"]) == (status, type)
        assert "secret" not in response.text
        assert (await echo(client, authorization="Bearer one")).status_code == 200


async def test_refusals_by_plugins_are_documented(guarded: OpenClient) -> None:
    async with guarded(validate_responses=True) as client:
        assert (await echo(client, authorization="Bearer user-forbidden")).status_code == 403
        assert (await echo(client, authorization="Bearer user-often")).status_code == 429
        document = (await client.get("/openapi.json")).json()
    assert {"401", "403", "429"} <= set(document["paths"]["/echo"]["post"]["responses"])
    assert "403" not in document["paths"]["/health"]["get"]["responses"]


async def test_api_keys_add_no_documented_responses(opened: OpenClient) -> None:
    async with opened(api_key=("one",)) as client:
        document = (await client.get("/openapi.json")).json()
    assert "403" not in document["paths"]["/echo"]["post"]["responses"]


async def test_endpoints_see_the_user(guarded: OpenClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def user_name(self: Any, call: Any) -> Any:
        return {"body": {"user": call.user and call.user.name}, "path": {}, "query": {}}

    monkeypatch.setattr(api.Api, "echo", user_name)
    async with guarded() as client:
        assert (await echo(client, authorization="Bearer user-a")).json()["body"] == {"user": "user-a"}


def test_startup_fails_if_an_authenticator_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def register_authenticators(register: Register) -> None:
        register("users", object())

    with pytest.raises(PluginError, match="registers the authenticator 'users', which lacks authenticate"):
        build_app(Settings(), plugins_with(monkeypatch, register_authenticators), api.load, document=api.DOCUMENT)


async def test_all_keys_of_a_request_are_tried() -> None:
    keys = ApiKeys({"one": 0, "two": 0})
    no_request: Any = None
    first = await keys.authenticate(Credentials(("wrong", "two"), no_request))
    assert first == await keys.authenticate(Credentials(("two",), no_request))
    assert first != await keys.authenticate(Credentials(("one",), no_request))
    assert await keys.authenticate(Credentials(("wrong", "tw"), no_request)) is None
    assert await keys.authenticate(Credentials((), no_request)) is None
    assert issubclass(Forbidden, RequestError)


@pytest.mark.inventory("H-05", "H-06", "R-02", "C-108", "T-17")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer one"}, 200),
        ({"authorization": "bEARER two"}, 200),
        ({"authorization": "Bearer   two  "}, 200),
        ({"authorization": "Bearer three"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Basic one"}, 401),
        ({"authorization": "one"}, 401),
        ({"x-api-key": "one"}, 200),
        ({"X-API-KEY": "two"}, 200),
        ({"x-api-key": "on"}, 401),
        ({"x-api-key": ""}, 401),
        ({"x-api-key": "wrong", "authorization": "Bearer one"}, 200),
        ({"authorization": "Bearer schlüssel".encode()}, 200),
        ({"authorization": b"Bearer schl\xfcssel"}, 401),
    ],
)
async def test_api_keys_are_read_from_headers(opened: OpenClient, headers: Any, status: int) -> None:
    async with opened(api_key=("one", "two", "schlüssel")) as client:
        response = await client.post("/echo", json={}, headers=headers)
    assert response.status_code == status
    if status == 401:
        error = response.json()["error"]
        assert (error["code"], error["type"], error["message"]) == (401, "authentication_error", "Invalid API Key")
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.inventory("H-07")
async def test_public_operations_need_no_key(opened: OpenClient) -> None:
    async with opened(api_key=("one",)) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/openapi.json", headers={"authorization": "Bearer wrong"})).status_code == 200
        assert (await client.get("/docs/")).status_code == 200


async def test_keys_are_checked_before_the_body_is_read(opened: OpenClient) -> None:
    async with opened(api_key=("one",)) as client:
        assert (await client.post("/echo", content=b"{")).status_code == 401


def test_empty_keys_are_refused(plugins: Plugins) -> None:
    with pytest.raises(SettingsError, match="--api-key"):
        build_app(Settings(api_key=("one", "")), plugins, api.load, document=api.DOCUMENT)
