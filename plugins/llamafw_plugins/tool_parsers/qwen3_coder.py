"""Tool calls of Qwen3-Coder, Qwen3.5, Nemotron 3 and Step 3.5: a tag for the function and one for each parameter.

Format: the chat template of https://huggingface.co/Qwen/Qwen3-Coder-30B-A3B-Instruct.
"""

from __future__ import annotations

from llamafw_plugins.tool_parsers.xml_calls import XmlFormat, XmlSyntax


class Qwen3Coder(XmlFormat):
    """The Qwen3-Coder format.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = ("<tool_call>", "</tool_call>")
    syntax = XmlSyntax(
        call="<tool_call>\n<function=",
        after_name=">\n",
        key="<parameter=",
        value=">\n",
        value_end="\n</parameter>\n",
        call_end="</function>\n</tool_call>",
        between="\n",
    )
