"""The suite for architectures names the rule that an architecture breaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llamafw.testing.conformance import ArchitectureConformance
from llamafw_plugins.architectures.llama import describe
from support.conformance import assert_fails, suite


def architecture(function: Any) -> Any:
    return suite(ArchitectureConformance, function, name="llama")


def test_inconsistent_sizes_are_reported(write_model: Any) -> None:
    made = architecture(lambda model: replace(describe(model), n_head_kv=3))
    assert_fails(made.test_description_is_consistent, "which n_head_kv = 3 does not divide", write_model)


def test_unknown_tensor_is_reported(write_model: Any) -> None:
    made = architecture(lambda model: replace(describe(model), tensors={"output": "nowhere"}))
    message = "the role output names nowhere, which is not in the file"
    assert_fails(made.test_every_tensor_has_a_role, message, write_model)


def test_ignored_damage_is_reported(write_model: Any) -> None:
    decoder = describe(architecture(describe).open(write_model))
    made = architecture(lambda model: decoder)
    assert_fails(made.test_damaged_tensors_are_a_model_error, "the description still uses", write_model)
    made = architecture(lambda model: replace(decoder, n_layer=model.metadata["llama.block_count"]))
    assert_fails(made.test_invalid_metadata_is_a_model_error, "n_layer is|KeyError", write_model)
