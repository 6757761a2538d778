"""Self-extend with real processes: a passkey is found beyond the trained context."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw.testing.process import ServerProcess, running_server
from support.self_extend import DIGITS, FILLER, N_TRAINED, passkey_prompt, write_passkey_model

DISTANCES = [10, N_TRAINED // 2, 3 * N_TRAINED // 2, 2 * N_TRAINED, 5 * N_TRAINED // 2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_passkey_model(tmp_path_factory.mktemp("model") / "passkey.gguf")


@pytest.fixture(scope="module")
def extended(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    disk = tmp_path_factory.mktemp("states")
    flags = "-gan", "4", "-gaw", "64", "-c", "2048", "-np", "2", "-t", "1", "--slot-save-path", str(disk)
    with running_server(model, *flags, "--spec-type", "ngram-simple") as server:
        yield server


def complete(server: ServerProcess, prompt: list[int], **fields: Any) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": 1, "temperature": 0, "return_tokens": True} | fields
    response = httpx.post(f"{server.url}/completion", json=body, timeout=60)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.inventory("C-037", "C-038", "K-11")
@pytest.mark.parametrize("distance", DISTANCES)
def test_passkey_is_found_with_self_extend(extended: ServerProcess, distance: int) -> None:
    key = DISTANCES.index(distance) + 3
    assert complete(extended, passkey_prompt(key, 100, distance))["tokens"] == [DIGITS[key]]


@pytest.mark.inventory("K-11")
def test_passkey_beyond_the_trained_context_is_not_found_without(model: Path) -> None:
    with running_server(model, "-c", "1024", "-np", "1", "-t", "1") as server:
        found = [complete(server, passkey_prompt(4, 100, distance))["tokens"][0] for distance in DISTANCES]
    assert found == [DIGITS[4], DIGITS[4], FILLER, FILLER, FILLER]


@pytest.mark.inventory("K-11", "E-042")
def test_cached_prompt_gives_the_same_answer(extended: ServerProcess) -> None:
    """The common prefix ends within a window; the tokens of the window are evaluated again."""
    prompt, other = passkey_prompt(5, 100, 400), passkey_prompt(9, 100, 400)
    first = complete(extended, prompt, id_slot=0)
    again = complete(extended, prompt, id_slot=0)
    changed = complete(extended, other, id_slot=0)
    assert [one["tokens"] for one in (first, again, changed)] == [[DIGITS[5]], [DIGITS[5]], [DIGITS[9]]]
    n_windows = (len(prompt) - 1) // 64 * 64
    assert again["tokens_cached"] >= n_windows
    assert changed["tokens_cached"] == 64


@pytest.mark.inventory("K-11")
def test_slot_is_saved_and_restored(extended: ServerProcess) -> None:
    prompt = passkey_prompt(8, 30, 500)
    complete(extended, prompt, id_slot=0)
    for id, action in ((0, "save"), (1, "restore")):
        url = f"{extended.url}/slots/{id}?action={action}"
        assert httpx.post(url, json={"filename": "state.bin"}).status_code == 200
    again = complete(extended, prompt, id_slot=1)
    assert again["tokens"] == [DIGITS[8]]
    assert again["tokens_cached"] >= (len(prompt) - 1) // 64 * 64


@pytest.mark.inventory("K-11")
def test_generation_ends_at_the_full_context(extended: ServerProcess) -> None:
    """Context shift is off; n-gram drafts of the repeated token cross the ends of windows."""
    prompt = passkey_prompt(7, 100, 800)
    found = complete(extended, prompt, n_predict=-1, ignore_eos=True)
    assert found["truncated"]
    assert len(prompt) + len(found["tokens"]) == 1024
    assert complete(extended, prompt + found["tokens"][:50], ignore_eos=True)["tokens"] == found["tokens"][50:51]


@pytest.mark.inventory("K-11")
@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"truncate_prompt": True}, 400, "truncate_prompt"),
        ({"n_cache_reuse": 16}, 501, "n_cache_reuse"),
        ({"prompt": [FILLER] * 1100}, 400, "prompt"),
    ],
    ids=lambda one: str(next(iter(one))) if isinstance(one, dict) else "",
)
def test_request_that_would_move_positions_is_refused(
    extended: ServerProcess, fields: dict[str, Any], status: int, param: str
) -> None:
    body = {"prompt": [FILLER] * 10, "n_predict": 1} | fields
    response = httpx.post(f"{extended.url}/completion", json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"].get("param") == param


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--cache-reuse", "8"), "--cache-reuse 8: parts of a cached prompt cannot be moved"),
        (("--backend", "onnx"), "self-extend (--grp-attn-n) needs --backend numba"),
    ],
    ids=["cache reuse", "onnx"],
)
def test_settings_that_do_not_fit_stop_the_server(model: Path, flags: tuple[str, ...], message: str) -> None:
    if "onnx" in flags:
        pytest.importorskip("onnxruntime")
    with running_server(model, "-gan", "4", *flags, "-c", "1024", "-np", "1", "-t", "1", ready=False) as server:
        assert server.process.wait(60) == (1 if "onnx" in flags else 2)  # of the model, and of the flags
        server.wait_for_end()
    assert any(message in line for line in server.output)


def test_width_that_does_not_fit_stops_the_start(model: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="(?s)exit code 2.*--grp-attn-w 64 is not a multiple of --grp-attn-n 3"),
        running_server(model, "-gan", "3", "-gaw", "64"),
    ):
        pass
