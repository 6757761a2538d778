"""``llamafw contract-test``: hold a running server against its own API document, by schemathesis with our settings.

Every operation, with valid and invalid data: are all answers as the document says? The operations of plugins are in the
document, and so in the test. What a schema cannot say is in `hooks`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llamafw.cli.parser import Parser
from llamafw.cli.serve import parse_command_line
from llamafw.errors import SettingsError, SpecError, StartupError
from llamafw.spec import METHODS, Document, load_document, operation_ids, operations

HERE = Path(__file__).parent
KEY = "contract"
LINKED = "max-examples = 250"  # in schemathesis.toml: how many chains of links are followed
BROKEN = re.compile(r"breaks the API document|Traceback")  # in the log of a server that holds answers against it


def run(argv: list[str]) -> int:
    """Test a server; return 1 if it does not follow its API document."""
    parser = Parser(
        "llamafw contract-test",
        "Test a server against its API document: every operation, including those of plugins, with valid and invalid "
        "data. Without --url, a server with a tiny model is started, which gets all flags that are not listed here.",
        example="llamafw contract-test\nllamafw contract-test --url http://127.0.0.1:8080 --max-examples 10",
    )
    key = os.environ.get("LLAMA_API_KEY")
    add = parser.add_argument
    add("--url", metavar="URL", help="test this running server, such as http://127.0.0.1:8080")
    add("--api-key", metavar="KEY", default=key, help="API key of the server [env: LLAMA_API_KEY]")
    add("--path", action="append", default=[], metavar="PATH", help="test only this path; may be repeated")
    add("--plugins-only", action="store_true", help="test only the operations that plugins add")
    add("--max-examples", type=int, metavar="N", help="requests per operation and phase (default: 60)")
    add("--max-time", type=int, metavar="SECONDS", help="send new requests for this long")
    add("--seed", type=int, metavar="N", help="seed of the generated data (default: 1)")
    given, rest = parser.parse_known_args(argv)
    if find_spec("schemathesis") is None:
        raise StartupError("contract-test needs a package that is not installed: pip install schemathesis")
    if given.url and rest:
        raise SettingsError(f"contract-test: {rest[0]} is a flag for a new server, but --url names a running one")
    with TemporaryDirectory() as folder:
        if given.url:
            return _test(given.url.rstrip("/"), Path(folder), given)
        parse_command_line(rest)  # before the server is started: a wrong flag is an error of this command
        with _started(Path(folder), given.api_key or KEY, rest) as server:
            given.api_key = given.api_key or KEY
            code = _test(server.url, Path(folder), given)
        broken = [line for line in server.output if BROKEN.search(line)]
        print("".join(broken), end="", file=sys.stderr)
        return code or bool(broken)


def command(
    document: Document, folder: Path, url: str, paths: Collection[str] = (), **options: int | None
) -> list[str]:
    """Return the command line that tests the server at ``url``; run it in ``folder``.

    Parameters
    ----------
    document : dict
        The server's API document. A copy is tested: of a URL, schemathesis would leave that very operation out.
    folder : Path
        Where the copy goes, and reports.
    paths : collection of str
        Test these alone; none: all.
    **options : int, optional
        ``max_examples``, ``max_time`` and ``seed``: schemathesis's options.
    """
    copy = folder / "openapi.json"
    copy.write_text(json.dumps(_only(document, paths) if paths else document), "utf-8")
    config = HERE / "schemathesis.toml"
    if (most := options.get("max_examples")) is not None:  # schemathesis does not carry it into the phase of links
        text = config.read_text("utf-8").replace(LINKED, f"max-examples = {4 * most}")
        config = folder / config.name
        config.write_text(text, "utf-8")
    schemathesis = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)]
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    return [*schemathesis, "run", str(copy), "--url", url, *given]


def _only(document: Document, paths: Collection[str]) -> Document:
    """Return the document with some paths alone, and of their links those that do not lead elsewhere."""
    document = deepcopy({**document, "paths": {path: document["paths"][path] for path in paths}})
    here = set(operation_ids(document))
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            links = response.get("links", {})
            for name in [name for name, link in links.items() if link.get("operationId") not in here]:
                del links[name]
    return document


def _public(document: Document) -> Document:
    """Return the document of the same server without keys, where everyone may call."""
    document = {**deepcopy(document), "security": []}
    for item in document["paths"].values():
        for method in item.keys() & METHODS:
            item[method].pop("security", None)
    return document


def environment(api_key: str | None) -> dict[str, str]:
    """Return the environment for `command`."""
    ours = {"API_KEY": api_key or "none", "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py"), "COLUMNS": "120"}
    return {**os.environ, **ours}


def everything(slots: Path) -> list[str]:
    """Return the flags that switch every operation on; ``slots``, where slots are saved, is made."""
    slots.mkdir()
    return ["--slots", "--props", "--metrics", "--reranking", "--slot-save-path", str(slots), "--validate-responses"]


def write_model(path: Path) -> Path:
    """Write a tiny model that can do what any operation asks for, fill in and rerank included; return ``path``."""
    import numpy as np

    from llamafw.testing.tiny import write_tiny_gguf

    middle = {f"tokenizer.ggml.fim_{part}_token_id": token for token, part in enumerate(("pre", "suf", "mid"), 317)}
    head = {"cls.output.weight": np.linspace(-1, 1, 64, dtype=np.float32)[None]}
    return write_tiny_gguf(path, n_ctx=4096, n_vocab=320, n_embd=64, metadata=middle, tensors=head)


def paths_of_plugins(document: Document) -> list[str]:
    """Return the paths of a server's document that are not in ours."""
    return sorted(set(document["paths"]) - set(load_document()["paths"]))


def failures(output: str) -> list[str]:
    """Return what schemathesis has found, a line for each operation."""
    found = []
    for place, text in re.findall(r"^_{3,} (\w+ /\S*) _{3,}$(.*?)(?=^[_=]{3,} )", output, re.M | re.S):
        faults = dict.fromkeys(re.findall(r"^- (?:ST\d+ )?(.+)$", text, re.M))
        example = re.search(r"^    (curl .*)$", text, re.M)
        found.append(f"{place}: {'; '.join(faults)}" + (f"; reproduce with {example[1]}" if example else ""))
    return found


def _test(url: str, folder: Path, given: Any) -> int:
    document = _fetch(url)
    paths = list(given.path)
    for path in paths:
        if path not in document["paths"]:
            raise SettingsError(f"contract-test: {url} has no {path}")
    if given.plugins_only:
        paths += paths_of_plugins(document)
        if not paths:
            raise SettingsError(f"contract-test: no plugin of {url} has added an operation")
    if not given.api_key:  # whether a server asks for keys is no part of its document
        document = _public(document)
    options = {name: getattr(given, name) for name in ("max_examples", "max_time", "seed")}
    words = command(document, folder, url, paths, **options)
    return subprocess.run(words, env=environment(given.api_key), cwd=folder, check=False).returncode


def _fetch(url: str) -> Document:
    import httpx

    try:
        response = httpx.get(f"{url}/openapi.json", timeout=30)
        document = response.raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise StartupError(f"contract-test: {url}/openapi.json cannot be read: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
        raise SpecError(f"contract-test: {url}/openapi.json is not an API document")
    return document


@contextmanager
def _started(folder: Path, key: str, flags: list[str]) -> Iterator[Any]:
    """Start a server with a tiny model and everything switched on."""
    from llamafw.testing.process import running_server

    model = write_model(folder / "tiny.gguf")
    usual = [
        "--plugin",
        "llamafw.testing.backend",
        "--backend",
        "deterministic",
        "-np",
        "4",
        "-c",
        "16384",
        "-n",
        "4",
        *everything(folder / "slots"),
    ]
    with running_server(model, *usual, "--api-key", key, *flags) as server:
        yield server
