"""Tool calls of Hunyuan 3: those of GLM 4.5 with other tags, all between two tags.

Format: the chat template of https://huggingface.co/tencent/Hy3-preview.
"""

from __future__ import annotations

from llamafw_plugins.tool_parsers.xml_calls import XmlFormat, XmlSyntax

_SUFFIX = ":opensource"


class Hunyuan3(XmlFormat):
    """The Hunyuan 3 format.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = tuple(
        f"<{slash}{tag}{_SUFFIX}>"
        for tag in ("tool_calls", "tool_call", "tool_sep", "arg_key", "arg_value")
        for slash in ("", "/")
        if (tag, slash) != ("tool_sep", "/")
    )
    syntax = XmlSyntax(
        begin=f"<tool_calls{_SUFFIX}>\n",
        call=f"<tool_call{_SUFFIX}>",
        after_name=f"<tool_sep{_SUFFIX}>\n",
        key=f"<arg_key{_SUFFIX}>",
        value=f"</arg_key{_SUFFIX}>\n<arg_value{_SUFFIX}>",
        value_end=f"</arg_value{_SUFFIX}>\n",
        call_end=f"</tool_call{_SUFFIX}>\n",
        end=f"</tool_calls{_SUFFIX}>",
    )
