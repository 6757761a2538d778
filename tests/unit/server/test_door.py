"""Who may call: API keys and authenticators of plugins, through one door."""

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
    TooManyRequests,
    User,
    hookimpl,
)
from llamafw.plugins import Plugins
from llamafw.server.app import build_app
from llamafw.server.auth import ApiKeys
from support import api
from support.opened import Open, opener


class Users:
    """Knows ``user-…``, asked for what it shall do by the rest of the key."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    async def authenticate(self, credentials: Credentials) -> User | None:
        self.asked.append(credentials.keys)
        key = credentials.keys[0] if credentials.keys else credentials.http.headers.get("x-other", "")
        match key:
            case "user-forbidden":
                raise Forbidden("not on Sundays")
            case "user-often":
                raise TooManyRequests("again, later", 7)
            case "user-broken":
                raise ZeroDivisionError("secret")
        return User(key, {"group": "a"}) if key.startswith("user-") else None


class Guard:
    """A plugin that registers one, and shows whom the server let in."""

    def __init__(self) -> None:
        self.users = Users()

    @hookimpl
    def register_authenticators(self, register: Register, app: App) -> None:
        register("users", self.users)


class Sees:
    """Around the server: what is in the scope when the request has been answered."""

    seen: list[Any]

    @hookimpl
    def wrap_asgi(self, asgi: Any) -> Any:
        self.seen = []

        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("state", {})
            await asgi(scope, receive, send)
            self.seen.append(scope["state"].get("user"))

        return wrapped


@pytest.fixture
def guard() -> Guard:
    return Guard()


@pytest.fixture
def sees() -> Sees:
    return Sees()


@pytest.fixture
def guarded(guard: Guard, sees: Sees, monkeypatch: pytest.MonkeyPatch) -> Open:
    return opener(plugins(monkeypatch, guard.register_authenticators, sees.wrap_asgi))


def plugins(monkeypatch: pytest.MonkeyPatch, *hooks: Any) -> Plugins:
    """Our plugins, those of the small API, and a module with these hooks."""
    module = ModuleType("door_plugin")
    module.__dict__.update({hook.__name__: hook for hook in hooks})
    monkeypatch.setitem(sys.modules, "door_plugin", module)
    return Plugins(extra=["support.api", "door_plugin"], block=["endpoints", "metrics"])


async def echo(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/echo", json={}, headers=given)


async def test_whom_a_plugin_knows_may_call_and_nobody_else(guarded: Open, guard: Guard, sees: Sees) -> None:
    async with guarded() as client:
        assert (await echo(client, authorization="Bearer user-a")).status_code == 200
        assert (await echo(client, x_api_key="user-b")).status_code == 200
        assert (await echo(client, x_other="user-c")).status_code == 200  # any header will do
        refused = await echo(client, authorization="Bearer nobody")
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert (await echo(client)).status_code == 401
        asked = len(guard.users.asked)
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/nowhere")).status_code == 404
        assert len(guard.users.asked) == asked  # nobody need be known there
    names = ["user-a", "user-b", "user-c"]
    assert sees.seen == [*(User(name, {"group": "a"}) for name in names), None, None, None, None]
    assert guard.users.asked[:3] == [("user-a",), ("user-b",), ()]


async def test_api_keys_go_through_the_same_door(guarded: Open, guard: Guard, sees: Sees) -> None:
    async with guarded(api_key=("one",)) as client:
        assert (await echo(client, authorization="Bearer one")).status_code == 200
        assert not guard.users.asked
        assert (await echo(client, authorization="Bearer user-a")).status_code == 200
        assert (await echo(client, authorization="Bearer two")).status_code == 401
    key, user, nobody = sees.seen
    assert (key.name.startswith("key-"), "one" in key.name, user.name, nobody) == (True, False, "user-a", None)


@pytest.mark.parametrize(
    ("key", "status", "type"),
    [("forbidden", 403, "permission_error"), ("often", 429, "rate_limit_error"), ("broken", 500, "server_error")],
)
async def test_an_authenticator_may_refuse_and_one_that_is_broken_lets_nobody_in(
    guarded: Open, key: str, status: int, type: str
) -> None:
    async with guarded(api_key=("one",)) as client:
        response = await echo(client, authorization=f"Bearer user-{key}")
        assert (response.status_code, response.json()["error"]["type"]) == (status, type)
        assert "secret" not in response.text
        assert (await echo(client, authorization="Bearer one")).status_code == 200


async def test_the_document_says_how_plugins_may_refuse(guarded: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with guarded(validate_responses=True) as client:
        assert (await echo(client, authorization="Bearer user-forbidden")).status_code == 403
        assert (await echo(client, authorization="Bearer user-often")).status_code == 429
        document = (await client.get("/openapi.json")).json()
    assert {"401", "403", "429"} <= set(document["paths"]["/echo"]["post"]["responses"])
    assert "403" not in document["paths"]["/health"]["get"]["responses"]
    _, app, _ = build_app(Settings(api_key=("k",)), plugins(monkeypatch), api.load, document=api.DOCUMENT)
    assert "403" not in app.document["paths"]["/echo"]["post"]["responses"]


async def test_endpoints_know_who_calls(guarded: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async def who(self: Any, call: Any) -> Any:
        return {"body": {"user": call.user and call.user.name}, "path": {}, "query": {}}

    monkeypatch.setattr(api.Api, "echo", who)
    async with guarded() as client:
        assert (await echo(client, authorization="Bearer user-a")).json()["body"] == {"user": "user-a"}


def test_what_is_no_authenticator_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def register_authenticators(register: Register) -> None:
        register("users", object())

    with pytest.raises(PluginError, match="registers the authenticator 'users', which has no authenticate"):
        build_app(Settings(), plugins(monkeypatch, register_authenticators), api.load, document=api.DOCUMENT)


async def test_every_key_of_a_request_is_tried() -> None:
    keys = ApiKeys(["one", "two"])
    nothing: Any = None
    first = await keys.authenticate(Credentials(("wrong", "two"), nothing))
    assert first == await keys.authenticate(Credentials(("two",), nothing))
    assert first != await keys.authenticate(Credentials(("one",), nothing))
    assert await keys.authenticate(Credentials(("wrong", "tw"), nothing)) is None
    assert await keys.authenticate(Credentials((), nothing)) is None
    assert issubclass(Forbidden, RequestError)
