"""Send requests to a server, or to the server's application in this process, and explain failures in words."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from llamafw.cli.terminal.answers import Answer
from llamafw.errors import LlamafwError, SettingsError
from llamafw.models.fetch import describe_network_error

CONNECT_TIMEOUT = 10  # seconds; responses may take as long as they need
POLL_INTERVAL = 0.3  # seconds between requests while a server loads its model


class ApiError(LlamafwError):
    """A server has answered with an error, or cannot be reached.

    Attributes
    ----------
    status : int
        The HTTP status; 0 if there was no response.
    type : str
        The error's type, such as ``exceed_context_size_error``; "" if the response has none.
    answer : Answer or None
        The part of an answer that was received before the error.
    """

    answer: Answer | None = None

    def __init__(self, message: str, status: int = 0, type: str = "") -> None:
        super().__init__(message)
        self.status, self.type = status, type


class ApiClient:
    """A client of one server.

    All methods are called on the same event loop.

    Parameters
    ----------
    base_url : str
        The address of the server.
    api_key : str, optional
        The key that requests carry.
    transport : httpx2.AsyncBaseTransport, optional
        What passes requests to the server, if that is not the network.
    """

    def __init__(self, base_url: str, api_key: str | None, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/v1")
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT),
            transport=transport,
            trust_env=not _is_loopback(self.base_url),  # a proxy cannot reach this machine
        )

    async def wait_until_ready(self) -> None:
        """Wait while the server loads its model."""
        while True:
            try:
                await self.get("/health")
                return
            except ApiError as error:
                if error.status == 404:  # some other server
                    return
                if error.status != 503 or error.type != "unavailable_error":
                    raise
            await asyncio.sleep(POLL_INTERVAL)

    async def get(self, path: str) -> Any:
        """Return the JSON of a response, or None if the response is empty; raise ApiError."""
        return await self._fetch("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON of a response; raise ApiError."""
        return await self._fetch("POST", path, body)

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the events of a stream; before them ``{"ignored": names}`` if the server ignores fields of the body.

        Raises
        ------
        ApiError
            The server refuses the request, fails, or closes the connection too early.
        """
        with _network_errors(self.base_url):
            async with self._http.stream("POST", self.base_url + path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _error_of(response)
                if ignored := response.headers.get("X-Llamafw-Ignored-Fields"):
                    yield {"ignored": ignored}
                async for line in response.aiter_lines():
                    name, _, data = line.partition(":")
                    data = data.strip()
                    if name != "data":
                        continue
                    if data == "[DONE]":
                        return
                    event = _parse_json(data)
                    if "error" in event:
                        raise _api_error(event["error"], 200)
                    yield event
        raise ApiError("the server closed the connection before the answer was complete")

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _fetch(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        with _network_errors(self.base_url):
            response = await self._http.request(method, self.base_url + path, json=body)
        if response.status_code != 200:
            raise _error_of(response)
        return _parse_json(response.text) if response.content else None  # other servers' /health is empty


@contextlib.contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Raise errors of the HTTP library as ApiError."""
    try:
        yield
    except httpx2.InvalidURL as error:
        raise SettingsError(f"--url: {url} is not a URL: {error}") from None
    except httpx2.UnsupportedProtocol:
        raise SettingsError(f"--url: {url} must begin with http:// or https://") from None
    except httpx2.HTTPError as error:
        raise ApiError(f"{url}: {describe_network_error(error)}") from error


def _error_of(response: httpx2.Response) -> ApiError:
    try:
        body = response.json()
    except ValueError:
        body = None
    error = body.get("error") if isinstance(body, dict) else None
    wait = response.headers.get("Retry-After")
    return _api_error(error, response.status_code, f"; try again in {wait} seconds" if wait else "")


def _api_error(error: Any, status: int, hint: str = "") -> ApiError:
    """Return the error that the body of a response describes, with a hint what to do."""
    fields = error if isinstance(error, Mapping) else {"message": error}
    message = str(fields.get("message") or f"the server answered with status {status}")
    type = str(fields.get("type") or "")
    if status == 401:
        hint = "; pass the server's key with --api-key or in LLAMA_API_KEY"
    if type == "exceed_context_size_error":
        message = f"the conversation is too long: {message.partition(';')[0]}"
        hint = "; begin a new conversation, or start the server with a larger --ctx-size"
    return ApiError(message + hint, int(fields.get("code") or status) if status == 200 else status, type)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ApiError("the server's response is not JSON; is --url the address of an API?", 200) from None


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
