"""Model architectures, one per file, named as in ``general.architecture``."""

from llamafw import Register, hookimpl
from llamafw_plugins.architectures.gemma import gemma
from llamafw_plugins.architectures.gemma2 import gemma2
from llamafw_plugins.architectures.gemma3 import gemma3
from llamafw_plugins.architectures.granite import granite, granitehybrid, granitemoe
from llamafw_plugins.architectures.lfm2 import lfm2, lfm2moe
from llamafw_plugins.architectures.llama import llama
from llamafw_plugins.architectures.nemotron_h import nemotron_h, nemotron_h_moe
from llamafw_plugins.architectures.phi3 import phi3
from llamafw_plugins.architectures.qwen2 import qwen2
from llamafw_plugins.architectures.qwen3 import qwen3, qwen3moe
from llamafw_plugins.architectures.qwen35 import qwen3next, qwen35, qwen35moe


@hookimpl
def register_architectures(register: Register) -> None:
    """Register every architecture by its name."""
    for architecture in (
        gemma,
        gemma2,
        gemma3,
        granite,
        granitehybrid,
        granitemoe,
        lfm2,
        lfm2moe,
        llama,
        nemotron_h,
        nemotron_h_moe,
        phi3,
        qwen2,
        qwen3,
        qwen3moe,
        qwen3next,
        qwen35,
        qwen35moe,
    ):
        register(architecture.__name__, architecture)
