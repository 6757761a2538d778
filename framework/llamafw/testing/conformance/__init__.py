"""Suites that hold a plugin to what its kind promises: subclass one in your tests, and give the name.

    from llamafw.testing.conformance import SamplerConformance


    class TestSmooth(SamplerConformance):
        name = "smooth"
        examples = ({"smoothing_factor": 0.3},)

Each test's name says what is promised, and its message what was found instead. They are about what all plugins of the
kind have in common; that yours computes the right thing is for your own tests to say.
"""
from llamafw.testing.conformance.backend import BackendConformance
from llamafw.testing.conformance.endpoint import EndpointConformance
from llamafw.testing.conformance.quant import QuantConformance
from llamafw.testing.conformance.sampler import SamplerConformance
from llamafw.testing.conformance.tokenizer import TokenizerConformance

__all__ = [
    "BackendConformance",
    "EndpointConformance",
    "QuantConformance",
    "SamplerConformance",
    "TokenizerConformance",
]
