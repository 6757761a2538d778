"""Model architectures, one per file, named as in ``general.architecture``."""

from llamafw import Register, hookimpl
from llamafw_plugins.architectures.llama import llama
from llamafw_plugins.architectures.qwen3 import qwen3, qwen3moe


@hookimpl
def register_architectures(register: Register) -> None:
    """Register every architecture by its name."""
    for architecture in (llama, qwen3, qwen3moe):
        register(architecture.__name__, architecture)
