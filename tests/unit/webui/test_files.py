"""Static files: the built-in page and script, and the folder of ``--path``.

No file outside of it is served.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from llamafw import Settings, SettingsError, Unavailable
from llamafw.server.errors import ErrorMiddleware, problem_of
from llamafw_plugins.webui import files, wrap_asgi


class FakeApp:
    """An `App` with settings and a model that is loaded or still loading; its API has PATCH on the page's path."""

    document: Mapping[str, Any] = {"paths": {"/": {"patch": {}}}}

    def __init__(self, loading: bool, settings: dict[str, Any]) -> None:
        self.settings, self.loading = Settings(**settings), loading

    @property
    def loaded(self) -> Any:
        if self.loading:
            raise Unavailable("Loading model")
        return SimpleNamespace()


@asynccontextmanager
async def opened(*, loading: bool = False, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the files.

    The API behind them answers every request with ``api``.
    """
    api = PlainTextResponse("api")
    asgi = wrap_asgi(asgi=api, app=FakeApp(loading, settings)) or api  # type: ignore[arg-type]  # has what the plugin uses
    asgi = ErrorMiddleware(asgi, explain=problem_of, allowed_methods=lambda path: None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://test") as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key.txt").write_text("secret")
    inside = tmp_path / "site"
    (inside / "sub").mkdir(parents=True)
    (inside / "page.html").write_text("<p>mine")
    (inside / "app.mjs").write_text("1")
    (inside / "sub/index.html").write_text("<p>sub")
    (inside / "link.txt").symlink_to(tmp_path / "secret.txt")
    (inside / "linked").symlink_to(tmp_path / "secrets")
    (inside / "alias.html").symlink_to(inside / "page.html")
    return inside


@pytest.mark.inventory("H-07", "H-12")
async def test_built_in_files_are_served() -> None:
    async with opened() as client:
        page, script = await client.get("/"), await client.get("/completion.js")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert (script.status_code, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
        assert "://" not in page.text  # the page loads nothing from other sites
        assert (await client.get("/favicon.ico")).text == "api"
        head = await client.head("/")
        assert (head.status_code, head.content) == (200, b"")


async def test_all_files_of_the_page_are_served_with_their_types() -> None:
    types = {
        "js": "text/javascript",
        "mjs": "text/javascript",
        "css": "text/css",
        "svg": "image/svg+xml",
        "woff2": "font/woff2",
        "bcmap": "application/octet-stream",
    }
    async with opened() as client:
        page = (await client.get("/")).text
        folder = files.PAGE_FOLDER / "webui"
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert "cmaps/90ms-RKSJ-H.bcmap" in names
        assert {"page.js", "page.css"} <= {*re.findall(r'"\./webui/([\w.]+)"', page)} <= names
        for name in names:
            response = await client.get(f"/webui/{name}")
            assert response.status_code == 200
            assert response.headers["content-type"].startswith(types.get(name.split(".")[-1], "text/plain"))
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["content-security-policy"] == files.CONTENT_SECURITY_POLICY  # of workers
        assert (await client.get("/webui/none.js")).text == "api"
        assert (await client.get("/webui/")).text == "api"


async def test_unchanged_page_is_not_sent_again() -> None:
    async with opened() as client:
        etag = (await client.get("/")).headers["etag"]
        assert (await client.get("/", headers={"If-None-Match": etag})).status_code == 304


@pytest.mark.inventory("H-08", "H-12")
async def test_page_allows_only_get_and_head() -> None:
    async with opened() as client:
        response = await client.post("/")
        assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
        assert response.json()["error"]["type"] == "method_not_allowed_error"
        assert (await client.post("/completion")).text == "api"


async def test_operations_at_the_path_of_the_page_are_answered() -> None:
    async with opened() as client:
        assert (await client.patch("/")).text == "api"
        assert (await client.patch("/completion.js")).status_code == 405


@pytest.mark.inventory("P-01", "P-02")
@pytest.mark.parametrize("path", ["/", "/page.html", "/nowhere.html"])
async def test_pages_are_503_while_loading(folder: Path, path: str) -> None:
    async with opened(loading=True, path=str(folder)) as client:
        response = await client.get(path)
    assert response.status_code == 503
    assert response.headers["content-type"].startswith("text/html")
    assert "The model is loading" in response.text
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    forbidden = ("default-src", "base-uri", "form-action", "frame-ancestors")
    style = re.findall(r"<style>(.*)</style>", response.text, re.S)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in style]
    assert len(digests) == 1
    assert policy == {**dict.fromkeys(forbidden, "'none'"), "style-src": f"'sha256-{digests[0]}'"}
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.inventory("P-01", "P-02")
async def test_script_is_left_to_the_api_while_loading(folder: Path) -> None:
    async with opened(loading=True, path=str(folder)) as client:
        assert (await client.get("/completion.js")).text == "api"  # the real API answers 503


@pytest.mark.inventory("C-105", "H-13")
async def test_files_of_the_folder_come_first(folder: Path) -> None:
    (folder / "index.html").write_text("<p>my index")
    (folder / "health").write_text("fine")
    async with opened(path=str(folder)) as client:
        assert (await client.get("/")).text == "<p>my index"
        assert (await client.get("/health")).text == "fine"
        assert (await client.get("/sub/")).text == "<p>sub"
        assert (await client.get("/alias.html")).text == "<p>mine"

        module = await client.get("/app.mjs")
        assert module.headers["content-type"].startswith("text/javascript")
        assert {"etag", "last-modified"} <= set(module.headers)

        assert "llamaEventTarget" in (await client.get("/completion.js")).text  # the built-in one
        (folder / "completion.js").write_text("2")
        assert (await client.get("/completion.js")).text == "2"
        assert (await client.get("/props")).text == "api"


@pytest.mark.inventory("C-105", "H-13")
@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/sub/../../secret.txt",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/..%5csecret.txt",
        "/link.txt",
        "/linked/key.txt",
        "/page.html%00",
        "/sub",
        "/nowhere",
        "/" + "a" * 5000,
    ],
)
async def test_paths_do_not_lead_out_of_the_folder(folder: Path, path: str) -> None:
    async with opened(path=str(folder)) as client:
        response = await client.get(httpx.URL("http://test", raw_path=path.encode()))
        assert response.text == "api"


async def test_startup_fails_without_the_folder(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--path: the folder .*/nowhere does not exist"):
        async with opened(path=str(tmp_path / "nowhere")):
            pass


async def test_no_webui_switches_built_in_files_off(folder: Path) -> None:
    async with opened(webui=False) as client:
        assert (await client.get("/")).text == (await client.post("/")).text == "api"
    async with opened(webui=False, path=str(folder)) as client:
        assert (await client.get("/page.html")).text == "<p>mine"
        assert (await client.get("/completion.js")).text == "api"
