"""Run a package index with one wheel on a local port.

It counts downloads, and can stall in the middle of one.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread


def build_wheel(name: str, version: str, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the file name and content of a pure-Python wheel."""
    info = f"{name}-{version}.dist-info"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        # This dependency does not exist, so an installer that resolves dependencies fails.
        requires = "Requires-Dist: llamafw-no-such-dependency==9"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return f"{name}-{version}-py3-none-any.whl", content.getvalue()


class PackageIndex(ThreadingHTTPServer):
    """Serves one wheel.

    Attributes
    ----------
    url : str
        The value for pip's ``--index-url``.
    downloads : int
        How often the wheel has been requested.
    stall : bool
        If true, each download stops after half of the wheel until `resume` is set.
    stalled : Event
        Set when a download has stopped.
    resume : Event
        Set it to close the connections of stopped downloads.
    """

    daemon_threads = True

    def __init__(self, file: str, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.file, self.content = file, content
        self.url = f"http://127.0.0.1:{self.server_address[1]}/simple/"
        self.downloads = 0
        self.stall = False
        self.stalled, self.resume = Event(), Event()


class _Handler(BaseHTTPRequestHandler):
    server: PackageIndex

    def do_GET(self) -> None:
        index = self.server
        if not self.path.endswith(".whl"):
            return self._send("text/html", f'<a href="/{index.file}">{index.file}</a>'.encode())

        index.downloads += 1
        if not index.stall:
            return self._send("application/octet-stream", index.content)

        half = len(index.content) // 2
        self._send("application/octet-stream", index.content[:half], len(index.content))
        self.wfile.flush()
        index.stalled.set()
        index.resume.wait(60)
        self.close_connection = True

    def _send(self, kind: str, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Do not log requests to stderr."""


@contextmanager
def running_index(file: str, content: bytes) -> Iterator[PackageIndex]:
    """Run a `PackageIndex`, and stop it at the end."""
    with PackageIndex(file, content) as index:
        thread = Thread(target=index.serve_forever)
        thread.start()
        try:
            yield index
        finally:
            index.resume.set()
            index.shutdown()
            thread.join()
