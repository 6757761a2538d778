"""Reads the API document, extends it by plugins and settings, and compares it with the endpoints.

Independent of HTTP; `llamafw.server` serves the document.
"""

from llamafw.spec.document import defined_by, load_document, merge, merged_document, read_document, render
from llamafw.spec.fields import add_fields, add_sampler_options, set_defaults, set_recommended_defaults
from llamafw.spec.operations import (
    EVENT,
    METHODS,
    PLUGIN,
    SAMPLER_OPTIONS,
    WHILE_LOADING,
    Document,
    add_refusals,
    check_endpoints,
    operation_ids,
    operations,
)
from llamafw.spec.schemas import as_json_schema, validator
from llamafw.spec.validity import find_fault

__all__ = [
    "EVENT",
    "METHODS",
    "PLUGIN",
    "SAMPLER_OPTIONS",
    "WHILE_LOADING",
    "Document",
    "add_fields",
    "add_refusals",
    "add_sampler_options",
    "as_json_schema",
    "check_endpoints",
    "defined_by",
    "find_fault",
    "load_document",
    "merge",
    "merged_document",
    "operation_ids",
    "operations",
    "read_document",
    "render",
    "set_defaults",
    "set_recommended_defaults",
    "validator",
]
