"""The samplers of llama-server, one per file."""

from __future__ import annotations

from llamafw import Register, hookimpl
from llamafw_plugins.samplers.min_p import MinP
from llamafw_plugins.samplers.mirostat import Mirostat
from llamafw_plugins.samplers.order import DEFAULT_ORDER, MIROSTAT_ORDER
from llamafw_plugins.samplers.penalties import Penalties
from llamafw_plugins.samplers.temperature import Temperature
from llamafw_plugins.samplers.tfs_z import TfsZ
from llamafw_plugins.samplers.top_k import TopK
from llamafw_plugins.samplers.top_p import TopP
from llamafw_plugins.samplers.typ_p import TypP

__all__ = ["DEFAULT_ORDER", "MIROSTAT_ORDER", "register_samplers"]


@hookimpl
def register_samplers(register: Register) -> None:
    """Register every sampler by its name in the API."""
    register("penalties", Penalties)
    register("top_k", TopK)
    register("tfs_z", TfsZ)
    register("typ_p", TypP)
    register("typical_p", TypP)
    register("top_p", TopP)
    register("min_p", MinP)
    register("temperature", Temperature)
    register("mirostat", Mirostat)
