"""Run a package index with some wheels on a local port.

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
    """Serves wheels; any project's page lists all of them.

    Attributes
    ----------
    url : str
        The value for pip's ``--index-url``.
    wheels : dict
        The contents of the wheels by file name.
    downloads : int
        How often wheels have been requested.
    stall : bool
        If true, each download stops after half of a wheel until `resume` is set.
    stalled : Event
        Set when a download has stopped.
    resume : Event
        Set it to close the connections of stopped downloads.
    """

    daemon_threads = True

    def __init__(self, wheels: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wheels = wheels
        self.url = f"http://127.0.0.1:{self.server_address[1]}/simple/"
        self.downloads = 0
        self.stall = False
        self.stalled, self.resume = Event(), Event()


class _Handler(BaseHTTPRequestHandler):
    server: PackageIndex

    def do_GET(self) -> None:
        index = self.server
        if not self.path.endswith(".whl"):
            links = "".join(f'<a href="/{file}">{file}</a>\n' for file in index.wheels)
            return self._send("text/html", links.encode())

        content = index.wheels[self.path.removeprefix("/")]
        index.downloads += 1
        if not index.stall:
            return self._send("application/octet-stream", content)

        half = len(content) // 2
        self._send("application/octet-stream", content[:half], len(content))
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
def running_index(wheels: dict[str, bytes]) -> Iterator[PackageIndex]:
    """Run a `PackageIndex`, and stop it at the end."""
    with PackageIndex(wheels) as index:
        thread = Thread(target=index.serve_forever)
        thread.start()
        try:
            yield index
        finally:
            index.resume.set()
            index.shutdown()
            thread.join()
