"""Suites that hold a plugin to what its kind promises: subclass one in your tests, and give the name.

    from llamafw.testing.conformance import SamplerConformance


    class TestSmooth(SamplerConformance):
        name = "smooth"
        examples = ({"smoothing_factor": 0.3},)

Each test's name says what is promised, and its message what was found instead. They are about what all plugins of the
kind have in common; that yours computes the right thing is for your own tests to say.
"""

from llamafw.testing.conformance.architecture import ArchitectureConformance
from llamafw.testing.conformance.authenticator import AuthenticatorConformance
from llamafw.testing.conformance.backend import BackendConformance
from llamafw.testing.conformance.chat_format import ChatFormatConformance
from llamafw.testing.conformance.endpoint import EndpointConformance
from llamafw.testing.conformance.grammar import GrammarConformance
from llamafw.testing.conformance.plugin import PluginConformance
from llamafw.testing.conformance.quant import QuantConformance
from llamafw.testing.conformance.sampler import SamplerConformance
from llamafw.testing.conformance.tokenizer import TokenizerConformance
from llamafw.testing.conformance.tool_parser import ToolParserConformance
from llamafw.testing.conformance.weights import WeightsConformance

__all__ = [
    "ArchitectureConformance",
    "AuthenticatorConformance",
    "BackendConformance",
    "ChatFormatConformance",
    "EndpointConformance",
    "GrammarConformance",
    "PluginConformance",
    "QuantConformance",
    "SamplerConformance",
    "TokenizerConformance",
    "ToolParserConformance",
    "WeightsConformance",
]
