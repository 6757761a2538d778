"""What schemathesis cannot know from the document: how many tokens there are, what streams keep, what is refused."""

from __future__ import annotations

import json
import re
import zlib
from typing import Any

import schemathesis

from llamafw.testing.contract.streams import Streams

N_TOKENS = 256  # no more than the tiny model has; ids beyond are valid JSON that this model cannot take
N_SLOTS = 4
TOKENS = ("prompt", "tokens", "content", "input", "input_prefix", "input_suffix", "logit_bias")
REASONS = (
    r"(is|are) not supported",
    r"needs a multimodal model",
    r"^the message has no content",  # which only some roles may lack; OpenAPI 3.0 has no conditions
    r"^top_logprobs needs logprobs",
    r"^the part has no text",
    r"^a bias must be a number or false",  # the second of a pair; OpenAPI 3.0 has no tuples
    r"^the first item of a pair must be a token id",
    r"is not a token id",  # nor patterns for the names of members
    r"^best_of must be at least n|^a stream needs best_of|cannot be combined with",  # two fields together
    r"^one request can have at most \d+ choices",  # n times the number of prompts
    r"^with \d+ choices, logit_bias can have",  # the same times the biases
    r"^the (strings|texts) of (stop|logit_bias) must have at most",  # all of them together
    r"^the variable \w+ is set by the server",
    r"^path parameter id_slot must be at least 0",  # which a link brings: the slot of an answer that needed none
    r"^embeddings of this model have|^(adapter|slot) \d+ does not exist|^Invalid filename|^Unable to restore slot",
    r"^the (text|prompt) has (no|\d+) tokens",
    r"(is|be) (provided|specified)",  # one of two fields; OpenAPI 3.0 could say so, but no client could read it
    r"^the (grammar|schema) (is|has)|^response_format of the type json_schema needs",  # languages of their own
    r"cannot be enforced|is a number$",
    r"is not a keyword of JSON Schema",
    r"^tool_choice needs tools|^the tool .* is not in tools|^two tools have the same name|^the arguments are not",
)
"""Why a request may be refused although the document allows it."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Fold tokens and slots into those there are. Values that the document refuses stay as they are."""
    if isinstance(case.body, dict):
        case.body = {name: fold(value) if name in TOKENS else value for name, value in case.body.items()}
        if isinstance(case.body.get("id_slot"), int) and 0 <= case.body["id_slot"] < 2**31:
            case.body["id_slot"] %= N_SLOTS
        if case.meta is not None and case.meta.generation.mode.is_positive:
            lead_on(case.operation.definition.raw, case.body)
    path = case.path_parameters or {}
    if isinstance(path.get("id_slot"), int) and 0 <= path["id_slot"] < 2**31:
        path["id_slot"] %= N_SLOTS


def lead_on(operation: dict[str, Any], body: dict[str, Any]) -> None:
    """Change a valid body: fewer are refused for what OpenAPI 3.0 cannot say, more are answered by streams."""
    dice = zlib.crc32(json.dumps(body, sort_keys=True, default=str).encode())
    if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}) and dice % 3 == 0:
        body["stream"] = True
    for message in body.get("messages") or ():
        if message.get("content") is None and dice % 8:  # only some roles may lack it
            message["content"] = "Hello"
    for one, other in (("content", "input"), ("documents", "texts")):
        if body.get(one) is not None and body.get(other) is not None and dice % 8:
            del body[other]
    if isinstance(body.get("filename"), str) and dice % 2:
        body["filename"] = "fuzz.bin"


def fold(value: Any) -> Any:
    """Return ``value`` with every token id in it made one of the model's."""
    if isinstance(value, list):
        return [fold(part) for part in value]
    if isinstance(value, dict):
        return {fold_name(name): part for name, part in value.items()}
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value % N_TOKENS
    return value


def fold_name(name: Any) -> Any:
    """Return the name of a member, which is a token id if it is a number."""
    return str(int(name) % N_TOKENS) if isinstance(name, str) and re.fullmatch(r"\d{1,10}", name) else name


@schemathesis.check
def stream_conformance(context: Any, response: Any, case: Any) -> None:
    """Hold every event of a stream against its schema, and their order against what clients rely on."""
    if "text/event-stream" in (response.headers.get("content-type") or [""])[0]:
        streams = STREAMS.setdefault(id(case.operation.schema), Streams(case.operation.schema.raw_schema))
        found = list(streams.faults(response.content, case.operation.definition.raw, case.body))
        assert not found, "; ".join(found)


STREAMS: dict[int, Streams] = {}


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Drop refusals of valid requests that have one of the `REASONS`."""
    if type(failure).__name__ != "RejectedPositiveData" or response.status_code != 400:
        return True
    message = json.loads(response.content)["error"]["message"]
    return not any(re.search(reason, message) for reason in REASONS)
