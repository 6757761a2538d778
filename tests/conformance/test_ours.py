"""Our own plugins in the suites that other authors run."""

from __future__ import annotations

from llamafw.plugins import Plugins
from llamafw.testing.conformance import (
    ArchitectureConformance,
    BackendConformance,
    ChatFormatConformance,
    EndpointConformance,
    GrammarConformance,
    PluginConformance,
    QuantConformance,
    SamplerConformance,
    TokenizerConformance,
    ToolParserConformance,
)

PLUGINS = Plugins()


NAMES_ALONE = {"Q8_1", "Q8_K", "Q1_0"}  # tensor types that no file has, or that nobody can unpack


def suite(base: type) -> list[type]:
    """One subclass for each thing of the kind that is registered."""
    names = [name for name in PLUGINS.registry(base.kind) if name not in NAMES_ALONE]
    return [type(f"Test_{name}", (base,), {"name": name}) for name in names]


class TestPlugins(PluginConformance):
    name = "llamafw"


class TestNumba(BackendConformance):
    name = "numba"


class TestDeterministic(BackendConformance):
    name = "deterministic"
    plugins = ("llamafw.testing.backend",)
    follows_the_model = False


class TestEndpoints(EndpointConformance):
    name = "llamafw"
    test_whatever_is_sent_answers_are_as_the_document_says = None  # tests/contract does it, with more examples


OTHERS = (
    SamplerConformance,
    QuantConformance,
    TokenizerConformance,
    ChatFormatConformance,
    ToolParserConformance,
    GrammarConformance,
    ArchitectureConformance,
)
for base in OTHERS:
    for one in suite(base):
        globals()[f"{one.__name__}_{base.kind}"] = one
