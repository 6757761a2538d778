"""The samplers of llama-server, one per file."""

from __future__ import annotations

from llamafw import Register, hookimpl
from llamafw_plugins.samplers.adaptive_p import AdaptiveP
from llamafw_plugins.samplers.dry import Dry
from llamafw_plugins.samplers.infill import Infill
from llamafw_plugins.samplers.min_p import MinP
from llamafw_plugins.samplers.mirostat import Mirostat
from llamafw_plugins.samplers.order import DEFAULT_ORDER, MIROSTAT_ORDER
from llamafw_plugins.samplers.penalties import Penalties
from llamafw_plugins.samplers.temperature import Temperature
from llamafw_plugins.samplers.tfs_z import TfsZ
from llamafw_plugins.samplers.top_k import TopK
from llamafw_plugins.samplers.top_n_sigma import TopNSigma
from llamafw_plugins.samplers.top_p import TopP
from llamafw_plugins.samplers.typ_p import TypP
from llamafw_plugins.samplers.xtc import Xtc

__all__ = ["DEFAULT_ORDER", "MIROSTAT_ORDER", "register_samplers"]


@hookimpl
def register_samplers(register: Register) -> None:
    """Register every sampler by its name in the API."""
    register("penalties", Penalties)
    register("dry", Dry)
    register("top_n_sigma", TopNSigma)
    register("top_k", TopK)
    register("tfs_z", TfsZ)
    register("typ_p", TypP)
    register("typical_p", TypP)
    register("top_p", TopP)
    register("min_p", MinP)
    register("xtc", Xtc)
    register("temperature", Temperature)
    register("adaptive_p", AdaptiveP)
    register("infill", Infill)
    register("mirostat", Mirostat)
