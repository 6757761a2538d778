"""``--grammar``, ``--grammar-file`` and ``-j`` constrain the output of requests without a grammar of their own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from llamafw.errors import SettingsError
from llamafw.testing.plugin import serve_in_process
from support.flags import parse_settings
from support.schemas import parse_and_validate

pytestmark = pytest.mark.slow

ROLL = {
    "type": "object",
    "properties": {"dice": {"enum": [1, 2, 3, 4, 5, 6]}},
    "required": ["dice"],
    "additionalProperties": False,
}
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}


async def answers(model: Path, *flags: str, **fields: Any) -> list[str]:
    """Return the output of a completion and of a chat from a server with these flags."""
    settings = replace(parse_settings(*flags), backend="deterministic", validate_responses=True)
    async with (
        serve_in_process(model, settings) as asgi,
        httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://test") as client,
    ):
        native = await client.post("/completion", json={"prompt": "x", "n_predict": 100, **fields})
        chat = await client.post("/v1/chat/completions", json={**HI, **fields})
    assert native.status_code == chat.status_code == 200, native.text + chat.text
    return [native.json()["content"], chat.json()["choices"][0]["message"]["content"]]


@pytest.mark.inventory("C-093")
async def test_a_grammar_constrains_the_output(tiny_model: Path) -> None:
    for text in await answers(tiny_model, "--grammar", 'root ::= [a-c]{3} "!"'):
        assert re.fullmatch("[a-c]{3}!", text)


@pytest.mark.inventory("C-093", "C-095")
async def test_a_request_can_have_its_own_grammar(tiny_model: Path) -> None:
    assert await answers(tiny_model, "--grammar", 'root ::= "server"', grammar='root ::= "request"') == ["request"] * 2
    for text in await answers(tiny_model, "-j", json.dumps(ROLL), json_schema={"const": 7}):
        assert text == "7"


@pytest.mark.inventory("C-094")
async def test_a_grammar_file_is_appended_to_the_grammar(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.gbnf"
    file.write_text('digit ::= [0-9]\nletter ::= "é"\n', encoding="utf-8")
    flags = ["--grammar", "root ::= digit digit letter\n", "--grammar-file", str(file)]
    for text in await answers(tiny_model, *flags):
        assert re.fullmatch("[0-9]{2}é", text)
    file.write_text('root ::= "file"', encoding="utf-8")
    assert await answers(tiny_model, "--grammar-file", str(file)) == ["file"] * 2


@pytest.mark.inventory("C-095")
@pytest.mark.parametrize("flag", ["-j", "--json-schema"])
async def test_a_schema_constrains_the_output(tiny_model: Path, flag: str) -> None:
    for text in await answers(tiny_model, flag, json.dumps(ROLL)):
        parse_and_validate(ROLL, text.encode())


@pytest.mark.inventory("C-093", "C-094", "C-095")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grammar", "root ::= ("], r"--grammar: the grammar is invalid: line 1: expected '\)'"),
        (["--grammar-file", "/no/such/file"], "--grammar-file: /no/such/file cannot be read"),
        (["-j", '{"not": {"type": "null"}}'], "--json-schema: the keyword 'not' cannot be enforced"),
        (["-j", "{"], "--json-schema: "),
        (["-j", "{}", "--grammar", 'root ::= "a"'], "--grammar and --json-schema cannot be used together"),
    ],
)
async def test_startup_fails_with_a_wrong_grammar(tiny_model: Path, flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        await answers(tiny_model, *flags)
