"""Parse HTTP/1.1 requests and ignore offers to upgrade to another protocol.

RFC 9110 §7.8 lets a server ignore the header ``Upgrade``. httptools cannot: it stops after the headers of such a
request, and takes the body for data of the other protocol. Java's HttpClient and ``curl --http2`` offer h2c with every
request.
"""

from __future__ import annotations

from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser


class RequestParser:
    """Has the methods of `httptools.HttpRequestParser` that uvicorn calls.

    When httptools stops at an offer, the headers are parsed again without it, and then the rest of the data.

    Parameters
    ----------
    protocol : object
        Its callbacks are called, as httptools does.
    """

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._start()

    def _start(self) -> None:
        self._parser = HttpRequestParser(self)
        # as uvicorn does: it answers a request even if more data follows its "Connection: close"
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._has_offer = False

    def feed_data(self, data: bytes) -> None:
        """Parse the next data of the connection."""
        while data:
            try:
                self._parser.feed_data(data)
                return
            except HttpParserUpgrade as stop:
                if not self._has_offer:  # the method is CONNECT
                    raise
                head = self._head_without_offer()
                self._start()
                self._parser.feed_data(head)
                data = data[stop.args[0] :]

    def _head_without_offer(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self.get_method(), self._url, self.get_http_version().encode())]
        for name, value in self._headers:
            match name.lower():
                case b"upgrade":
                    continue
                case b"connection":
                    options = (option.strip() for option in value.split(b","))
                    value = b", ".join(option for option in options if option.lower() != b"upgrade")
            lines.append(b"%b: %b" % (name, value))
        return b"\r\n".join([*lines, b"", b""])

    def get_http_version(self) -> str:
        """Return "1.0" or "1.1"."""
        return self._parser.get_http_version()

    def get_method(self) -> bytes:
        """Return the method of the request."""
        return self._parser.get_method()

    def should_keep_alive(self) -> bool:
        """Return whether the connection stays open after the request."""
        return self._parser.should_keep_alive()

    def should_upgrade(self) -> bool:
        """Return whether the connection becomes another protocol's, which only CONNECT can ask for."""
        return self._parser.should_upgrade()

    # --- callbacks of httptools

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", list[tuple[bytes, bytes]]()
        self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        self._has_offer = self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"
        if not self._has_offer:
            self._protocol.on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._protocol.on_body(body)

    def on_message_complete(self) -> None:
        if not self._has_offer:
            self._protocol.on_message_complete()
