"""The suites that plugins are due for, by what they register."""

from __future__ import annotations

import re
from collections.abc import Collection

from llamafw.plugins import Found
from llamafw.testing.conformance.architecture import ArchitectureConformance
from llamafw.testing.conformance.authenticator import AuthenticatorConformance
from llamafw.testing.conformance.backend import BackendConformance
from llamafw.testing.conformance.base import Conformance, load
from llamafw.testing.conformance.chat_format import ChatFormatConformance
from llamafw.testing.conformance.endpoint import EndpointConformance
from llamafw.testing.conformance.grammar import GrammarConformance
from llamafw.testing.conformance.plugin import PluginConformance
from llamafw.testing.conformance.quant import QuantConformance
from llamafw.testing.conformance.sampler import SamplerConformance
from llamafw.testing.conformance.tokenizer import TokenizerConformance
from llamafw.testing.conformance.tool_parser import ToolParserConformance
from llamafw.testing.conformance.weights import WeightsConformance

BY_KIND: dict[str, type[Conformance]] = {
    suite.kind: suite
    for suite in (
        SamplerConformance,
        ChatFormatConformance,
        ToolParserConformance,
        GrammarConformance,
        TokenizerConformance,
        ArchitectureConformance,
        QuantConformance,
        BackendConformance,
    )
}
"""For what is registered by name."""

BY_HOOK: dict[str, type[Conformance]] = {
    "register_authenticators": AuthenticatorConformance,
    "register_endpoints": EndpointConformance,
    "open_model": WeightsConformance,
}
"""For what a plugin as a whole does."""


def suites(names: Collection[str], plugins: tuple[str, ...] = ()) -> dict[str, type[Conformance]]:
    """Return a subclass for each thing that plugins register, by a name that pytest collects.

    Parameters
    ----------
    names : collection of str
        Distributions, or plugins as ``llamafw plugins`` lists them.
    plugins : tuple of str
        Plugins to load besides those installed.
    """
    due: dict[tuple[str, str], type[Conformance]] = {}
    for found in load(plugins).found.values():
        if not {found.name, found.distribution}.isdisjoint(names):
            for suite, name in _due(found, whole=found.name if found.name in plugins else found.distribution):
                due[suite.kind, name] = suite
    return {
        f"Test_{kind}_{re.sub('[^A-Za-z0-9]', '_', name)}": type(
            name, (suite,), {"name": name, "plugins": plugins, "generated": True}
        )
        for (kind, name), suite in due.items()
    }


def _due(found: Found, whole: str) -> list[tuple[type[Conformance], str]]:
    """Return suites, and the name that each is to look up."""
    due: list[tuple[type[Conformance], str]] = [(PluginConformance, whole)]
    due += [(BY_KIND[kind], name) for kind, names in found.registered.items() if kind in BY_KIND for name in names]
    return due + [(suite, whole) for hook, suite in BY_HOOK.items() if hook in found.hooks]
