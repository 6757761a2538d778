"""--grammar, --grammar-file and -j hold every answer that asks for nothing else; a wrong one ends the start."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw.cli.parser import Parser, add_settings, settings_from
from llamafw.errors import SettingsError
from llamafw.testing.plugin import running
from support.schemas import check

ROLL = {
    "type": "object",
    "properties": {"dice": {"enum": [1, 2, 3, 4, 5, 6]}},
    "required": ["dice"],
    "additionalProperties": False,
}
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}


async def answers(model: Path, *flags: str, **fields: Any) -> list[str]:
    """Return what is said to a completion and to a chat by a server that was started with these flags."""
    parser = Parser("llamafw serve", "")
    add_settings(parser)
    settings = replace(settings_from(parser.parse(list(flags)), {}), backend="deterministic", validate_responses=True)
    async with (
        running(model, settings) as asgi,
        httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://test") as client,
    ):
        native = await client.post("/completion", json={"prompt": "x", "n_predict": 100, **fields})
        chat = await client.post("/v1/chat/completions", json={**HI, **fields})
    assert native.status_code == chat.status_code == 200, native.text + chat.text
    return [native.json()["content"], chat.json()["choices"][0]["message"]["content"]]


@pytest.mark.inventory("C-093")
async def test_grammar(tiny_model: Path) -> None:
    for text in await answers(tiny_model, "--grammar", 'root ::= [a-c]{3} "!"'):
        assert re.fullmatch("[a-c]{3}!", text)


@pytest.mark.inventory("C-093", "C-095")
async def test_a_request_can_ask_for_something_else(tiny_model: Path) -> None:
    assert await answers(tiny_model, "--grammar", 'root ::= "server"', grammar='root ::= "request"') == ["request"] * 2
    for text in await answers(tiny_model, "-j", json.dumps(ROLL), json_schema={"const": 7}):
        assert text == "7"


@pytest.mark.inventory("C-094")
async def test_a_file_is_appended_to_the_grammar(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.gbnf"
    file.write_text('digit ::= [0-9]\nletter ::= "é"\n', encoding="utf-8")
    flags = ["--grammar", "root ::= digit digit letter\n", "--grammar-file", str(file)]
    for text in await answers(tiny_model, *flags):
        assert re.fullmatch("[0-9]{2}é", text)
    file.write_text('root ::= "file"', encoding="utf-8")
    assert await answers(tiny_model, "--grammar-file", str(file)) == ["file"] * 2


@pytest.mark.inventory("C-095")
@pytest.mark.parametrize("flag", ["-j", "--json-schema"])
async def test_a_schema(tiny_model: Path, flag: str) -> None:
    for text in await answers(tiny_model, flag, json.dumps(ROLL)):
        check(ROLL, text.encode())


@pytest.mark.inventory("C-093", "C-094", "C-095")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grammar", "root ::= ("], r"--grammar: the grammar is wrong: line 1: expected '\)'"),
        (["--grammar-file", "/no/such/file"], "--grammar-file: /no/such/file cannot be read"),
        (["-j", '{"not": {}}'], "--json-schema: the keyword 'not' cannot be enforced"),
        (["-j", "{"], "--json-schema: "),
        (["-j", "{}", "--grammar", 'root ::= "a"'], "either --json-schema or --grammar"),
    ],
)
async def test_a_wrong_one_ends_the_start(tiny_model: Path, flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        await answers(tiny_model, *flags)
