"""Model architectures, one per file, named as in ``general.architecture``."""

from llamafw import Register, hookimpl
from llamafw_plugins.architectures.cohere2 import cohere2, command_r
from llamafw_plugins.architectures.deepseek2 import deepseek2, mistral4
from llamafw_plugins.architectures.gemma import gemma
from llamafw_plugins.architectures.gemma2 import gemma2
from llamafw_plugins.architectures.gemma3 import gemma3
from llamafw_plugins.architectures.gemma4 import gemma4
from llamafw_plugins.architectures.gpt_oss import gpt_oss
from llamafw_plugins.architectures.granite import granite, granitehybrid, granitemoe
from llamafw_plugins.architectures.lfm2 import lfm2, lfm2moe
from llamafw_plugins.architectures.llama import llama
from llamafw_plugins.architectures.mistral3 import mistral3
from llamafw_plugins.architectures.nemotron_h import nemotron_h, nemotron_h_moe
from llamafw_plugins.architectures.phi3 import phi3, phimoe
from llamafw_plugins.architectures.qwen2 import qwen2
from llamafw_plugins.architectures.qwen3 import qwen3, qwen3moe
from llamafw_plugins.architectures.qwen35 import qwen3next, qwen35, qwen35moe


@hookimpl
def register_architectures(register: Register) -> None:
    """Register every architecture by its name."""
    for architecture in (
        cohere2,
        deepseek2,
        gemma,
        gemma2,
        gemma3,
        gemma4,
        granite,
        granitehybrid,
        granitemoe,
        lfm2,
        lfm2moe,
        llama,
        mistral3,
        mistral4,
        nemotron_h,
        nemotron_h_moe,
        phi3,
        phimoe,
        qwen2,
        qwen3,
        qwen3moe,
        qwen3next,
        qwen35,
        qwen35moe,
    ):
        register(architecture.__name__, architecture)
    register("command-r", command_r)
    register("gpt-oss", gpt_oss)
