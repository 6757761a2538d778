"""The built-in plugins pass the suites that other authors run."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from checkpoints import all_checkpoints, write
from llamafw.plugins import Plugins
from llamafw.testing.conformance import (
    ArchitectureConformance,
    BackendConformance,
    ChatFormatConformance,
    DrafterConformance,
    EndpointConformance,
    EventsConformance,
    GrammarConformance,
    PluginConformance,
    QuantConformance,
    RecurrentBackendConformance,
    SamplerConformance,
    TokenizerConformance,
    ToolParserConformance,
)
from support.quant_references import REFERENCES

PLUGINS = Plugins()

NAMES_WITHOUT_WEIGHTS = {"Q8_1", "Q8_K"}  # tensor types that occur in no file
TESTED_ELSEWHERE = {
    "PQ2_0",  # with references, in tests/unit/custom_quant
    "PTQ1_0",
    "draft-mtp",  # with a block, in tests/unit/drafters
}


class TestPlugins(PluginConformance):
    name = "llamafw"


class TestEvents(EventsConformance):
    name = "llamafw"


class TestNumba(BackendConformance):
    name = "numba"


class TestNumbaWithRecurrentModels(RecurrentBackendConformance):
    name = "numba"


class TestDeterministic(BackendConformance):
    name = "deterministic"
    plugins = ("llamafw.testing.backend",)
    follows_the_model = False


class TestEndpoints(EndpointConformance):
    name = "llamafw"
    # tests/contract does the same with more examples
    test_responses_match_the_document = None  # type: ignore[assignment]  # pytest collects no test that is None


class CheckpointConformance(ArchitectureConformance):
    """Takes the first checkpoint of each architecture, without tensors that its graph does not use.

    Those with factors for long texts are left out, because their results depend on the length of a text.
    """

    def write(self, write_model: Any) -> Path:
        path = Path(write_model()).with_name(f"{self.name}.gguf")
        ours = (one for one in all_checkpoints() if one.architecture == self.name)
        one = next(one for one in ours if "rope_factors_long.weight" not in one.shapes)
        shapes = {
            name: shape
            for name, shape in one.shapes.items()
            if not any(fnmatch(name, pattern) for pattern in one.skipped)
        }
        return write(replace(one, shapes=shapes), path)


class GgmlConformance(QuantConformance):
    """Tests one of ggml's types, for which the Numba backend has a kernel itself."""

    # tests/unit/numba/test_formats.py does the same
    test_backends_read_exact_weights = None  # type: ignore[assignment]  # pytest collects no test that is None
    test_backends_multiply_with_exact_weights = None  # type: ignore[assignment]  # as above


for base in (
    SamplerConformance,
    GgmlConformance,
    TokenizerConformance,
    ChatFormatConformance,
    ToolParserConformance,
    GrammarConformance,
    DrafterConformance,
    CheckpointConformance,
):
    registered = [name for name in PLUGINS.registry(base.kind) if name not in NAMES_WITHOUT_WEIGHTS | TESTED_ELSEWHERE]
    assert registered, f"no {base.kind} is registered"
    for name in registered:
        class_name = f"Test_{name}_{base.kind}"
        members: dict[str, Any] = {"name": name}
        if base is GgmlConformance and name in REFERENCES:
            members["reference"] = staticmethod(REFERENCES[name])
        globals()[class_name] = type(class_name, (base,), members)
