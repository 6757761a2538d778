"""Tool calls of MiniMax M2: ``<invoke>`` with a ``<parameter>`` for each argument, all between two tags.

Format: https://huggingface.co/MiniMaxAI/MiniMax-M2/blob/main/docs/tool_calling_guide.md
"""

from __future__ import annotations

from llamafw_plugins.tool_parsers.xml_calls import XmlFormat, XmlSyntax


class MiniMaxM2(XmlFormat):
    """The MiniMax M2 format.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = ("<minimax:tool_call>", "</minimax:tool_call>")
    syntax = XmlSyntax(
        begin="<minimax:tool_call>\n",
        call='<invoke name="',
        after_name='">\n',
        key='<parameter name="',
        value='">',
        value_end="</parameter>\n",
        call_end="</invoke>\n",
        end="</minimax:tool_call>",
    )
