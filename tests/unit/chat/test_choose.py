"""A model's chat format comes from ``--chat-template``, the model itself, or is ChatML."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from llamafw import ChatFormat, Model, Settings, SettingsError
from llamafw.plugins import Plugins

HI = [{"role": "user", "content": "Hi"}]
TOKENS: dict[str, Any] = {
    "tokenizer.ggml.tokens": ["<s>", b"</s>", "a"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
}


def choose(template: str | None = None, **metadata: Any) -> ChatFormat:
    model = Model(Path("model.gguf"), {name.replace("__", "."): value for name, value in metadata.items()}, {}, 0)
    chosen: ChatFormat = Plugins().hook.choose_chat_format(model=model, settings=Settings(chat_template=template))
    return chosen


def test_the_models_own_template_is_used() -> None:
    format = choose(tokenizer__chat_template="{{ bos_token }}x{{ eos_token }}", **TOKENS)
    assert format.source == "{{ bos_token }}x{{ eos_token }}"
    assert format.render(HI) == "<s>x</s>"


def test_the_default_of_several_templates_is_used() -> None:
    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    assert choose(tokenizer__chat_template=named).render(HI) == "d"
    assert choose(tokenizer__chat_template__default="d", tokenizer__chat_templates=["default"]).render(HI) == "d"


@pytest.mark.inventory("P-06", "B-10")
def test_chatml_is_used_with_a_warning_if_there_is_no_template(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        format = choose()
    assert format.render(HI) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert "no chat template" in caplog.text


@pytest.mark.inventory("C-120")
def test_a_template_on_the_command_line_is_preferred() -> None:
    assert choose("{{ messages[0].content }}!", tokenizer__chat_template="x").render(HI) == "Hi!"


@pytest.mark.inventory("C-120")
def test_a_template_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ 'é' }}\n{{ messages|length }}", "utf-8")
    assert choose(str(file)).render(HI) == "é\n1"


def test_a_template_file_must_be_text(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="cannot be read"):
        choose(str(file))


@pytest.mark.inventory("C-120")
def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(
        SettingsError, match="'lama3' is not a chat format, a template or a file; did you mean 'llama3'"
    ):
        choose("lama3")


def test_an_invalid_template_is_refused() -> None:
    with pytest.raises(SettingsError, match="--chat-template: the chat template is not valid: line 1"):
        choose("{% if %}")


@pytest.mark.inventory("P-06")
def test_chatml_is_used_if_the_models_template_is_invalid(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        format = choose(tokenizer__chat_template="x\n{% if %}")
    assert format.render(HI) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert "the model's chat template is ignored" in caplog.text
    assert "line 2" in caplog.text
