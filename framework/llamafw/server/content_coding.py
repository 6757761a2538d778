"""Decompress request bodies (``Content-Encoding``, RFC 9110 §8.4).

The size after decompression is limited: a few kilobytes can decompress to gigabytes.
"""

from __future__ import annotations

import asyncio
import zlib

from starlette.exceptions import HTTPException
from starlette.types import Scope

from llamafw.errors import RequestError

CODINGS = "gzip, deflate"
"""The codings that a request body may have, as a value of the header Accept-Encoding."""

_WBITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # how compressed data begins
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_MIN_BYTES_FOR_THREAD = 16384  # they decompress to 16 MiB at most, within 30 ms
_MAX_MEMBERS = 100  # of a gzip file; each copies the rest of the data
_MAX_SHOWN = 40  # characters of an unknown coding that an error message repeats


def content_coding(scope: Scope) -> str | None:
    """Return the coding of a request's body, or None.

    Raises
    ------
    HTTPException
        415: the server does not know the coding, or there are several.
    """
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"content-encoding"]
    names = [name for value in values if (name := value.strip().lower()) not in ("", "identity")]
    if not names:
        return None
    coding = ", ".join(names)
    if coding not in _WBITS:
        message = f"the Content-Encoding {coding[:_MAX_SHOWN]!r} is not supported"
        raise HTTPException(415, f"{message}; a request body may be compressed with gzip or deflate")
    return coding


async def decompress(body: bytes | bytearray, coding: str, limit: int) -> bytes | None:
    """Return a decompressed body; None if it has more than ``limit`` bytes.

    Raises
    ------
    RequestError
        The body is damaged.
    """
    if len(body) < _MIN_BYTES_FOR_THREAD:
        return _decompress(body, coding, limit)
    return await asyncio.to_thread(_decompress, body, coding, limit)


def _decompress(body: bytes | bytearray, coding: str, limit: int) -> bytes | None:
    wbits = -zlib.MAX_WBITS if coding == "deflate" and not _has_zlib_header(body) else _WBITS[coding]
    pieces: list[bytes] = []
    n_bytes, rest = 0, bytes(body)

    try:
        for _ in range(_MAX_MEMBERS):
            decompressor = zlib.decompressobj(wbits)
            pieces.append(decompressor.decompress(rest, limit - n_bytes + 1))
            n_bytes += len(pieces[-1])
            if n_bytes > limit:
                return None
            if not decompressor.eof:
                raise RequestError(f"the request body is not valid {coding}: it ends too early")
            rest = decompressor.unused_data
            if not rest:
                return b"".join(pieces)
    except zlib.error as error:
        raise RequestError(f"the request body is not valid {coding}: {error}") from None
    raise RequestError(f"the request body has more than {_MAX_MEMBERS} gzip members")


def why_not_utf8(body: bytes | bytearray) -> str | None:
    """Return why a body, which should be UTF-8, is not; None if it is."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        for magic, coding in _MAGIC.items():
            if body.startswith(magic):
                return f"it is compressed with {coding}, which the header Content-Encoding does not say"
        if body.startswith(_UTF16_MARKS):
            return "it is UTF-16, not UTF-8"
        return f"it is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}"
    return None


def _has_zlib_header(body: bytes | bytearray) -> bool:
    """Return whether a deflate body begins as RFC 1950 says; some clients send RFC 1951's raw format instead."""
    return len(body) >= 2 and body[0] & 15 == zlib.DEFLATED and int.from_bytes(body[:2], "big") % 31 == 0
