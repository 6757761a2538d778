"""Run a hub of models on a local port: Hugging Face's API as its client calls it, and plain files.

The API is at ``127.0.0.1``. It redirects downloads to ``localhost``, because the real hub redirects to another host.
Tests can switch on faults.
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
    """A repository of the hub.

    The token ``hf_other`` is valid too, but gives access to no private repository.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    revisions: tuple[str, ...] = ("main",)
    token: str | None = None  # needed to read the repository; None: it is public
    gated: bool = False  # its list of files is public, and only downloads need the token


@dataclass(frozen=True)
class Request:
    """A request that the hub has received."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]


@dataclass
class Faults:
    """Faults of the hub.

    None of them is on at first.
    """

    cut_after: list[int] = field(default_factory=list)  # close the connection after so many bytes; one per download
    ignore_ranges: bool = False  # send the whole file
    no_etag: bool = False  # neither send an ETag nor read If-None-Match
    ignore_if_none_match: bool = False
    corrupt: bool = False  # change a byte in the middle of the content
    status: int | None = None  # answer every request with this status
    content_type: str = "application/octet-stream"
    stall: bool = False  # send half of the content, wait for `ModelHub.resume`, and close the connection
    never_answer: bool = False  # wait for `ModelHub.resume` before each answer


class ModelHub(ThreadingHTTPServer):
    """The hub.

    Attributes
    ----------
    url : str
        The value for ``HF_ENDPOINT``.
    repositories : dict
        From the name of a repository, such as ``owner/name``, to the repository.
    files : dict
        Plain files by name; `file_url` returns their URL.
    faults : Faults
        What goes wrong.
    requests : list of Request
        The requests so far.
    stalled, resume : Event
        For `Faults.stall`: ``stalled`` is set when half of the content has been sent. Tests set ``resume``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.files: dict[str, bytes] = {}
        self.faults = Faults()
        self.requests: list[Request] = []
        self.lock = Lock()
        self.stalled, self.resume = Event(), Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Do not log clients that have disconnected."""

    def file_url(self, name: str) -> str:
        """Return the URL of one of ``files``."""
        return f"{self.url}/files/{name}"

    def downloads(self) -> list[Request]:
        """Return the requests for the content of files."""
        return [each for each in self.requests if each.method == "GET" and re.match("/(files|content)/", each.path)]


def _is_large(file: str) -> bool:
    """Return whether the hub stores a file as LFS object, which has a checksum."""
    return file.endswith((".gguf", ".safetensors", ".model"))


class _Handler(BaseHTTPRequestHandler):
    server: ModelHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host, path = self.headers.get("Host", ""), urlsplit(self.path).path
        with self.server.lock:
            self.server.requests.append(Request(self.command, host, unquote(path), dict(self.headers)))
        if self.server.faults.never_answer:
            self.server.resume.wait(60)
        if self.server.faults.status:
            return self._send(self.server.faults.status, b"fault")

        if path == "/api/models":
            return self._search()
        if match := re.fullmatch("/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(match[1], unquote(match[2] or "main"))
        if match := re.fullmatch("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(match[1], unquote(match[3]))
        if match := re.fullmatch("/files/(.+)", path):
            content = self.server.files.get(unquote(match[1]))
            return self._send(404, b"not found") if content is None else self._file(content)
        if match := re.fullmatch("/content/([0-9a-f]{64})", path):
            for repository in self.server.repositories.values():
                for content in repository.files.values():
                    if hashlib.sha256(content).hexdigest() == match[1]:
                        return self._file(content)
        return self._send(404, b"not found")

    do_HEAD = do_GET

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
            entry = {"rfilename": file, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            siblings.append(entry | ({"lfs": lfs} if _is_large(file) else {}))
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
        headers = {
            "Location": f"http://localhost:{self.server.server_address[1]}/content/{digest}?signature=secret",
            "X-Repo-Commit": repository.commit,
            "X-Linked-Etag": f'"{digest if _is_large(file) else hashlib.sha1(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
        }
        self._send(302, b"", headers)

    def _visible(self, name: str) -> Repository | None:
        repository, tokens = self.server.repositories.get(name), ["hf_other"]
        tokens += [each.token for each in self.server.repositories.values() if each.token]
        if self.headers.get("Authorization") not in (None, *(f"Bearer {token}" for token in tokens)):
            self._send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
            return None
        if repository and (repository.gated or not repository.token or self._has_token(repository)):
            return repository
        signed_in = "Authorization" in self.headers
        self._send(404 if signed_in else 401, b"", {"X-Error-Code": "RepoNotFound"})
        return None

    def _has_token(self, repository: Repository) -> bool:
        return self.headers.get("Authorization") == f"Bearer {repository.token}"

    def _file(self, content: bytes) -> None:
        faults, etag = self.server.faults, f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"Content-Type": faults.content_type, "Accept-Ranges": "bytes"}
        if not faults.no_etag:
            headers["ETag"] = etag
            if self.headers.get("If-None-Match") == etag and not faults.ignore_if_none_match:
                return self._send(304, b"", headers)

        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not span or faults.ignore_ranges or self.headers.get("If-Range", etag) != etag:
            return self._send(200, content, headers)
        start = int(span[1])
        if start >= len(content):
            return self._send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206, content[start:], headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        faults = self.server.faults
        is_content = status in (200, 206) and "Accept-Ranges" in (headers or {})
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD" or status == 304:
            return

        if is_content and faults.corrupt:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]

        if is_content and faults.stall:
            self.wfile.write(body[: len(body) // 2])
            self.server.stalled.set()
            self.server.resume.wait(60)
            self.close_connection = True
        elif is_content and faults.cut_after:
            self.wfile.write(body[: faults.cut_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests to stderr."""


@contextmanager
def running_hub(tls: ssl.SSLContext | None = None) -> Iterator[ModelHub]:
    """Run a `ModelHub`, with TLS if a context is given, and stop it at the end."""
    with ModelHub() as hub:
        if tls:
            hub.socket = tls.wrap_socket(hub.socket, server_side=True, do_handshake_on_connect=False)
            hub.url = hub.url.replace("http:", "https:")
        thread = Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.resume.set()
            hub.shutdown()
            thread.join()
