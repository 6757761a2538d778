"""Preloaded prompts, and optional log lines about prompts and caches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamafw.engine import BatchingEngine
from llamafw.engine.load import make_system_prompt
from llamafw.engine.preload import preload
from llamafw.engine.startup_inputs import read_startup_inputs
from llamafw.errors import ContextFullError, GenerationError, SettingsError
from llamafw.serving import LoadedModel
from llamafw.settings import Settings
from llamafw.types import EmbedRequest, SystemPrompt
from support.toy_model import BOS, HEART, ToyBackend, ToyTokenizer, ToyTokenizerWithBos, generate_answer

Start = Callable[..., BatchingEngine]
NO_SYSTEM = SystemPrompt()


def preload_text(**flags: Any) -> tuple[str, str] | None:
    """Return the text to preload and the name of its flag."""
    return read_startup_inputs(Settings(**flags)).preload


def loaded(tokenizer: ToyTokenizer | None = None, system: SystemPrompt = NO_SYSTEM) -> LoadedModel:
    """Return a model with only the parts that a prompt needs."""
    nothing: Any = None
    return LoadedModel("toy", nothing, None, tokenizer or ToyTokenizer(), nothing, nothing, system_prompt=system)


@pytest.mark.inventory("C-022", "C-026", "C-027")
def test_prompt_flag_is_unescaped() -> None:
    written = r"""a\nb\tc\rd\'e\"f\\n\x41\xe2\x82\xac\q\x4"""
    assert preload_text(prompt=written) == ("a\nb\tc\rd'e\"f\\nA€\\q\\x4", "--prompt")
    assert preload_text(prompt=written, escape=False) == (written, "--prompt")
    assert preload_text() is None


@pytest.mark.inventory("C-024", "C-025")
@pytest.mark.parametrize(("raw", "text"), [(b"a\\n\n\n", "a\\n\n"), (b"a\r\n", "a"), ("€".encode(), "€"), (b"", "")])
def test_prompt_files_are_read(tmp_path: Path, raw: bytes, text: str) -> None:
    path = tmp_path / "prompt"
    path.write_bytes(raw)
    assert preload_text(file=str(path)) == (text, "--file")
    assert preload_text(binary_file=str(path)) == (raw.decode(), "--binary-file")


@pytest.mark.inventory("C-024", "C-025")
def test_invalid_prompt_flags_are_settings_errors(tmp_path: Path) -> None:
    bad = tmp_path / "latin"
    bad.write_bytes(b"caf\xe9")
    with pytest.raises(SettingsError, match=r"--file: .* cannot be read: it is not UTF-8 .byte 3."):
        preload_text(file=str(bad))
    with pytest.raises(SettingsError, match=r"--binary-file: .*none cannot be read: No such file"):
        preload_text(binary_file=str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=r"--prompt: byte 0"):
        preload_text(prompt=r"\xff")
    with pytest.raises(SettingsError, match="--prompt and --file cannot be used together"):
        preload_text(prompt="a", file=str(bad))


@pytest.mark.inventory("C-022")
async def test_preloaded_prompt_is_reused(start: Start) -> None:
    backend = ToyBackend(n_slots=3, n_batch=8)
    finished: list[Any] = []
    engine = start(backend, n_batch=8, finished=lambda **facts: finished.append(facts))
    text = "a prompt of several batches"
    assert await asyncio.to_thread(preload, engine, loaded(), text, "--prompt") == len(text)
    assert backend.slots[2] == list(text.encode())
    assert [len(batch.outputs) for batch in backend.batches] == [0] * 4
    assert finished == []  # not a request
    found = await generate_answer(engine, [*text.encode(), 33], n_predict=4)
    fresh = await generate_answer(engine, [*text.encode(), 33], n_predict=4, cache_prompt=False)
    assert (found.finish.id_slot, found.finish.n_cached, fresh.finish.n_cached) == (2, len(text), 0)
    assert found.ids == fresh.ids


@pytest.mark.inventory("C-022", "C-114", "E-172", "D-26")
async def test_preloaded_prompt_follows_the_system_prompt(start: Start) -> None:
    """The BOS token occurs only once."""
    backend = ToyBackend(n_slots=2)
    with_system = loaded(ToyTokenizerWithBos(), make_system_prompt("Be brief. ", ToyTokenizerWithBos()))
    assert await asyncio.to_thread(preload, start(backend), with_system, "Once", "--prompt") == 15
    assert backend.slots[1] == [BOS, *b"Be brief. Once"]
    assert backend.slots[1] == list(with_system.whole_prompt([BOS, *b"Once"]))
    alone = ToyBackend(n_slots=2)
    assert await asyncio.to_thread(preload, start(alone), loaded(ToyTokenizerWithBos()), "Once", "--prompt") == 5
    assert alone.slots[1] == [BOS, *b"Once"]


@pytest.mark.inventory("C-022")
async def test_unrelated_requests_do_not_replace_the_preloaded_prompt(start: Start) -> None:
    backend = ToyBackend(n_slots=2)
    engine = start(backend)
    await engine.preload(tuple(b"once upon a time"))
    assert (await generate_answer(engine, b"xyz", n_predict=2)).finish.id_slot == 0
    assert bytes(backend.slots[1]) == b"once upon a time"


@pytest.mark.inventory("C-022")
async def test_preloading_a_prompt_that_does_not_fit_is_an_error(start: Start) -> None:
    backend = ToyBackend(n_ctx=64)
    engine = start(backend)
    with pytest.raises(ContextFullError):
        await engine.preload((1,) * 65)
    with pytest.raises(SettingsError, match="--file: the prompt has 65 tokens, but the context of a slot has only 64"):
        await asyncio.to_thread(preload, engine, loaded(), "a" * 65, "--file")
    await engine.preload((1,) * 64)
    assert len(backend.slots[1]) == 64


async def test_backend_failure_while_preloading_empties_the_slot(start: Start) -> None:
    backend = ToyBackend()
    engine = start(backend)
    backend.fail_on = lambda batch: len(backend.batches) == 2
    with pytest.raises(GenerationError):
        await engine.preload((1,) * 40)  # two batches
    assert backend.slots[1] == []
    found = await generate_answer(engine, b"abc", n_predict=2, id_slot=1)
    assert (len(found.ids), found.finish.n_cached) == (2, 0)


@pytest.mark.inventory("C-003")
async def test_log_prompts_logs_every_token(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llamafw")
    await generate_answer(start(ToyBackend()), [97, 10, HEART], n_predict=1)
    assert not caplog.messages
    engine = start(ToyBackend(), log_prompts=True)
    await generate_answer(engine, [97, 10, HEART], n_predict=1)
    await engine.embed(EmbedRequest((98,)))
    assert caplog.messages == [
        r"prompt of 3 tokens: 97 'a', 10 '\n', 259 '❤'",  # a newline in the prompt is escaped
        "prompt of 1 tokens: 98 'b'",
    ]


@pytest.mark.inventory("C-039")
async def test_log_caches_logs_the_state_of_slots(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llamafw")
    await generate_answer(start(ToyBackend()), b"abc", n_predict=2)
    assert not caplog.messages
    await generate_answer(start(ToyBackend(), log_caches=True), b"abc", n_predict=2)
    assert caplog.messages[0] == (
        "KV cache: slot 0 generating 3/64 (reusable 3), slot 1 idle 0/64 (reusable 0); prompt cache: 0 bytes"
    )
