"""Prompts that transformers makes of short conversations with the templates of models.

``cd tests && python -m support.chat_prompts`` needs transformers, and writes `PROMPTS` again. Independent of llamafw.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "chat_templates"
PROMPTS = FOLDER / "prompts.json"
BOS, EOS = "<s>", "</s>"
DATES = ("%Y-%m-%d", "%d %B %Y", "%B %d, %Y", "%d %b %Y")  # in which templates write today's date

USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Return the weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "A city."},
                "days": {"type": "integer", "description": "How many days."},
            },
            "required": ["city"],
        },
    },
}
CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 3}},
}
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "user": ([USER], None),
    "system": ([SYSTEM, USER], None),
    "turns": ([SYSTEM, USER, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "And?"}], None),
    "tools": ([SYSTEM, USER], [TOOL]),
    "call": (
        [
            USER,
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "abcdefghi", "name": "get_weather", "content": "Rain."},
        ],
        [TOOL],
    ),
}
NEED_HELP = {
    "deepseek-r1-distill-qwen": ("tools", "call"),
    "deepseek-v3.1": ("tools", "call"),
    "granite-3.3": ("call",),
    "phi-3.5": ("tools", "call"),
    "smollm3": ("tools", "call"),
}
"""Conversations of which these templates drop a part."""


def undated(prompt: str) -> str:
    """Return a prompt with today's date replaced by a word."""
    for form in DATES:
        prompt = prompt.replace(time.strftime(form), "TODAY")
    return prompt


def cases() -> list[tuple[str, str]]:
    """Return the names of the models' templates with those of the conversations that they write completely."""
    lines = (FOLDER / "README.md").read_text("utf-8").splitlines()
    stems = sorted(line.split("|")[1].strip().removesuffix(".jinja") for line in lines if "](https://hugg" in line)
    return [(name, kind) for name in stems for kind in CONVERSATIONS if kind not in NEED_HELP.get(name, ())]


def main() -> None:
    """Write the prompts."""
    from transformers.utils.chat_template_utils import render_jinja_template

    prompts: dict[str, dict[str, str]] = {}
    for name, kind in cases():
        messages, tools = copy.deepcopy(CONVERSATIONS[kind])
        template = (FOLDER / f"{name}.jinja").read_text("utf-8")
        (prompt,), _ = render_jinja_template(
            [messages], tools=tools, chat_template=template, add_generation_prompt=True, bos_token=BOS, eos_token=EOS
        )
        prompts.setdefault(name, {})[kind] = undated(prompt)
    PROMPTS.write_text(json.dumps(prompts, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
