"""The named formats render the prompts that their publishers' documents describe."""

from __future__ import annotations

import pytest

from llamafw import ChatContext, ChatFormat, RequestError
from llamafw.plugins import Plugins

SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
]

# name → BOS, EOS, prompt for SYSTEM and TALK, prompt for the first user message alone
EXPECTED = {
    "chatml": (
        "",
        "",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama2": (
        "<s>",
        "</s>",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello! </s><s>[INST] Bye [/INST]",
        "<s>[INST] Hi [/INST]",
    ),
    "llama3": (
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral-v1": (
        "<s>",
        "</s>",
        "<s> [INST] Be brief.\n\nHi [/INST] Hello!</s> [INST] Bye [/INST]",
        "<s> [INST] Hi [/INST]",
    ),
    "mistral-v3": (
        "<s>",
        "</s>",
        "<s>[INST] Be brief.\n\nHi[/INST] Hello!</s>[INST] Bye[/INST]",
        "<s>[INST] Hi[/INST]",
    ),
    "mistral-v3-tekken": (
        "<s>",
        "</s>",
        "<s>[INST]Be brief.\n\nHi[/INST]Hello!</s>[INST]Bye[/INST]",
        "<s>[INST]Hi[/INST]",
    ),
    "mistral-v7": (
        "<s>",
        "</s>",
        "<s>[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST] Hi[/INST] Hello!</s>[INST] Bye[/INST]",
        "<s>[INST] Hi[/INST]",
    ),
    "zephyr": (
        "<s>",
        "</s>",
        "<|system|>\nBe brief.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello!</s>\n<|user|>\nBye</s>\n<|assistant|>\n",
        "<|user|>\nHi</s>\n<|assistant|>\n",
    ),
    "gemma": (
        "<bos>",
        "<eos>",
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    ),
    "phi3": (
        "<s>",
        "<|endoftext|>",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello!<|end|>\n"
        "<|user|>\nBye<|end|>\n<|assistant|>\n",
        "<|user|>\nHi<|end|>\n<|assistant|>\n",
    ),
    "phi4": (
        "",
        "",
        "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Hi<|im_end|>"
        "<|im_start|>assistant<|im_sep|>Hello!<|im_end|><|im_start|>user<|im_sep|>Bye<|im_end|>"
        "<|im_start|>assistant<|im_sep|>",
        "<|im_start|>user<|im_sep|>Hi<|im_end|><|im_start|>assistant<|im_sep|>",
    ),
    "deepseek": (
        "<s>",
        "<|EOT|>",
        "<s>Be brief.### Instruction:\nHi\n### Response:\nHello!\n<|EOT|>\n### Instruction:\nBye\n### Response:\n",
        "<s>### Instruction:\nHi\n### Response:\n",
    ),
    "deepseek2": (
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>Be brief.\n\nUser: Hi\n\nAssistant: Hello!<｜end▁of▁sentence｜>User: Bye\n\nAssistant:",
        "<｜begin▁of▁sentence｜>User: Hi\n\nAssistant:",
    ),
    "deepseek3": (
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜>Hello!<｜end▁of▁sentence｜>"
        "<｜User｜>Bye<｜Assistant｜>",
        "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>",
    ),
    "command-r": (
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>Hello!<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Bye<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hi<|END_OF_TURN_TOKEN|>"
        "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    "vicuna": (
        "<s>",
        "</s>",
        "<s>Be brief. USER: Hi ASSISTANT: Hello!</s>USER: Bye ASSISTANT:",
        "<s>USER: Hi ASSISTANT:",
    ),
    "alpaca": (
        "<s>",
        "</s>",
        "<s>Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello!</s>\n\n### Instruction:\nBye\n\n### Response:\n",
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the "
        "request.\n\n### Instruction:\nHi\n\n### Response:\n",
    ),
}


def make(name: str) -> ChatFormat:
    bos, eos, *_ = EXPECTED[name]
    format: ChatFormat = Plugins().registry("chat_format")[name](ChatContext(bos, eos))
    return format


def test_every_format_has_an_expected_prompt() -> None:
    registry = Plugins().registry("chat_format")
    assert {name for name in registry if registry.owner(name) == "llamafw:chat_formats"} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_conversation_is_rendered_as_published(name: str) -> None:
    assert make(name).render([SYSTEM, *TALK]) == EXPECTED[name][2]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_single_message_is_rendered_as_published(name: str) -> None:
    assert make(name).render(TALK[:1]) == EXPECTED[name][3]


@pytest.mark.parametrize("name", EXPECTED)
def test_add_generation_prompt_only_appends_text(name: str) -> None:
    """Llama 2 and Mistral add nothing, because the end of a user's turn is enough."""
    whole, short = (make(name).render(TALK[:1], add_generation_prompt=add) for add in (True, False))
    assert whole.startswith(short)
    assert (whole == short) is (name == "llama2" or name.startswith("mistral"))


@pytest.mark.parametrize("name", ["llama2", "mistral-v1", "mistral-v3", "mistral-v3-tekken", "gemma"])
def test_formats_without_system_turn_keep_system_messages(name: str) -> None:
    format = make(name)
    assert "One." in format.render([{"role": "system", "content": text} for text in ("One.", "Two.")] + TALK[:1])
    with pytest.raises(RequestError, match="needs a user message"):
        format.render([*TALK[:1], SYSTEM])


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("llama2", " Hello! </s><s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nBye [/INST]"),
        ("mistral-v1", "<s> Hello!</s> [INST] Be brief.\n\nBye [/INST]"),
        ("mistral-v3", "<s> Hello!</s>[INST] Be brief.\n\nBye[/INST]"),
        ("mistral-v3-tekken", "<s>Hello!</s>[INST]Be brief.\n\nBye[/INST]"),
    ],
)
def test_system_message_before_an_answer_waits_for_the_user(name: str, prompt: str) -> None:
    assert make(name).render([SYSTEM, *TALK[1:]]) == prompt
