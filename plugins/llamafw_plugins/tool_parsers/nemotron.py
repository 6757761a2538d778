"""Tool calls of Nemotron Nano 2: ``<TOOLCALL>[{"name": …, "arguments": {…}}, …]</TOOLCALL>``.

Format: https://huggingface.co/nvidia/NVIDIA-Nemotron-Nano-9B-v2 (tool calling). Later models use Qwen3-Coder's.
"""

from __future__ import annotations

from llamafw_plugins.tool_parsers.json_lists import JsonList


class Nemotron(JsonList):
    """The Nemotron format.

    Implements `llamafw.ToolParserPlugin`.
    """

    opening, closing = "<TOOLCALL>", "</TOOLCALL>"
