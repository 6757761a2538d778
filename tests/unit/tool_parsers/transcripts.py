"""What models write when they call tools, in each format, written by hand after the documentation of the formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llamafw import ToolParserPlugin
from llamafw_plugins.tool_parsers import register_tool_parsers

PARSERS: dict[str, ToolParserPlugin] = {}
register_tool_parsers(PARSERS.__setitem__)

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "units": {"enum": ["metric", "imperial"]},
                "options": {"type": "object", "properties": {"hourly": {"type": "boolean"}}},
            },
            "required": ["city"],
        },
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}},
}
TOOLS = [WEATHER, CLOCK]

OSLO = ("get_weather", {"city": "Oslo", "days": 3})
ROME = ("get_weather", {"city": "Rome"})
NESTED = ("get_weather", {"city": 'a "b" {c}</x>\n[é]', "options": {"hourly": True}})
TIME: tuple[str, dict[str, Any]] = ("clock", {})


@dataclass(frozen=True)
class Transcript:
    """A response, and what it consists of."""

    format: str
    response: str
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    text: str = ""
    reasoning: str = ""


_OSLO = '{"city": "Oslo", "days": 3}'
_NESTED = '{"city": "a \\"b\\" {c}</x>\\n[é]", "options": {"hourly": true}}'
_DS, _DE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_DC, _DSEP, _DCE = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"

TRANSCRIPTS = [
    # Hermes, Qwen 2.5, Qwen 3, Granite 4
    Transcript("hermes", f'<tool_call>\n{{"name": "get_weather", "arguments": {_OSLO}}}\n</tool_call>', (OSLO,)),
    Transcript(
        "hermes",
        f'So:\n<tool_call>{{"arguments": {_NESTED}, "name": "get_weather"}}</tool_call>\n'
        '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n',
        (NESTED, TIME),
        "So:\n",
    ),
    Transcript("hermes", '<tool_call>{"name": "clock"}</tool_call> Done.', (TIME,), "Done."),
    Transcript("hermes", '<tool_call>{"name": "clock", "arguments": "{}"}', (TIME,)),  # without the end
    Transcript(
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "</tool_call>"}}\n</tool_call>',
        (("get_weather", {"city": "</tool_call>"}),),
    ),
    # Llama 3
    Transcript("llama3", f'{{"name": "get_weather", "parameters": {_OSLO}}}', (OSLO,)),
    Transcript("llama3", f'\n{{"type": "function", "name": "get_weather", "parameters": {_NESTED}}}', (NESTED,)),
    Transcript(
        "llama3",
        f'<|python_tag|>{{"name": "get_weather", "parameters": {_OSLO}}}; {{"name": "clock", "parameters": {{}}}}',
        (OSLO, TIME),
    ),
    Transcript("llama3", '<|python_tag|>brave_search.call(query="a, b")', (("brave_search", {"query": "a, b"}),)),
    Transcript(
        "llama3",
        f'<|python_start|><|python_end|>{{"name": "get_weather", "parameters": {_OSLO}}}'
        '{"name": "clock", "parameters": {}}',
        (OSLO, TIME),
    ),  # Llama 4, as its chat template writes calls
    Transcript("llama3", f'<|python_start|>{{"name": "get_weather", "parameters": {_OSLO}}}<|python_end|>', (OSLO,)),
    Transcript("llama3", '{"name": "Ada", "age": 36}', text='{"name": "Ada", "age": 36}'),
    Transcript("llama3", '{"name": "clock"}', text='{"name": "clock"}'),  # no arguments
    Transcript(
        "llama3",
        f'Like {{"name": "get_weather", "parameters": {_OSLO}}}',
        text=f'Like {{"name": "get_weather", "parameters": {_OSLO}}}',
    ),
    # Mistral
    Transcript(
        "mistral",
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {_OSLO}, "id": "abcdefgh1"}}, '
        '{"name": "clock", "arguments": {}}]',
        (OSLO, TIME),
    ),
    Transcript("mistral", f' [{{"name": "get_weather", "arguments": {_NESTED}}}]', (NESTED,)),  # without its mark
    Transcript("mistral", '[{"name": "Ada", "arguments": {}}]', text='[{"name": "Ada", "arguments": {}}]'),
    Transcript("mistral-args", f"[TOOL_CALLS]get_weather[ARGS]{_OSLO}[TOOL_CALLS]clock[ARGS]{{}}", (OSLO, TIME)),
    Transcript("mistral-args", f"Hm. [TOOL_CALLS]get_weather[CALL_ID]abcdefgh1[ARGS]{_NESTED}", (NESTED,), "Hm. "),
    # gpt-oss
    Transcript(
        "harmony",
        "<|channel|>analysis<|message|>They ask.<|end|><|start|>assistant<|channel|>commentary "
        f"to=functions.get_weather <|constrain|>json<|message|>{_OSLO}<|call|>",
        (OSLO,),
        reasoning="They ask.",
    ),
    Transcript(
        "harmony",
        f"<|channel|>commentary<|message|>One moment.<|end|><|start|>assistant to=functions.get_weather"
        f"<|channel|>commentary json<|message|>{_NESTED}",
        (NESTED,),
        "One moment.",
    ),
    Transcript(
        "harmony", f" to=functions.get_weather<|channel|>commentary json<|message|>{_OSLO}<|call|>", (OSLO,)
    ),  # after a prompt that ends with the role
    Transcript("harmony", " to be or not to=be", text=" to be or not to=be"),
    Transcript("harmony", "<|channel|>final<|message|>Hi < there<|return|>", text="Hi < there"),
    Transcript("harmony", "Hello.", text="Hello."),
    # Solar
    Transcript(
        "solar-open",
        "<|think|>They ask.<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>"
        f"get_weather<|tool_call:args|>{_OSLO}<|tool_call:end|><|tool_call:begin|>a1b2c3d4e6<|tool_call:name|>clock"
        "<|tool_call:args|>{}<|tool_call:end|><|calls|>",
        (OSLO, TIME),
        reasoning="They ask.",
    ),
    Transcript("solar-open", "<|content|>Hi < there<|end|>", text="Hi < there"),
    # DeepSeek
    Transcript(
        "deepseek-v3",
        f"{_DS}{_DC}function{_DSEP}get_weather\n```json\n{_OSLO}\n```{_DCE}\n{_DC}function{_DSEP}clock\n```json\n{{}}\n```{_DCE}{_DE}",
        (OSLO, TIME),
    ),
    Transcript(
        "deepseek-v3.1",
        f"Ok.{_DS}{_DC}get_weather{_DSEP}{_NESTED}{_DCE}{_DC}clock{_DSEP}{{}}{_DCE}{_DE}",
        (NESTED, TIME),
        "Ok.",
    ),
    Transcript(
        "deepseek-v3.2",
        'Ok.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="clock">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
        (OSLO, TIME),
        "Ok.\n\n",
    ),
    Transcript(
        "deepseek-v4",
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" string="true">a "b" {c}</x>\n[é]</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="options" string="false">{"hourly": true}</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        "</｜DSML｜tool_calls>",
        (NESTED,),
    ),
    Transcript(
        "deepseek-v4",
        '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="unknown">\n'
        '<｜DSML｜parameter name="a" string="true">3</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="b" string="false">"3"</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>',
        (("unknown", {"a": "3", "b": "3"}),),
    ),  # the attribute says what is a text, without a schema
    # Kimi
    Transcript(
        "kimi-k2",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        f"{_OSLO}<|tool_call_end|><|tool_call_begin|>functions.clock:1<|tool_call_argument_begin|>{{}}<|tool_call_end|>"
        "<|tool_calls_section_end|>",
        (OSLO, TIME),
    ),
    # formats with tags
    Transcript(
        "qwen3-coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=clock>\n</function>\n</tool_call>",
        (OSLO, TIME),
    ),
    Transcript(
        "qwen3-coder",
        'I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\na "b" {c}</x>\n[é]\n</parameter>\n'
        '<parameter=options>\n{"hourly": true}\n</parameter>\n</function>\n</tool_call>',
        (NESTED,),
        "I look.\n",
    ),
    Transcript(
        "qwen3-coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n3\n</parameter>\n</function>\n</tool_call>",
        (("get_weather", {"city": "3"}),),
    ),  # a text, although it looks like a number
    Transcript(
        "seed-oss",
        "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Oslo</parameter>\n"
        "<parameter=days>3</parameter>\n</function>\n</seed:tool_call>",
        (OSLO,),
    ),
    Transcript(
        "seed-oss",
        "<seed:tool_call><function=get_weather><parameter=city>Rome</parameter>"
        "<parameter=options>{'hourly': True}</parameter></function></seed:tool_call>",
        (("get_weather", {"city": "Rome", "options": {"hourly": True}}),),
    ),
    Transcript(
        "glm-4.5",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>3</arg_value>\n</tool_call>\n<tool_call>clock\n</tool_call>",
        (OSLO, TIME),
    ),
    Transcript(
        "glm-4.7", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Rome</arg_value></tool_call>", (ROME,)
    ),
    Transcript(
        "minimax-m2",
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Oslo</parameter>\n'
        '<parameter name="days">3</parameter>\n</invoke>\n<invoke name="clock">\n</invoke>\n</minimax:tool_call>',
        (OSLO, TIME),
    ),
    Transcript(
        "hunyuan3",
        "<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n"
        "<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Oslo</arg_value:opensource>\n"
        "<arg_key:opensource>days</arg_key:opensource>\n<arg_value:opensource>3</arg_value:opensource>\n"
        "</tool_call:opensource>\n<tool_call:opensource>clock<tool_sep:opensource>\n</tool_call:opensource>\n"
        "</tool_calls:opensource>",
        (OSLO, TIME),
    ),
    # Gemma
    Transcript(
        "gemma4",
        '<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,days:3}<tool_call|><|tool_call>call:clock{}<tool_call|>',
        (OSLO, TIME),
    ),
    Transcript(
        "gemma4",
        '<|tool_call>call:get_weather{city:<|"|>a "b" {c}</x>\n[é]<|"|>,options:{hourly:true}}<tool_call|>',
        (NESTED,),
    ),
    Transcript(
        "function-gemma", "<start_function_call>call:get_weather{city:<escape>Rome<escape>}<end_function_call>", (ROME,)
    ),
    # JSON arrays
    Transcript(
        "granite",
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {_OSLO}}}, {{"name": "clock", "arguments": {{}}}}]',
        (OSLO, TIME),
    ),
    Transcript(
        "phi-4-mini", f'<|tool_call|>[{{"name": "get_weather", "arguments": {_NESTED}}}]<|/tool_call|>', (NESTED,)
    ),
    Transcript("nemotron", f'<TOOLCALL>[{{"name": "get_weather", "arguments": {_OSLO}}}]</TOOLCALL>', (OSLO,)),
    Transcript(
        "command-r",
        f'<|START_ACTION|>[\n    {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {_OSLO}}},\n'
        '    {"tool_call_id": "1", "tool_name": "clock", "parameters": {}}\n]<|END_ACTION|>',
        (OSLO, TIME),
    ),
    Transcript(
        "apertus",
        f'One moment.<|tools_prefix|>[{{"get_weather": {_NESTED}}}, {{"clock": {{}}}}]<|tools_suffix|>',
        (NESTED, TIME),
        "One moment.",
    ),
    Transcript(
        "tool-calls",
        f'<tool_calls>[{{"name": "get_weather", "arguments": {_OSLO}, "id": "1"}}, '
        '{"name": "clock", "arguments": {}, "id": "2"}]</tool_calls>',
        (OSLO, TIME),
    ),  # Apriel
    Transcript(
        "tool-calls",
        f'Hm.\n<tool_calls>[\n    {{"name": "get_weather", "arguments": {_NESTED}}},\n'
        '    {"name": "clock", "arguments": {}}\n]</tool_calls>',
        (NESTED, TIME),
        "Hm.\n",
    ),  # Jamba
    Transcript(
        "tool-calls",
        f'<tool_calls>\n{{"name": "get_weather", "arguments": {_OSLO}}}\n{{"name": "clock", "arguments": {{}}}}\n'
        "</tool_calls>",
        (OSLO, TIME),
    ),  # MiniMax M1
    # one object
    Transcript(
        "gigachat3",
        f'I look.<|message_sep|>\n\nfunction call<|role_sep|>\n{{"name": "get_weather", "arguments": {_OSLO}}}'
        "<|message_sep|>",
        (OSLO,),
        "I look.",
    ),
    Transcript(
        "gigachat3.1",
        f'I look.<|function_call|>{{"name": "get_weather", "arguments": {_NESTED}}}',
        (NESTED,),
        "I look.",
    ),
    # Python
    Transcript("llama4", '[get_weather(city="Oslo", days=3), clock()]', (OSLO, TIME)),
    Transcript(
        "llama4",
        "<|python_start|>[get_weather(city='a \"b\" {c}</x>\\n[é]', options={'hourly': True})]<|python_end|>",
        (NESTED,),
    ),
    Transcript("llama4", "[1, 2]", text="[1, 2]"),
    Transcript("llama4", "[link](url) and so on", text="[link](url) and so on"),
    Transcript(
        "lfm2",
        'Let me see. <|tool_call_start|>[get_weather(city="Rome")]<|tool_call_end|> I will look.',
        (ROME,),
        "Let me see. I will look.",
    ),
    # Functionary
    Transcript(
        "functionary-v3.1", f"<function=get_weather>{_OSLO}</function><function=clock>{{}}</function>", (OSLO, TIME)
    ),
    Transcript("functionary-v3.2", f"all\nI look.>>>get_weather\n{_OSLO}>>>clock\n{{}}", (OSLO, TIME), "I look."),
    Transcript("functionary-v3.2", f"get_weather\n{_NESTED}", (NESTED,)),
    Transcript("functionary-v3.2", "get well soon >>> now", text="get well soon >>> now"),
]

NO_CALLS = [
    ("hermes", "<tool_call>{oops}</tool_call> x"),
    ("hermes", '<tool_call>{"name": 3}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "{"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": 1e400}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f"'),
    ("hermes", "<tool_"),
    ("mistral", "[TOOL"),
    ("mistral", '[{"name": "get_weather", "arguments": {}}, 7]'),
    ("mistral-args", "[TOOL_CALLS]get_weather[ARGS]no"),
    ("deepseek-v3.1", f"{_DS}{_DE}"),
    ("kimi-k2", "<|tool_calls_section_begin|>?"),
    ("qwen3-coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo"),
    ("glm-4.5", "<tool_call></tool_call>"),
    ("minimax-m2", "<minimax:tool_call>\n</minimax:tool_call>"),
    ("gemma4", "<|tool_call>call:f{x:wrong}<tool_call|>"),
    ("deepseek-v3.2", "<｜DSML｜function_calls>\n</｜DSML｜function_calls>"),
    ("deepseek-v4", '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="no">3'),
    ("hunyuan3", "<tool_calls:opensource>\n</tool_calls:opensource>"),
    ("command-r", "<|START_ACTION|>[]<|END_ACTION|>"),
    ("apertus", '<|tools_prefix|>[{"get_weather": 3}]<|tools_suffix|>'),
    ("apertus", '<|tools_prefix|>[{"get_weather": {}, "clock": {}}]<|tools_suffix|>'),
    ("tool-calls", "<tool_calls></tool_calls>"),
    ("tool-calls", '<tool_calls>["get_weather"]</tool_calls>'),
    ("gigachat3", "function call<|role_sep|>\nno"),
    ("gigachat3.1", "<|function_call|>[]"),
    ("llama4", '[get_weather(city="Oslo"), 3]'),
    ("llama4", '[unknown(city="Oslo")]'),
    ("llama4", "[get_weather(city=Oslo)]"),
    ("functionary-v3.1", "<function=f>(x)</function>"),
]
"""Formats, and responses that are not calls in them."""
