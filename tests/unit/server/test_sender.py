"""Who sent a request, and with which priority."""

from __future__ import annotations

from typing import Any

import pytest

from llamafw import RequestError, Sender, User
from llamafw.server.sender import read_sender

USER = User("key-1", priority=5)


@pytest.mark.parametrize(
    ("body", "user", "sender"),
    [
        (None, None, Sender()),
        ([], USER, Sender(5, "key-1")),
        ({}, USER, Sender(5, "key-1")),
        ({"priority": None}, USER, Sender(5, "key-1")),
        ({"priority": 5.0}, USER, Sender(5, "key-1")),
        ({"priority": 19}, USER, Sender(19, "key-1")),
        ({"priority": 999}, None, Sender(19)),
        ({"priority": float("inf")}, None, Sender(19)),
        ({"priority": -20, "user": "ann"}, None, Sender(-20, "", "ann")),
        ({"user": None, "metadata": {"user_id": "bob"}}, None, Sender(0, "", "bob")),
        ({"metadata": {"user_id": 3}}, None, Sender()),
        *(({"priority": other}, USER, Sender(5, "key-1")) for other in ("high", True, ["high"], {"level": 1})),
    ],
)
def test_sender_of_a_request(body: Any, user: User | None, sender: Sender) -> None:
    assert read_sender(body, user) == sender


def test_long_names_of_end_users_take_little_memory() -> None:
    names = [read_sender({"user": name}, None).user for name in ("a" * 1024, "a" * 1025, "é" * 10**6, "a" * 1025)]
    assert names[0] == "a" * 1024
    assert [len(name) for name in names[1:]] == [64, 64, 64]
    assert names[1] == names[3] != names[2]


def test_priority_of_a_key_cannot_be_exceeded() -> None:
    with pytest.raises(RequestError, match="priority must be at least 5 for this API key") as caught:
        read_sender({"priority": 4}, USER)
    assert (caught.value.status, caught.value.param) == (400, "priority")


@pytest.mark.parametrize("priority", [-21, 20, 0.5, "high", None])
def test_user_with_an_invalid_priority_is_an_error(priority: Any) -> None:
    with pytest.raises(ValueError, match="priority of a User must be a whole number from -20 to 19"):
        User("ann", priority=priority)
