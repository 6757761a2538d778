"""Choose the suites that a plugin must pass from what it registers and which hooks it implements."""

from __future__ import annotations

import re
from collections.abc import Collection

from llamafw.plugins import PluginRecord
from llamafw.testing.conformance.architecture import ArchitectureConformance
from llamafw.testing.conformance.authenticator import AuthenticatorConformance
from llamafw.testing.conformance.backend import BackendConformance
from llamafw.testing.conformance.base import Conformance, load
from llamafw.testing.conformance.chat_format import ChatFormatConformance
from llamafw.testing.conformance.conversion import ConversionConformance
from llamafw.testing.conformance.drafter import DrafterConformance
from llamafw.testing.conformance.endpoint import EndpointConformance
from llamafw.testing.conformance.events import EVENTS, EventsConformance
from llamafw.testing.conformance.grammar import GrammarConformance
from llamafw.testing.conformance.operator import OperatorConformance
from llamafw.testing.conformance.plugin import PluginConformance
from llamafw.testing.conformance.quant import QuantConformance
from llamafw.testing.conformance.recurrent_backend import RecurrentBackendConformance
from llamafw.testing.conformance.sampler import SamplerConformance
from llamafw.testing.conformance.tokenizer import TokenizerConformance
from llamafw.testing.conformance.tool_parser import ToolParserConformance
from llamafw.testing.conformance.weights import WeightsConformance

SUITES_BY_NAME: tuple[type[Conformance], ...] = (
    SamplerConformance,
    ChatFormatConformance,
    ToolParserConformance,
    GrammarConformance,
    DrafterConformance,
    TokenizerConformance,
    ArchitectureConformance,
    ConversionConformance,
    OperatorConformance,
    QuantConformance,
    BackendConformance,
    RecurrentBackendConformance,
)
"""Suites for objects that are registered under a name."""

SUITES_BY_HOOK: dict[str, type[Conformance]] = {
    "register_authenticators": AuthenticatorConformance,
    "register_endpoints": EndpointConformance,
    "open_model": WeightsConformance,
    **dict.fromkeys(EVENTS, EventsConformance),
}
"""Suites for the plugin as a whole."""


def suites(names: Collection[str], plugins: tuple[str, ...] = ()) -> dict[str, type[Conformance]]:
    """Return the test classes for everything that some plugins do, by class name.

    Parameters
    ----------
    names : collection of str
        Distributions, or plugins as ``llamafw plugins`` lists them.
    plugins : tuple of str
        Plugins to load in addition to the installed ones.

    Returns
    -------
    dict
        Class name → subclass of a suite. Pytest collects these classes, because their names start with ``Test``.
    """
    applicable: dict[tuple[str, str], type[Conformance]] = {}
    for record in load(plugins).records.values():
        if not {record.name, record.distribution}.isdisjoint(names):
            plugin_name = record.name if record.name in plugins else record.distribution
            for suite, name in _suites_of(record, plugin_name):
                applicable[suite.label or suite.kind, name] = suite

    return {
        f"Test_{label}_{re.sub('[^A-Za-z0-9]', '_', name)}": type(
            name, (suite,), {"name": name, "plugins": plugins, "generated": True}
        )
        for (label, name), suite in applicable.items()
    }


def _suites_of(record: PluginRecord, plugin_name: str) -> list[tuple[type[Conformance], str]]:
    """Return each suite with the name of the object or plugin that it tests."""
    by_name = [
        (suite, name)
        for kind, names in record.registered.items()
        for name in names
        for suite in SUITES_BY_NAME
        if suite.kind == kind
    ]
    by_hook = [(suite, plugin_name) for hook, suite in SUITES_BY_HOOK.items() if hook in record.hooks]
    return [(PluginConformance, plugin_name), *by_name, *by_hook]
