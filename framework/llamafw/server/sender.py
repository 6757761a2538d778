"""Read the sender and the priority of a request.

Independent of how priorities decide; the engine does that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from llamafw.errors import RequestError
from llamafw.types import PRIORITIES, Sender, User

_MAX_NAME = 1024  # characters of an end user's name; the engine remembers thousands of names


def read_sender(body: Any, user: User | None) -> Sender:
    """Return the sender of a validated request.

    Parameters
    ----------
    body : object
        The JSON body. ``priority`` is the request's priority, and ``user`` or Anthropic's ``metadata.user_id`` the end
        user; a name of more than 1024 characters is replaced by its hash. In operations of plugins, these fields may be
        something else; only numbers and strings count.
    user : User or None
        The user that was authenticated; None: the server has no authenticators, so every priority is allowed.

    Raises
    ------
    RequestError
        The user may not have this priority.
    """
    fields: Mapping[str, Any] = body if isinstance(body, dict) else {}
    first = PRIORITIES.start if user is None else user.priority
    given = fields.get("priority")
    if isinstance(given, bool) or not isinstance(given, int | float):
        priority = 0 if user is None else user.priority
    elif given < first:
        raise RequestError(f"priority must be at least {first} for this API key", param="priority")
    else:
        priority = int(min(given, PRIORITIES.stop - 1))  # Cohere's numbers go up to 999
    return Sender(priority, "" if user is None else user.name, _end_user(fields))


def _end_user(fields: Mapping[str, Any]) -> str:
    metadata = fields.get("metadata")
    name = fields.get("user") or (metadata.get("user_id") if isinstance(metadata, dict) else None)
    if not isinstance(name, str):
        return ""
    return name if len(name) <= _MAX_NAME else hashlib.blake2b(name.encode(), digest_size=32).hexdigest()
