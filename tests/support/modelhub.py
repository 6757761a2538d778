"""A hub of models on a local port: Hugging Face's API as its client calls it, and plain files, with faults to order.

Large files are at the name ``localhost``, the API at ``127.0.0.1``: two hosts, as the real hub redirects to another.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """What is in a repository, and who may have it; ``hf_other`` is a valid token too, of somebody else."""

    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None  # whoever has it may read; None: everybody may
    gated: bool = False  # all may see what is in it, but need the token to fetch


@dataclass(frozen=True)
class Request:
    """A request that has been received."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Faults:
    """What the server does wrong."""

    cut: list[int] = field(default_factory=list)  # close the connection after so many bytes; one per answer
    no_ranges: bool = False
    no_validators: bool = False
    no_conditions: bool = False
    damage: bool = False  # another byte in the middle
    status: int | None = None  # instead of any answer
    content_type: str = "application/octet-stream"
    stall: bool = False  # send half, then wait for `go_on`
    silent: bool = False  # wait for `go_on` before any answer


class ModelHub(ThreadingHTTPServer):
    """The server; ``url`` is what HF_ENDPOINT takes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.files: dict[str, bytes] = {}  # at URL/files/NAME
        self.faults = Faults()
        self.requests: list[Request] = []
        self.lock = Lock()
        self.stalled, self.go_on = Event(), Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone."""

    def file_url(self, name: str) -> str:
        """Return the address of one of ``files``."""
        return f"{self.url}/files/{name}"

    def downloads(self) -> list[Request]:
        """Return the requests for the content of files."""
        return [one for one in self.requests if one.method == "GET" and re.match("/(files|content)/", one.path)]


class _Handler(BaseHTTPRequestHandler):
    server: ModelHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host, path = self.headers.get("Host", ""), urlsplit(self.path).path
        with self.server.lock:
            self.server.requests.append(Request(self.command, host, unquote(path), dict(self.headers)))
        if self.server.faults.silent:
            self.server.go_on.wait(60)
        if self.server.faults.status:
            return self._send(self.server.faults.status, b"out of order")
        if path == "/api/models":
            return self._search()
        if match := re.fullmatch("/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(match[1], unquote(match[2] or "main"))
        if match := re.fullmatch("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(match[1], unquote(match[3]))
        if match := re.fullmatch("/files/(.+)", path):
            content = self.server.files.get(unquote(match[1]))
            return self._send(404, b"nothing") if content is None else self._file(content)
        if match := re.fullmatch("/content/([0-9a-f]{64})", path):
            for repository in self.server.repositories.values():
                for content in repository.files.values():
                    if hashlib.sha256(content).hexdigest() == match[1]:
                        return self._file(content)
        return self._send(404, b"nothing")

    do_HEAD = do_GET  # the name that http.server looks for

    def _search(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        author, part = query.get("author", [""])[0], query.get("search", [""])[0]
        names = [name for name in self.server.repositories if name.startswith(f"{author}/" if author else "")]
        self._json([{"id": name, "modelId": name, "tags": []} for name in names if part in name])

    def _info(self, name: str, revision: str) -> None:
        repository = self._visible(name)
        if repository is None:
            return
        if revision not in (*repository.revisions, repository.commit):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for file, content in repository.files.items():
            facts = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            small = {"rfilename": file, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            siblings.append(small | ({"lfs": facts} if file.endswith(".gguf") else {}))
        self._json({"id": name, "modelId": name, "sha": repository.commit, "tags": [], "siblings": siblings})

    def _resolve(self, name: str, file: str) -> None:
        repository = self._visible(name)
        if repository is None:
            return
        if repository.gated and not self._has_token(repository):
            return self._send(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        content = repository.files.get(file)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
        digest = hashlib.sha256(content).hexdigest()
        self._send(
            302,
            b"",
            {
                "Location": f"http://localhost:{self.server.server_address[1]}/content/{digest}?signature=secret",
                "X-Repo-Commit": repository.commit,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(content)),
            },
        )

    def _visible(self, name: str) -> Repository | None:
        repository, tokens = self.server.repositories.get(name), ["hf_other"]
        tokens += [one.token for one in self.server.repositories.values() if one.token]
        if self.headers.get("Authorization") not in (None, *(f"Bearer {token}" for token in tokens)):
            self._send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
            return None
        if repository and (repository.gated or not repository.token or self._has_token(repository)):
            return repository
        known = "Authorization" in self.headers
        self._send(404 if known else 401, b"", {"X-Error-Code": "RepoNotFound"})
        return None

    def _has_token(self, repository: Repository) -> bool:
        return self.headers.get("Authorization") == f"Bearer {repository.token}"

    def _file(self, content: bytes) -> None:
        faults, etag = self.server.faults, f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"Content-Type": faults.content_type, "Accept-Ranges": "bytes"}
        if not faults.no_validators:
            headers["ETag"] = etag
            if self.headers.get("If-None-Match") == etag and not faults.no_conditions:
                return self._send(304, b"", headers)
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not span or faults.no_ranges or self.headers.get("If-Range", etag) != etag:
            return self._send(200, content, headers)
        start = int(span[1])
        if start >= len(content):
            return self._send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, content[start:], headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        faults, content = self.server.faults, status in (200, 206) and "Accept-Ranges" in (headers or {})
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD" or status == 304:
            return
        if content and faults.damage:
            at = len(body) // 2
            body = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        if content and faults.stall:
            self.wfile.write(body[: len(body) // 2])
            self.server.stalled.set()
            self.server.go_on.wait(60)
            self.close_connection = True
        elif content and faults.cut:
            self.wfile.write(body[: faults.cut.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[ModelHub]:
    """Run a `ModelHub`."""
    with ModelHub() as hub:
        if tls:
            hub.socket = tls.wrap_socket(hub.socket, server_side=True, do_handshake_on_connect=False)
            hub.url = hub.url.replace("http:", "https:")
        thread = Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.go_on.set()
            hub.shutdown()
            thread.join()
