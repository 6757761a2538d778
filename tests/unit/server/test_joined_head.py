"""What is written to a connection, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from llamafw.server.joined_head import JoinedHead

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Recorder:
    """Records what is written; it is no real connection."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def later() -> list[Callable[[], None]]:
    """Return the functions that the event loop is to call in its next iteration."""
    return []


@pytest.fixture
def joined(recorder: Recorder, later: list[Callable[[], None]]) -> JoinedHead:
    return JoinedHead(cast("asyncio.Transport", recorder), later.append)


def test_head_and_body_are_one_write(joined: JoinedHead, recorder: Recorder, later: list[Any]) -> None:
    joined.write(HEAD)
    joined.write(b"az")
    assert recorder.writes == [HEAD + b"az"]

    (call,) = later
    call()
    joined.write(b"more")
    assert recorder.writes == [HEAD + b"az", b"more"]


def test_head_without_body_is_written_in_the_next_iteration(
    joined: JoinedHead, recorder: Recorder, later: list[Any]
) -> None:
    joined.write(HEAD)
    assert recorder.writes == []
    (call,) = later
    call()
    assert recorder.writes == [HEAD]
    joined.write(b"az")
    assert recorder.writes == [HEAD, b"az"]


def test_closing_writes_the_head(joined: JoinedHead, recorder: Recorder) -> None:
    joined.write(HEAD)
    joined.close()
    assert recorder.writes == [HEAD]
    assert recorder.closed


def test_nothing_is_written_after_the_connection_is_lost(
    joined: JoinedHead, recorder: Recorder, later: list[Any]
) -> None:
    joined.write(HEAD)
    recorder.close()
    (call,) = later
    call()
    assert recorder.writes == []


def test_other_operations_are_those_of_the_transport(joined: JoinedHead, recorder: Recorder) -> None:
    assert not joined.is_closing()
    recorder.close()
    assert joined.is_closing()
