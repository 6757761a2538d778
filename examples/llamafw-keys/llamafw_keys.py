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

from llamafw import App, Credentials, Register, SettingsError, User, hookimpl

requires_api = ">=1.0,<2"

log = logging.getLogger(__name__)


class KeyFile:
    """The users of a file, read again when it has changed. A `llamafw.Authenticator`."""

    def __init__(self, path: Path) -> None:
        self.path, self.stamp, self.users = path, stamp(path), read(path)

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Return whose key it is. Hashes are compared, which tells an attacker nothing about keys through time."""
        try:
            if (now := stamp(self.path)) != self.stamp:
                self.stamp = now  # first: what is wrong is said once
                self.users = read(self.path)
        except (OSError, SettingsError) as error:
            log.error("the users stay as they were: %s", error)
        names = (self.users.get(hashed(key)) for key in credentials.keys)
        return next((User(name) for name in names if name is not None), None)


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


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the flag."""
    parser.add_argument("--keys", metavar="FILE", help="let in the users of this file, which `llamafw keys` writes")


@hookimpl
def register_authenticators(register: Register, app: App) -> None:
    """Guard the server, if there is a file of keys."""
    given = app.settings.extra.get("keys")
    if given is None:
        return
    try:
        register("keys", KeyFile(Path(given)))
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
