"""Adapters over HTTP: chosen per request and per server, loaded and unloaded, and never mixed up in a cache."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from llamafw import ModelError, SettingsError
from llamafw import graph as g
from llamafw.engine.adapter_loader import AdapterLoader
from llamafw.engine.machine_memory import Memory
from llamafw.plugins import Plugins
from llamafw.testing.adapters import random_factors, write_control_vector, write_lora
from llamafw.testing.plugin import serve_in_process, small_settings
from llamafw.testing.tiny import write_tiny_gguf
from support.numba_backend import make_context

Open = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

SHAPES = {
    f"blk.{i}.{name}.weight": shape
    for i in range(2)
    for name, shape in {
        "attn_q": (64, 64),
        "attn_k": (32, 64),
        "attn_v": (32, 64),
        "attn_output": (64, 64),
        "ffn_gate": (128, 64),
        "ffn_up": (128, 64),
        "ffn_down": (64, 128),
    }.items()
}
LONG = "abcdefghijklmnopqrstuvwxyz " * 5  # more tokens than are worth copying from another slot


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, two adapters and a control vector."""
    path = tmp_path_factory.mktemp("adapters")
    write_tiny_gguf(path / "tiny.gguf")
    write_lora(path / "a.gguf", random_factors(SHAPES, 8, 1), alpha=16.0, metadata={"adapter.lora.task_name": "sql"})
    write_lora(path / "b.gguf", random_factors(SHAPES, 4, 2), alpha=8.0)
    write_lora(path / "c.gguf", random_factors(SHAPES, 2, 3), alpha=8.0)
    write_control_vector(path / "v.gguf", {1: np.linspace(-9, 9, 64, dtype=np.float32)})
    return path


@pytest.fixture
def opened(folder: Path) -> Open:
    """Return a function that serves the model on the Numba backend; adapters are named by their files."""

    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        for field in ("lora", "lora_scaled", "control_vector", "control_vector_scaled"):
            settings[field] = tuple(str(folder / name) for name in settings.get(field, ()))
        defaults = {"backend": "numba", "threads": 1, "parallel": 3, "props": True, "lora_folder": str(folder)}
        given = small_settings(**defaults | settings)
        async with serve_in_process(folder / "tiny.gguf", given) as asgi:
            transport = httpx.ASGITransport(app=asgi)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
                yield client

    return opened


async def complete(client: httpx.AsyncClient, prompt: str = "hello world", **fields: Any) -> dict[str, Any]:
    body = {"prompt": prompt, "n_predict": 6, "temperature": 0, "return_tokens": True, "ignore_eos": True}
    response = await client.post("/completion", json={**body, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def tokens(client: httpx.AsyncClient, **fields: Any) -> list[int]:
    return list((await complete(client, **fields))["tokens"])


def lora(*scales: float) -> list[dict[str, float]]:
    return [{"id": id, "scale": scale} for id, scale in enumerate(scales)]


@pytest.mark.inventory("C-054", "C-055", "E-220", "Q-08")
async def test_requests_use_the_scales_of_the_server_or_their_own(opened: Open) -> None:
    async with opened() as plain:
        without = await tokens(plain)
    async with opened(lora=["a.gguf"], lora_scaled=["b.gguf:-0.5"]) as client:
        listed = (await client.get("/lora-adapters")).json()
        assert [(one["id"], Path(one["path"]).name, one["scale"], one["task_name"]) for one in listed] == [
            (0, "a.gguf", 1.0, "sql"),
            (1, "b.gguf", -0.5, ""),
        ]
        default = await tokens(client)
        assert default == await tokens(client, lora=lora(1.0, -0.5))
        assert await tokens(client, lora=[]) == without
        assert await tokens(client, lora=lora(0.0, 0.0)) == without
        other = await tokens(client, lora=[{"id": 1, "scale": 2.0}])
        assert len({tuple(found) for found in (without, default, other)}) == 3


@pytest.mark.inventory("Q-08")
async def test_different_adapters_share_batches(opened: Open) -> None:
    choices = [lora(), lora(1.0), lora(0.0, 1.0), lora(0.3, -0.8), lora(1.0), lora()]
    async with opened(lora=["a.gguf", "b.gguf"], lora_init_without_apply=True) as client:
        alone = [await tokens(client, lora=choice, n_predict=12) for choice in choices]
        assert len({tuple(found) for found in alone}) == 4
        together = await asyncio.gather(*(tokens(client, lora=choice, n_predict=12) for choice in choices))
        assert list(together) == alone


@pytest.mark.inventory("C-122", "D-15", "E-221")
async def test_scales_of_the_server_can_be_set(opened: Open) -> None:
    async with opened(lora=["a.gguf", "b.gguf"], lora_init_without_apply=True) as client:
        assert [one["scale"] for one in (await client.get("/lora-adapters")).json()] == [0.0, 0.0]
        without = await tokens(client)
        set_scales = await client.post("/lora-adapters", json=[{"id": 1, "scale": 1.5}])
        assert set_scales.json() == {"success": True}
        assert [one["scale"] for one in (await client.get("/lora-adapters")).json()] == [0.0, 1.5]
        changed = await tokens(client)
        assert changed == await tokens(client, lora=lora(0.0, 1.5)) != without
        (slot, *_) = (await client.get("/slots")).json()
        assert slot["params"]["lora"] == lora(0.0, 1.5)

        error = (await client.post("/lora-adapters", json=[{"id": 0, "scale": 1}, {"id": 2, "scale": 1}])).json()[
            "error"
        ]
        assert (error["code"], error["param"], error["message"]) == (
            400,
            "1.id",
            "adapter 2 does not exist; loaded: 0, 1",
        )
        assert [one["scale"] for one in (await client.get("/lora-adapters")).json()] == [0.0, 1.5]


@pytest.mark.parametrize("path", ["/completion", "/v1/completions", "/v1/chat/completions"])
async def test_unknown_ids_are_400(path: str, opened: Open) -> None:
    body = {"prompt": "x", "messages": [{"role": "user", "content": "x"}], "n_predict": 1}
    async with opened(lora=["a.gguf"]) as client:
        for field in ("lora", "control_vectors"):
            error = (await client.post(path, json={**body, field: [{"id": 3, "scale": 1}]})).json()["error"]
            assert (error["code"], error["param"]) == (400, f"{field}.0.id")
            assert "3 does not exist" in error["message"]


@pytest.mark.inventory("K-03", "K-04")
async def test_cached_prefix_counts_only_with_the_same_adapters(opened: Open) -> None:
    async with opened(lora=["a.gguf", "b.gguf"], parallel=1) as client:
        first = await complete(client, LONG, lora=lora(1.0))
        for other in (lora(0.5), lora(), lora(1.0, 1.0)):
            assert (await complete(client, LONG, lora=other))["tokens_cached"] == 0
        again = await complete(client, LONG, lora=[*lora(1.0), {"id": 1, "scale": 0}])  # from the prompt cache
        assert again["tokens"] == first["tokens"]
        assert again["tokens_cached"] == again["tokens_evaluated"] - 1 > 100


async def test_prefix_of_another_slot_counts_only_with_the_same_adapters(opened: Open) -> None:
    async with opened(lora=["a.gguf"], parallel=2) as client:
        await complete(client, LONG + "x", lora=lora(1.0), id_slot=0)
        assert (await complete(client, LONG + "y", lora=lora(), id_slot=1))["tokens_cached"] == 0
        shared = await complete(client, LONG + "z", lora=lora(1.0), id_slot=1)
        assert shared["tokens_cached"] > 100
        assert shared["tokens"] == (await complete(client, LONG + "z", lora=lora(1.0), cache_prompt=False))["tokens"]


async def test_equal_prompts_with_different_adapters_do_not_wait_for_each_other(opened: Open) -> None:
    async with opened(lora=["a.gguf"], parallel=3, ubatch_size=16, batch_size=16) as client:
        choices = [lora(), lora(1.0), lora(-1.0)]
        alone = [(await complete(client, LONG, lora=one, cache_prompt=False))["tokens"] for one in choices]
        found = await asyncio.gather(*(complete(client, LONG, lora=one) for one in choices))
        assert [one["tokens"] for one in found] == alone


async def test_saved_slot_keeps_its_adapters(opened: Open, tmp_path: Path) -> None:
    folder = {"slot_save_path": str(tmp_path)}
    async with opened(lora=["a.gguf"], parallel=1, **folder) as client:
        first = await complete(client, LONG, lora=lora(0.5))
        saved = (await client.post("/slots/0?action=save", json={"filename": "x"})).json()
        assert saved["n_saved"] > 100

    async with opened(lora=["b.gguf", "a.gguf"], parallel=1, **folder) as client:  # the adapter has another id
        restored = (await client.post("/slots/0?action=restore", json={"filename": "x"})).json()
        assert restored["n_restored"] == saved["n_saved"]
        assert (await complete(client, LONG, lora=[], id_slot=0))["tokens_cached"] == 0
        await client.post("/slots/0?action=restore", json={"filename": "x"})
        again = await complete(client, LONG, lora=[{"id": 1, "scale": 0.5}], id_slot=0)
        assert (again["tokens"], again["tokens_cached"]) == (first["tokens"], again["tokens_evaluated"] - 1)

    async with opened(lora=["b.gguf"], parallel=1, **folder) as client:
        error = (await client.post("/slots/0?action=restore", json={"filename": "x"})).json()["error"]
        assert (error["code"], error["param"]) == (400, "filename")
        assert "saved with an adapter that is not loaded" in error["message"]


async def test_prompt_cache_on_disk_keeps_adapters_apart(opened: Open, tmp_path: Path) -> None:
    """The files name adapters by their numbers, whatever their ids are after a restart."""
    disk = {"cache_disk": str(tmp_path), "cache_disk_mib": 64, "parallel": 1}
    async with opened(lora=["a.gguf"], **disk) as client:
        first = await complete(client, LONG, lora=lora(0.5))
    async with opened(lora=["b.gguf", "a.gguf"], **disk) as client:
        assert (await complete(client, LONG, lora=[]))["tokens_cached"] == 0
        again = await complete(client, LONG, lora=[{"id": 1, "scale": 0.5}])
        assert (again["tokens"], again["tokens_cached"]) == (first["tokens"], first["tokens_evaluated"] - 1)
        assert (await complete(client, LONG, lora=[{"id": 1, "scale": 0.25}]))["tokens_cached"] == 0


@pytest.mark.parametrize("sleep_idle_seconds", [-1, 0])
async def test_adapters_are_loaded_and_unloaded(opened: Open, folder: Path, sleep_idle_seconds: int) -> None:
    async with opened(lora=["a.gguf"], sleep_idle_seconds=sleep_idle_seconds) as client:
        before = await tokens(client, lora=lora(1.0))
        loaded = await client.post("/lora-adapters/load", json={"path": "b.gguf", "scale": 0.25})
        assert loaded.json() == {
            "id": 1, "path": str(folder / "b.gguf"), "scale": 0.25, "task_name": "", "prompt_prefix": "",
        }  # fmt: skip
        assert await tokens(client, lora=lora(1.0)) == before
        both = await tokens(client)
        assert both == await tokens(client, lora=lora(1.0, 0.25)) != before

        assert (await client.post("/lora-adapters/unload", json={"id": 0})).json() == {"success": True}
        assert [one["id"] for one in (await client.get("/lora-adapters")).json()] == [1]
        assert (await client.post("/lora-adapters/unload", json={"id": 0})).status_code == 400
        await client.post("/lora-adapters/unload", json={"id": 1})
        assert (await client.get("/lora-adapters")).json() == []
        without = await tokens(client)
        again = await client.post("/lora-adapters/load", json={"path": str(folder / "a.gguf")})
        assert (again.json()["id"], again.json()["scale"]) == (2, 1.0)
        assert await tokens(client) == before != without


async def test_adapter_that_does_not_fit_into_memory_is_503_and_changes_nothing(
    opened: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lora(folder / "large.gguf", random_factors(SHAPES, 700, 4))
    n_free = [0]
    monkeypatch.setattr("llamafw.engine.load.read_memory", lambda: Memory(2**40, n_free[0]))
    async with opened(lora=["a.gguf"]) as client:
        before = await tokens(client)

        async def load() -> httpx.Response:
            return await client.post("/lora-adapters/load", json={"path": "large.gguf"})

        assert (await load()).status_code == 503  # before the file is read
        n_free[0] = (folder / "large.gguf").stat().st_size
        refused = await load()
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "unavailable_error")
        found = re.search(r"need about (\d+) MiB .* but \d+ MiB are free", refused.json()["error"]["message"])
        assert found is not None
        needed = int(found[1]) * 2**20
        n_files = sum((folder / name).stat().st_size for name in ("a.gguf", "large.gguf"))
        assert n_files < needed  # also what a batch computes
        n_free[0] = needed - 2**20
        assert (await load()).status_code == 503
        assert [one["id"] for one in (await client.get("/lora-adapters")).json()] == [0]
        assert await tokens(client) == before

        n_free[0] = needed + 2**20
        assert (await load()).json()["id"] == 1
        n_free[0] = 0
        assert (await client.post("/lora-adapters/unload", json={"id": 1})).status_code == 200
        assert await tokens(client) == before


async def test_adapter_in_use_cannot_be_unloaded(opened: Open) -> None:
    async with opened(lora=["a.gguf"]) as client:
        body = {"prompt": "x", "n_predict": 400, "ignore_eos": True, "stream": True}
        running = asyncio.ensure_future(client.post("/completion", json=body))
        async with asyncio.timeout(60):
            while (await client.get("/slots")).json()[0]["state"] == 0:  # noqa: ASYNC110  # set on another thread
                await asyncio.sleep(0)
        refused = await client.post("/lora-adapters/unload", json={"id": 0})
        assert (await running).status_code == 200
        assert (refused.status_code, "used by a request" in refused.text) == (503, True)
        assert (await client.post("/lora-adapters/unload", json={"id": 0})).status_code == 200


@pytest.mark.parametrize("name", ["../secret.gguf", "x/../../secret.gguf", "/etc/passwd", "a.gguf\0", "{}-2/a.gguf"])
async def test_paths_outside_of_the_folder_are_400(name: str, opened: Open, folder: Path) -> None:
    (folder.parent / "secret.gguf").write_bytes(b"secret")
    async with opened() as client:
        response = await client.post("/lora-adapters/load", json={"path": name.format(folder)})
        error = response.json()["error"]
        assert (error["code"], error["param"]) == (400, "path")
        assert error["message"] == "path must lead to a file or folder within the folder of --lora-folder"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
async def test_error_says_nothing_of_what_is_in_a_file(opened: Open, folder: Path) -> None:
    (folder / "notes.txt").write_bytes(b"password")
    os.mkfifo(folder / "pipe")
    async with opened() as client:
        response = await client.post("/lora-adapters/load", json={"path": "notes.txt"})
        assert (response.status_code, "not a GGUF file" in response.text, "pass" in response.text) == (400, True, False)
        response = await client.post("/lora-adapters/load", json={"path": "pipe"})
        assert (response.status_code, "neither a file nor a folder" in response.text) == (400, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [("tiny.gguf", "is not a LoRA adapter"), ("missing.gguf", "does not exist"), ("", "without adapter_config.json")],
)
async def test_files_that_cannot_be_loaded_are_400(name: str, words: str, opened: Open, folder: Path) -> None:
    async with opened(lora=["a.gguf"]) as client:
        before = await tokens(client)
        error = (await client.post("/lora-adapters/load", json={"path": str(folder / name)})).json()["error"]
        assert (error["code"], error["param"]) == (400, "path")
        assert words in error["message"]
        assert await tokens(client) == before
        assert len((await client.get("/lora-adapters")).json()) == 1


async def test_loading_needs_a_flag(opened: Open, folder: Path) -> None:
    async with opened(lora_folder=None) as client:
        response = await client.post("/lora-adapters/load", json={"path": str(folder / "a.gguf")})
        assert (response.status_code, "--lora-folder" in response.text) == (501, True)
    async with opened(props=False) as client:
        assert (await client.post("/lora-adapters/load", json={"path": str(folder / "a.gguf")})).status_code == 501
        assert (await client.post("/lora-adapters/unload", json={"id": 0})).status_code == 501


@pytest.mark.inventory("C-056", "C-057", "C-058")
async def test_control_vectors_are_chosen_like_adapters(opened: Open) -> None:
    async with opened(lora=["a.gguf"], control_vector=["v.gguf"], control_vector_layer_range=(1, 1)) as client:
        assert [one["scale"] for one in (await client.get("/control-vectors")).json()] == [1.0]
        default, without = await tokens(client), await tokens(client, control_vectors=[])
        assert default == await tokens(client, control_vectors=[{"id": 0, "scale": 1.0}]) != without
        assert (await client.post("/control-vectors", json=[])).json() == {"success": True}
        assert await tokens(client) == without
    async with opened(lora=["a.gguf"], control_vector_scaled=["v.gguf:1"]) as client:
        assert await tokens(client) == default


async def test_embeddings_use_the_scales_of_the_server(opened: Open) -> None:
    async with opened(lora=["a.gguf"]) as client:
        vectors = []
        for scale in (1.0, 0.0, 1.0):
            await client.post("/lora-adapters", json=lora(scale))
            vectors.append((await client.post("/embedding", json={"content": "hello"})).json()["embedding"])
        assert vectors[0] == vectors[2] != vectors[1]


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"lora": ["tiny.gguf"]}, ModelError, "--lora: .*tiny.gguf is not a LoRA adapter"),
        ({"lora_scaled": ["a.gguf"]}, SettingsError, "--lora-scaled: .* is not FILE:SCALE"),
        ({"lora_scaled": ["a.gguf:nan"]}, SettingsError, "--lora-scaled: .* is not FILE:SCALE"),
        ({"lora_scaled": ["a.gguf:1001"]}, SettingsError, "--lora-scaled: the scale 1001 is out of range"),
        ({"control_vector_scaled": ["v.gguf:-1e4"]}, SettingsError, "--control-vector-scaled: the scale -1e4 is out"),
        ({"control_vector": ["a.gguf"]}, ModelError, "--control-vector: .* is not a direction"),
        (
            {"control_vector": ["v.gguf"], "control_vector_layer_range": (2, 5)},
            ModelError,
            "no direction for the layers 2 to 5",
        ),
        ({"lora": ["a.gguf"], "backend": "deterministic"}, SettingsError, "cannot run adapters"),
    ],
)
async def test_wrong_flags_end_the_start(settings: Any, error: type[Exception], words: str, opened: Open) -> None:
    with pytest.raises(error, match=words):
        await opened(**settings).__aenter__()


class PluginsThatDouble:
    """Plugins of which one doubles the input of a matrix, as if the matrix were stored with half of its numbers."""

    def __init__(self, plugins: Plugins) -> None:
        self.registry = plugins.registry

    def implementations(self, hook: str) -> Any:
        """Return the only hook."""

        def double(value: g.Value) -> g.Value:
            if isinstance(value, g.Linear) and value.weight.name == "blk.0.attn_q.weight":
                return dataclasses.replace(value, x=value.x * 2.0)
            return value

        return [("double", lambda model, graph: g.rewrite(graph, double))] if hook == "rewrite_graph" else []


def test_adapters_get_what_a_matrix_gets_before_plugins_change_it(folder: Path) -> None:
    context = make_context(folder / "tiny.gguf")
    loader = AdapterLoader(context, PluginsThatDouble(Plugins()))  # type: ignore[arg-type]  # what a loader needs of them
    adapted, _ = loader.adapt([loader.read_lora(folder / "a.gguf")])
    assert adapted is not None
    inputs = {value.weight.name: value.x for value in adapted.graph if isinstance(value, g.Linear)}
    (first,) = [x for name, x in inputs.items() if name.startswith("blk.0.attn_q.weight") and name.endswith(".lora_a")]
    doubled = inputs["blk.0.attn_q.weight"]
    assert isinstance(doubled, g.Scale)
    assert doubled.x is first
