"""Authenticate users by keys from a file that may change while the server runs, and manage the file.

Each line has a user name and the SHA-256 hash of a key. Keys are 256 random bits and cannot be guessed from a fast
hash; passwords would need a slow one.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import secrets
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

from llamafw import App, Credentials, Register, SettingsError, User, hookimpl

requires_api = ">=1.0,<2"

log = logging.getLogger(__name__)


class KeyFile:
    """A `llamafw.Authenticator` for the users of a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path, self.stamp, self.users = path, file_stamp(path), read_users(path)

    async def authenticate(self, credentials: Credentials) -> User | None:
        """Return the user of a key, or None if no key is known.

        Keys are looked up by their hash, so the time that takes tells an attacker nothing about valid keys.
        """
        try:
            if (now := file_stamp(self.path)) != self.stamp:
                self.stamp = now  # before reading, so that an error is logged only once
                self.users = read_users(self.path)
        except (OSError, SettingsError) as error:
            log.error("the file of keys cannot be read again, the users stay as they were: %s", error)

        names = (self.users.get(hash_key(key)) for key in credentials.keys)
        return next((User(name) for name in names if name is not None), None)


def file_stamp(path: Path) -> tuple[int, int]:
    """Return the modification time in nanoseconds and the size of a file."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def read_users(path: Path) -> dict[str, str]:
    """Return the name of the user of each hash.

    Raises
    ------
    SettingsError
        If a line is invalid; the message has its number.
    """
    users: dict[str, str] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) not in (0, 2) or (words and len(words[1]) != 64):
            raise SettingsError(f"{path}:{number}: not a name and a SHA-256 hash; see llamafw keys --help")
        if words:
            users[words[1]] = words[0]
    return users


def hash_key(key: str) -> str:
    """Return the SHA-256 hash of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


@hookimpl
def add_options(parser: ArgumentParser) -> None:
    """Add the flag ``--keys``."""
    parser.add_argument("--keys", metavar="FILE", help="accept the users of this file, which `llamafw keys` writes")


@hookimpl
def register_authenticators(register: Register, app: App) -> None:
    """Authenticate requests if ``--keys`` is given."""
    file = app.settings.extra.get("keys")
    if file is None:
        return

    try:
        register("keys", KeyFile(Path(file)))
    except OSError as error:
        raise SettingsError(f"--keys: {file} cannot be read: {error.strerror}") from None


def main(argv: list[str]) -> int:
    """Run ``llamafw keys FILE add|remove NAME`` or ``llamafw keys FILE list``."""
    parser = argparse.ArgumentParser("llamafw keys", description="Add, remove and list the users of a file of keys.")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("action", choices=("add", "remove", "list"))
    parser.add_argument("name", metavar="NAME", nargs="?", default="")
    args = parser.parse_args(argv)
    users = {name: digest for digest, name in read_users(args.file).items()} if args.file.exists() else {}

    if args.action == "list":
        print("\n".join(sorted(users)))
        return 0

    if error := name_error(args.action, args.name, users):
        print(f"llamafw keys: {error}", file=sys.stderr)
        return 1

    if args.action == "remove":
        del users[args.name]
    else:
        key = secrets.token_urlsafe(32)
        users[args.name] = hash_key(key)
        print(key)  # the only time: the file has the hash

    write_users(args.file, users)
    return 0


def name_error(action: str, name: str, users: Mapping[str, str]) -> str | None:
    """Return why a user cannot be added or removed, or None."""
    if not name:
        return f"{action} needs the name of a user"
    if action == "remove":
        return None if name in users else f"there is no user {name!r}"
    if name.split() != [name] or "#" in name:
        return f"{name!r} is not a valid name: spaces and # are not allowed"
    return f"user {name!r} exists already" if name in users else None


def write_users(path: Path, users: Mapping[str, str]) -> None:
    """Replace the file atomically, readable only by its owner."""
    new = path.with_name(f"{path.name}.new")
    new.touch(0o600)
    new.write_text("".join(f"{name} {digest}\n" for name, digest in users.items()), "utf-8")
    os.replace(new, path)


@hookimpl
def register_commands(register: Register) -> None:
    """Add the command ``llamafw keys``."""
    register("keys", main)
