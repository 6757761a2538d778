"""A key per user, stored as its hash, in a file that may change while the server runs; and a command that makes keys.

Each line is a user's name and the SHA-256 of a key. Keys are 256 random bits, which no one guesses from a hash;
passwords would need a slow one.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import secrets
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from llamafw import App, Register, SettingsError, hookimpl

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

METHODS = ("get", "put", "post", "delete", "patch")


class KeyFile:
    """The users of a file, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path, self.stamp, self.users = path, stamp(path), read(path)

    def user(self, key: str) -> str | None:
        """Return whose key it is. Hashes are compared, which tells an attacker nothing about keys through time."""
        try:
            if (now := stamp(self.path)) != self.stamp:
                self.stamp = now  # first: what is wrong is said once
                self.users = read(self.path)
        except (OSError, SettingsError) as error:
            log.error("the users stay as they were: %s", error)
        return self.users.get(hashed(key))


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes with the file."""
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size


def read(path: Path) -> dict[str, str]:
    """Return hash → name; SettingsError with the line that is wrong."""
    users: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) not in (0, 2) or (words and len(words[1]) != 64):
            raise SettingsError(f"{path}:{number}: a line is a name and the SHA-256 of a key; see llamafw keys --help")
        if words:
            users[words[1]] = words[0]
    return users


def hashed(key: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Guard:
    """An ASGI application around the server's that lets known users through to operations that are not public."""

    def __init__(self, asgi: ASGIApp, app: App, keys: KeyFile) -> None:
        self.asgi, self.keys = asgi, keys
        self.guarded = [
            (method.upper(), compile_path(path)[0])
            for path, item in app.document["paths"].items() for method, operation in item.items()
            if method in METHODS and operation.get("security") != []
        ]  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, its user's name in ``scope["state"]["user"]``; 401 if it has no key that is known."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            scheme, _, token = headers.get("authorization", "").partition(" ")
            key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            user = self.keys.user(key)
            if user is None and any(
                scope["method"] == method and path.match(scope["path"]) for method, path in self.guarded
            ):
                raise HTTPException(401)
            if user is not None:
                scope.setdefault("state", {})["user"] = user
        await self.asgi(scope, receive, send)


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the flag."""
    parser.add_argument("--keys", metavar="FILE", help="let in the users of this file, which `llamafw keys` writes")


@hookimpl
def wrap_asgi(asgi: ASGIApp, app: App) -> ASGIApp | None:
    """Stand before the server, if there is a file of keys."""
    given = app.settings.extra.get("keys")
    if given is None:
        return None
    try:
        return Guard(asgi, app, KeyFile(Path(given)))
    except OSError as error:
        raise SettingsError(f"--keys: {given} cannot be read: {error.strerror}") from None


def main(argv: list[str]) -> int:
    """``llamafw keys FILE add|remove NAME``, ``llamafw keys FILE list``."""
    parser = argparse.ArgumentParser("llamafw keys", description="Add, remove and list the users of a file of keys.")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("action", choices=("add", "remove", "list"))
    parser.add_argument("name", metavar="NAME", nargs="?", default="")
    given = parser.parse_args(argv)
    users = {name: digest for digest, name in read(given.file).items()} if given.file.exists() else {}
    known = given.name in users
    if given.action == "list":
        print("\n".join(sorted(users)))
        return 0
    if not given.name or given.name.split() != [given.name] or "#" in given.name or known != (given.action == "remove"):
        print(f"llamafw keys: {given.name!r} {'is there already' if known else 'is no user'}", file=sys.stderr)
        return 1
    if known:
        del users[given.name]
    else:
        key = secrets.token_urlsafe(32)
        users[given.name] = hashed(key)
        print(key)  # this once
    write(given.file, users)
    return 0


def write(path: Path, users: dict[str, str]) -> None:
    """Write the file whole or not at all, for its owner alone to read."""
    new = path.with_name(f"{path.name}.new")
    new.touch(0o600)
    new.write_text("".join(f"{name} {digest}\n" for name, digest in users.items()), "utf-8")
    os.replace(new, path)


@hookimpl
def register_commands(register: Register) -> None:
    """Add ``llamafw keys``."""
    register("keys", main)
