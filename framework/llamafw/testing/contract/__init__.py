"""``llamafw contract-test``: test a server against its own API document, with schemathesis.

It sends valid and invalid requests to every operation, including those of plugins, and compares all responses with the
document. `hooks` has what a schema cannot express.
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

from llamafw.cli.parser import CommandParser
from llamafw.cli.serve import parse_command_line
from llamafw.errors import SettingsError, SpecError, StartupError
from llamafw.spec import METHODS, PLUGIN, Document, operation_ids, operations

HERE = Path(__file__).parent
KEY = "contract"
LINK_EXAMPLES = "max-examples = 250"  # the line of schemathesis.toml that limits how many chains of links are followed
DEFECT = re.compile(r"breaks the API document|Traceback")  # in the log of a server that validates its responses


def run(argv: list[str]) -> int:
    """Test a server; return 1 if it does not follow its API document."""
    parser = CommandParser(
        "llamafw contract-test",
        "Test a server against its API document: every operation, including those of plugins, with valid and invalid "
        "data. Without --url, a server with a tiny model is started. It gets all flags that are not listed here.",
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
    args, rest = parser.parse_known_args(argv)

    if find_spec("schemathesis") is None:
        raise StartupError("contract-test needs a package that is not installed: pip install schemathesis")
    if args.url and rest:
        raise SettingsError(f"contract-test: {rest[0]} is a flag for a new server, but --url names a running one")

    with TemporaryDirectory() as folder:
        if args.url:
            return _run_tests(args.url.rstrip("/"), Path(folder), args)
        parse_command_line(rest)  # before the server is started, to report a wrong flag as an error of this command
        args.api_key = args.api_key or KEY
        with _running_server(Path(folder), args.api_key, rest) as server:
            code = _run_tests(server.url, Path(folder), args)
        defects = [line for line in server.output if DEFECT.search(line)]
        print("".join(defects), end="", file=sys.stderr)
        return code or bool(defects)


def command(
    document: Document, folder: Path, url: str, paths: Collection[str] = (), **options: int | None
) -> list[str]:
    """Return the command line that tests the server at ``url``; run it in ``folder``.

    Parameters
    ----------
    document : dict
        The server's API document. It is passed in a file: if schemathesis read it from the server, it would not test
        the operation that serves it.
    folder : Path
        Where the document and reports are written.
    url : str
        The server.
    paths : collection of str
        Test only these paths; if empty, all.
    **options : int, optional
        Options of schemathesis: ``max_examples``, ``max_time`` and ``seed``.
    """
    copy = folder / "openapi.json"
    copy.write_text(json.dumps(_select_paths(document, paths) if paths else document), "utf-8")
    config = HERE / "schemathesis.toml"
    if (n := options.get("max_examples")) is not None:  # schemathesis's option does not affect the phase of links
        text = config.read_text("utf-8").replace(LINK_EXAMPLES, f"max-examples = {4 * n}")
        config = folder / config.name
        config.write_text(text, "utf-8")
    schemathesis = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    return [*schemathesis, "run", str(copy), "--url", url, *flags]


def _select_paths(document: Document, paths: Collection[str]) -> Document:
    """Return the document with some paths only, without links to operations of other paths."""
    document = deepcopy({**document, "paths": {path: document["paths"][path] for path in paths}})
    known = set(operation_ids(document))
    for _, _, operation in operations(document):
        for response in operation["responses"].values():
            links = response.get("links", {})
            for name in [name for name, link in links.items() if link.get("operationId") not in known]:
                del links[name]
    return document


def _without_security(document: Document) -> Document:
    """Return the document with all operations public, as on a server without keys."""
    document = {**deepcopy(document), "security": []}
    for item in document["paths"].values():
        for method in item.keys() & METHODS:
            item[method].pop("security", None)
    return document


def environment(api_key: str | None) -> dict[str, str]:
    """Return the environment variables for `command`."""
    variables = {"API_KEY": api_key or "none", "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py"), "COLUMNS": "120"}
    return {**os.environ, **variables}


def all_operations_flags(slots: Path) -> list[str]:
    """Return the flags that enable every operation; create the folder ``slots``, where slots are saved."""
    slots.mkdir()
    return ["--slots", "--props", "--metrics", "--reranking", "--slot-save-path", str(slots), "--validate-responses"]


def write_model(path: Path) -> Path:
    """Write a tiny model that supports every operation, including infill and rerank; return ``path``."""
    import numpy as np

    from llamafw.testing.tiny import write_tiny_gguf

    middle = {f"tokenizer.ggml.fim_{part}_token_id": token for token, part in enumerate(("pre", "suf", "mid"), 317)}
    head = {"cls.output.weight": np.linspace(-1, 1, 64, dtype=np.float32)[None]}
    return write_tiny_gguf(path, n_ctx=4096, n_vocab=320, n_embd=64, metadata=middle, tensors=head)


def paths_of_plugins(document: Document) -> list[str]:
    """Return the paths of a server's document to which plugins that are not built in have added operations."""
    return sorted({path for path, _, operation in operations(document) if PLUGIN in operation})


def failures(output: str, server: str = "") -> list[str]:
    """Return the failures in the output of schemathesis, one line for each operation.

    Parameters
    ----------
    output : str
        The output.
    server : str
        A command that starts a server on which the failures can be reproduced.
    """
    start = f"`{server}` and " if server else ""
    lines = []
    for place, text in re.findall(r"^_{3,} (\w+ /\S*) _{3,}$(.*?)(?=^[_=]{3,} )", output, re.M | re.S):
        reasons = dict.fromkeys(re.findall(r"^- (?:ST\d+ )?(.+)$", text, re.M))
        example = re.search(r"^    (curl .*)$", text, re.M)
        lines.append(f"{place}: {'; '.join(reasons)}" + (f"; reproduce with {start}{example[1]}" if example else ""))
    return lines


def _run_tests(url: str, folder: Path, args: Any) -> int:
    """Test the server at ``url``; return the exit code of schemathesis."""
    document = _fetch_document(url)
    paths = list(args.path)
    for path in paths:
        if path not in document["paths"]:
            raise SettingsError(f"contract-test: {url} has no {path}")
    if args.plugins_only:
        paths += paths_of_plugins(document)
        if not paths:
            raise SettingsError(f"contract-test: the server at {url} has no operations of plugins")
    if not args.api_key:  # the document does not say whether the server asks for keys
        document = _without_security(document)

    options = {name: getattr(args, name) for name in ("max_examples", "max_time", "seed")}
    argv = command(document, folder, url, paths, **options)
    return subprocess.run(argv, env=environment(args.api_key), cwd=folder, check=False).returncode


def _fetch_document(url: str) -> Document:
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
def _running_server(folder: Path, key: str, flags: list[str]) -> Iterator[Any]:
    """Start a server with a tiny model and all operations enabled."""
    from llamafw.testing.process import running_server

    model = write_model(folder / "tiny.gguf")
    defaults = "--plugin llamafw.testing.backend --backend deterministic -np 4 -c 16384 -n 4".split()
    defaults += all_operations_flags(folder / "slots")
    with running_server(model, *defaults, "--api-key", key, *flags) as server:
        yield server
