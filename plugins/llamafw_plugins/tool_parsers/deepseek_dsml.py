"""Tool calls of DeepSeek V3.2 and V4: ``<｜DSML｜invoke>`` with a ``<｜DSML｜parameter>`` for each argument.

Format: the encoding scripts of https://huggingface.co/deepseek-ai/DeepSeek-V3.2 and DeepSeek-V4, which differ in the
name of the outer tag. An attribute says whether a value is a text or JSON.
"""

from __future__ import annotations

from dataclasses import replace

from llamafw_plugins.tool_parsers.xml_calls import XmlFormat, XmlSyntax


class DeepSeekV32(XmlFormat):
    """The format of DeepSeek V3.2.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = ("｜DSML｜",)
    syntax = XmlSyntax(
        begin="<｜DSML｜function_calls>\n",
        call='<｜DSML｜invoke name="',
        after_name='">\n',
        key='<｜DSML｜parameter name="',
        value='" string="false">',
        text_value='" string="true">',
        value_end="</｜DSML｜parameter>\n",
        call_end="</｜DSML｜invoke>\n",
        end="</｜DSML｜function_calls>",
    )


class DeepSeekV4(DeepSeekV32):
    """The format of DeepSeek V4.

    Implements `llamafw.ToolParserPlugin`.
    """

    syntax = replace(DeepSeekV32.syntax, begin="<｜DSML｜tool_calls>\n", end="</｜DSML｜tool_calls>")
