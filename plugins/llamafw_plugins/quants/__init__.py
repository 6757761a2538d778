"""The tensor types of ggml."""

from llamafw import Register, hookimpl
from llamafw_plugins.quants.ggml import TYPES


@hookimpl
def register_quants(register: Register) -> None:
    """Add every ggml type that model files may hold."""
    for quant in TYPES:
        register(quant.name, quant)
