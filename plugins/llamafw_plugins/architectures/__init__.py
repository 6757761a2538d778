"""Model architectures."""

from llamafw import Register, hookimpl
from llamafw_plugins.architectures.llama import describe as llama


@hookimpl
def register_architectures(register: Register) -> None:
    """Add the architectures by ``general.architecture``."""
    register("llama", llama)
