"""Tool parsers: the formats in which models write tool calls, one per file."""

from __future__ import annotations

from llamafw import Register, hookimpl
from llamafw_plugins.tool_parsers.apertus import Apertus
from llamafw_plugins.tool_parsers.command_r import CommandR
from llamafw_plugins.tool_parsers.deepseek import DeepSeekV3, DeepSeekV31
from llamafw_plugins.tool_parsers.deepseek_dsml import DeepSeekV4, DeepSeekV32
from llamafw_plugins.tool_parsers.functionary import FunctionaryV31, FunctionaryV32
from llamafw_plugins.tool_parsers.gemma import FunctionGemma, Gemma4
from llamafw_plugins.tool_parsers.gigachat import GigaChat3, GigaChat31
from llamafw_plugins.tool_parsers.glm45 import Glm45, Glm47
from llamafw_plugins.tool_parsers.granite import Granite
from llamafw_plugins.tool_parsers.harmony import Harmony
from llamafw_plugins.tool_parsers.hermes import Hermes
from llamafw_plugins.tool_parsers.hunyuan3 import Hunyuan3
from llamafw_plugins.tool_parsers.kimi_k2 import KimiK2
from llamafw_plugins.tool_parsers.lfm2 import Lfm2
from llamafw_plugins.tool_parsers.llama3 import Llama3
from llamafw_plugins.tool_parsers.minimax_m2 import MiniMaxM2
from llamafw_plugins.tool_parsers.mistral import Mistral
from llamafw_plugins.tool_parsers.mistral_args import MistralArgs
from llamafw_plugins.tool_parsers.nemotron import Nemotron
from llamafw_plugins.tool_parsers.phi4_mini import Phi4Mini
from llamafw_plugins.tool_parsers.pythonic import Pythonic
from llamafw_plugins.tool_parsers.qwen3_coder import Qwen3Coder
from llamafw_plugins.tool_parsers.seed_oss import SeedOss
from llamafw_plugins.tool_parsers.solar import SolarOpen
from llamafw_plugins.tool_parsers.tool_calls import ToolCalls


@hookimpl
def register_tool_parsers(register: Register) -> None:
    """Register the formats.

    The first one that matches the chat template is used, otherwise Hermes.
    """
    register("harmony", Harmony())
    register("solar-open", SolarOpen())
    register("mistral-args", MistralArgs())
    register("mistral", Mistral())
    register("deepseek-v3", DeepSeekV3())
    register("deepseek-v3.1", DeepSeekV31())
    register("deepseek-v3.2", DeepSeekV32())
    register("deepseek-v4", DeepSeekV4())
    register("kimi-k2", KimiK2())
    register("minimax-m2", MiniMaxM2())
    register("seed-oss", SeedOss())
    register("qwen3-coder", Qwen3Coder())
    register("glm-4.7", Glm47())
    register("glm-4.5", Glm45())
    register("hunyuan3", Hunyuan3())
    register("gemma4", Gemma4())
    register("function-gemma", FunctionGemma())
    register("functionary-v3.2", FunctionaryV32())
    register("functionary-v3.1", FunctionaryV31())
    register("command-r", CommandR())
    register("phi-4-mini", Phi4Mini())
    register("granite", Granite())
    register("nemotron", Nemotron())
    register("apertus", Apertus())
    register("tool-calls", ToolCalls())
    register("gigachat3", GigaChat3())
    register("gigachat3.1", GigaChat31())
    register("lfm2", Lfm2())
    register("llama4", Pythonic())
    register("llama3", Llama3())
    register("hermes", Hermes())
