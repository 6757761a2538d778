"""The tensor types of ggml."""

from llamafw import Register, hookimpl
from llamafw_plugins.quants.ggml import TYPES


@hookimpl
def register_quants(register: Register) -> None:
    """Register every ggml type that model files may have."""
    for quant in TYPES:
        register(quant.name, quant)
