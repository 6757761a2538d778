"""GET /slots, POST /slots/{id_slot}, POST /props, /lora-adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llamafw import LoadedModel, RequestError, Settings, SettingsError
from llamafw.server.app import build_app
from llamafw_plugins.endpoints.slots import checked_name
from support.toy import ToyBackend, ToyTokenizer, forever

COMPLETE = {"prompt": "abc", "n_predict": 3, "temperature": 0, "id_slot": 1}


@pytest.mark.inventory("E-190", "E-192", "D-09", "D-10", "C-116", "C-118", "R-13", "B-12")
async def test_slots_are_shown_if_asked_for(opened: Any) -> None:
    async with opened() as client:
        error = (await client.get("/slots")).json()["error"]
        assert (error["code"], error["message"]) == (
            501,
            "This server does not support slots endpoint. Start it with `--slots`",
        )
    async with opened(slots=True) as client:
        first, second = (await client.get("/slots")).json()
        assert (first["id"], first["id_task"], first["state"], first["prompt"]) == (0, -1, 0, None)
        await client.post("/completion", json={**COMPLETE, "seed": 7})
        second = (await client.get("/slots")).json()[1]
    assert (second["id_task"], second["is_processing"], second["prompt"], second["seed"]) == (0, False, "abc", 7)
    assert (second["n_prompt_tokens"], second["n_prompt_tokens_processed"], second["n_past"]) == (3, 3, 5)
    assert second["next_token"] == {
        "has_next_token": False,
        "n_remain": 0,
        "n_decoded": 3,
        "stopped_eos": False,
        "stopped_word": False,
        "stopped_limit": True,
        "stopping_word": "",
    }
    assert {"temperature", "top_k", "samplers", "n_ctx"} <= set(second)


@pytest.mark.inventory("E-191")
@pytest.mark.parametrize("query", ["fail_on_no_slot", "fail_on_no_slot=1", "fail_on_no_slot=0"])
async def test_idle_slots_are_enough(opened: Any, query: str) -> None:
    async with opened(slots=True) as client:
        assert (await client.get(f"/slots?{query}")).status_code == 200


@pytest.mark.inventory("E-191", "R-07")
async def test_no_idle_slot(opened: Any) -> None:
    backend = ToyBackend(forever, n_slots=1, n_ctx=64, hold=True)
    async with opened(slots=True, backend=backend) as client, running(client, backend):
        assert (await client.get("/slots?fail_on_no_slot")).status_code == 503
        assert (await client.get("/slots")).json()[0]["is_processing"]


@asynccontextmanager
async def running(client: Any, backend: ToyBackend) -> AsyncIterator[None]:
    """A request has the only slot."""
    task = asyncio.create_task(client.post("/completion", json={"prompt": "a", "n_predict": 3}))
    await backend.begun()
    yield
    backend.allow(100)
    assert (await task).status_code == 200


@pytest.mark.inventory("E-210", "E-212", "E-213", "E-214", "C-119", "R-21")
async def test_a_slot_to_a_file_and_back(opened: Any, tmp_path: Path) -> None:
    async with opened(slot_save_path=str(tmp_path)) as client:
        first = (await client.post("/completion", json=COMPLETE)).json()
        saved = (await client.post("/slots/1?action=save", json={"filename": "a b.bin"})).json()
        assert (saved["id_slot"], saved["filename"], saved["n_saved"]) == (1, "a b.bin", 5)
        assert saved["n_written"] == (tmp_path / "a b.bin").stat().st_size
        assert saved["timings"]["save_ms"] >= 0
        assert (await client.post("/slots/1?action=erase")).json() == {"id_slot": 1, "n_erased": 5}
        restored = (await client.post("/slots/0?action=restore", json={"filename": "a b.bin"})).json()
        assert (restored["n_restored"], restored["n_read"]) == (5, saved["n_written"])
        again = (await client.post("/completion", json={**COMPLETE, "id_slot": 0})).json()
        assert (again["content"], again["tokens_cached"]) == (first["content"], 2)


@pytest.mark.inventory("E-210", "E-211", "R-21", "R-06")
@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/slots/x?action=erase", None, 400, "id_slot"),
        ("/slots/-1?action=erase", None, 400, "id_slot"),
        ("/slots/9?action=erase", None, 400, "id_slot"),
        ("/slots/0", None, 400, "action"),
        ("/slots/0?action=delete", None, 400, "action"),
        ("/slots/0?action=save", None, 400, "filename"),
        ("/slots/0?action=save", {}, 400, "filename"),
        ("/slots/0?action=save", {"filename": ""}, 400, "filename"),
        ("/slots/0?action=save", {"filename": 5}, 400, "filename"),
        ("/slots/0?action=save", {"filename": "../x"}, 400, "filename"),
        ("/slots/0?action=restore", {"filename": "nothing"}, 400, "filename"),
    ],
)
async def test_what_slots_refuse(opened: Any, tmp_path: Path, path: str, body: Any, status: int, param: str) -> None:
    async with opened(slot_save_path=str(tmp_path)) as client:
        response = await client.post(path, json=body) if body is not None else await client.post(path)
        error = response.json()["error"]
        assert (error["code"], error["param"]) == (status, param), error
        assert str(tmp_path) not in error["message"]
    async with opened() as client:
        assert (await client.post("/slots/0?action=erase")).status_code == 501


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.inventory("E-211", "R-05")
async def test_the_name_of_a_folder_is_refused(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    async with opened(slot_save_path=str(tmp_path)) as client:
        for action in ("save", "restore"):
            response = await client.post(f"/slots/0?action={action}", json={"filename": "inner"})
            assert (response.status_code, response.json()["error"]["param"]) == (400, "filename")
    assert names(tmp_path) == ["inner"]


def test_the_folder_must_be_there(tmp_path: Path, plugins: Any) -> None:
    def load() -> LoadedModel:
        raise AssertionError("never asked for")

    with pytest.raises(SettingsError, match="--slot-save-path: there is no folder"):
        build_app(Settings(slot_save_path=str(tmp_path / "no")), plugins, load)


@pytest.mark.inventory("E-211")
@pytest.mark.parametrize("name", ["a", "a b", "ümlaut.bin", ".hidden", "x" * 255, "a.b.c", "-rf"])
def test_names_that_will_do(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.inventory("E-211")
@pytest.mark.parametrize(
    "name",
    [
        "",
        " a",
        "a ",
        "a.",
        ".",
        "..",
        "a..b",
        "a/b",
        "a\\b",
        "C:x",
        "a*",
        "a?",
        'a"',
        "a<",
        "a>",
        "a|b",
        "a\nb",
        "a\x00",
        "a\x7fb",
        "a\x85b",
        "\uff0e",
        "a\u2215b",
        "a\u2216b",
        "a\ufffdb",
        "\ufeffa",
        "x" * 256,
        "é" * 128,
        None,
    ],
)
def test_names_that_will_not(name: str | None) -> None:
    with pytest.raises(RequestError, match="Invalid filename"):
        checked_name(name)


def test_a_name_that_is_no_utf_8() -> None:
    with pytest.raises(RequestError, match="it is no UTF-8"):
        checked_name("a\ud800")


# --- the system prompt


@pytest.mark.inventory("E-170", "E-171", "E-172", "C-117", "R-11", "R-12", "D-26")
async def test_the_system_prompt(opened: Any) -> None:
    async with opened(props=True) as client:
        assert (await client.get("/props")).json()["system_prompt"] == ""
        assert (await client.post("/props", json={"system_prompt": "xyz"})).json() == {"success": True}
        assert (await client.get("/props")).json()["system_prompt"] == "xyz"
        found = (await client.post("/completion", json={"prompt": "ab", "n_predict": 1, "temperature": 0})).json()
        assert (found["tokens_evaluated"], found["content"]) == (5, "c")
        assert (await client.post("/props", json={})).json() == {"success": True}
        assert (await client.get("/props")).json()["system_prompt"] == "xyz"
        error = (await client.post("/props", json={"system_prompt": 5})).json()["error"]
        assert (error["code"], error["param"]) == (400, "system_prompt")
        await client.post("/props", json={"system_prompt": ""})
        found = (await client.post("/completion", json={"prompt": "ab", "n_predict": 1})).json()
        assert found["tokens_evaluated"] == 2
    async with opened() as client:
        assert (await client.post("/props", json={"system_prompt": "x"})).status_code == 501


@pytest.mark.inventory("E-172", "D-26")
async def test_bos_comes_once_before_the_system_prompt(opened: Any) -> None:
    class WithBos(ToyTokenizer):
        add_bos = True

        def encode(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
            return [256] * add_special + list(text.encode())

    async with opened(props=True, tokenizer=WithBos()) as client:
        await client.post("/props", json={"system_prompt": "xyz"})
        for prompt in ("ab", [256, 97, 98], [97, 98]):
            found = (await client.post("/completion", json={"prompt": prompt, "n_predict": 1})).json()
            assert found["tokens_evaluated"] == 6


# --- LoRA


@pytest.mark.inventory("E-220", "E-221", "R-22")
async def test_adapters(opened: Any) -> None:
    async with opened() as client:
        assert (await client.get("/lora-adapters")).json() == []
        assert (await client.post("/lora-adapters", json=[])).json() == {"success": True}
        one = {"id": 0, "scale": 1}
        wrong = ([one], "0.id"), ([{**one, "id": -1}], "0.id"), ([{"id": 0}], "0.scale"), ([5], "0"), ({}, None)
        for body, param in wrong:
            error = (await client.post("/lora-adapters", json=body)).json()["error"]
            assert (error["code"], error.get("param")) == (400, param), error
