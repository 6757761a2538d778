"""Which chat format a model gets."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from llamafw import ChatFormat, Model, Settings, SettingsError
from llamafw.plugins import Plugins

HI = [{"role": "user", "content": "Hi"}]
TOKENS = {
    "tokenizer.ggml.tokens": ["<s>", b"</s>", "a"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
}


def choose(template: str | None = None, **metadata: Any) -> ChatFormat:
    model = Model(Path("model.gguf"), {name.replace("__", "."): value for name, value in metadata.items()}, {}, 0)
    chosen: ChatFormat = Plugins().hook.choose_chat_format(model=model, settings=Settings(chat_template=template))
    return chosen


def test_the_models_own() -> None:
    format = choose(tokenizer__chat_template="{{ bos_token }}x{{ eos_token }}", **TOKENS)
    assert format.source == "{{ bos_token }}x{{ eos_token }}"
    assert format.render(HI) == "<s>x</s>"


def test_of_several_the_default() -> None:
    assert (
        choose(
            tokenizer__chat_template=[{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
        ).render(HI)
        == "d"
    )
    assert choose(tokenizer__chat_template__default="d", tokenizer__chat_templates=["default"]).render(HI) == "d"


@pytest.mark.inventory("P-06", "B-10")
def test_without_one_chatml_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        format = choose()
    assert format.render(HI) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert "no chat template" in caplog.text


@pytest.mark.inventory("C-120")
def test_a_template_on_the_command_line_wins() -> None:
    assert choose("{{ messages[0].content }}!", tokenizer__chat_template="x").render(HI) == "Hi!"


@pytest.mark.inventory("C-120")
def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ 'é' }}\n{{ messages|length }}", "utf-8")
    assert choose(str(file)).render(HI) == "é\n1"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        choose(str(file))


@pytest.mark.inventory("C-120")
def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(SettingsError, match="'lama3' is no chat format, .* and no file; did you mean 'llama3'"):
        choose("lama3")


def test_a_template_that_is_not_valid() -> None:
    with pytest.raises(SettingsError, match="--chat-template: the chat template is not valid: line 1"):
        choose("{% if %}")


@pytest.mark.inventory("P-06")
def test_chatml_if_the_models_own_is_not_valid(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        format = choose(tokenizer__chat_template="x\n{% if %}")
    assert format.render(HI) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert "the model's own template cannot be used" in caplog.text
    assert "line 2" in caplog.text
