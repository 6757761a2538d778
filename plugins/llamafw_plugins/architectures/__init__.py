"""Model architectures, one per file, named as in ``general.architecture``."""

from llamafw import Register, hookimpl
from llamafw_plugins.architectures.llama import llama


@hookimpl
def register_architectures(register: Register) -> None:
    """Register every architecture by its name."""
    register("llama", llama)
