"""Tool calls of GLM 4.5 to 5: the name, then a tag for each key and each value.

GLM 4.7 and later write no line ends.

Format: the chat templates of https://huggingface.co/zai-org/GLM-4.5 and GLM-4.7.
"""

from __future__ import annotations

from llamafw_plugins.tool_parsers.xml_calls import XmlFormat, XmlSyntax


class Glm45(XmlFormat):
    """The format of GLM 4.5 and 4.6.

    Implements `llamafw.ToolParserPlugin`.
    """

    marks = ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
    syntax = XmlSyntax(
        call="<tool_call>",
        after_name="\n",
        key="<arg_key>",
        value="</arg_key>\n<arg_value>",
        value_end="</arg_value>\n",
        call_end="</tool_call>",
        between="\n",
    )


class Glm47(Glm45):
    """The format of GLM 4.7 and 5.

    Implements `llamafw.ToolParserPlugin`.
    """

    syntax = XmlSyntax(
        call="<tool_call>",
        after_name="",
        key="<arg_key>",
        value="</arg_key><arg_value>",
        value_end="</arg_value>",
        call_end="</tool_call>",
    )

    def matches(self, template: str, call: str) -> bool:
        """Return whether models with this chat template use this format."""
        return super().matches(template, call) and "get_weather<arg_key>" in call
