"""Conformance suites: the rules that every plugin of a kind must follow, as tests.

Subclass the suite of your kind in your tests and give the name under which your plugin is registered:

    from llamafw.testing.conformance import SamplerConformance


    class TestSmooth(SamplerConformance):
        name = "smooth"
        examples = ({"smoothing_factor": 0.3},)

The docstring of each test states one rule; its message says how the plugin broke it. The suites check what all plugins
of a kind have in common. Whether yours computes the right result is for your own tests to check.
"""

from llamafw.testing.conformance.architecture import ArchitectureConformance
from llamafw.testing.conformance.authenticator import AuthenticatorConformance
from llamafw.testing.conformance.backend import BackendConformance
from llamafw.testing.conformance.chat_format import ChatFormatConformance
from llamafw.testing.conformance.conversion import ConversionConformance
from llamafw.testing.conformance.drafter import DrafterConformance
from llamafw.testing.conformance.endpoint import EndpointConformance
from llamafw.testing.conformance.events import EventsConformance
from llamafw.testing.conformance.grammar import GrammarConformance
from llamafw.testing.conformance.operator import OperatorConformance
from llamafw.testing.conformance.plugin import PluginConformance
from llamafw.testing.conformance.quant import QuantConformance
from llamafw.testing.conformance.recurrent_backend import RecurrentBackendConformance
from llamafw.testing.conformance.sampler import SamplerConformance
from llamafw.testing.conformance.tokenizer import TokenizerConformance
from llamafw.testing.conformance.tool_parser import ToolParserConformance
from llamafw.testing.conformance.weights import WeightsConformance

__all__ = [
    "ArchitectureConformance",
    "AuthenticatorConformance",
    "BackendConformance",
    "ChatFormatConformance",
    "ConversionConformance",
    "DrafterConformance",
    "EndpointConformance",
    "EventsConformance",
    "GrammarConformance",
    "OperatorConformance",
    "PluginConformance",
    "QuantConformance",
    "RecurrentBackendConformance",
    "SamplerConformance",
    "TokenizerConformance",
    "ToolParserConformance",
    "WeightsConformance",
]
