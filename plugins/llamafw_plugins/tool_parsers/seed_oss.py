"""Tool calls of Seed-OSS: those of Qwen3-Coder with other tags, and without line ends around values.

Format: the chat template of https://huggingface.co/ByteDance-Seed/Seed-OSS-36B-Instruct.
"""

from __future__ import annotations

from llamafw_plugins.tool_parsers.xml_calls import XmlFormat, XmlSyntax


class SeedOss(XmlFormat):
    """The Seed-OSS format.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = ("<seed:tool_call>", "</seed:tool_call>")
    syntax = XmlSyntax(
        call="<seed:tool_call>\n<function=",
        after_name=">\n",
        key="<parameter=",
        value=">",
        value_end="</parameter>\n",
        call_end="</function>\n</seed:tool_call>",
        between="\n",
    )
