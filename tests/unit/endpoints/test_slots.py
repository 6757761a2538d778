"""GET /slots, POST /slots/{id_slot}, POST /props, /lora-adapters."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from llamafw import LoadedModel, RequestError, Settings, SettingsError
from llamafw.server.app import build_app
from llamafw_plugins.endpoints.slots import check_file_name
from support.toy_model import BOS, ToyBackend, ToyTokenizerWithBos, alphabet_logits
from unit.endpoints.conftest import Open

pytestmark = pytest.mark.slow

COMPLETE = {"prompt": "abc", "n_predict": 3, "temperature": 0, "id_slot": 1}


@pytest.mark.inventory("E-190", "E-192", "D-09", "D-10", "C-116", "C-118", "R-13", "B-12")
async def test_slots_can_be_disabled(opened: Open) -> None:
    async with opened(slots=False) as client:
        error = (await client.get("/slots")).json()["error"]
    message = "This server does not support slots endpoint. Start it without `--no-slots`"
    assert (error["code"], error["message"]) == (501, message)


@pytest.mark.inventory("O-01")
async def test_slots_hide_what_clients_wrote_without_the_flag(opened: Open) -> None:
    body = {**COMPLETE, "stop": ["secret stop", "c"], "grammar": 'root ::= "secret"*', "logit_bias": [[97, -1]]}
    async with opened() as client:
        await client.post("/completion", json=body)
        response = await client.get("/slots")
    assert "secret" not in response.text
    slot = response.json()[1]
    assert not {"prompt", "stop", "grammar", "logit_bias"} & {*slot, *slot["params"], *slot["next_token"][0]}
    assert (slot["params"]["temperature"], slot["speculative"], slot["n_prompt_tokens"]) == (0, False, 3)


@pytest.mark.inventory("E-190", "E-192", "D-09", "D-10", "C-116", "C-118", "R-13", "B-12")
async def test_slots_show_their_last_request(opened: Open) -> None:
    async with opened(slots=True) as client:
        first = (await client.get("/slots")).json()[0]
        assert (first["id"], first["id_task"], first["state"], first["prompt"]) == (0, -1, 0, None)
        await client.post("/completion", json={**COMPLETE, "seed": 7})
        second = (await client.get("/slots")).json()[1]

    assert (second["id_task"], second["is_processing"], second["prompt"], second["seed"]) == (0, False, "abc", 7)
    assert (second["n_prompt_tokens"], second["n_prompt_tokens_processed"], second["n_past"]) == (3, 3, 5)
    assert second["next_token"] == [
        {
            "has_next_token": False,
            "n_remain": 0,
            "n_decoded": 3,
            "stopped_eos": False,
            "stopped_word": False,
            "stopped_limit": True,
            "stopping_word": "",
        }
    ]
    assert second["params"]["seed"] == 7
    assert {"temperature", "top_k", "samplers", "n_ctx"} <= set(second)


@pytest.mark.inventory("E-191")
@pytest.mark.parametrize("query", ["fail_on_no_slot", "fail_on_no_slot=1", "fail_on_no_slot=0"])
async def test_fail_on_no_slot_passes_with_an_idle_slot(opened: Open, query: str) -> None:
    async with opened(slots=True) as client:
        assert (await client.get(f"/slots?{query}")).status_code == 200


@pytest.mark.inventory("E-191", "R-07")
async def test_fail_on_no_slot_is_503_without_an_idle_slot(opened: Open) -> None:
    backend = ToyBackend(alphabet_logits, n_slots=1, n_ctx=64, hold=True)
    async with opened(slots=True, backend=backend) as client, running_request(client, backend):
        assert (await client.get("/slots?fail_on_no_slot")).status_code == 503
        assert (await client.get("/slots")).json()[0]["is_processing"]


@asynccontextmanager
async def running_request(client: Any, backend: ToyBackend) -> AsyncIterator[None]:
    """Keep a request in the only slot."""
    task = asyncio.create_task(client.post("/completion", json={"prompt": "a", "n_predict": 3}))
    await backend.wait_for_forward()
    yield
    backend.allow_forward(100)
    assert (await task).status_code == 200


@pytest.mark.inventory("E-210", "E-212", "E-213", "E-214", "C-119", "R-21")
async def test_slot_is_saved_erased_and_restored(opened: Open, tmp_path: Path) -> None:
    async with opened(slot_save_path=str(tmp_path)) as client:
        first = (await client.post("/completion", json=COMPLETE)).json()
        saved = (await client.post("/slots/1?action=save", json={"filename": "a b.bin"})).json()
        assert (saved["id_slot"], saved["filename"], saved["n_saved"]) == (1, "a b.bin", 5)
        assert saved["n_written"] == (tmp_path / "a b.bin").stat().st_size
        assert saved["timings"]["save_ms"] >= 0
        assert (await client.post("/slots/1?action=erase")).json() == {"id_slot": 1, "n_erased": 5}
        erased = (await client.get("/slots")).json()[1]
        assert (erased["n_prompt_tokens"], erased["n_past"], erased["is_processing"]) == (0, 0, False)
        restored = (await client.post("/slots/0?action=restore", json={"filename": "a b.bin"})).json()
        assert (restored["n_restored"], restored["n_read"]) == (5, saved["n_written"])
        again = (await client.post("/completion", json={**COMPLETE, "id_slot": 0})).json()
        assert (again["content"], again["tokens_cached"]) == (first["content"], 2)


async def test_removed_folder_of_slots_is_created_again(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "slots"
    async with opened(slot_save_path=str(folder)) as client:
        shutil.rmtree(tmp_path / "new")
        response = await client.post("/slots/0?action=save", json={"filename": "a"})
    assert response.status_code == 200
    assert [path.name for path in folder.iterdir()] == ["a"]


async def test_temporary_files_of_killed_servers_are_removed(opened: Open, tmp_path: Path) -> None:
    async with opened(slot_save_path=str(tmp_path)) as client:
        for name, age in ((".slot-1", 3600), (".slot-2", 0), ("slot-3", 3600), (".prompt-4", 3600)):
            (tmp_path / name).touch()
            os.utime(tmp_path / name, (time.time() - age,) * 2)
        assert (await client.post("/slots/0?action=save", json={"filename": "a"})).status_code == 200
        refused = await client.post("/slots/0?action=save", json={"filename": ".slot-mine"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "filename")
    assert sorted(os.listdir(tmp_path)) == [".prompt-4", ".slot-2", "a", "slot-3"]


@pytest.mark.inventory("E-210", "E-211", "R-21", "R-06")
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/slots/x?action=erase", None, "id_slot"),
        ("/slots/-1?action=erase", None, "id_slot"),
        ("/slots/9?action=erase", None, "id_slot"),
        ("/slots/0", None, "action"),
        ("/slots/0?action=delete", None, "action"),
        ("/slots/0?action=save", None, "filename"),
        ("/slots/0?action=save", {}, "filename"),
        ("/slots/0?action=save", {"filename": ""}, "filename"),
        ("/slots/0?action=save", {"filename": 5}, "filename"),
        ("/slots/0?action=save", {"filename": "../x"}, "filename"),
        ("/slots/0?action=restore", {"filename": "nothing"}, "filename"),
    ],
)
async def test_invalid_slot_actions_are_400(opened: Open, tmp_path: Path, path: str, body: Any, param: str) -> None:
    async with opened(slot_save_path=str(tmp_path)) as client:
        response = await client.post(path, json=body) if body is not None else await client.post(path)
        error = response.json()["error"]
        assert (error["code"], error["param"]) == (400, param), error
        assert str(tmp_path) not in error["message"]


async def test_slot_actions_need_a_flag(opened: Open) -> None:
    async with opened() as client:
        assert (await client.post("/slots/0?action=erase")).status_code == 501


def file_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.inventory("E-211", "R-05")
async def test_name_of_a_folder_is_400(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    async with opened(slot_save_path=str(tmp_path)) as client:
        for action in ("save", "restore"):
            response = await client.post(f"/slots/0?action={action}", json={"filename": "inner"})
            assert (response.status_code, response.json()["error"]["param"]) == (400, "filename")
    assert file_names(tmp_path) == ["inner"]


def test_startup_fails_if_the_folder_of_slots_cannot_be_created(tmp_path: Path, plugins: Any) -> None:
    def load() -> LoadedModel:
        raise AssertionError("start-up fails before the model is loaded")

    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"--slot-save-path: .*/file/no cannot be created"):
        build_app(Settings(slot_save_path=str(tmp_path / "file" / "no")), plugins, load)
    build_app(Settings(slot_save_path=str(tmp_path / "new" / "folder")), plugins, load)
    assert (tmp_path / "new" / "folder").is_dir()


@pytest.mark.inventory("E-211")
@pytest.mark.parametrize("name", ["a", "a b", "ümlaut.bin", ".hidden", "x" * 255, "a.b.c", "-rf"])
def test_valid_file_names_are_accepted(name: str) -> None:
    assert check_file_name(name) == name


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
def test_invalid_file_names_are_refused(name: str | None) -> None:
    with pytest.raises(RequestError, match="Invalid filename"):
        check_file_name(name)


def test_file_name_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(RequestError, match="it is not valid UTF-8"):
        check_file_name("a\ud800")


# --- the system prompt


@pytest.mark.inventory("E-170", "E-171", "E-172", "C-117", "R-11", "R-12", "D-26")
async def test_system_prompt_is_set_and_cleared(opened: Open) -> None:
    async with opened(props=True) as client:
        assert (await client.get("/props")).json()["system_prompt"] == ""
        assert (await client.post("/props", json={"system_prompt": "xyz"})).json() == {"success": True}
        assert (await client.get("/props")).json()["system_prompt"] == "xyz"
        row = (await client.post("/completion", json={"prompt": "ab", "n_predict": 1, "temperature": 0})).json()
        assert (row["tokens_evaluated"], row["content"]) == (5, "c")

        assert (await client.post("/props", json={})).json() == {"success": True}
        assert (await client.get("/props")).json()["system_prompt"] == "xyz"
        error = (await client.post("/props", json={"system_prompt": 5})).json()["error"]
        assert (error["code"], error["param"]) == (400, "system_prompt")

        await client.post("/props", json={"system_prompt": ""})
        row = (await client.post("/completion", json={"prompt": "ab", "n_predict": 1})).json()
        assert row["tokens_evaluated"] == 2


@pytest.mark.inventory("E-171", "R-12")
async def test_changing_props_needs_a_flag(opened: Open) -> None:
    async with opened() as client:
        assert (await client.post("/props", json={"system_prompt": "x"})).status_code == 501


@pytest.mark.inventory("E-172", "D-26")
@pytest.mark.parametrize("prompt", ["ab", [BOS, 97, 98], [97, 98]])
async def test_system_prompt_has_the_only_bos(opened: Open, prompt: Any) -> None:
    async with opened(props=True, tokenizer=ToyTokenizerWithBos()) as client:
        await client.post("/props", json={"system_prompt": "xyz"})
        row = (await client.post("/completion", json={"prompt": prompt, "n_predict": 1})).json()
    assert row["tokens_evaluated"] == 6


# --- LoRA


@pytest.mark.inventory("E-220", "E-221", "R-22")
async def test_adapter_list_is_empty(opened: Open) -> None:
    async with opened() as client:
        assert (await client.get("/lora-adapters")).json() == []
        assert (await client.post("/lora-adapters", json=[])).json() == {"success": True}


@pytest.mark.inventory("E-221", "R-22")
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([{"id": 0, "scale": 1}], "0.id"),
        ([{"id": -1, "scale": 1}], "0.id"),
        ([{"id": 0}], "0.scale"),
        ([5], "0"),
        ({}, None),
    ],
)
async def test_invalid_adapter_scales_are_400(opened: Open, body: Any, param: str | None) -> None:
    async with opened() as client:
        error = (await client.post("/lora-adapters", json=body)).json()["error"]
    assert (error["code"], error.get("param")) == (400, param), error
