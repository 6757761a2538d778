"""Invalid requests to operations that flags enable: slot files, props, infill, pooled embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw.testing import contract
from llamafw.testing.process import running_server

SAVE, RESTORE = "/slots/0?action=save", "/slots/0?action=restore"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def open_server(folder: Path) -> Iterator[httpx.Client]:
    """Yield a client of a server with all operations enabled and a model with infill tokens."""
    model = contract.write_model(folder.parent / "open.gguf")
    flags = f"--slots --props --metrics --pooling mean --slot-save-path {folder} -np 2 --validate-responses"
    with running_server(model, *flags.split()) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


NAMES = [
    "../x",
    "a/b",
    "a\\b",
    "/etc/passwd",
    "",
    ".",
    "..",
    "a..b",
    "x.",
    " x",
    "x ",
    "a:b",
    "a*",
    "a?",
    'a"',
    "<a>",
    "a|b",
    "a\nb",
    "a\x00",
    "\uff0e",
    "\u2215",
    "\u2216",
    "\ufffd",
    "\ufeff",
    "x" * 256,
    "é" * 128,
]


@pytest.mark.inventory("E-210", "E-211", "R-21")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", [SAVE, RESTORE])
def test_invalid_file_names_are_refused(open_server: httpx.Client, folder: Path, path: str, name: str) -> None:
    response = open_server.post(path, json={"filename": name})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "filename")
    assert str(folder) not in response.text
    assert not list(folder.iterdir())


REFUSED: list[tuple[str, Any, str | None]] = [
    (SAVE, {}, "filename"),
    (SAVE, {"filename": 5}, "filename"),
    (RESTORE, {"filename": "missing"}, "filename"),
    ("/slots/9?action=save", {"filename": "a"}, "id_slot"),
    ("/slots/-1?action=erase", {}, "id_slot"),
    ("/slots/x?action=erase", {}, "id_slot"),
    ("/slots/0?action=dance", {}, "action"),
    ("/slots/0", {}, "action"),
    ("/props", {"system_prompt": 5}, "system_prompt"),
    ("/props", [], None),
    ("/infill", {"input_prefix": 5, "input_suffix": "a"}, "input_prefix"),
    ("/infill", {"input_prefix": "a", "input_suffix": {"b": 1}}, "input_suffix"),
    ("/infill", {"input_prefix": [99999999]}, "input_prefix.0"),
    ("/infill", {"input_prefix": "a", "input_extra": 5}, "input_extra"),
]


@pytest.mark.inventory("E-130", "E-132", "E-171", "E-210", "E-213", "R-12", "R-17", "R-21")
@pytest.mark.parametrize(("path", "body", "param"), REFUSED)
def test_invalid_requests_are_refused(open_server: httpx.Client, path: str, body: Any, param: str | None) -> None:
    response = open_server.post(path, json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"].get("param") == param
    assert open_server.get("/health").status_code == 200


ANSWERED: list[tuple[str, Any]] = [
    ("/infill", {"input_suffix": "a", "n_predict": 2}),  # this ended llama-server's process
    ("/infill", {"input_prefix": "a", "n_predict": 2}),
    ("/infill", {"n_predict": 2}),
    ("/embedding", {"content": "a"}),  # pooling of one token: this failed an assertion
    ("/v1/embeddings", {"input": ["a", "b", [5]]}),
    ("/slots/0?action=erase", {}),
    ("/slots/1?action=erase", None),
]


@pytest.mark.inventory("E-130", "E-132", "E-158", "E-214", "F-14")
@pytest.mark.parametrize(("path", "body"), ANSWERED)
def test_unusual_requests_are_answered(open_server: httpx.Client, path: str, body: Any) -> None:
    response = open_server.post(path, json=body)
    assert response.status_code == 200, response.text
    assert open_server.get("/health").status_code == 200


@pytest.mark.inventory("E-200", "E-201", "E-203")
def test_metrics_are_finite_before_the_first_request(open_server: httpx.Client) -> None:
    text = open_server.get("/metrics").text
    values = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#" and "_bucket" not in line]
    assert len(values) > 12
    assert all(value == value and abs(value) < float("inf") for value in values)


@pytest.mark.inventory("E-213")
@pytest.mark.parametrize("content", [b"", b"GGUF", bytes(4096), b"\xff" * 100])
def test_invalid_slot_files_are_refused(open_server: httpx.Client, folder: Path, content: bytes) -> None:
    (folder / "strange").write_bytes(content)
    try:
        response = open_server.post(RESTORE, json={"filename": "strange"})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "filename")
        assert str(folder) not in response.text
    finally:
        (folder / "strange").unlink()
