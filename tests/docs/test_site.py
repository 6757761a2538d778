"""The documentation as a site: it builds without warnings, has no dead link, and loads nothing from other hosts."""

from __future__ import annotations

import functools
import http.server
import os
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest

import llamafw
from llamafw import checkpoints, graph
from support.chat_page import DESKTOP, PHONE, running_browser

ROOT = Path(__file__).parents[2]
NAVIGATION = runpy.run_path(str(ROOT / "docs/site/navigation.py"))
PAGES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix()
    for pattern in ("*.md", "docs/**/*.md", "examples/*/README.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("page", PAGES)
def test_menu_has_every_page(page: str) -> None:
    placed = [name for parts in NAVIGATION["sections"](ROOT).values() for _, pages in parts for name in pages]
    assert [*placed, NAVIGATION["HUBS"][0]].count(page) == 1


def test_menu_has_the_subjects_of_the_index_in_its_order() -> None:
    index = (ROOT / "docs/index.md").read_text("utf-8")
    headings = re.findall(r"^## (.*)$", index, re.M)
    subjects = [heading for heading, _ in NAVIGATION["sections"](ROOT)["docs/index"] if heading]
    assert len(subjects) >= 6
    assert subjects == headings[: len(subjects)]


def test_pages_below_a_heading_are_found(tmp_path: Path) -> None:
    (tmp_path / "examples/one").mkdir(parents=True)
    (tmp_path / "examples/one/README.md").touch()
    text = """
# Title
| [a](a.md) |
## First
| [b](../b.md) | [c](c.md#part) [d](https://d.md) |
| [one](../examples/one) [x](x.py) |
[e](e.md)
"""
    entries = NAVIGATION["entries_of"]("docs", text, tmp_path)
    assert entries == {"": ["docs/a"], "First": ["b", "examples/one/README"]}


class Links(HTMLParser):
    """Collects the ids of a page, its links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attributes if value}
        self.ids.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("prev", "next", "author", "copyright"):
            self.loaded.append(given["href"])
        elif "src" in given:
            self.loaded.append(given["src"])

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, as ``make site`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = "-m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs/site".split()
    assert " ".join(command) in (ROOT / "Makefile").read_text("utf-8")
    arguments = [sys.executable, *command, "--doctree-dir", str(folder / "doctrees"), ".", str(folder / "html")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


@pytest.fixture(scope="module")
def contents(site: Path) -> dict[Path, Links]:
    """What is on each page of the site."""
    return {path: Links(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_links_lead_to_pages_and_sections_that_exist(site: Path, contents: dict[Path, Links]) -> None:
    dead, n_links = [], 0
    for path, content in contents.items():
        for link in (*content.links, *content.loaded):
            if re.match(r"[a-z]+:", link):
                continue
            n_links += 1
            target, _, section = link.partition("#")
            file = Path(os.path.normpath(path.parent / unquote(target.partition("?")[0]))) if target else path
            exists = file.is_file() and (
                not section or file.suffix != ".html" or unquote(section) in contents[file].ids
            )
            if not exists and section != "":
                dead.append(f"{path.relative_to(site)}: {link}")
    assert n_links > 10_000
    assert dead == []


@pytest.mark.slow
def test_every_page_is_reachable(site: Path, contents: dict[Path, Links]) -> None:
    start = site / "docs/index.html"
    reached, queue = {start}, [start]
    while queue:
        path = queue.pop()
        targets = {Path(os.path.normpath(path.parent / unquote(link.split("#")[0]))) for link in contents[path].links}
        new = (targets & contents.keys()) - reached
        reached |= new
        queue += new
    entrance = {site / "index.html", site / "search.html", site / "genindex.html"}
    assert contents.keys() - reached <= entrance
    assert {site / f"{page}.html" for page in PAGES} <= reached


@pytest.mark.slow
def test_pages_load_nothing_from_other_hosts(site: Path, contents: dict[Path, Links]) -> None:
    loaded = {address for content in contents.values() for address in content.loaded}
    assert len(loaded) > 10
    assert [address for address in loaded if re.match(r"(https?:)?//", address)] == []
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert len(styles) > 2
    assert not [match for text in styles for match in re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]*", text)]


@pytest.mark.slow
def test_source_files_and_folders_are_pages(site: Path) -> None:
    source = (site / "source/framework/llamafw/registry.py.html").read_text("utf-8")
    assert "highlight" in source
    assert "class</span>" in source
    folder = (site / "source/framework/llamafw.html").read_text("utf-8")
    assert '<a href="llamafw/registry.py.html">registry.py</a>' in folder
    assert not (site / "_downloads").exists()


@pytest.mark.slow
def test_names_for_plugins_have_their_docstrings(site: Path, contents: dict[Path, Links]) -> None:
    ids = {each for path, content in contents.items() if path.parent.name == "reference" for each in content.ids}
    for module in (llamafw, graph, checkpoints):
        names = [name for name in module.__all__ if not isinstance(getattr(module, name), ModuleType)]
        assert len(names) > 30
        assert [name for name in names if f"{module.__name__}.{name}" not in ids] == []
    members = {"GenerateRequest.n_predict", "Candidates.find", "hookspecs.wrap_asgi"}
    assert {f"llamafw.{member}" for member in members} <= ids
    text = re.sub(r"<.*?>", "", (site / "docs/reference/values.html").read_text("utf-8"))
    assert "maximum new tokens; -1: no limit" in text  # a comment beside a field
    assert "Why a generation ended." in text  # a string below an assignment


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, and logs nothing."""

    def log_message(self, *args: Any) -> None:
        """Write nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The address of a server with the site."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light")])
def test_site_works_in_a_browser(address: str, size: Any, scheme: Any) -> None:
    problems: list[str] = []

    def check(request: Any) -> None:
        if not request.url.startswith((f"{address}/", "data:")):
            problems.append(request.url)

    with running_browser() as browser:
        page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", check)
        page.goto(f"{address}/docs/index.html")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.goto(f"{address}/search.html?q=mirostat")
        page.locator("#search-results").get_by_role("link", name="Sampling", exact=True).click()
        page.get_by_role("heading", name="mirostat").first.wait_for()
        page.goto(f"{address}/search.html?q=SamplerPlugin")
        page.locator("#search-results").get_by_role("link", name="llamafw.SamplerPlugin", exact=True).click()
        page.get_by_text("Creates a sampler for each request").last.wait_for()
    assert problems == []
